package table

import (
	"context"
	"log/slog"
	"maps"
	"time"

	"github.com/millrace/millrace"
)

// SaverOptions configure a Saver.
type SaverOptions struct {
	// Name of the snapshots: "table/NAME" in State, and as the reader that holds the stream.
	Name   string
	Stream millrace.Stream
	State  millrace.State
	// Every is the time between snapshots. Default 1 minute.
	Every time.Duration
	// Drain bounds the last snapshot, when Run's context has ended. Default 10 s.
	Drain  time.Duration
	Logger *slog.Logger      // nil: discard
	Step   func(name string) // told of each step, for tests that crash there; nil: nobody is
}

// Saver keeps the snapshots of one table, and holds in the stream what comes after the newest of them, so
// that the table can be brought to the stream's end again. It is used by one goroutine at a time.
type Saver struct {
	o       SaverOptions
	name    string
	log     *slog.Logger
	version uint64                       // of the newest snapshot that we know of
	saved   map[string]millrace.Position // its places; nil: there is none that could be read
}

// NewSaver returns a saver.
func NewSaver(o SaverOptions) *Saver {
	if o.Every == 0 {
		o.Every = time.Minute
	}
	if o.Drain == 0 {
		o.Drain = 10 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Step == nil {
		o.Step = func(string) {}
	}
	return &Saver{o: o, name: "table/" + o.Name, log: o.Logger.With("table", o.Name)}
}

// Load returns the table of the newest snapshot, or an empty one where there is none that can be used. The
// stream is held from its start before the snapshot is read, and from the snapshot's places afterwards.
// Whoever trims before Load calls Hold first. It fails with Unavailable.
func (s *Saver) Load(ctx context.Context, o Options) (*Table, error) {
	if err := s.Hold(ctx); err != nil {
		return nil, err
	}
	t, version, err := Load(ctx, s.o.State, s.name, o)
	s.version, s.saved = version, nil
	switch millrace.CodeOf(err) {
	case "":
		s.saved = t.Places()
		s.hold(s.saved)
		s.o.Step("table.loaded")
		return t, nil
	case millrace.NotFound:
		return New(o), nil
	case millrace.Invalid:
		s.log.Warn("the table's snapshot cannot be used; the table is built anew from the stream's start", "error", err)
		return New(o), nil
	default:
		return nil, err
	}
}

// Hold holds the whole stream, for as long as nobody knows where the newest snapshot stands. It fails with
// Unavailable.
func (s *Saver) Hold(ctx context.Context) error {
	r, ok := s.o.Stream.(millrace.Retainer)
	if !ok {
		return nil
	}
	partitions, err := s.o.Stream.Partitions(ctx)
	for _, p := range partitions {
		r.Hold(p.Name, s.name, millrace.Position{})
	}
	return err
}

func (s *Saver) hold(places map[string]millrace.Position) {
	if r, ok := s.o.Stream.(millrace.Retainer); ok {
		for partition, at := range places {
			r.Hold(partition, s.name, at)
		}
	}
}

// Run saves what freeze returns: at once if there is no snapshot yet, then every Every if the table has moved,
// and once more when ctx ends; then it returns nil. freeze takes the owner's lock and calls Table.Freeze. A
// snapshot that could not be saved is tried again with the next one. Any other error than Unavailable and
// Conflict ends it.
func (s *Saver) Run(ctx context.Context, freeze func() *Snapshot) error {
	ticker := time.NewTicker(s.o.Every)
	defer ticker.Stop()
	if s.saved == nil {
		if err := s.try(ctx, freeze); err != nil {
			return err
		}
	}
	for {
		select {
		case <-ticker.C:
			if err := s.try(ctx, freeze); err != nil {
				return err
			}
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.o.Drain)
			defer cancel()
			return s.try(last, freeze)
		}
	}
}

func (s *Saver) try(ctx context.Context, freeze func() *Snapshot) error {
	err := s.Save(ctx, freeze())
	if code := millrace.CodeOf(err); code == millrace.Unavailable || code == millrace.Conflict {
		s.log.Warn("the table's snapshot could not be saved; it will be tried again", "error", err)
		return nil
	}
	return err
}

// Save saves a snapshot and then lets the stream go up to its places, unless the newest one has the same
// places. Someone else's snapshot under the name, or one of ours whose outcome got lost, is saved over: each is
// as good as the other. It fails as State.Save does.
func (s *Saver) Save(ctx context.Context, snapshot *Snapshot) error {
	places := snapshot.Places()
	if s.saved != nil && maps.Equal(s.saved, places) {
		return nil
	}
	version, err := snapshot.Save(ctx, s.o.State, s.name, s.version)
	if millrace.CodeOf(err) == millrace.Conflict {
		if s.version, err = s.newest(ctx); err != nil {
			return err
		}
		version, err = snapshot.Save(ctx, s.o.State, s.name, s.version)
	}
	if err != nil {
		return err
	}
	s.version, s.saved = version, places
	s.o.Step("table.saved")
	s.hold(places)
	s.o.Step("table.held")
	return nil
}

// newest returns the version of the newest snapshot.
func (s *Saver) newest(ctx context.Context) (uint64, error) {
	r, version, err := s.o.State.Load(ctx, s.name)
	switch {
	case millrace.CodeOf(err) == millrace.NotFound:
		return 0, nil
	case err != nil:
		return 0, err
	default:
		return version, r.Close()
	}
}

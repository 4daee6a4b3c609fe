// Package archive writes a stream's events into objects, each event into exactly one.
//
// # How each event gets into exactly one object
//
// Each partition is archived by itself, from a position on. What is gathered there is cut into an
// object when it is large or old enough. A cut depends on the clock and can't be derived again, so it
// is saved in State before it takes effect: which events, under which key, and the checksum of the
// bytes that they become. Then the object is put, and then the position is saved that the archive has
// reached. An archive that finds a cut without its position after a crash looks whether the object is
// there, and makes it again from the stream, byte for byte, if it is not.
//
// The state of a partition is a JSON object under the name archive/ARCHIVE/PARTITION, see record.
//
// # What can't be archived
//
// A block that does not decode, and positions that are gone from the stream, become error objects
// under the error prefix, and the archive goes on after them. A stream that lost its tail, so that it
// ends before what the archive holds, stops the archive: nothing that it could do would be right.
package archive

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"time"

	"github.com/millrace/millrace"
)

// Archive is one archive of one stream.
type Archive struct {
	name     string
	c        Config
	o        Options
	objects  prefix
	failures prefix
	log      *slog.Logger
}

// Options are what an archive works with.
type Options struct {
	From  millrace.Stream // holds are registered if it is a millrace.Retainer
	To    millrace.ObjectStore
	State millrace.State
	// Drain bounds how long Run goes on after its context has ended. Default 20s.
	Drain time.Duration
	// Logger may be nil.
	Logger *slog.Logger
	// Metrics may be nil.
	Metrics *Metrics
	// Now is the clock that cuts by interval and the lag go by. Default time.Now.
	Now func() time.Time
	// Step is called between the steps of a delivery: archive.cut-recorded, archive.object-put,
	// archive.position-saved. Tests crash there. May be nil.
	Step func(name string)
}

// namePattern is what State allows for a segment of a name. Names of streams become part of file names.
var namePattern = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// New returns an archive by its name in the configuration. It fails with Invalid.
func New(name string, c Config, o Options) (*Archive, error) {
	op := fmt.Sprintf("configure archive %q", name)
	var problems []error
	c.Validate(func(path, format string, args ...any) {
		problems = append(problems, fmt.Errorf("%s: %w", path, fmt.Errorf(format, args...)))
	})
	if !namePattern.MatchString(name) {
		problems = append(problems, fmt.Errorf("the name %q must be 1 to 64 letters, digits, \".\", \"_\" or \"-\"", name))
	}
	if stream := o.From.Name(); !namePattern.MatchString(stream) {
		problems = append(problems, fmt.Errorf("the name of the stream %q must be 1 to 64 letters, digits, \".\", \"_\" or \"-\"", stream))
	}
	if len(problems) > 0 {
		return nil, millrace.Errorf(millrace.Invalid, op, "%w", errors.Join(problems...))
	}
	if o.Drain == 0 {
		o.Drain = 20 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Step == nil {
		o.Step = func(string) {}
	}
	a := &Archive{name: name, c: c, o: o, log: o.Logger.With("archive", name)}
	a.objects, a.failures, _, _ = parsePrefixes(&c) // validated
	return a, nil
}

// Hold registers with a stream that trims what the archive still needs of it. Run does so too; whoever
// trims before Run begins calls Hold first. It fails with Unavailable or Internal.
func (a *Archive) Hold(ctx context.Context) error {
	partitions, err := a.o.From.Partitions(ctx)
	if err != nil {
		return fmt.Errorf("hold for archive %q: %w", a.name, err)
	}
	for _, p := range partitions {
		if err := newTask(a, p.Name).open(ctx); err != nil {
			return fmt.Errorf("archive %q, partition %s: %w", a.name, p.Name, err)
		}
	}
	return nil
}

var errDrain = errors.New("the time for draining is over")

// Run archives until ctx ends; then it delivers what is in the stream up to its end at that moment, and
// returns nil. It also returns nil when the stream ends. Where the object store, the stream or the
// state is Unavailable it waits and tries again. It fails with
//
//	Conflict     another archive saves the same state or puts other objects under the same keys
//	Internal     the stream ends before what is archived: its tail was lost
//	Unavailable  not everything was delivered within Options.Drain; the next Run goes on there
//
// and with what the store and the stream fail with (Denied, Invalid, NotFound). After an error, as after a
// crash, Run can be called again.
func (a *Archive) Run(ctx context.Context) error {
	// work goes on while ctx's end is being dealt with.
	work, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	defer context.AfterFunc(ctx, func() {
		select {
		case <-time.After(a.o.Drain):
			cancel(errDrain)
		case <-work.Done():
		}
	})()
	a.o.Metrics.start(a.name, a.o.Now)
	defer a.o.Metrics.stop(a.name)

	done := make(chan error)
	started := map[string]bool{}
	running := 0
	for {
		partitions, err := a.o.From.Partitions(work)
		if err != nil && len(started) == 0 {
			return fmt.Errorf("archive %q: %w", a.name, err)
		}
		for _, p := range partitions {
			if started[p.Name] {
				continue
			}
			started[p.Name] = true
			running++
			go func() {
				if err := newTask(a, p.Name).run(ctx, work); err != nil {
					done <- fmt.Errorf("archive %q, partition %s: %w", a.name, p.Name, err)
					return
				}
				done <- nil
			}()
		}
		if running == 0 {
			return nil
		}
		// A partition that was closed has ended, and others may have taken its place.
		err = <-done
		running--
		if err == nil {
			continue
		}
		cancel(err)
		for range running {
			if later := <-done; later != nil {
				a.log.LogAttrs(work, slog.LevelDebug, "a partition was stopped", slog.Any("error", later))
			}
		}
		return err
	}
}

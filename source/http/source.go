package httpsource

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/mapping"
)

// endTimeout bounds how long a source that ends waits for the requests in flight, and for the stream.
const endTimeout = 5 * time.Second

// Source takes in what is posted for one stream. It implements millrace.Source and http.Handler; requests
// reach it through a Server. It maps its inputs itself, to tell senders what is wrong with them, so it
// emits right into a producer. It may run again when it has ended.
type Source struct {
	config      Config
	o           Options
	log         *slog.Logger
	instruments instruments
	guard       guard
	room        *room
	eventLimit  int
	checkJSON   bool      // the mapping does not
	requests    sync.Pool // of *request

	mu       sync.Mutex
	run      *run          // nil while it does not run
	ending   bool          // its Run was told to end
	attached chan struct{} // closed when run is set
}

// Options are what a source needs besides its configuration.
type Options struct {
	// Name of the source, for metrics and logs.
	Name string
	// Stream is the name that stands in the path: the source's into.
	Stream string
	// Mapping says how inputs become events.
	Mapping mapping.Config
	// MaxBlock is the stream's; events that could not be stored in its blocks are refused. 0: any size.
	MaxBlock int
	// Metrics may be shared by sources; default none.
	Metrics *Metrics
	Logger  *slog.Logger
	// Now is the clock that events and keys are dated by; default time.Now.
	Now func() time.Time
	// Step is called between the steps of a commit, so that tests can stop the process there: "http.taken"
	// (nothing is emitted yet), "http.emitted", "http.durable" (nobody was told); and at the end:
	// "http.draining" (nothing is taken any more). Default nothing.
	Step func(name string)
}

// maxAbout bounds what an event has besides its data, in bytes: id, key, type, attributes.
const maxAbout = 64 << 10

// New returns a source. It panics if the configuration is not valid.
func New(c Config, o Options) *Source {
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Step == nil {
		o.Step = func(string) {}
	}
	s := &Source{
		config: c, o: o, log: o.Logger.With("source", o.Name), instruments: o.Metrics.of(o.Name),
		guard: newGuard(&c), room: newRoom(c.Queue, c.MaxRequests), eventLimit: int(c.EventLimit),
		checkJSON: o.Mapping.Key == "" && o.Mapping.Time == "",
		attached:  make(chan struct{}),
	}
	if o.MaxBlock > 0 { // the producer keeps a quarter at most for the head; ids and our attribute come on top
		s.eventLimit = min(s.eventLimit, max(1<<10, o.MaxBlock/4*3-maxAbout-2<<10))
	}
	s.requests.New = func() any {
		return &request{mapper: mapping.New(o.Mapping, mapping.Options{}, nil), done: make(chan error, 1)}
	}
	return s
}

// Run implements millrace.Source. When ctx ends it takes no new requests and commits those in flight.
func (s *Source) Run(ctx context.Context, from millrace.Resume, out millrace.Emitter) error {
	known := newKeys(s.config.Idempotency, func(n int) { s.instruments.keys.Set(float64(n)) })
	began := time.Now()
	blocks, err := s.remember(ctx, from, known)
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return &millrace.Error{Code: millrace.CodeOf(err), Op: "read the source's own past", Err: err}
	}
	s.log.Info("taking events", "listen", s.config.Listen, "stream", s.o.Stream,
		"keys", len(known.known), "blocks_read", blocks, "took", time.Since(began).Round(time.Millisecond))

	r := &run{
		source: s, out: out, keys: known, wake: make(chan struct{}, 1), idle: make(chan struct{}),
		// Also after a clock that was set back.
		life: max(s.o.Now().UnixNano(), parseCursor(from.Cursor).life+1),
	}
	// What is being committed when ctx ends may still take a while.
	committing, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	s.attach(r)
	defer context.AfterFunc(ctx, func() {
		r.drain()
		timer := time.NewTimer(endTimeout)
		defer timer.Stop()
		select {
		case <-timer.C:
			cut()
		case <-committing.Done():
		}
	})()
	err = r.commitAll(ctx, committing)
	s.detach()
	r.close()
	return err
}

func (s *Source) attach(r *run) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.run, s.ending = r, false
	close(s.attached)
}

func (s *Source) detach() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.run, s.attached = nil, make(chan struct{})
}

// enter counts a request in. If the source does not run at this moment, because it starts or has failed
// and starts again, the request waits for a bounded time.
func (s *Source) enter(ctx context.Context) (*run, answer) {
	var timer *time.Timer
	for {
		s.mu.Lock()
		r, attached, ending := s.run, s.attached, s.ending
		s.mu.Unlock()
		switch {
		case ending:
			return nil, answerEnding
		case r != nil && r.enter():
			return r, answer{}
		case r != nil:
			return nil, answerEnding
		}
		if timer == nil {
			timer = time.NewTimer(s.config.Wait)
			defer timer.Stop()
		}
		select {
		case <-attached:
			continue
		case <-timer.C:
		case <-ctx.Done():
		}
		return nil, answer{
			code: http.StatusServiceUnavailable, retry: time.Second,
			problem: "the source is starting; nothing was taken, try again",
		}
	}
}

// Package query runs continuous queries: it reads a stream, evaluates its events, and appends the results
// to another stream, so that state and output agree after any crash.
//
// # Recovery
//
// Each partition of the input is read by a task of its own. What the task knows is a function of the
// input up to a position, so it survives by two things, neither of which is ahead of what is durable:
//
//   - its producer's cursor C: results of all input up to C are in the output stream. It travels in the
//     blocks of results, and without results it is moved before each snapshot;
//   - a snapshot of its state as it was at a position S, saved now and then, once the cursor has passed S.
//
// A task that starts loads the snapshot, reads the input from S to C to bring the state there, without
// emitting what the output has already, and goes on from C. Without a snapshot, or with one that doesn't
// fit the query any more (another input, other paths, damage), it reads from the start of the input.
//
// It refuses to start (Internal) if the output ends before the snapshot, or the input before the
// cursor: a stream has lost its tail then, and going on would repeat or lose results. Where the output
// has nothing at all of the query (the stream is new) the query computes all results anew.
//
// Events that retention has taken from the input are a gap: it is logged and counted, and the query goes
// on behind it. A new incarnation of the input is read from its start; what the query knows of the keys
// from its newest snapshot is kept, since they may well go on where they were.
package query

import (
	"context"
	"fmt"
	"log/slog"
	"regexp"
	"sync"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
	"github.com/millrace/millrace/producer"
	"github.com/millrace/millrace/query/fence"
)

// Query is one continuous query.
type Query struct {
	name   string
	config Config
	o      Options
	log    *slog.Logger
	fences *fence.Set
}

// Options are what a query works with.
type Options struct {
	From millrace.Stream // read; snapshots are held if it is a millrace.Retainer
	Into millrace.Stream // takes the results
	Dead millrace.Stream // takes the events that could not be processed
	// State keeps a snapshot for each partition, as query/NAME/PARTITION.
	State millrace.State

	// SnapshotEvery and SnapshotEvents bound what a restart replays: a snapshot is taken when either has
	// passed since the last one. Defaults 10s and 500,000.
	SnapshotEvery  time.Duration
	SnapshotEvents int
	// EventLimit bounds a result's data in bytes; default millrace.DefaultEventLimit.
	EventLimit int
	// Drain bounds how long Run goes on after its context has ended. Default 10s.
	Drain time.Duration

	Logger          *slog.Logger      // may be nil
	Metrics         *Metrics          // may be nil
	ProducerMetrics *producer.Metrics // may be nil
	// Now is the clock that the lag goes by. Default time.Now.
	Now func() time.Time
	// Step is called between the steps of the work; tests crash there:
	// query.producer-opened, query.snapshot-loaded, query.replayed, query.block-processed,
	// query.results-emitted, query.flushed, query.snapshot-saved, query.held. May be nil. It is called
	// concurrently.
	Step func(name string)
}

// operator is one kind of query, for one partition. It is used by one goroutine at a time. It keeps no time
// of its own and draws no lots: the same events give the same results.
type operator interface {
	// Needs names the sections of blocks that Process reads.
	Needs() block.Sections
	// Process evaluates events number from to to-1 of the block, which stands at at, and appends the
	// results to dst; they are valid until the next Process. It gives reject the number of an event that
	// it can't process, and why. It may stop early; next is the first event that it did not take.
	Process(b *block.Reader, at millrace.StoredBlock, from, to int, dst []millrace.Event, reject func(i int, reason error)) (results []millrace.Event, next int)
	// AppendSnapshot appends the state to dst.
	AppendSnapshot(dst []byte) []byte
	// Restore sets the state; with an error it changes nothing.
	Restore(snapshot []byte) error
	// Keys returns the number of keys in the state.
	Keys() int
	// Late returns how many events were ignored as late since the operator was made.
	Late() uint64
}

// newOperator is where kinds of queries are told apart.
func (q *Query) newOperator(partition string) (operator, error) {
	return fence.New(q.fences, *q.config.Fence, partition)
}

// kind names the kind of query in snapshots.
func (q *Query) kind() string { return "fence" }

// What State allows for a segment of a name, and a producer's name in all.
var namePattern = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// New returns a query by its name in the configuration. It reads the file of fences, so that a bad one is
// found before anything runs. It fails with Invalid, and with NotFound or Unavailable if the file can't
// be read.
func New(name string, c Config, o Options) (*Query, error) {
	op := fmt.Sprintf("configure query %q", name)
	switch {
	case !namePattern.MatchString(name):
		return nil, millrace.Errorf(millrace.Invalid, op, "the name must be 1 to 64 letters, digits, \".\", \"_\" or \"-\"")
	case c.Fence == nil:
		return nil, millrace.Errorf(millrace.Invalid, op, "fence: is missing; it says what to compute")
	case o.From == nil || o.Into == nil || o.Dead == nil || o.State == nil:
		return nil, millrace.Errorf(millrace.Invalid, op, "it needs From, Into, Dead and State")
	case o.From.Name() == o.Into.Name():
		return nil, millrace.Errorf(millrace.Invalid, op, "into: %q is the stream that the query reads", o.Into.Name())
	}
	var problem error
	c.Fence.Validate(func(path, format string, args ...any) {
		if problem == nil {
			problem = millrace.Errorf(millrace.Invalid, op, "fence.%s: %w", path, fmt.Errorf(format, args...))
		}
	})
	if problem != nil {
		return nil, problem
	}
	fences, err := fence.Load(c.Fence.Fences)
	if err != nil {
		return nil, &millrace.Error{Code: millrace.CodeOf(err), Op: op, Err: err}
	}
	o.setDefaults()
	return &Query{name: name, config: c, o: o, log: o.Logger.With("query", name), fences: fences}, nil
}

func (o *Options) setDefaults() {
	if o.SnapshotEvery <= 0 {
		o.SnapshotEvery = 10 * time.Second
	}
	if o.SnapshotEvents <= 0 {
		o.SnapshotEvents = 500_000
	}
	if o.Drain <= 0 {
		o.Drain = 10 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	if o.ProducerMetrics == nil {
		o.ProducerMetrics = producer.NewMetrics(nil)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Step == nil {
		o.Step = func(string) {}
	}
}

// Run evaluates the query until ctx ends or the input is closed; then it makes what it has emitted
// durable, saves a snapshot, and returns nil. It fails when it can't go on; it may be run again then:
// Unavailable (a stream or the state; try again), Conflict (another process runs the query), Internal
// (the streams contradict the snapshot, a damaged block), Invalid (the query does not fit the stream).
func (q *Query) Run(ctx context.Context) error {
	op := fmt.Sprintf("run query %q", q.name)
	partitions, err := q.o.From.Partitions(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return &millrace.Error{Code: millrace.CodeOf(err), Op: op, Err: err}
	}
	if key := q.config.Fence.Key; key != "" && len(partitions) > 1 {
		return millrace.Errorf(millrace.Invalid, op, "fence.key: %q: stream %q has %d partitions, and the positions of such a key may be in any of them; read a stream of one partition, or let the source set the key",
			key, q.o.From.Name(), len(partitions))
	}
	for _, p := range partitions {
		if len(p.Parents) > 0 {
			return millrace.Errorf(millrace.Invalid, op, "partition %q of stream %q was split or merged, which queries do not support yet", p.Name, q.o.From.Name())
		}
	}

	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var tasks sync.WaitGroup
	var once sync.Once
	var failed error
	for _, p := range partitions {
		tasks.Go(func() {
			if err := newTask(q, p.Name).run(ctx); err != nil {
				once.Do(func() {
					failed = &millrace.Error{Code: millrace.CodeOf(err), Op: fmt.Sprintf("%s, partition %s", op, p.Name), Err: err}
				})
				stop() // the others drain
			}
		})
	}
	tasks.Wait()
	return failed
}

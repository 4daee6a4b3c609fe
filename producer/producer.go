package producer

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
)

// Producer appends one producer's events. It implements millrace.Emitter. Its methods may be called
// concurrently; the order of events is that of the calls.
type Producer struct {
	config  Config
	log     *slog.Logger
	metrics instruments
	writer  [16]byte
	cursor  millrace.Cursor // as recovered by Open

	router     *router
	targets    []*target // the stream's open partitions, then the dead-letter stream's
	home, dead int       // indexes of targets; equal if the producer writes into the dead-letter stream
	headroom   int       // bytes of a block kept free for its head
	outage     outage

	mu      sync.Mutex
	changed sync.Cond // when anything below changes that someone may wait for

	// Two gatherings take turns: one gathers while the other is encoded.
	gathering, spare *gathering
	encoding         bool   // a gathering was taken and is not in ready yet
	ready            *flush // encoded; waits for the flush that is being appended
	turning          bool   // Run waits for its turn at the stream
	appending        bool

	flush     uint64      // number of the newest flush taken
	standing  standing    // after the newest flush taken
	leftovers []*leftover // blocks whose events are still to be dropped

	emitted, durable        uint64 // calls, counted
	queueEvents, queueBytes int    // gathered and not yet durable

	goAhead func()             // starts encodeAhead; set while Run runs
	ahead   bool               // encodeAhead runs
	stop    context.CancelFunc // ends Run; nil before it
	done    chan struct{}      // closed when Run has ended
	closed  bool               // Close was called
	err     error              // sticky
}

// target is a partition that the producer appends to.
type target struct {
	stream    millrace.Stream
	partition string
	room      int // bytes of events, before compression, that surely fit a block

	// Of our newest block there. Used by whoever appends.
	last millrace.Position
	mark mark

	// Guarded by Producer.mu.
	drops drops
	usual int // bytes that its blocks had lately: the most, less as it lies further back
}

func (t *target) ref(at millrace.Position) millrace.BlockRef {
	return millrace.BlockRef{Stream: t.stream.Name(), Partition: t.partition, Block: at.Block}
}

func (t *target) String() string {
	return fmt.Sprintf("partition %q of %q", t.partition, t.stream.Name())
}

// standing is what a commit says: how far the input was read, and which blocks an older writer left
// behind.
type standing struct {
	cursor      millrace.Cursor
	uncommitted []millrace.BlockRef
}

// Open takes the producer over from whoever had it before, recovers what that one left behind, and
// returns the producer ready for Emit; nothing becomes durable before Run runs. It fails with Invalid
// (the configuration), Unavailable (a stream; try again), Conflict (another writer was opened
// meanwhile), and with whatever else the streams fail with.
func Open(ctx context.Context, config Config) (*Producer, error) {
	p, err := prepare(ctx, config)
	if err == nil {
		err = p.takeOver(ctx)
	}
	if err != nil {
		return nil, &millrace.Error{Code: millrace.CodeOf(err), Op: "open producer " + config.Name, Err: err}
	}
	return p, nil
}

func prepare(ctx context.Context, config Config) (*Producer, error) {
	if err := config.complete(); err != nil {
		return nil, err
	}
	p := &Producer{
		config:  config,
		log:     config.Logger.With("producer", config.Name),
		metrics: config.Metrics.of(config.Name),
		done:    make(chan struct{}),
	}
	p.changed.L = &p.mu
	_, _ = rand.Read(p.writer[:]) // never fails

	var err error
	if p.router, err = newRouter(ctx, config.Into); err != nil {
		return nil, err
	}
	for _, partition := range p.router.partitions {
		p.targets = append(p.targets, &target{stream: config.Into, partition: partition.Name})
	}
	p.home = p.router.place(config.Name)
	p.dead = p.home
	if config.Dead.Name() != config.Into.Name() {
		dead, err := newRouter(ctx, config.Dead)
		if err != nil {
			return nil, err
		}
		p.dead = len(p.targets)
		partition := dead.partitions[dead.place(config.Name)]
		p.targets = append(p.targets, &target{stream: config.Dead, partition: partition.Name})
	}

	p.headroom = min(config.Into.MaxBlock(), config.Dead.MaxBlock(), 512<<10) / 4
	for _, t := range p.targets {
		t.room = min(t.stream.MaxBlock()-p.headroom, block.MaxSection)
	}
	// A flush that outgrows a block costs an append more: better to flush earlier.
	p.config.BlockBytes = min(p.config.BlockBytes, p.targets[p.home].room)
	p.gathering, p.spare = newGathering(len(p.targets)), newGathering(len(p.targets))
	return p, nil
}

// complete sets defaults and checks what has none.
func (c *Config) complete() error {
	if c.Name == "" {
		return millrace.Errorf(millrace.Invalid, "configure", "a producer needs a Name, such as \"source/buses\"")
	}
	if c.Into == nil || c.Dead == nil {
		return millrace.Errorf(millrace.Invalid, "configure", "a producer needs the streams Into and Dead")
	}
	if c.EventLimit <= 0 {
		c.EventLimit = millrace.DefaultEventLimit
	}
	if c.BlockBytes <= 0 {
		c.BlockBytes = 2 << 20
	}
	if c.BlockEvents <= 0 {
		c.BlockEvents = 8192
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Step == nil {
		c.Step = func(string) {}
	}
	if c.Metrics == nil {
		c.Metrics = NewMetrics(nil)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Emit implements millrace.Emitter.
func (p *Producer) Emit(ctx context.Context, events []millrace.Event, at millrace.Cursor) error {
	return p.EmitAll(ctx, events, nil, at)
}

// Reject implements millrace.Emitter.
func (p *Producer) Reject(ctx context.Context, r millrace.Rejection, at millrace.Cursor) error {
	return p.EmitAll(ctx, nil, []millrace.Rejection{r}, at)
}

// EmitAll is Emit and Reject in one: the events, the rejections and the cursor reached after all of
// them become durable together or not at all. It copies what it keeps. A cursor over 64 KiB, or over an
// eighth of the streams' MaxBlock if that is less, is TooLarge; nothing was taken then.
func (p *Producer) EmitAll(ctx context.Context, events []millrace.Event, rejections []millrace.Rejection, at millrace.Cursor) error {
	if limit := p.headroom / 2; len(at) > limit {
		return millrace.Errorf(millrace.TooLarge, "emit", "the cursor has %d bytes; blocks of this stream can carry %d", len(at), limit)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.waitForRoom(ctx); err != nil {
		return err
	}
	g := p.gathering
	events0, bytes0 := g.events, g.bytes
	for i := range events {
		p.gather(&events[i], at)
	}
	for i := range rejections {
		p.gatherRejection(&rejections[i], at)
	}
	if len(events)+len(rejections) > 0 || p.moves(at) {
		g.cursor = append(g.cursor[:0], at...)
		p.emitted++
		g.calls = p.emitted
	}
	p.queueEvents += g.events - events0
	p.queueBytes += g.bytes - bytes0
	p.config.Budget.hold(g.bytes - bytes0)
	p.metrics.queueEvents.Set(float64(p.queueEvents))
	p.metrics.queueBytes.Set(float64(p.queueBytes))
	p.startAhead()
	if p.mayAppend() {
		p.changed.Broadcast()
	}
	return p.err
}

// moves says whether at is another cursor than the one after all that was emitted.
func (p *Producer) moves(at millrace.Cursor) bool {
	if g := p.gathering; g.calls > 0 {
		return string(g.cursor) != string(at)
	}
	return p.standing.cursor != at
}

// waitForRoom waits while the gathering is full.
func (p *Producer) waitForRoom(ctx context.Context) error {
	return p.wait(ctx, "emit", func() bool {
		return !p.full()
	})
}

// Flush implements millrace.Emitter.
func (p *Producer) Flush(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	upTo := p.emitted
	return p.wait(ctx, "flush", func() bool { return p.durable >= upTo })
}

// wait returns nil once ready holds, and an error when the producer has failed or ctx has ended. The
// caller holds mu, and holds it again when wait returns.
func (p *Producer) wait(ctx context.Context, op string, ready func() bool) error {
	var stop func() bool
	for {
		switch {
		case p.err != nil:
			return p.err
		case ctx.Err() != nil:
			return millrace.Errorf(millrace.Unavailable, op, "%w", context.Cause(ctx))
		case ready():
			return nil
		}
		if stop == nil {
			stop = context.AfterFunc(ctx, func() {
				p.mu.Lock() // or it might fall between our look at ctx and Wait
				defer p.mu.Unlock()
				p.changed.Broadcast()
			})
			defer stop()
		}
		p.changed.Wait()
	}
}

// Resume returns what a source may know of its own past: the cursor as Open found it, and the
// producer's own blocks.
func (p *Producer) Resume() millrace.Resume {
	return millrace.Resume{Cursor: p.cursor, Recent: p.recent}
}

// Close ends Run after the flush in flight, as does the end of Run's ctx, and waits for it. What was
// emitted and is not durable by then is not written, and its cursor neither; Flush first to keep it.
// The streams stay open. Afterwards all methods fail with Unavailable.
func (p *Producer) Close() error {
	p.mu.Lock()
	stop := p.stop
	if p.closed = true; stop == nil { // Run will not give it back
		p.fail(errClosed())
		p.config.Budget.hold(-p.queueBytes)
		p.queueBytes = 0
	}
	p.mu.Unlock()
	if stop != nil {
		stop()
		<-p.done
	}
	return nil
}

// fail makes the producer fail for good, unless it has already.
func (p *Producer) fail(err error) {
	if p.err == nil {
		p.err = err
	}
	p.changed.Broadcast()
}

func errClosed() error {
	return millrace.Errorf(millrace.Unavailable, "produce", "the producer has been closed, or its Run has ended")
}

package producer

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
)

// drainGrace is how long the append in flight may still take when Run is to end.
const drainGrace = 5 * time.Second

// flush is a gathering on its way into the stream.
type flush struct {
	number                 uint64
	before, after          standing
	parts                  [][]part // by target
	calls                  uint64   // Producer.emitted after its last call
	events, letters, bytes int
}

// part is one block of a flush. The first part of a target is encoded when the flush is taken; the
// others need the positions of those before them and keep their builder until it is their turn.
type part struct {
	block   millrace.Block
	builder *block.Builder // nil when encoded
}

// Run commits what is emitted until ctx ends or Close is called; then it finishes the append in
// flight, if that takes no longer than five seconds, and returns nil. While a stream is unavailable it
// retries; meanwhile Emit waits. It fails when the producer can't go on: Conflict (another writer has
// taken over), Internal, or what else a stream refuses a block for. It may be called once.
func (p *Producer) Run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	p.mu.Lock()
	switch {
	case p.stop != nil:
		p.mu.Unlock()
		return millrace.Errorf(millrace.Internal, "run producer "+p.config.Name, "it was run before")
	case p.closed:
		p.mu.Unlock()
		return nil
	}
	p.stop = stop
	p.mu.Unlock()
	defer close(p.done)

	// Appends live on for a while when ctx ends: cutting one off would only make its outcome unknown.
	appends, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	defer context.AfterFunc(ctx, func() {
		p.mu.Lock()
		p.changed.Broadcast()
		p.mu.Unlock()
		select {
		case <-time.After(drainGrace):
			cut()
		case <-appends.Done():
		}
	})()

	var ahead sync.WaitGroup
	p.mu.Lock()
	p.goAhead = func() { ahead.Go(p.encodeAhead) } // most producers never need it
	p.mu.Unlock()
	defer ahead.Wait()
	err := p.commitAll(ctx, appends)
	p.mu.Lock()
	defer p.mu.Unlock()
	defer func() { p.config.Budget.hold(-p.queueBytes) }() // nothing is gathered or appended any more
	if err == nil && p.err == nil {
		p.fail(errClosed())
		return nil
	}
	p.fail(err)
	return p.err
}

// commitAll appends flush after flush. It returns nil when ctx has ended.
func (p *Producer) commitAll(ctx, appends context.Context) error {
	for {
		if !p.waitForWork(ctx) {
			return nil
		}
		// What has gathered is taken when it is our turn, so that what comes while we wait goes with it.
		done := p.turn(ctx)
		f, err := p.nextFlush(ctx)
		if f == nil || err != nil {
			done()
			return err
		}
		err = p.commit(ctx, appends, f)
		done()
		if err != nil {
			if ctx.Err() != nil && millrace.CodeOf(err) == millrace.Unavailable {
				return nil
			}
			return err
		}
		p.mu.Lock()
		p.appending = false
		p.durable = f.calls
		p.queueEvents -= f.events
		p.queueBytes -= f.bytes
		p.config.Budget.hold(-f.bytes)
		p.metrics.queueEvents.Set(float64(p.queueEvents))
		p.metrics.queueBytes.Set(float64(p.queueBytes))
		p.changed.Broadcast()
		p.mu.Unlock()
		p.metrics.events.Add(float64(f.events - f.letters))
		p.metrics.letters.Add(float64(f.letters))
		p.metrics.bytes.Add(float64(f.bytes))
		p.metrics.flushes.Inc()
	}
}

// waitForWork waits until there is something to commit. It returns false when ctx has ended or the producer
// failed.
func (p *Producer) waitForWork(ctx context.Context) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.err == nil && ctx.Err() == nil {
		if p.ready != nil || p.mayAppend() {
			return true
		}
		p.changed.Wait()
	}
	return false
}

// queue is a stream that many producers append to, one after the other. Turn returns when it is the
// caller's turn; done ends it.
type queue interface {
	Turn(ctx context.Context, partition string) (done func(), err error)
}

// turn waits for our turn at the home partition, if the stream has turns. Meanwhile a gathering that is full
// may be encoded.
func (p *Producer) turn(ctx context.Context) (done func()) {
	home := p.targets[p.home]
	q, ok := home.stream.(queue)
	if !ok {
		return func() {}
	}
	p.setTurning(true)
	done, err := q.Turn(ctx, home.partition)
	p.setTurning(false)
	if err != nil { // ctx has ended, or Append will say what is wrong
		return func() {}
	}
	return done
}

func (p *Producer) setTurning(turning bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.turning = turning
	p.startAhead()
}

// nextFlush waits for something to commit. It returns nil when ctx has ended or the producer failed.
func (p *Producer) nextFlush(ctx context.Context) (*flush, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.err == nil && ctx.Err() == nil {
		f := p.ready
		if f == nil && p.mayAppend() {
			if err := p.takeAndEncode(); err != nil {
				return nil, err
			}
			f = p.ready
		}
		if f != nil {
			p.ready, p.appending = nil, true
			p.startAhead()
			p.changed.Broadcast()
			return f, nil
		}
		p.changed.Wait()
	}
	return nil, nil
}

// startAhead starts encodeAhead if it has something to do and does not run. The caller holds mu.
func (p *Producer) startAhead() {
	if p.mayEncodeAhead() && !p.ahead {
		p.ahead = true
		p.goAhead()
	}
}

// encodeAhead encodes the next flush while one is being appended, once the gathering is full: Emit
// would only wait, and the processor with it. It ends when there is no such thing to do.
func (p *Producer) encodeAhead() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.mayEncodeAhead() {
		if err := p.takeAndEncode(); err != nil {
			p.fail(err)
		}
	}
	p.ahead = false
}

// mayAppend says whether what has gathered can be taken to be appended at once.
func (p *Producer) mayAppend() bool {
	return !p.appending && !p.encoding && p.ready == nil && p.gathering.calls > 0
}

// mayEncodeAhead says whether what has gathered can be taken to wait for the flush in flight.
func (p *Producer) mayEncodeAhead() bool {
	return p.err == nil && (p.appending || p.turning) && !p.encoding && p.ready == nil && p.full()
}

func (p *Producer) full() bool {
	g := p.gathering
	return g.bytes >= p.config.BlockBytes || g.events >= p.config.BlockEvents ||
		g.bytes >= FairShare && p.config.Budget.overdrawn()
}

// takeAndEncode makes what has gathered the next flush, lets Emit go on with the other gathering, and
// leaves the encoded flush in ready. The caller holds mu, which is free during the encoding.
func (p *Producer) takeAndEncode() error {
	g := p.gathering
	p.gathering, p.spare = p.spare, nil
	p.encoding = true
	p.flush++
	for i, parts := range g.parts {
		t := p.targets[i]
		t.usual -= t.usual / 8
		for _, b := range parts {
			t.usual = max(t.usual, b.Size())
		}
	}
	f := &flush{
		number: p.flush,
		before: p.standing,
		after:  standing{cursor: millrace.Cursor(g.cursor), uncommitted: p.stillOpen()},
		calls:  g.calls,
		events: g.events, letters: g.letters, bytes: g.bytes,
	}
	p.standing = f.after
	p.changed.Broadcast()
	p.mu.Unlock()
	err := p.encode(f, g)
	g.reset()
	p.mu.Lock()
	p.spare, p.encoding, p.ready = g, false, f
	p.changed.Broadcast()
	return err
}

// stillOpen returns the blocks whose events the input has not yielded again so far.
func (p *Producer) stillOpen() []millrace.BlockRef {
	p.leftovers = slices.DeleteFunc(p.leftovers, func(l *leftover) bool { return l.left == 0 })
	var refs []millrace.BlockRef
	for _, l := range p.leftovers {
		refs = append(refs, l.ref)
	}
	return refs
}

// encode moves the gathering's builders into the flush's parts and encodes the first of each target.
func (p *Producer) encode(f *flush, g *gathering) error {
	f.parts = make([][]part, len(g.parts))
	for i, gathered := range g.parts {
		if len(gathered) == 0 {
			if i != p.home {
				continue
			}
			gathered = []*block.Builder{takeBuilder(0)} // the commit has a block even without events
		}
		f.parts[i] = make([]part, len(gathered))
		for n, builder := range gathered {
			f.parts[i][n].builder = builder
		}
		// In fresh memory: the stream may keep it.
		b, err := gathered[0].Encode(nil, p.header(f, i, 0, nil))
		if err != nil {
			return err
		}
		giveBuilder(gathered[0])
		f.parts[i][0] = part{block: b}
	}
	return nil
}

// header of the n-th block of a target in a flush; earlier are those before it.
func (p *Producer) header(f *flush, i, n int, earlier []millrace.BlockRef) millrace.Header {
	h := millrace.Header{Producer: p.config.Name, Writer: p.writer, Flush: f.number}
	switch {
	case i == p.home && n == len(f.parts[i])-1:
		h.Commit, h.Cursor, h.Uncommitted = true, f.after.cursor, f.after.uncommitted
	case i == p.home:
		h.Cursor, h.Uncommitted = f.before.cursor, slices.Concat(f.before.uncommitted, earlier)
	default:
		h.Cursor, h.Uncommitted = f.before.cursor, earlier
	}
	return h
}

// commit appends a flush: the other partitions, then the home partition.
func (p *Producer) commit(ctx, appends context.Context, f *flush) error {
	p.config.Step("producer.flush-encoded")
	var others []int
	for i, parts := range f.parts {
		if i != p.home && len(parts) > 0 {
			others = append(others, i)
		}
	}
	errs := make([]error, len(others))
	var group sync.WaitGroup
	for n, i := range others {
		if n == len(others)-1 { // the last one here: mostly it is the only one
			errs[n] = p.appendParts(ctx, appends, f, i)
			break
		}
		group.Go(func() { errs[n] = p.appendParts(ctx, appends, f, i) })
	}
	group.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	if len(others) > 0 {
		p.config.Step("producer.partitions-appended")
	}
	if err := p.appendParts(ctx, appends, f, p.home); err != nil {
		return err
	}
	p.config.Step("producer.home-appended")
	return nil
}

// appendParts appends a target's blocks of a flush one after the other.
func (p *Producer) appendParts(ctx, appends context.Context, f *flush, i int) error {
	t := p.targets[i]
	var earlier []millrace.BlockRef
	for n := range f.parts[i] {
		b, builder := f.parts[i][n].block, f.parts[i][n].builder
		f.parts[i][n] = part{} // so that memory is free as soon as it can be
		if builder != nil {
			var err error
			if b, err = builder.Encode(nil, p.header(f, i, n, earlier)); err != nil {
				return err
			}
			giveBuilder(builder)
		}
		began := time.Now()
		if err := p.append(ctx, appends, t, b); err != nil {
			return err
		}
		p.metrics.appends.Observe(time.Since(began).Seconds())
		if !t.mark.commit {
			p.config.Step("producer.part-appended")
		}
		earlier = append(earlier, t.ref(t.last))
	}
	return nil
}

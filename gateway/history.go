package gateway

import (
	"container/list"
	"context"
	"errors"
	"hash/maphash"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/millrace/millrace"
)

// history is what clients that come back have missed: blocks that the feeds have handed out, or that were read for
// somebody, kept until the memory is needed for others. So many clients that come back at once read the
// stream once, and those that were away for a moment not at all.
//
// It keeps stretches of consecutive blocks. limit bounds the bytes of all that it keeps, with what was made
// of them; the stretch that was used longest ago goes first. Whoever uses a stretch may go on with it
// when it is not kept any more; that is one for each slot, at most.
type history struct {
	limit     int64
	seed      maphash.Seed
	fromCache prometheus.Counter // blocks that a replay found
	fromRead  prometheus.Counter // blocks that were read
	size      prometheus.Gauge
	living    context.Context
	stop      context.CancelFunc
	running   sync.WaitGroup // the goroutines that read

	mu    sync.Mutex
	ended bool
	bytes int64
	kept  *list.List // of *stretch; used last in front
}

func newHistory(limit int64, m *Metrics) *history {
	h := &history{
		limit: limit, seed: maphash.MakeSeed(), kept: list.New(), size: m.replayCache,
		fromCache: m.replayBlocks.WithLabelValues("cache"), fromRead: m.replayBlocks.WithLabelValues("stream"),
	}
	h.living, h.stop = context.WithCancel(context.Background())
	return h
}

// end ends all reading, and waits for it.
func (h *history) end() {
	h.mu.Lock()
	h.ended = true
	h.mu.Unlock()
	h.stop()
	h.running.Wait()
}

// shelf is the history of one partition. All is guarded by history.mu.
type shelf struct {
	history   *history
	stream    millrace.Stream
	partition string
	names     map[string]*stretch            // by block
	afters    map[millrace.Position]*stretch // by the position after which it begins
	growing   *stretch                       // of the feed; nil: there is none
	flights   []*flight
	life      int // how often all was forgotten
}

func newShelf(h *history, s millrace.Stream, partition string) *shelf {
	return &shelf{
		history: h, stream: s, partition: partition,
		names: map[string]*stretch{}, afters: map[millrace.Position]*stretch{},
	}
}

// note takes note of what the feed has read after a position, and returns where it is then.
func (s *shelf) note(at millrace.Position, d delivery) millrace.Position {
	if d.gap == nil {
		s.put(at, d.block)
		return d.block.At
	}
	if d.gap.Reason != millrace.Trimmed {
		s.forget()
	}
	return d.gap.First
}

// put keeps a block that the feed has read after a position.
func (s *shelf) put(after millrace.Position, sb millrace.StoredBlock) {
	h := s.history
	if h.limit == 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.names[sb.At.Block] != nil { // read again
		return
	}
	if s.growing == nil || s.growing.sealed || s.growing.end() != after {
		s.growing = s.begin(after, sb)
	}
	s.add(s.growing, sb)
}

// forget drops everything: the stream has said that it is another one, or that its end was lost.
func (s *shelf) forget() {
	h := s.history
	h.mu.Lock()
	defer h.mu.Unlock()
	s.life++
	for _, st := range s.names {
		s.drop(st)
	}
}

// find returns a window that reading after a position begins in, if there is one.
func (s *shelf) find(at millrace.Position) (window, bool) {
	s.history.mu.Lock()
	defer s.history.mu.Unlock()
	st := s.holder(at)
	if st == nil {
		return window{}, false
	}
	return s.use(st), true
}

// holder returns the stretch with the first event after a position, nil if it is not here; mu is held.
func (s *shelf) holder(at millrace.Position) *stretch {
	if st := s.names[at.Block]; st != nil {
		b, _ := findBlock(st.blocks, at.Block)
		switch events := st.blocks[b].Header.Events; {
		case at.Event < events, at.Event == events && b+1 < len(st.blocks):
			return st
		case at.Event > events:
			return nil // the stream says what that means
		}
	}
	return s.afters[at]
}

// use returns a stretch for a replay; mu is held.
func (s *shelf) use(st *stretch) window {
	if st.element != nil {
		s.history.kept.MoveToFront(st.element)
	}
	st.sealed = st.sealed || st.starts[len(st.blocks)] >= sealAsked
	return st.window()
}

// begin returns an empty stretch for a block that was read after a position; mu is held.
func (s *shelf) begin(after millrace.Position, sb millrace.StoredBlock) *stretch {
	st := &stretch{shelf: s}
	st.element = s.history.kept.PushFront(st)
	if after.Block != sb.At.Block {
		s.alias(st, after)
	}
	return st
}

// alias notes that reading after a position begins with a stretch; mu is held.
func (s *shelf) alias(st *stretch, after millrace.Position) {
	if s.afters[after] == nil {
		s.afters[after] = st
		st.afters = append(st.afters, after)
	}
}

// add adds a block to a stretch that is kept; mu is held.
func (s *shelf) add(st *stretch, sb millrace.StoredBlock) {
	st.extend(sb)
	s.names[sb.At.Block] = st
	s.history.kept.MoveToFront(st.element)
	s.history.grow(st, int64(len(sb.Raw))+pastOverhead)
}

// drop forgets a stretch; mu is held.
func (s *shelf) drop(st *stretch) {
	if st.element == nil {
		return
	}
	h := s.history
	h.kept.Remove(st.element)
	h.bytes -= st.size
	st.element, st.sealed = nil, true
	for _, p := range st.blocks {
		delete(s.names, p.At.Block)
	}
	for _, after := range st.afters {
		delete(s.afters, after)
	}
	if s.growing == st {
		s.growing = nil
	}
	h.size.Set(float64(h.bytes))
}

// grow counts what was made of a stretch.
func (st *stretch) grow(bytes int) {
	h := st.shelf.history
	h.mu.Lock()
	defer h.mu.Unlock()
	h.grow(st, int64(bytes))
}

// grow makes room for what a stretch has more; mu is held.
func (h *history) grow(st *stretch, bytes int64) {
	if st.element == nil {
		return
	}
	st.size += bytes
	h.bytes += bytes
	for h.bytes > h.limit {
		oldest := h.kept.Back().Value.(*stretch)
		oldest.shelf.drop(oldest)
	}
	h.size.Set(float64(h.bytes))
}

// flight is a reading of the stream, for all who wait for the same.
type flight struct {
	at, until millrace.Position
	begun     time.Time
	life      int
	waiters   int
	cancel    context.CancelFunc
	done      chan struct{}
	first     *stretch
	last      *stretch // that takes what comes

	fetched // when done
}

// fetched is what reading after a position has begun with.
type fetched struct {
	window // no stretch: nothing came after the gap, for now
	gap    *millrace.Gap
	err    error // instead of both
	late   bool  // err is that nothing came for readTimeout
}

// share bounds the bytes of blocks that one of many may have of the history, which need several times as much
// when they are decompressed.
func (h *history) share(bytes int) int {
	if h.limit == 0 {
		return bytes
	}
	return int(min(int64(bytes), h.limit/16))
}

// maxChunk bounds what a flight reads ahead, in bytes of blocks.
const maxChunk = 1 << 20

// fetch reads what comes after a position, and ahead from there, but not beyond the block where until is. A block
// with an event up to until must be there, or fetch waits for it. Whoever waits for a position that is
// being read already, or will be in a moment, shares that. It fails only with errGone, when ctx ends.
func (s *shelf) fetch(ctx context.Context, at, until millrace.Position) (fetched, error) {
	h := s.history
	for tries := 0; ; tries++ {
		h.mu.Lock()
		if st := s.holder(at); st != nil {
			defer h.mu.Unlock()
			return fetched{window: s.use(st)}, nil
		}
		f := s.flight(at, tries < 2) // others' readings may always just miss it
		if f == nil {
			f = s.takeOff(at, until)
		}
		f.waiters++
		h.mu.Unlock()
		select {
		case <-f.done:
		case <-ctx.Done():
		}
		h.mu.Lock()
		if f.waiters--; f.waiters == 0 {
			s.land(f)
		}
		h.mu.Unlock()
		switch {
		case ctx.Err() != nil:
			return fetched{}, errGone
		case f.at == at:
			return f.fetched, nil
		}
	}
}

// flight returns one that will bring what comes after a position: one from there, or, if others will do, from a
// little before. mu is held.
func (s *shelf) flight(at millrace.Position, others bool) *flight {
	for _, f := range s.flights {
		if f.at == at || others && s.history.limit > 0 && f.at.Compare(at) < 0 && time.Since(f.begun) < turnTime {
			return f
		}
	}
	return nil
}

// takeOff begins to read; mu is held.
func (s *shelf) takeOff(at, until millrace.Position) *flight {
	f := &flight{at: at, until: until, begun: time.Now(), life: s.life, done: make(chan struct{})}
	ctx, cancel := context.WithTimeout(s.history.living, readTimeout) // it ends with the last who waits
	if f.cancel = cancel; s.history.ended {
		f.err = millrace.Errorf(millrace.Unavailable, "replay", "the gateway has ended")
		close(f.done)
		return f
	}
	s.flights = append(s.flights, f)
	s.history.running.Go(func() {
		s.read(ctx, f)
		s.history.mu.Lock()
		defer s.history.mu.Unlock()
		if f.last != nil {
			f.last.sealed = true
		}
		if f.first != nil {
			f.window = s.use(f.first)
		}
		s.land(f)
		close(f.done)
	})
	return f
}

// land ends a flight; nobody joins it any more. mu is held.
func (s *shelf) land(f *flight) {
	f.cancel()
	s.flights = slices.DeleteFunc(s.flights, func(other *flight) bool { return f == other })
}

// read reads for a flight.
func (s *shelf) read(ctx context.Context, f *flight) {
	after, chunk := f.at, s.history.share(maxChunk)
	for sb, err := range s.stream.Read(ctx, s.partition, f.at) {
		var gap *millrace.Gap
		switch {
		case errors.As(err, &gap):
			if f.gap != nil || f.first != nil {
				return // whoever reads on is told
			}
			f.gap, after = gap, gap.First
			if after.Compare(f.until) >= 0 {
				return
			}
		case err != nil:
			if f.gap == nil && f.first == nil { // else whoever reads on is told
				f.err, f.late = err, ctx.Err() != nil
			}
			return
		default:
			s.history.fromRead.Inc()
			chunk -= len(sb.Raw)
			if s.take(f, after, sb) || chunk <= 0 || sb.At.Compare(f.until) >= 0 {
				return
			}
			after = sb.At
		}
	}
	if f.gap == nil && f.first == nil {
		f.err = millrace.Errorf(millrace.Unavailable, "replay", "partition %s of %q ends before %s: the stream is closed",
			s.partition, s.stream.Name(), f.until)
	}
}

// take keeps a block that a flight has read after a position. enough says that what follows is here already.
func (s *shelf) take(f *flight, after millrace.Position, sb millrace.StoredBlock) (enough bool) {
	h := s.history
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.limit == 0 || s.life != f.life { // it is for those alone who wait
		if f.first == nil {
			f.first = &stretch{shelf: s}
		} else if f.first.full() { // or it was forgotten
			return true
		}
		f.first.extend(sb)
		return f.first.full()
	}
	if st := s.names[sb.At.Block]; st != nil {
		if st.blocks[0].At == sb.At && after.Block != sb.At.Block {
			s.alias(st, after)
		}
		if f.first == nil {
			f.first = st
		}
		return true
	}
	if f.last == nil || f.last.sealed {
		f.last = s.begin(after, sb)
	}
	if f.first == nil {
		f.first = f.last
	}
	s.add(f.last, sb)
	return false
}

package gateway

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
)

// feed hands one stream's events to the connections that want them. It has one reader for each
// partition, whatever the number of endpoints and connections.
//
// mu orders everything: a pass hands a few events to all connections under it, and a connection joins
// under it. So all connections that have joined have been handed exactly the events up to the
// partitions' places at; which is why ids over all partitions can be shared between them, and why
// joining has a seam without a gap or a repeat.
type feed struct {
	stream    millrace.Stream
	endpoints []*endpoint
	logger    *slog.Logger
	metrics   *Metrics
	now       func() time.Time
	chunk     int // about how many bytes of events one pass hands over
	gap       func(s *subscription, partition int, gap *millrace.Gap)
	overflow  func(s *subscription)

	parts      []*part
	every      []int        // the indexes of all parts
	interested atomic.Int64 // subscriptions that have joined

	mu     sync.Mutex
	keys   map[string]*group
	byForm [formsCount]int // subscriptions to every key
	passes uint64          // counts what can change a position
	dirty  []*subscription // with events of their keys pending in this pass
	pend   []pending
	joined []byte // several frames for one connection
}

// part is a partition as its feed follows it.
type part struct {
	millrace.Partition
	index  int
	only   []int             // its index alone
	at     millrace.Position // how far the connections have come; guarded by feed.mu
	reader block.Reader
	ids    [2]idText           // single, vector; set for the block that is being handed out
	frames [formsCount]written // of the events of one pass
}

// endpoint is a path that serves a feed.
type endpoint struct {
	path      string
	parameter string // of the query string that selects keys; "" if there is none
	feed      *feed
	all       [formsCount]group // subscriptions to every key; guarded by feed.mu

	handed [formsCount]struct{ events, bytes int } // in this pass
	tally  [formsCount]tally
	lag    observer
}

type observer interface{ Observe(seconds float64) }

// group is a dense list of subscriptions. Each knows where it sits, so that it leaves in no time.
type group struct{ members []member }

type member struct {
	s    *subscription
	seat int // index in s.seats
}

type seat struct {
	key   string
	group *group
	index int
}

// subscription is a connection's interest in a stream: some keys or all of them.
type subscription struct {
	c     *connection
	feed  *feed
	keys  []string // none: every key
	parts []int    // the partitions where the keys live, in the order of feed.parts

	// Guarded by feed.mu.
	seats []seat
	told  uint64              // feed.passes when the client was last told an id without an event
	live  bool                // nothing is left to be replayed
	ahead []millrace.Position // by partition: events up to here were replayed already; nil: nowhere

	first, last int32 // of the pending events in this pass: index in feed.pend, plus 1
}

// pending is an event for one subscription, in a list.
type pending struct{ event, next int32 }

// written are the frames of one pass in one form.
type written struct {
	buf    []byte
	spans  []span // by event of the pass; size 0: not written yet
	shared bool   // buf is given away and not used again
}

type span struct{ start, size int }

// open finds the stream's partitions and their ends: from there on events are handed out.
func (f *feed) open(ctx context.Context) error {
	partitions, err := f.stream.Partitions(ctx)
	if err != nil {
		return err
	}
	for i, p := range partitions {
		_, end, err := f.stream.Bounds(ctx, p.Name)
		if err != nil {
			return err
		}
		f.parts = append(f.parts, &part{Partition: p, index: i, only: []int{i}, at: end})
		f.every = append(f.every, i)
	}
	return nil
}

// partsOf returns the indexes of the partitions where the keys live; of all for no keys.
func (f *feed) partsOf(keys []string) []int {
	if len(keys) == 0 {
		return f.every
	}
	wanted := func(p *part) bool {
		return slices.ContainsFunc(keys, func(key string) bool { return p.Contains(millrace.HashKey(key)) })
	}
	var found []int
	for _, p := range f.parts {
		if wanted(p) {
			found = append(found, p.index)
		}
	}
	if len(found) == 1 {
		return f.parts[found[0]].only
	}
	return found
}

// follow reads a partition and hands its events out, until ctx ends or the partition is closed. It
// tries again for as long as the stream is unavailable, and fails with what trying again cannot mend.
func (f *feed) follow(ctx context.Context, p *part) error {
	const least, most = 50 * time.Millisecond, 5 * time.Second
	pause := least
	for {
		err := f.read(ctx, p, func() { pause = least })
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			f.logger.Debug("gateway: the partition has ended", "stream", f.stream.Name(), "partition", p.Name)
			return nil
		case millrace.CodeOf(err) != millrace.Unavailable:
			return err
		}
		f.logger.Warn("gateway: reading the stream failed, trying again",
			"stream", f.stream.Name(), "partition", p.Name, "in", pause, "error", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		pause = min(2*pause, most)
	}
}

func (f *feed) read(ctx context.Context, p *part, progress func()) error {
	f.mu.Lock()
	at := p.at
	f.mu.Unlock()
	for sb, err := range f.stream.Read(ctx, p.Name, at) {
		var gap *millrace.Gap
		switch {
		case errors.As(err, &gap):
			f.skip(p, gap)
		case err != nil:
			return err
		default:
			progress()
			f.deliver(p, sb)
		}
	}
	return nil
}

// skip tells everyone who is concerned that events are gone.
func (f *feed) skip(p *part, gap *millrace.Gap) {
	f.logger.Warn("gateway: the stream has a gap", "stream", f.stream.Name(), "partition", p.Name,
		"after", gap.After, "first", gap.First, "reason", gap.Reason)
	f.mu.Lock()
	defer f.mu.Unlock()
	p.at = gap.First
	f.passes++
	f.each(func(s *subscription) {
		if slices.Contains(s.parts, p.index) {
			f.gap(s, p.index, gap)
		}
	})
}

// each calls visit for every subscription that has joined, once; mu is held.
func (f *feed) each(visit func(*subscription)) {
	for _, e := range f.endpoints {
		for form := range e.all {
			for _, m := range e.all[form].members {
				visit(m.s)
			}
		}
	}
	for _, g := range f.keys {
		for _, m := range g.members {
			if m.seat == 0 {
				visit(m.s)
			}
		}
	}
}

// deliver hands out a block.
func (f *feed) deliver(p *part, sb millrace.StoredBlock) {
	n := int(sb.Header.Events)
	err := p.reader.Reset(sb.Raw)
	if err == nil && n > 0 && f.interested.Load() > 0 {
		err = p.reader.Load(block.Keys) // outside of the lock, for who will most likely want it
	}
	if err != nil {
		f.logger.Error("gateway: a block is unreadable and left out", "stream", f.stream.Name(),
			"partition", p.Name, "block", sb.At.Block, "error", err)
		f.skip(p, &millrace.Gap{After: p.at, First: sb.At, Reason: unreadable})
		return
	}
	before := p.at // only this goroutine moves it
	begun := false
	for i := sb.Skip(before); ; {
		f.mu.Lock()
		i = f.pass(p, sb, i, !begun)
		f.mu.Unlock()
		if begun = true; i >= n {
			break
		}
	}
	if n > 0 && f.interested.Load() > 0 {
		lag := f.now().Sub(sb.Stored).Seconds()
		for _, e := range f.endpoints {
			e.lag.Observe(max(0, lag))
		}
	}
}

// unreadable is the reason of a gap that stands for a damaged block.
const unreadable millrace.GapReason = "unreadable"

// pass hands out events from the i-th on, as many as a pass takes, and returns the index of the next;
// mu is held.
func (f *feed) pass(p *part, sb millrace.StoredBlock, i int, first bool) int {
	r, n := &p.reader, int(sb.Header.Events)
	f.passes++
	if i >= n || !f.wanted(p, i) {
		p.at = sb.At
		return n
	}
	if err := r.Load(block.Keys | block.IDs | block.Data); err != nil {
		gap := &millrace.Gap{After: p.at, First: sb.At, Reason: unreadable}
		f.mu.Unlock()
		f.skip(p, gap)
		f.mu.Lock()
		return n
	}
	end, size := i, 0
	for end < n {
		more := eventSize(r, end)
		if end > i && size+more > f.chunk {
			break
		}
		size, end = size+more, end+1
	}
	f.setIDs(p, sb.At.Block)
	for form := range p.frames {
		p.frames[form].reset(end-i, size > f.chunk)
		if f.byForm[form] > 0 {
			for k := i; k < end; k++ {
				f.write(p, r, form0(form), i, k)
			}
		}
	}
	f.handKeys(p, r, sb, i, end)
	f.handAll(p, sb, i, end)
	for _, e := range f.endpoints {
		for form := range e.handed {
			if h := &e.handed[form]; h.events > 0 {
				e.tally[form].add(h.events, h.bytes)
				h.events, h.bytes = 0, 0
			}
		}
	}
	if end == n {
		p.at = sb.At
	} else {
		p.at = sb.Position(end - 1)
	}
	_ = first
	return end
}

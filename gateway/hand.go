package gateway

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// hander hands to connections what a pass has made ready. Nearly all that an event costs is the writing to sockets.
// So a pass to many connections is shared by as many handers as there are processors, each with a goroutine of its own
// while it lasts. To each connection its events come in order nevertheless: a round hands a subscription at most one
// piece, and the next one begins when all handers have ended.
type hander struct {
	joint   []byte // several frames for one connection
	cargo   cargo  // of what is handed over to endpoints that may drop it
	tallies []tally
}

// tally is what a hander has handed out in a pass.
type tally struct {
	t             *traffic
	events, bytes int
}

// round is what the handers go through together: subscriptions that each have events pending, or an audience whose
// members all get the same.
type round struct {
	p    *part
	subs []*subscription

	audience *audience
	frames   []byte // for everyone
	events   int    // how many they are

	next    atomic.Int64 // the first connection that nobody has taken
	helpers sync.WaitGroup
}

// How connections are shared out.
const (
	handShare = 256 // so many make another hander worthwhile: they take some 2 ms, to wake a goroutine some 0.01
	handStep  = 32  // so many a hander takes at a time
)

// handPending hands out what was noted for single subscriptions; mu is held.
func (f *feed) handPending(p *part) {
	f.round.p, f.round.subs, f.round.audience = p, f.dirty, nil
	f.handOut(len(f.dirty))
	clear(f.dirty)
	f.dirty, f.pend = f.dirty[:0], f.pend[:0]
}

// handAudience hands an audience what it wants of the batch, the same bytes to all its members; mu is held.
func (f *feed) handAudience(p *part, a *audience) {
	r := &f.round
	r.p, r.subs, r.audience, r.frames, r.events = p, nil, a, a.rendering.buf, p.batch.events
	if a.selective() {
		switch r.events = len(a.pending); r.events {
		case 0:
			return
		case 1:
			r.frames = a.rendering.frame(a.pending[0])
		default:
			f.joint = f.joint[:0]
			for _, at := range a.pending {
				f.joint = append(f.joint, a.rendering.frame(at)...)
			}
			r.frames = f.joint
		}
	}
	f.handOut(len(a.members))
	a.pending = a.pending[:0]
}

// handOut goes through a round with n connections; mu is held.
func (f *feed) handOut(n int) {
	r, handers := &f.round, 1
	if n >= 2*f.share {
		handers = min(n/f.share, runtime.GOMAXPROCS(0))
	}
	for len(f.handers) < handers {
		f.handers = append(f.handers, &hander{})
	}
	r.next.Store(0)
	for _, h := range f.handers[1:handers] {
		r.helpers.Go(func() { f.hands(h, n) })
	}
	f.hands(f.handers[0], n)
	r.helpers.Wait()
}

// hands hands to as many connections of the round as nobody else takes.
func (f *feed) hands(h *hander, n int) {
	r := &f.round
	h.cargo.batch = &r.p.batch
	if r.audience != nil && r.audience.endpoint.drops() {
		h.cargo.take(r.audience, r.events)
	}
	for {
		end := int(r.next.Add(handStep))
		for i := end - handStep; i < min(end, n); i++ {
			if r.audience != nil {
				h.member(r, r.audience.members[i].s)
			} else {
				s := r.subs[i]
				frames, events := h.gather(f.pend, s)
				h.hand(s, frames, events, r.p.batch.given && events == 1)
			}
		}
		if end >= n {
			return
		}
	}
}

// gather returns the frames that are pending for s, one after the other, and how many they are.
func (h *hander) gather(pend []pending, s *subscription) (frames []byte, events int) {
	at := s.first
	if s.endpoint.drops() {
		h.cargo.events = h.cargo.events[:0]
		for i := at; i != 0; i = pend[i-1].next {
			h.cargo.events = append(h.cargo.events, pend[i-1].event)
		}
	}
	if at == s.last {
		frames, events = s.rendering.frame(pend[at-1].event), 1
	} else {
		h.joint = h.joint[:0]
		for ; at != 0; at = pend[at-1].next {
			h.joint = append(h.joint, s.rendering.frame(pend[at-1].event)...)
			events++
		}
		frames = h.joint
	}
	s.first, s.last = 0, 0
	return frames, events
}

// member hands to a member of the audience what it does not have yet.
func (h *hander) member(r *round, s *subscription) {
	b, a := &r.p.batch, r.audience
	if s.ahead == nil {
		h.hand(s, r.frames, r.events, b.given)
		return
	}
	for i := range r.events {
		at := i
		if a.selective() {
			at = int(a.pending[i])
		}
		if s.ahead == nil || s.passed(r.p.index, b.position(at)) {
			h.cargo.events = append(h.cargo.events[:0], int32(at))
			h.hand(s, a.rendering.frame(int32(at)), 1, b.given)
		}
	}
	if a.endpoint.drops() {
		h.cargo.take(a, r.events)
	}
}

// hand hands frames to one connection; one that cannot take them is cut, unless its endpoint lets events be
// dropped, of which h.cargo has those that the frames are. The feed's mu is held.
func (h *hander) hand(s *subscription, frames []byte, events int, shared bool) {
	var c *cargo
	if s.endpoint.drops() {
		c, h.cargo.s = &h.cargo, s
	}
	switch s.putEvents(frames, shared, c) {
	case sent, queued:
		if s.holding { // they count when they follow: if too much is held, the replay sends them, and counts them
			s.heldEvents += events
			s.heldBytes += len(frames)
			return
		}
		h.count(&s.endpoint.traffic[s.form], events, len(frames))
	case refused:
		s.c.cutSlow()
	case gone:
	}
}

func (h *hander) count(t *traffic, events, bytes int) {
	last := len(h.tallies) - 1
	for i := last; i >= 0; i-- {
		if h.tallies[i].t == t {
			h.tallies[i], h.tallies[last] = h.tallies[last], h.tallies[i] // the next one is of the same, most likely
			h.tallies[last].events += events
			h.tallies[last].bytes += bytes
			return
		}
	}
	h.tallies = append(h.tallies, tally{t, events, bytes})
}

// count passes on what the endpoints have handed out in this pass; mu is held.
func (f *feed) count(oldest time.Time) {
	lag := f.now().Sub(oldest)
	for _, h := range f.handers {
		for _, n := range h.tallies {
			n.t.eventsNow += n.events
			n.t.bytesNow += n.bytes
		}
		h.tallies = h.tallies[:0]
	}
	for _, e := range f.endpoints {
		busy := false
		for form := range e.traffic {
			if t := &e.traffic[form]; t.eventsNow > 0 {
				t.events.Add(float64(t.eventsNow))
				t.bytes.Add(float64(t.bytesNow))
				t.eventsNow, t.bytesNow, busy = 0, 0, true
			}
		}
		if busy {
			e.lag.Observe(max(0, lag.Seconds()))
		}
	}
}

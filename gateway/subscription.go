package gateway

import (
	"slices"

	"github.com/millrace/millrace"
)

// subscription is a connection's interest in a stream: some keys, or all of them.
type subscription struct {
	c     *connection
	feed  *feed
	keys  []string // none: every key
	parts []int    // the partitions where the keys live, in the order of feed.parts

	// Guarded by feed.mu.
	seats []seat
	live  bool                // nothing is left to replay
	told  uint64              // feed.passes when the client was last sent an id without an event
	ahead []millrace.Position // by partition: events up to here were replayed; nil if there are none

	first, last int32 // pending events of this pass: indexes in feed.pend, plus 1
}

// group is a dense list of subscriptions, each of which knows where it sits, so that it can leave
// without being searched for.
type group struct{ members []member }

type member struct {
	s    *subscription
	seat int // index in s.seats
}

type seat struct {
	group *group
	key   string // in feed.keys; unused in endpoint.all
	index int    // in group.members
}

// partsOf returns the indexes of the partitions where the keys live; of all for no keys.
func (f *feed) partsOf(keys []string) []int {
	if len(keys) == 0 {
		return f.every
	}
	var found []int
	for _, p := range f.parts {
		if slices.ContainsFunc(keys, func(key string) bool { return p.Contains(millrace.HashKey(key)) }) {
			found = append(found, p.index)
		}
	}
	if len(found) == 1 {
		return f.parts[found[0]].only
	}
	return found
}

// appendID appends the id from which s would resume at the feed's places; mu is held.
func (f *feed) appendID(dst []byte, s *subscription) []byte {
	if len(s.parts) == 1 {
		p := f.parts[s.parts[0]]
		dst, _ = appendPlace(dst, "", p.Name, p.at)
		return dst
	}
	incarnation := ""
	for i, p := range f.parts {
		if i > 0 {
			dst = append(dst, '~')
		}
		dst, incarnation = appendPlace(dst, incarnation, p.Name, p.at)
	}
	return dst
}

// join lets s take part in the passes from now on; mu is held.
func (f *feed) join(s *subscription) {
	sit := func(g *group, key string) {
		s.seats = append(s.seats, seat{group: g, key: key, index: len(g.members)})
		g.members = append(g.members, member{s: s, seat: len(s.seats) - 1})
	}
	if len(s.keys) == 0 {
		f.byForm[s.c.form]++
		f.broad.Add(1)
		sit(&s.c.endpoint.all[s.c.form], "")
	}
	for _, key := range s.keys {
		g := f.keys[key]
		if g == nil {
			g = &group{}
			f.keys[key] = g
		}
		sit(g, key)
	}
	f.interested.Add(1)
}

// leave ends what join began. Leaving twice is leaving once.
func (f *feed) leave(s *subscription) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.remove(s)
}

// remove is leave; mu is held.
func (f *feed) remove(s *subscription) {
	if len(s.seats) == 0 {
		return
	}
	for _, seat := range s.seats {
		g := seat.group
		end := len(g.members) - 1
		moved := g.members[end]
		g.members[seat.index] = moved
		moved.s.seats[moved.seat].index = seat.index
		g.members[end] = member{}
		if g.members = g.members[:end]; end == 0 && len(s.keys) > 0 {
			delete(f.keys, seat.key)
		}
	}
	if len(s.keys) == 0 {
		f.byForm[s.c.form]--
		f.broad.Add(-1)
	}
	s.seats, s.live, s.ahead = nil, false, nil
	f.interested.Add(-1)
}

// joinLive lets s take part without any replay; head is the response's.
func (f *feed) joinLive(s *subscription, head []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s.c.out.begin(head)
	f.join(s)
	f.goLive(s)
}

// goLive says that s has come to the live edge, and tells the client; mu is held.
func (f *feed) goLive(s *subscription) {
	s.live = true
	f.tell(s, true)
}

// tell sends the client an id without an event, if it can make use of one; mu is held.
func (f *feed) tell(s *subscription, live bool) {
	s.told = f.passes
	f.id = f.appendID(f.id[:0], s)
	frame := appendProgress(nil, s.c.form, f.id, live)
	if len(frame) > 0 && s.c.out.live(frame, false) == refused && live {
		s.c.cutSlow() // without room for other news it does without
	}
}

// progress tells a quiet client how far it has come, if that has changed since it was last told, so
// that it need not make its way through everything again that it did not ask for.
func (f *feed) progress(s *subscription) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s.live && s.told != f.passes {
		f.tell(s, false)
	}
}

// passed says whether an event lies beyond what was replayed to s.
func (s *subscription) passed(partition int, at millrace.Position) bool {
	if at.Compare(s.ahead[partition]) <= 0 {
		return false
	}
	s.ahead[partition] = millrace.Position{}
	if !slices.ContainsFunc(s.ahead, func(p millrace.Position) bool { return !p.IsStart() }) {
		s.ahead = nil
	}
	return true
}

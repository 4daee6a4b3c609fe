package gateway

import (
	"bytes"
	"context"
	"math"
	"slices"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
	"github.com/millrace/millrace/table"
)

// subscription is a connection's interest in a stream: in some keys, in those with a prefix, or in all of
// them; in events that a filter lets through; in objects inside an area.
type subscription struct {
	c        *connection
	endpoint *endpoint // whose rules hold for it, and whose counters count it
	feed     *feed
	wish
	dialect
	parts []int              // the partitions where the keys live, in the order of feed.parts
	stop  context.CancelFunc // ends its replay; nil if there was none

	// Guarded by feed.mu.
	joined    bool
	index     int        // in feed.joined
	rendering *rendering // shared by all of its dialect; nil unless joined
	filtered  *filter    // shared by all with the same filter; nil: none, or not joined
	seats     []seat
	live      bool                // nothing is left to replay
	next      *area               // that replaces the present one as soon as nothing is left to replay
	told      uint64              // feed.passesOf when the client was last sent an id without an event
	ahead     []millrace.Position // by partition: events up to here were replayed; nil if there are none

	// What comes live while the replay still goes on is held back, up to the bound of a queue.
	holding, spilled bool
	held             []byte
	kept             *line // instead of held, if events may be dropped
	heldEvents       int   // in held or kept
	heldBytes        int   // of these

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
	key   string // in feed.keys, or ""
	index int    // in group.members
}

// sit lets s take part in a group.
func (g *group) sit(s *subscription, key string) {
	s.seats = append(s.seats, seat{group: g, key: key, index: len(g.members)})
	g.members = append(g.members, member{s: s, seat: len(s.seats) - 1})
}

// audience is the subscriptions that get exactly the same bytes: those of one endpoint that name no key.
type audience struct {
	group
	audienceKey
	rendering *rendering
	filter    *filter
	index     int     // in feed.audiences
	pending   []int32 // events of this pass, if it is selective
}

type audienceKey struct {
	endpoint *endpoint
	dialect  dialect
	prefix   string
	filter   string
}

// selective says whether an audience leaves events out.
func (a *audience) selective() bool { return a.prefix != "" || a.filter != nil }

// wantsKey says whether a key is one that s asks for.
func (s *subscription) wantsKey(key []byte) bool {
	switch {
	case len(s.keys) > 0:
		_, found := slices.BinarySearchFunc(s.keys, key, compareKeys) // setKeys has put them in order
		return found
	default:
		return s.prefix == "" || bytes.HasPrefix(key, []byte(s.prefix))
	}
}

// compareKeys compares as strings do, without making one.
func compareKeys(a string, b []byte) int {
	switch {
	case a == string(b):
		return 0
	case a < string(b):
		return -1
	default:
		return 1
	}
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

// places returns how far the connections have come, by partition; mu is held.
func (f *feed) places() []millrace.Position {
	places := make([]millrace.Position, len(f.parts))
	for i, p := range f.parts {
		places[i] = p.at
	}
	return places
}

// place returns how far the connections have come in a partition; mu is held.
func (f *feed) place(i int) millrace.Position { return f.parts[i].at }

// appendID appends the id from which s would resume at the feed's places; mu is held.
func (f *feed) appendID(dst []byte, s *subscription) []byte {
	several := f.every // as in the ids of events, which all share that have more than one
	if len(s.parts) == 1 {
		several = s.parts
	}
	dst, _ = appendPlaces(dst, "", f.parts, several, f.place)
	return dst
}

// join lets s take part in the passes from now on; mu is held.
func (f *feed) join(s *subscription) {
	s.joined, s.index = true, len(f.joined)
	f.joined = append(f.joined, s)
	rd := f.renderings[s.dialect]
	if rd == nil {
		rd = &rendering{dialect: s.dialect}
		f.renderings[s.dialect] = rd
	}
	rd.members++
	if rd.form.vector() {
		f.vectors++
	}
	s.rendering = rd
	s.filtered = f.useFilter(s.filter)
	switch {
	case s.area != nil:
		s.endpoint.areas.insert(s)
	case len(s.keys) > 0:
		for _, key := range s.keys {
			g := f.keys[key]
			if g == nil {
				g = &group{}
				f.keys[key] = g
			}
			g.sit(s, key)
		}
	default:
		a := f.audience(s)
		a.sit(s, "")
		if !a.selective() {
			if rd.broad++; rd.broad == 1 {
				f.broad = append(f.broad, rd)
			}
		}
	}
	f.interested.Add(1)
	if len(s.keys) == 0 {
		f.unkeyed.Add(1)
	}
}

// audience returns the audience that s belongs to; mu is held.
func (f *feed) audience(s *subscription) *audience {
	key := audienceKey{endpoint: s.endpoint, dialect: s.dialect, prefix: s.prefix, filter: s.filterText()}
	a := f.byInterest[key]
	if a == nil {
		a = &audience{audienceKey: key, rendering: s.rendering, filter: s.filtered, index: len(f.audiences)}
		f.audiences = append(f.audiences, a)
		f.byInterest[key] = a
	}
	return a
}

// disband forgets an audience that has no members any more; mu is held.
func (f *feed) disband(a *audience) {
	last := len(f.audiences) - 1
	f.audiences[a.index] = f.audiences[last]
	f.audiences[a.index].index = a.index
	f.audiences[last] = nil
	f.audiences = f.audiences[:last]
	delete(f.byInterest, a.audienceKey)
}

// leave ends what join began. Leaving twice is leaving once.
func (f *feed) leave(s *subscription) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.remove(s)
}

// remove is leave; mu is held.
func (f *feed) remove(s *subscription) {
	s.drop()
	if !s.joined {
		return
	}
	if s.area != nil {
		s.endpoint.areas.remove(s)
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
	rd := s.rendering
	if s.area == nil && len(s.keys) == 0 {
		a := f.audience(s)
		if len(a.members) == 0 {
			f.disband(a)
		}
		if !a.selective() {
			if rd.broad--; rd.broad == 0 {
				f.broad = slices.DeleteFunc(f.broad, func(b *rendering) bool { return b == rd })
			}
		}
	}
	if rd.form.vector() {
		f.vectors--
	}
	if rd.members--; rd.members == 0 {
		delete(f.renderings, s.dialect)
	}
	f.releaseFilter(s.filtered)
	last := len(f.joined) - 1
	f.joined[s.index] = f.joined[last]
	f.joined[s.index].index = s.index
	f.joined[last] = nil
	f.joined = f.joined[:last]
	s.joined, s.seats, s.live, s.ahead, s.rendering, s.filtered = false, nil, false, nil, nil, nil
	f.interested.Add(-1)
	if len(s.keys) == 0 {
		f.unkeyed.Add(-1)
	}
}

// joinLive lets s take part without any replay; head goes out first.
func (f *feed) joinLive(s *subscription, head []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if head != nil {
		s.c.out.begin(head)
	}
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
	s.told = f.passesOf(s)
	f.id = f.appendID(f.id[:0], s)
	frame := s.appendProgress(nil, f.id, live)
	if len(frame) > 0 && s.put(frame, false) == refused && live {
		s.c.cutSlow() // without room for other news it does without
	}
}

// progress tells a quiet client how far it has come, if that has changed since it was last told, so
// that it need not make its way through everything again that it did not ask for.
func (f *feed) progress(s *subscription) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s.live && s.told != f.passesOf(s) {
		f.tell(s, false)
	}
}

// passesOf counts the passes of the partitions of s; mu is held.
func (f *feed) passesOf(s *subscription) (passes uint64) {
	for _, i := range s.parts {
		passes += f.parts[i].passes
	}
	return passes
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

// put hands over frames of the fan-out, or holds them back. feed.mu is held.
func (s *subscription) put(b []byte, shared bool) verdict { return s.putEvents(b, shared, nil) }

// putEvents is put for events that may be dropped, if c is not nil.
func (s *subscription) putEvents(b []byte, shared bool, c *cargo) verdict {
	if !s.holding {
		return s.c.out.sendEvents(b, shared, c)
	}
	if !s.spilled && s.endpoint.drops() {
		return s.keep(b, shared, c)
	}
	if s.spilled || len(s.held)+len(b) > s.c.out.limit {
		s.drop()
		s.holding, s.spilled = true, true
		return gone
	}
	s.held = append(s.held, b...)
	s.c.out.flows.queued(len(b))
	return queued
}

// hold keeps live frames back until release; feed.mu is held.
func (s *subscription) hold() { s.holding, s.spilled = true, false }

// release lets the frames that were held follow. It returns false if there were more than the limit, which
// are gone. feed.mu is held.
func (s *subscription) release() bool {
	held, kept, complete := s.held, s.kept, !s.spilled
	if complete && s.heldEvents > 0 {
		t := &s.endpoint.traffic[s.form]
		t.events.Add(float64(s.heldEvents))
		t.bytes.Add(float64(s.heldBytes))
	}
	s.drop()
	switch {
	case !complete:
	case kept != nil:
		s.c.out.followLine(kept)
	default:
		s.c.out.follow(held)
	}
	return complete
}

// drop ends hold, and drops what was held; feed.mu is held.
func (s *subscription) drop() {
	if len(s.held) > 0 {
		s.c.out.flows.queued(-len(s.held))
	}
	if s.kept != nil {
		s.c.out.flows.queued(-s.kept.bytes)
	}
	s.held, s.kept, s.holding, s.spilled, s.heldEvents, s.heldBytes = nil, nil, false, false, 0, 0
}

// filter is a filter that at least one subscription uses, and what it says of the events of this pass.
type filter struct {
	text       string
	users      int
	match      func(r *block.Reader, i int) bool
	attributed bool   // it looks at attributes
	batch      *batch // of which partition, and which of its passes, the verdicts are
	pass       uint64
	verdicts   []verdictOf // by event of the batch
}

type verdictOf uint8

const (
	unknown verdictOf = iota
	matched
	missed
)

// useFilter returns the shared filter of an expression, nil for none; mu is held.
func (f *feed) useFilter(w *where) *filter {
	if w == nil {
		return nil
	}
	text := w.String()
	shared := f.filters[text]
	if shared == nil {
		shared = &filter{text: text, match: w.Evaluator().Match, attributed: w.Needs()&block.Attributes != 0}
		f.filters[text] = shared
		if shared.attributed {
			f.attributed.Add(1)
		}
	}
	shared.users++
	return shared
}

func (f *feed) releaseFilter(shared *filter) {
	if shared == nil {
		return
	}
	if shared.users--; shared.users == 0 {
		delete(f.filters, shared.text)
		if shared.attributed {
			f.attributed.Add(-1)
		}
	}
}

// passes says whether the i-th event of r, at in the batch, passes the filter.
func (b *batch) passes(shared *filter, at int, r *block.Reader, i int) bool {
	if shared == nil {
		return true
	}
	if shared.batch != b || shared.pass != b.pass {
		shared.batch, shared.pass, shared.verdicts = b, b.pass, shared.verdicts[:0]
	}
	for len(shared.verdicts) < b.events {
		shared.verdicts = append(shared.verdicts, unknown)
	}
	v := &shared.verdicts[at]
	if *v == unknown {
		if *v = missed; shared.match(r, i) {
			*v = matched
		}
	}
	return *v == matched
}

// itemOfRow is a row of a table as it is written.
func itemOfRow(row *table.Row) item {
	e := &row.Event
	ns := int64(math.MinInt64)
	if !e.Time.IsZero() {
		ns = e.Time.UnixNano()
	}
	return item{key: []byte(e.Key), kind: []byte(e.Type), data: e.Data, nanos: ns}
}

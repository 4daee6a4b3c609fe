package gateway

import (
	"strconv"
	"sync"
	"unsafe"

	"github.com/gobwas/ws"

	"github.com/millrace/millrace/block"
	"github.com/millrace/millrace/gateway/websocket"
)

// What an endpoint's Slow may say.
const (
	Disconnect   = "disconnect"
	DropOldest   = "drop_oldest"
	NewestPerKey = "newest_per_key"
)

// drops says whether events may be dropped for a slow client, rather than the client cut.
func (e *endpoint) drops() bool { return e.config.Slow != "" && e.config.Slow != Disconnect }

// cargo says what events the frames are that a pass hands over: each frame is one.
type cargo struct {
	s      *subscription // whose endpoint lets them be dropped
	batch  *batch
	events []int32 // as in pending
}

// conflates says whether an event takes the place of an older one of its key.
func (c *cargo) conflates() bool { return c != nil && c.s.endpoint.config.Slow == NewestPerKey }

// take makes the events that an audience wants of the batch the cargo.
func (c *cargo) take(a *audience, events int) {
	if c.events = c.events[:0]; a.selective() {
		c.events = append(c.events, a.pending...)
		return
	}
	for i := range events {
		c.events = append(c.events, int32(i))
	}
}

// line is what waits behind the frame that a socket is taking, frame by frame, so that events can be dropped
// from it. It exists only while something waits that may be dropped, and whatever comes after that. Whoever
// owns it, an outlet or a subscription that holds live frames back, guards it.
type line struct {
	first, last *parcel
	loose       *parcel // the oldest that may be dropped
	large       *parcel // the one that is larger than the limit: there is never another
	bytes       int     // of all frames
	cost        int     // what counts against the limit
	looseCost   int     // of those that may be dropped
	newest      map[subject]*parcel
}

// parcel is one frame in a line, or some that belong together.
type parcel struct {
	frame          []byte
	of             *subscription // whose event it is; nil: it must not be dropped
	key            string        // of the event
	cost           int           // parcelCost, the key, and the frame unless it is larger than the limit
	lost           int           // a notice to of: so many of its events were dropped
	shared         bool
	conflates      bool // it takes the place of an older event of its key
	previous, next *parcel
}

// subject is what there may be only one event of.
type subject struct {
	s   *subscription
	key string
}

// parcelCost is what a parcel counts against the limit beside its frame and its key: about what it takes, with
// its place among the newest.
const parcelCost = int(unsafe.Sizeof(parcel{})) + 56

// newParcel returns a parcel of some frames. limit is that of the line: what is larger is the only one of its kind,
// and is not counted.
func newParcel(frame []byte, shared bool, limit int) *parcel {
	p := &parcel{frame: frame, cost: parcelCost, shared: shared}
	if len(frame) <= limit {
		p.cost += len(frame)
	}
	if !shared {
		p.frame = append(make([]byte, 0, len(frame)), frame...)
	}
	return p
}

// event returns the parcel of the i-th event of a cargo.
func (c *cargo) event(i int, frame []byte, shared bool, limit int) *parcel {
	p := newParcel(frame, shared, limit)
	p.of = c.s
	if c.conflates() {
		event := c.events[i]
		if event < 0 {
			event = ^event
		}
		p.key, p.conflates = c.batch.key(int(event)), true
		p.cost += len(p.key)
	}
	return p
}

// isEvent says whether a parcel may be dropped.
func (p *parcel) isEvent() bool { return p.of != nil && p.lost == 0 }

// isLarge says whether a frame is larger than the limit, and so not counted.
func (p *parcel) isLarge() bool { return p.lost == 0 && len(p.frame) > p.cost }

// append adds a parcel at the end.
func (l *line) append(p *parcel) {
	if p.previous = l.last; l.last == nil {
		l.first = p
	} else {
		l.last.next = p
	}
	l.last = p
	l.bytes, l.cost = l.bytes+len(p.frame), l.cost+p.cost
	if !p.isEvent() {
		return
	}
	l.looseCost += p.cost
	if l.loose == nil {
		l.loose = p
	}
	if p.isLarge() {
		l.large = p
	}
	if p.conflates {
		if l.newest == nil {
			l.newest = map[subject]*parcel{}
		}
		l.newest[subject{p.of, p.key}] = p
	}
}

// remove takes a parcel out.
func (l *line) remove(p *parcel) {
	if p.previous == nil {
		l.first = p.next
	} else {
		p.previous.next = p.next
	}
	if p.next == nil {
		l.last = p.previous
	} else {
		p.next.previous = p.previous
	}
	l.bytes, l.cost = l.bytes-len(p.frame), l.cost-p.cost
	if p.isEvent() {
		l.looseCost -= p.cost
		if l.loose == p {
			for l.loose = p.next; l.loose != nil && !l.loose.isEvent(); {
				l.loose = l.loose.next
			}
		}
		if l.large == p {
			l.large = nil
		}
		if at := (subject{p.of, p.key}); p.conflates && l.newest[at] == p {
			delete(l.newest, at)
		}
	}
	p.previous, p.next = nil, nil
}

// lose drops an event.
func (l *line) lose(p *parcel) {
	l.remove(p)
	l.count(p.of)
}

// count counts an event that is not sent, and says so in front of the line: so the client hears of it before
// anything that comes after the event. Notices are not counted against the limit, there is one of a subscription.
func (l *line) count(s *subscription) {
	s.endpoint.dropped.Inc()
	notice := l.first
	for notice != nil && notice.lost > 0 && notice.of != s {
		notice = notice.next
	}
	if notice == nil || notice.lost == 0 {
		notice = &parcel{of: s, next: l.first}
		if l.first == nil {
			l.last = notice
		} else {
			l.first.previous = notice
		}
		l.first = notice
	}
	l.bytes -= len(notice.frame)
	notice.lost++
	notice.frame = s.appendDropped(notice.frame[:0], notice.lost)
	l.bytes += len(notice.frame)
}

// appendDropped appends that events were dropped. It has no id: what the client resumes from is the last
// message that it has got.
func (d *dialect) appendDropped(dst []byte, events int) []byte {
	if d.form == plain {
		var text [40]byte
		payload := strconv.AppendInt(append(text[:0], "dropped="...), int64(events), 10)
		return append(websocket.AppendHeader(dst, ws.OpPing, len(payload)), payload...)
	}
	body := func(dst []byte) []byte { return append(appendInt(append(dst, `{"events":`...), int64(events)), '}') }
	if !d.form.websocket() {
		return append(body(append(dst, "event: "+droppedEvent+"\ndata: "...)), "\n\n"...)
	}
	dst, start := websocket.OpenText(dst, 0)
	dst = append(appendSub(append(dst, '{'), d.name), `"dropped":`...)
	return websocket.CloseText(append(body(dst), '}'), start)
}

// giveWay drops events until there is room for b, which must not be dropped. It returns false, and has dropped
// nothing, if there would be none. mu is held.
func (o *outlet) giveWay(b []byte) bool {
	need := len(b) + parcelCost
	if o.line == nil || o.behind()-o.line.looseCost+need > o.limit {
		return false
	}
	before := o.waiting()
	for o.behind()+need > o.limit {
		o.line.lose(o.line.loose)
	}
	o.flows.queued(o.waiting() - before)
	return true
}

// lineUp keeps b, of which the socket has taken n bytes, frame by frame; n > 0 only if nothing waits. c says
// which events they are; nil: they must stay. mu is held.
func (o *outlet) lineUp(b []byte, n int, shared bool, c *cargo) {
	before := o.waiting()
	if before == 0 {
		o.queue, o.off, o.wrote = nil, 0, o.flows.clock.Load()
	}
	if o.line == nil {
		o.line = &line{}
	}
	if c == nil {
		o.line.append(newParcel(b, shared, o.limit))
		b = nil
	}
	for i := 0; len(b) > 0; i++ {
		size := o.form.frameSize(b)
		frame := b[:size]
		b = b[size:]
		if n < size {
			p := c.event(i, frame, shared, o.limit)
			if n == 0 {
				o.admit(p)
			} else {
				o.half(p, n)
			}
		}
		n = max(0, n-size)
	}
	if o.line.first == nil {
		o.line = nil
	}
	o.flows.queued(o.waiting() - before)
}

// half keeps what the socket has taken n bytes of: the rest of it goes out before anything else.
func (o *outlet) half(p *parcel, n int) {
	if o.off = n; p.shared || p.isLarge() {
		o.big = p.frame
	} else {
		o.queue = p.frame
	}
}

// admit lets an event join the line, in the place of an older one of its key where that is asked for. What is over
// the limit then goes, the oldest first. If nothing is left that may go, the event itself does. mu is held.
func (o *outlet) admit(p *parcel) {
	l := o.line
	if p.conflates {
		if older := l.newest[subject{p.of, p.key}]; older != nil {
			l.lose(older)
		}
	}
	if p.isLarge() && l.large != nil {
		l.lose(l.large)
	}
	if o.behind()-l.looseCost+p.cost > o.limit {
		l.count(p.of)
		return
	}
	for o.behind()+p.cost > o.limit {
		l.lose(l.loose)
	}
	l.append(p)
}

var joints = sync.Pool{New: func() any { return new([]byte) }}

// joinSize is about how many bytes of a line are written at once: a TLS record, and so little that a queue of the
// usual size is not all beyond dropping while TLS writes it.
const joinSize = 16 << 10

// join appends the frames with which the line begins, as many as are written at once.
func (l *line) join(dst []byte, limit int) []byte {
	for p := l.first; p != nil && (len(dst) == 0 || len(dst)+len(p.frame) <= min(joinSize, limit/2)); p = p.next {
		dst = append(dst, p.frame...)
	}
	return dst
}

// took takes n bytes off the line, which the socket has taken. mu is held.
func (o *outlet) took(n int) {
	for n > 0 {
		p := o.line.first
		o.line.remove(p)
		if n < len(p.frame) {
			o.half(p, n)
			break
		}
		n -= len(p.frame)
	}
	if o.line.first == nil {
		o.line = nil
	}
}

// next takes from the line what drainBlocking writes next. mu is held.
func (o *outlet) next() (frames []byte) {
	if p := o.line.first; p.isLarge() {
		o.line.remove(p)
		if o.line.first == nil {
			o.line = nil
		}
		o.big = p.frame
		return o.big
	}
	frames = o.line.join(nil, o.limit)
	o.took(len(frames))
	return frames
}

// flushLine writes the line for as long as the socket takes it. more says that the socket may take more. mu
// is held.
func (o *outlet) flushLine() (more bool, err error) {
	joined := joints.Get().(*[]byte) //nolint:forcetypeassert // the pool holds nothing else
	defer joints.Put(joined)
	b := o.line.first.frame
	if o.line.first.next != nil && len(b) < joinSize {
		*joined = o.line.join((*joined)[:0], o.limit)
		b = *joined
	}
	n, err := writeNow(o.raw, b)
	if err != nil {
		return false, err
	}
	if n > 0 {
		o.took(n)
		o.wrote = o.flows.clock.Load()
		o.flows.queued(-n)
	}
	return n == len(b), nil
}

// followLine is follow for frames of which events may be dropped. What the socket takes at once is not.
func (o *outlet) followLine(l *line) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.state != open || l == nil {
		return
	}
	counted := 0 // bytes of l that the gauge knows of
	if o.waiting() == 0 && o.raw != nil && !o.opening {
		o.queue, o.off, o.wrote = nil, 0, o.flows.clock.Load()
		o.line = l
		o.flows.queued(l.bytes)
		if !o.flush() {
			return
		}
		if l, o.line = o.line, nil; l == nil {
			l = &line{}
		}
		counted = l.bytes
	}
	before := o.waiting() + counted
	if o.line == nil {
		o.line = &line{}
	}
	for l.first != nil {
		p := l.first
		if l.remove(p); p.isEvent() {
			o.admit(p)
		} else {
			o.line.append(p)
		}
	}
	if o.line.first == nil {
		o.line = nil
	}
	o.flows.queued(o.waiting() - before)
	o.proceed()
}

// keep holds frames back whose events may be dropped, unless they would pass the limit.
func (s *subscription) keep(b []byte, shared bool, c *cargo) verdict {
	if s.kept == nil {
		s.kept = &line{}
	}
	before, limit := s.kept.bytes, s.c.out.limit
	if c == nil {
		s.kept.append(newParcel(b, shared, limit))
		b = nil
	}
	for i := 0; len(b) > 0; i++ {
		size := s.form.frameSize(b)
		s.kept.append(c.event(i, b[:size], shared, limit))
		b = b[size:]
	}
	s.c.out.flows.queued(s.kept.bytes - before)
	if max(s.kept.cost, s.kept.bytes) > limit {
		s.drop()
		s.holding, s.spilled = true, true
		return gone
	}
	return queued
}

// keyring is the keys of a batch's events, for endpoints that keep the newest of each. They become strings, which
// all connections share, when the first event has to wait.
type keyring struct {
	text []byte
	ends []int // in text, by event

	mu   sync.Mutex // handers share a batch
	made []string
}

// note adds the keys of the events [i, end).
func (k *keyring) note(r *block.Reader, i, end int) {
	for ; i < end; i++ {
		k.text = append(k.text, r.Key(i)...)
		k.ends = append(k.ends, len(k.text))
	}
}

func (k *keyring) reset() {
	clear(k.made)
	k.text, k.ends, k.made = k.text[:0], k.ends[:0], k.made[:0]
}

// key returns the key of an event of the batch.
func (k *keyring) key(event int) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	for len(k.made) < len(k.ends) {
		k.made = append(k.made, "")
	}
	start := 0
	if event > 0 {
		start = k.ends[event-1]
	}
	if k.made[event] == "" {
		k.made[event] = string(k.text[start:k.ends[event]])
	}
	return k.made[event]
}

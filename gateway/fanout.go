package gateway

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
	"github.com/millrace/millrace/gateway/apigateway"
	"github.com/millrace/millrace/gateway/auth"
	"github.com/millrace/millrace/table"
)

// feed hands one stream's events to the connections that want them. It has one reader for each
// partition, whatever the number of endpoints and connections.
//
// mu orders everything: a pass hands a few events to all connections under it, and a connection joins
// under it. So all that have joined have been handed exactly the events up to the partitions' places
// (part.at). That is why ids over all partitions can be shared by all connections, and why joining has
// a seam without a gap or a repeat.
type feed struct {
	stream    millrace.Stream
	history   *history       // of all feeds of the gateway
	state     millrace.State // nil: the table is not kept
	endpoints []*endpoint
	logger    *slog.Logger
	now       func() time.Time
	chunk     int          // about how many bytes of events one pass hands over
	tableKeys int          // bound of the table; 0: there is none
	saver     *table.Saver // of the table; nil: nobody

	parts      []*part
	every      []int        // the indexes of all parts
	interested atomic.Int64 // subscriptions that have joined
	unkeyed    atomic.Int64 // those of them that name no keys

	mu         sync.Mutex
	passes     uint64            // counts whatever changes a place
	table      *table.Table      // the newest event of each key at the parts' places; nil: not asked for
	joined     []*subscription   // all of them
	keys       map[string]*group // those that name keys
	audiences  []*audience       // those that name none
	byInterest map[audienceKey]*audience
	watched    []*areas               // those that watch areas
	renderings map[dialect]*rendering // by dialect
	broad      []*rendering           // those that hold every event
	filters    map[string]*filter     // by expression
	needs      block.Sections         // what the filters look at
	dirty      []*subscription        // with pending events, in this pass
	pend       []pending
	joint      []byte // several frames for one connection
	id         []byte
	cargo      cargo // of what is handed over to endpoints that may drop it
	keepKeys   bool  // of the events of a batch: an endpoint keeps the newest of each
}

// part is a partition as its feed follows it.
type part struct {
	millrace.Partition
	index  int
	only   []int             // its index alone
	at     millrace.Position // how far the connections have come; guarded by feed.mu
	shelf  *shelf            // what it has of the history
	reader block.Reader      // of the goroutine that follows the partition
	batch  batch             // the events of one pass
}

// endpoint is a path that serves a feed.
type endpoint struct {
	path      string
	config    Endpoint
	feed      *feed        // nil: a connection to it has no subscription to begin with
	auth      *auth.Config // nil: everyone may connect
	guard     *auth.Guard
	api       *apigateway.API       // nil: it is of another kind
	deliverer *apigateway.Deliverer // of api
	areas     *areas                // nil: areas cannot be asked for
	lag       prometheus.Observer
	gaps      prometheus.Counter
	dropped   prometheus.Counter
	replays   prometheus.Counter
	traffic   [formsCount]traffic
}

// traffic is what an endpoint hands out in one form.
type traffic struct {
	connections   prometheus.Gauge
	connects      prometheus.Counter
	events, bytes prometheus.Counter

	eventsNow, bytesNow int // of this pass; guarded by feed.mu
}

// pending is an event for one subscription, and the next one. The event is its index in the batch, or the
// complement of that: its object has left an area.
type pending struct{ event, next int32 }

func newFeed(stream millrace.Stream, g *Gateway, o Options) *feed {
	return &feed{
		stream: stream, history: g.history, state: o.State, logger: g.logger, now: o.Now,
		chunk: int(min(g.config.Queue/2, 32<<10)),
		keys:  map[string]*group{}, byInterest: map[audienceKey]*audience{}, renderings: map[dialect]*rendering{}, filters: map[string]*filter{},
	}
}

// serve adds an endpoint.
func (f *feed) serve(e *endpoint) error {
	f.endpoints = append(f.endpoints, e)
	f.keepKeys = f.keepKeys || e.config.Slow == NewestPerKey
	if e.config.Location != nil {
		i := slices.IndexFunc(f.watched, func(as *areas) bool { return as.location == *e.config.Location })
		if i < 0 {
			as, err := newAreas(*e.config.Location)
			if err != nil {
				return err
			}
			i, f.watched = len(f.watched), append(f.watched, as)
		}
		e.areas = f.watched[i]
	}
	if e.config.latest() {
		f.tableKeys = max(f.tableKeys, e.config.latestKeys())
	}
	return nil
}

// open finds the stream's partitions and their ends: what comes from there on is handed out. A table is
// brought up to there first.
func (f *feed) open(ctx context.Context) error {
	partitions, err := f.stream.Partitions(ctx)
	if err != nil {
		return err
	}
	if f.tableKeys > 0 {
		if err := f.openTable(ctx); err != nil {
			return err
		}
	}
	f.parts, f.every = nil, nil
	for i, p := range partitions {
		var at millrace.Position
		if f.table != nil {
			at = f.table.Place(p.Name)
		} else if _, at, err = f.stream.Bounds(ctx, p.Name); err != nil {
			return err
		}
		f.parts = append(f.parts, &part{
			Partition: p, index: i, only: []int{i}, at: at, shelf: newShelf(f.history, f.stream, p.Name),
		})
		f.every = append(f.every, i)
	}
	return nil
}

// follow hands a partition's events out until ctx ends or the partition is closed. It tries again for
// as long as the stream is unavailable, and fails with what trying again cannot mend.
func (f *feed) follow(ctx context.Context, p *part) error {
	const least, most = 50 * time.Millisecond, 5 * time.Second
	for pause := least; ; pause = min(2*pause, most) {
		progress, err := f.read(ctx, p)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			f.logger.Debug("gateway: the partition has ended", "stream", f.stream.Name(), "partition", p.Name)
			return nil
		case millrace.CodeOf(err) != millrace.Unavailable:
			return err
		case progress:
			pause = least
		}
		f.logger.Warn("gateway: cannot read the stream, trying again",
			"stream", f.stream.Name(), "partition", p.Name, "in", pause, "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// read reads a partition once, and hands out what it yields.
func (f *feed) read(ctx context.Context, p *part) (progress bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	at := p.at // only this goroutine changes it
	ahead := &lookahead{deliveries: make(chan delivery, blocksAhead), taken: make(chan struct{}, 1)}
	var failure error
	go func() {
		defer close(ahead.deliveries)
		for sb, err := range f.stream.Read(ctx, p.Name, at) {
			d := delivery{block: sb}
			if err != nil && !errors.As(err, &d.gap) {
				failure = err
				return
			}
			at = p.shelf.note(at, d)
			if !ahead.put(ctx, d) {
				return
			}
		}
	}()
	for d := range ahead.deliveries {
		ahead.took(d)
		for more := true; more; progress = true {
			d, more = f.pass(p, d, ahead)
		}
	}
	return progress, failure
}

// delivery is what a partition yields: a block, or a gap.
type delivery struct {
	block   millrace.StoredBlock
	decoded bool // part.reader is set to the block
	next    int  // index of its first event that is not handed out
	gap     *millrace.Gap
	why     error // of a gap that stands for an unreadable block
}

// unreadable is the reason of a gap that stands for a damaged block.
const unreadable millrace.GapReason = "unreadable"

// lookahead holds what was read while something else was being handed out. It is handed out together,
// so that a feed that has fallen behind catches up by fewer and larger writes. When it is full, reading
// the stream waits.
type lookahead struct {
	deliveries chan delivery
	bytes      atomic.Int64
	taken      chan struct{} // has a token when something was taken
}

// Bounds of a lookahead. A single block always fits.
const (
	blocksAhead = 32
	bytesAhead  = 4 << 20
)

func (l *lookahead) put(ctx context.Context, d delivery) bool {
	size := int64(len(d.block.Raw))
	for l.bytes.Load() > 0 && l.bytes.Load()+size > bytesAhead {
		select {
		case <-l.taken:
		case <-ctx.Done():
			return false
		}
	}
	l.bytes.Add(size)
	select {
	case l.deliveries <- d:
		return true
	case <-ctx.Done():
		return false
	}
}

// next returns what is at hand, if anything is.
func (l *lookahead) next() (d delivery, ok bool) {
	select {
	case d, ok = <-l.deliveries:
		l.took(d)
		return d, ok
	default:
		return d, false
	}
}

// took makes room for what comes next.
func (l *lookahead) took(d delivery) {
	l.bytes.Add(-int64(len(d.block.Raw)))
	select {
	case l.taken <- struct{}{}:
	default:
	}
}

// pass hands out as much of d as goes into one pass, and what else is at hand. It returns what is left
// of what it took, if more is true. Joining never waits for more than a pass.
func (f *feed) pass(p *part, d delivery, ahead *lookahead) (rest delivery, more bool) {
	var err error
	if d.gap != nil {
		f.logger.Warn("gateway: events are gone before they could be pushed", "stream", f.stream.Name(), "partition", p.Name,
			"after", d.gap.After, "first", d.gap.First, "reason", string(d.gap.Reason), "error", d.why)
	} else {
		err = f.decode(p, &d) // here, where nobody waits for the lock
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if d.gap != nil {
		f.skip(p, d.gap)
		return delivery{}, false
	}
	defer f.flush(p, d.block.Stored)
	for {
		if err == nil {
			d.next, err = f.take(p, d.block, d.next)
		}
		switch {
		case err != nil:
			return delivery{gap: &millrace.Gap{After: p.at, First: d.block.At, Reason: unreadable}, why: err}, true
		case d.next < int(d.block.Header.Events):
			return d, true
		}
		if d, more = ahead.next(); !more || d.gap != nil {
			return d, more
		}
		err = f.decode(p, &d)
	}
}

// decode sets the partition's reader to a block, and decompresses what will most likely be wanted.
func (f *feed) decode(p *part, d *delivery) error {
	if d.decoded {
		return nil
	}
	if err := p.reader.Reset(d.block.Raw); err != nil {
		return err
	}
	d.decoded, d.next = true, d.block.Skip(p.at)
	switch {
	case d.block.Header.Events == 0:
		return nil
	case f.table != nil:
		return p.reader.Load(block.All)
	case f.unkeyed.Load() > 0:
		return p.reader.Load(block.Keys | block.IDs | block.Data)
	case f.interested.Load() > 0:
		return p.reader.Load(block.Keys)
	default:
		return nil
	}
}

// take takes events of a block from the i-th on into the batch, as many as go into it, and returns the
// index of the one after them. mu is held.
func (f *feed) take(p *part, sb millrace.StoredBlock, i int) (int, error) {
	r, b, n := &p.reader, &p.batch, int(sb.Header.Events)
	i, err := f.seek(r, i, n)
	if err != nil {
		return i, err
	}
	if i < n {
		if err := r.Load(f.sections()); err != nil {
			return i, err
		}
	}
	end := b.room(r, i, n, f.chunk)
	if end > i {
		f.setIDs(p, sb.At.Block)
		first := b.take(sb.At.Block, i, end)
		if f.keepKeys {
			b.note(r, i, end)
		}
		for _, rd := range f.broad {
			for k := i; k < end; k++ {
				b.write(rd, first+k-i, r, k)
			}
		}
		for _, a := range f.audiences {
			if a.selective() {
				f.choose(p, a, first, i, end)
			}
		}
		for k := i; k < end && len(f.keys) > 0; k++ {
			if g := f.keys[string(r.Key(k))]; g != nil {
				f.noteAll(p, g, first+k-i, k)
			}
		}
		if f.table != nil {
			f.update(p, sb, first, i, end)
		}
	}
	switch {
	case end == n:
		p.at = sb.At
	case end > 0:
		p.at = sb.Position(end - 1)
	}
	if f.table != nil {
		f.table.Moved(p.Name, p.at)
	}
	return end, nil
}

// sections returns what is looked at in a block; mu is held.
func (f *feed) sections() block.Sections {
	if f.table != nil {
		return block.All
	}
	return block.Keys | block.IDs | block.Data | f.needs
}

// seek returns the index of the first event from i on that somebody wants, n if there is none; mu is
// held.
func (f *feed) seek(r *block.Reader, i, n int) (int, error) {
	if f.table != nil || len(f.audiences) > 0 {
		return i, nil
	}
	if len(f.keys) == 0 || i == n {
		return n, nil
	}
	if err := r.Load(block.Keys); err != nil {
		return i, err
	}
	for ; i < n; i++ {
		if f.keys[string(r.Key(i))] != nil {
			break
		}
	}
	return i, nil
}

// update enters events into the table, and tells those who watch areas. mu is held.
func (f *feed) update(p *part, sb millrace.StoredBlock, first, i, end int) {
	for k := i; k < end; k++ {
		previous, _ := f.table.Apply(p.Name, sb.Position(k), &p.reader, k)
		for _, as := range f.watched {
			if as.count > 0 {
				f.move(p, as, previous, &p.reader, first+k-i, k)
			}
		}
	}
}

// choose notes the events that an audience wants; mu is held.
func (f *feed) choose(p *part, a *audience, first, i, end int) {
	r, b := &p.reader, &p.batch
	for k := i; k < end; k++ {
		if a.prefix != "" && !bytes.HasPrefix(r.Key(k), []byte(a.prefix)) {
			continue
		}
		if at := first + k - i; b.passes(a.filter, at, r, k) {
			b.write(a.rendering, at, r, k)
			a.pending = append(a.pending, int32(at))
		}
	}
}

// setIDs prepares the ids of the block's events; mu is held.
func (f *feed) setIDs(p *part, name string) {
	p.batch.ids[0].single(p.Name, name)
	if len(f.parts) == 1 {
		return
	}
	t, incarnation := &p.batch.ids[1], ""
	t.before, t.after = t.before[:0], t.after[:0]
	for _, q := range f.parts[:p.index] {
		t.before, incarnation = appendPlace(t.before, incarnation, q.Name, q.at)
		t.before = append(t.before, '~')
	}
	t.before, incarnation = appendBlock(t.before, incarnation, p.Name, name)
	t.before = append(t.before, '.')
	for _, q := range f.parts[p.index+1:] {
		t.after = append(t.after, '~')
		t.after, incarnation = appendPlace(t.after, incarnation, q.Name, q.at)
	}
}

// flush hands the batch out; mu is held.
func (f *feed) flush(p *part, oldest time.Time) {
	f.passes++
	if p.batch.events == 0 {
		return
	}
	f.cargo.batch = &p.batch
	for _, s := range f.dirty {
		frames, events := f.gather(s)
		f.hand(s, frames, events, p.batch.given && events == 1)
	}
	clear(f.dirty)
	f.dirty, f.pend = f.dirty[:0], f.pend[:0]
	for _, a := range f.audiences {
		f.handAll(p, a)
	}
	f.count(oldest)
	p.batch.reset()
}

// noteAll notes an event for all who want its key; at is its index in the batch, i in the block.
func (f *feed) noteAll(p *part, g *group, at, i int) {
	for _, m := range g.members {
		s := m.s
		if (s.ahead == nil || s.passed(p.index, p.batch.position(at))) && p.batch.passes(s.filtered, at, &p.reader, i) {
			p.batch.write(s.rendering, at, &p.reader, i)
			f.note(s, int32(at))
		}
	}
}

// note adds an event to what is pending for s.
func (f *feed) note(s *subscription, event int32) {
	f.pend = append(f.pend, pending{event: event})
	at := int32(len(f.pend))
	if s.first == 0 {
		s.first = at
		f.dirty = append(f.dirty, s)
	} else {
		f.pend[s.last-1].next = at
	}
	s.last = at
}

// gather returns the frames that are pending for s, one after the other, and how many they are.
func (f *feed) gather(s *subscription) (frames []byte, events int) {
	at := s.first
	if s.endpoint.drops() {
		f.cargo.events = f.cargo.events[:0]
		for i := at; i != 0; i = f.pend[i-1].next {
			f.cargo.events = append(f.cargo.events, f.pend[i-1].event)
		}
	}
	if at == s.last {
		frames, events = s.rendering.frame(f.pend[at-1].event), 1
	} else {
		f.joint = f.joint[:0]
		for ; at != 0; at = f.pend[at-1].next {
			f.joint = append(f.joint, s.rendering.frame(f.pend[at-1].event)...)
			events++
		}
		frames = f.joint
	}
	s.first, s.last = 0, 0
	return frames, events
}

// handAll hands an audience what it wants of the batch, the same bytes to all its members.
func (f *feed) handAll(p *part, a *audience) {
	b, rd := &p.batch, a.rendering
	frames, events := rd.buf, b.events
	if a.selective() {
		if events = len(a.pending); events == 0 {
			return
		}
		if events == 1 {
			frames = rd.frame(a.pending[0])
		} else {
			f.joint = f.joint[:0]
			for _, at := range a.pending {
				f.joint = append(f.joint, rd.frame(at)...)
			}
			frames = f.joint
		}
	}
	drops := a.endpoint.drops()
	if drops {
		f.cargo.take(a, events)
	}
	for _, m := range a.members {
		s := m.s
		if s.ahead == nil {
			f.hand(s, frames, events, b.given)
			continue
		}
		for i := range events {
			at := i
			if a.selective() {
				at = int(a.pending[i])
			}
			if s.ahead == nil || s.passed(p.index, b.position(at)) {
				f.cargo.events = append(f.cargo.events[:0], int32(at))
				f.hand(s, rd.frame(int32(at)), 1, b.given)
			}
		}
		if drops {
			f.cargo.take(a, events)
		}
	}
	a.pending = a.pending[:0]
}

// hand hands frames to one connection; one that cannot take them is cut, unless its endpoint lets events be
// dropped, of which f.cargo has those that the frames are. mu is held.
func (f *feed) hand(s *subscription, frames []byte, events int, shared bool) {
	var c *cargo
	if s.endpoint.drops() {
		c, f.cargo.s = &f.cargo, s
	}
	switch s.putEvents(frames, shared, c) {
	case sent, queued:
		t := &s.endpoint.traffic[s.form]
		t.eventsNow += events
		t.bytesNow += len(frames)
	case refused:
		s.c.cutSlow()
	case gone:
	}
}

// count passes on what the endpoints have handed out in this pass.
func (f *feed) count(oldest time.Time) {
	lag := f.now().Sub(oldest)
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

// skip moves a partition's place over events that are gone, and says so to everyone concerned; mu is
// held.
func (f *feed) skip(p *part, gap *millrace.Gap) {
	p.at = gap.First
	f.passes++
	f.loseRows(p, gap)
	for _, s := range f.joined {
		if !slices.Contains(s.parts, p.index) {
			continue
		}
		if s.ahead != nil {
			if gap.Reason == millrace.Trimmed && s.ahead[p.index].Compare(gap.First) >= 0 {
				continue // it has what is gone
			}
			s.ahead[p.index] = millrace.Position{} // what comes now may lie before it
		}
		s.tellGap(f.appendID(nil, s), p.Name, gap, s.put)
	}
}

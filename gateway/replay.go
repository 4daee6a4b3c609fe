package gateway

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
	"github.com/millrace/millrace/expr"
	"github.com/millrace/millrace/table"
)

// replay brings one subscription from its positions to the live edge of its feed, and lets it join
// there.
//
// It reads the stream by itself, partition after partition, up to the places that the feed has come
// to, at the pace of its client: nothing is read while the queue is not empty, so a slow client is not
// cut for being slow, and its replay never takes more memory than a queue. While it waits for the
// client it holds no slot, so that slow clients do not keep others from reading.
//
// One that begins with the newest event of each key takes those rows of the feed's table, and the places of
// that moment, together; it sends the rows, without ids, and goes on from the places as from any others.
//
// The seam: under the feed's lock the subscription joins the passes while it holds live frames back
// (park). The places of that moment are where the replay has to end: all before them it reads itself, all
// after them is being held. When it has come there, what is held follows (goLive). If more is held than a
// queue may have, the client was too slow for that; the subscription leaves and the replay goes on.
type replay struct {
	c     *connection
	s     *subscription
	feed  *feed
	slots chan struct{}

	at        []millrace.Position // by index in feed.parts
	confirmed []bool              // at is known to be a position of this stream
	notBefore time.Time           // blocks stored earlier are left out
	rows      []*table.Row        // to be sent first
	reader    block.Reader
	match     *expr.Evaluator // of the filter; nil without one
	shown     map[string]bool // by key: whether the client has it inside its area, as far as is known
	fresh     bool            // what is not in shown, the client does not have
	before    *area           // what the client saw until now; nil: nothing
	done      chan struct{}   // closed when run has ended
	ids       idText
	buf       []byte // frames of one block that are not handed over yet
	text      []byte // scratch
	events    int    // in buf
}

// maxShown bounds what a replay remembers of objects inside areas. Beyond it a client may be told that objects
// have left that it does not know.
const maxShown = 100_000

// newReplay returns a replay from the start of every partition.
func newReplay(s *subscription) *replay {
	parts := len(s.feed.parts)
	r := &replay{
		c: s.c, s: s, feed: s.feed, slots: s.c.gateway.slots, done: make(chan struct{}),
		at: make([]millrace.Position, parts), confirmed: make([]bool, parts),
	}
	if s.filter != nil {
		r.match = s.filter.Evaluator()
	}
	return r
}

// Bounds of one turn at reading a stream.
const (
	replaySlots = 16                     // connections that read at the same time
	turnTime    = 100 * time.Millisecond // after it others have their turn
	readTimeout = 10 * time.Second       // a read that must yield something and does not
)

// errGone ends a replay whose connection is closing.
var errGone = errors.New("the connection is closing")

// run ends when the subscription is live, or when ctx, which is the subscription's, ends.
func (r *replay) run(ctx context.Context) {
	defer close(r.done)
	for next := r; next != nil; {
		next = next.bring(ctx)
	}
}

// bring brings the subscription to the live edge. It returns what is to be replayed then, if anything is.
func (r *replay) bring(ctx context.Context) (next *replay) {
	err := r.latest(ctx)
	for {
		if err == nil {
			err = r.catchUp(ctx, r.edges())
		}
		if err == nil {
			err = r.catchUp(ctx, r.park())
		}
		if err == nil {
			if live, next := r.goLive(); live {
				return next
			}
			continue // more was held than a queue takes
		}
		r.feed.leave(r.s)
		if ctx.Err() == nil && !errors.Is(err, errGone) {
			r.c.gateway.logger.Warn("gateway: a client cannot resume", "endpoint", r.s.endpoint.path,
				"client", r.c.conn.RemoteAddr().String(), "error", err)
			r.c.end(ending{
				code: statusTryAgainLater, reason: "the stream cannot be read at the moment; resume from the last id",
				cut: cutUnavailable,
			})
		}
		return nil
	}
}

// edges returns the places that the feed has come to.
func (r *replay) edges() []millrace.Position {
	r.feed.mu.Lock()
	defer r.feed.mu.Unlock()
	return r.places()
}

// places is edges; feed.mu is held.
func (r *replay) places() []millrace.Position {
	places := make([]millrace.Position, len(r.feed.parts))
	for i, p := range r.feed.parts {
		places[i] = p.at
	}
	return places
}

// park lets the subscription join while its outlet holds live frames back, and returns the places from
// which on they are held. Where the client is ahead of the feed already (it was connected to another
// node, or told of a gap that the feed has yet to come to), the feed leaves out what it has.
func (r *replay) park() []millrace.Position {
	r.feed.mu.Lock()
	defer r.feed.mu.Unlock()
	places := r.places()
	ahead := make([]millrace.Position, len(places))
	found := false
	for _, i := range r.s.parts {
		if r.at[i].Compare(places[i]) > 0 {
			ahead[i], found = r.at[i], true
		}
	}
	if r.s.ahead = nil; found {
		r.s.ahead = ahead
	}
	r.s.hold()
	r.feed.join(r.s)
	return places
}

// goLive lets the held frames follow. It returns false if there were too many; then the subscription has
// left, before a pass could hand it what comes after them. next is what is to be replayed then.
func (r *replay) goLive() (live bool, next *replay) {
	r.feed.mu.Lock()
	defer r.feed.mu.Unlock()
	if !r.s.release() {
		r.feed.remove(r.s)
		return false, nil
	}
	if r.s.next != nil { // not live before that is done
		return true, r.feed.changeArea(r.s)
	}
	r.feed.goLive(r.s)
	return true, nil
}

// latest sends the rows of the table with which the subscription begins.
func (r *replay) latest(ctx context.Context) error {
	rows := r.rows
	r.rows = nil
	slices.SortFunc(rows, func(a, b *table.Row) int {
		return cmp.Or(cmp.Compare(a.Partition, b.Partition), a.At.Compare(b.At))
	})
	for _, row := range rows {
		if !r.addRow(row) || len(r.buf) < r.c.out.limit/2 {
			continue
		}
		if full, err := r.hand(ctx); err != nil {
			return err
		} else if full {
			if err := r.await(ctx); err != nil {
				return err
			}
		}
	}
	_, err := r.hand(ctx)
	return err
}

// addRow writes a row, if it is for the client.
func (r *replay) addRow(row *table.Row) bool {
	if !r.s.wantsKey([]byte(row.Event.Key)) {
		return false
	}
	wanted, had := r.match == nil || r.match.MatchEvent(&row.Event), false
	if r.s.area != nil {
		p, ok := r.s.endpoint.areas.locateSafely(row.Event.Data)
		had = ok && r.before != nil && r.before.contains(p)
		wanted = wanted && ok && r.s.area.contains(p)
		if wanted || had {
			r.show(row.Event.Key, wanted)
		}
	}
	switch {
	case wanted == had:
		return false
	case wanted:
		r.buf, r.text = r.s.appendEvent(r.buf, r.text, itemOfRow(row), 0, nil)
	default:
		r.buf = r.s.appendLeft(r.buf, itemOfRow(row), 0, nil)
	}
	r.events++
	return true
}

// show remembers whether the client has an object inside its area.
func (r *replay) show(key string, inside bool) {
	if len(r.shown) < maxShown {
		if r.shown == nil {
			r.shown = map[string]bool{}
		}
		r.shown[key] = inside
	}
}

// catchUp reads every partition up to its place.
func (r *replay) catchUp(ctx context.Context, places []millrace.Position) error {
	for _, i := range r.s.parts {
		if err := r.confirm(ctx, i); err != nil {
			return err
		}
		for !r.reached(i, places[i]) {
			if err := r.turn(ctx, i, places[i]); err != nil {
				return err
			}
			if err := r.await(ctx); err != nil {
				return err
			}
		}
	}
	return r.await(ctx)
}

// await returns when nothing waits for the client's socket.
func (r *replay) await(ctx context.Context) error {
	select {
	case <-r.c.out.await():
		return nil
	case <-ctx.Done():
		return errGone
	}
}

func (r *replay) reached(i int, place millrace.Position) bool {
	return r.at[i].Compare(place) >= 0
}

// confirm finds out whether a client's position beyond the end of the stream is a gap, since a position
// that is not behind the feed's place is not read from. It may have to wait for the next block, and so
// takes no slot.
func (r *replay) confirm(ctx context.Context, i int) error {
	if r.confirmed[i] {
		return nil
	}
	name := r.feed.parts[i].Name
	_, end, err := r.feed.stream.Bounds(ctx, name)
	if err != nil {
		return err
	}
	if r.at[i].Compare(end) <= 0 || beginsAfter(r.at[i], end) {
		r.confirmed[i] = true // or it is older: then reading from it says so
		return nil
	}
	for _, err := range r.feed.stream.Read(ctx, name, r.at[i]) {
		var gap *millrace.Gap
		switch {
		case errors.As(err, &gap):
			r.gap(i, gap)
		case err != nil:
			return err
		}
		break
	}
	r.confirmed[i] = true
	return nil
}

// beginsAfter says whether p is the beginning of the block that comes after the one where end is.
func beginsAfter(p, end millrace.Position) bool {
	incarnation, n, err := millrace.ParseBlockName(p.Block)
	if err != nil || p.Event > 0 || n == 0 {
		return false
	}
	return !end.IsStart() && millrace.BlockName(incarnation, n-1) == end.Block
}

// turn reads a partition up to place, until the client's socket is full or the time is over.
func (r *replay) turn(ctx context.Context, i int, place millrace.Position) error {
	select {
	case r.slots <- struct{}{}:
	case <-ctx.Done():
		return errGone
	}
	defer func() { <-r.slots }()
	until := time.Now().Add(turnTime)
	name := r.feed.parts[i].Name
	reading, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	for sb, err := range r.feed.stream.Read(reading, name, r.at[i]) {
		var gap *millrace.Gap
		full := false
		switch {
		case errors.As(err, &gap):
			r.gap(i, gap)
		case ctx.Err() != nil:
			return errGone
		case err != nil && reading.Err() != nil:
			// Nothing came: what was left before place has been trimmed, or reading hangs.
			_, end, failed := r.feed.stream.Bounds(ctx, name)
			if failed != nil || r.at[i].Compare(end) < 0 {
				return err
			}
			r.at[i] = place
		case err != nil:
			return err
		default:
			if full, err = r.block(ctx, i, sb, place); err != nil {
				return err
			}
		}
		if full || r.reached(i, place) || time.Now().After(until) {
			return nil
		}
	}
	return millrace.Errorf(millrace.Unavailable, "replay", "partition %s of %q ends before %s: the stream is closed",
		name, r.feed.stream.Name(), place)
}

// block sends the events of a block that lie beyond r.at and not beyond place. full says that the
// client's socket does not take more for now; r.at is where to go on.
func (r *replay) block(ctx context.Context, i int, sb millrace.StoredBlock, place millrace.Position) (full bool, err error) {
	begin, end, last := sb.Skip(r.at[i]), int(sb.Header.Events), sb.At
	switch {
	case sb.At.Block > place.Block: // there is nothing up to place any more
		begin, last = end, place
	case sb.At.Block == place.Block && int(place.Event) < end:
		end, last = int(place.Event), place
	}
	if begin >= end || sb.Stored.Before(r.notBefore) {
		r.at[i] = last
		return false, nil
	}
	err = r.reader.Reset(sb.Raw)
	if err == nil {
		err = r.reader.Load(block.Keys)
	}
	r.setIDs(i, sb.At.Block)
	r.buf, r.events = r.buf[:0], 0
	sections := block.IDs | block.Data
	if r.match != nil {
		sections |= r.s.filter.Needs()
	}
	for k := begin; k < end && err == nil; k++ {
		if !r.s.wantsKey(r.reader.Key(k)) {
			continue
		}
		if err = r.reader.Load(sections); err != nil {
			break
		}
		put := r.judge(k)
		if put == nil {
			continue
		}
		if more := len(r.reader.Data(k)) + eventOverhead; len(r.buf) > 0 && len(r.buf)+more > r.c.out.limit/2 {
			if full, err := r.flush(ctx, i, sb.Position(k-1)); full || err != nil {
				return full, err
			}
		}
		put(k)
		r.events++
	}
	if err != nil { // of a section, before anything was made of it
		r.c.gateway.logger.Error("gateway: a block is left out", "stream", r.feed.stream.Name(),
			"partition", r.feed.parts[i].Name, "block", sb.At.Block, "error", err)
		r.gap(i, &millrace.Gap{After: r.at[i], First: last, Reason: unreadable})
		return false, nil
	}
	return r.flush(ctx, i, last)
}

// judge returns how the k-th event of the block is written for the client, nil if it is not.
func (r *replay) judge(k int) func(k int) {
	matches := r.match == nil || r.match.Match(&r.reader, k)
	if r.s.area == nil {
		if matches {
			return r.write
		}
		return nil
	}
	p, inside := r.s.endpoint.areas.locateSafely(r.reader.Data(k))
	inside = inside && matches && r.s.area.contains(p)
	key := string(r.reader.Key(k))
	had, known := r.shown[key]
	had = had || !known && !r.fresh // a client that comes back may have it from before
	r.show(key, inside && !r.reader.Deleted(k))
	switch {
	case inside, had && r.reader.Deleted(k):
		return r.write
	case had:
		return r.writeLeft
	default:
		return nil
	}
}

func (r *replay) write(k int) {
	r.buf, r.text = r.s.appendEvent(r.buf, r.text, itemOf(&r.reader, k), uint32(k)+1, &r.ids)
}

func (r *replay) writeLeft(k int) {
	r.buf = r.s.appendLeft(r.buf, itemOf(&r.reader, k), uint32(k)+1, &r.ids)
}

// flush hands over what is written so far, which reaches up to at.
func (r *replay) flush(ctx context.Context, i int, at millrace.Position) (full bool, err error) {
	r.at[i] = at
	return r.hand(ctx)
}

// hand hands over what is written so far.
func (r *replay) hand(ctx context.Context) (full bool, err error) {
	if len(r.buf) == 0 {
		return false, nil
	}
	large := len(r.buf) > r.c.out.limit
	for {
		switch r.c.out.send(r.buf, large) {
		case gone:
			return false, errGone
		case refused: // of pongs, or of another subscription: wait, since what is written must not be lost
			if err := r.await(ctx); err != nil {
				return false, err
			}
			continue
		case queued:
			full = true
		case sent:
		}
		t := &r.s.endpoint.traffic[r.s.form]
		t.events.Add(float64(r.events))
		t.bytes.Add(float64(len(r.buf)))
		if r.buf, r.events = r.buf[:0], 0; large {
			r.buf = nil // given away
		}
		return full, nil
	}
}

// gap tells the client that events are gone, and goes on after them.
func (r *replay) gap(i int, gap *millrace.Gap) {
	r.at[i], r.confirmed[i] = gap.First, true
	r.s.tellGap(r.appendID(nil), r.feed.parts[i].Name, gap, r.c.out.send)
}

// appendID appends the id of where the replay is.
func (r *replay) appendID(dst []byte) []byte {
	incarnation := ""
	for n, i := range r.s.parts {
		if n > 0 {
			dst = append(dst, '~')
		}
		dst, incarnation = appendPlace(dst, incarnation, r.feed.parts[i].Name, r.at[i])
	}
	return dst
}

// setIDs prepares the ids of a block's events.
func (r *replay) setIDs(i int, name string) {
	t, incarnation := &r.ids, ""
	t.before, t.after = t.before[:0], t.after[:0]
	for n, j := range r.s.parts {
		dst := &t.before
		if j > i {
			dst = &t.after
		}
		if n > 0 {
			*dst = append(*dst, '~')
		}
		if j == i {
			*dst, incarnation = appendBlock(*dst, incarnation, r.feed.parts[j].Name, name)
			*dst = append(*dst, '.')
		} else {
			*dst, incarnation = appendPlace(*dst, incarnation, r.feed.parts[j].Name, r.at[j])
		}
	}
}

package gateway

import (
	"context"
	"errors"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/expr"
	"github.com/millrace/millrace/table"
)

// replay brings one subscription from its positions to the live edge of its feed, and lets it join
// there.
//
// It goes through the history, partition after partition, up to the places that the feed has come to, at
// the pace of its client: it waits while the queue is not empty, so a slow client is not cut for being
// slow, and its replay never takes more memory than a queue. While it waits it holds no slot and nothing
// of the history, so that slow clients do not keep others from theirs.
//
// One that begins with the newest event of each key takes those rows of the feed's table, and the places of
// that moment, together, when it has a slot; it sends the rows, without ids, and goes on from the places as
// from any others. One whose area is replaced has taken them when it left the passes.
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

	at           []millrace.Position // by index in feed.parts
	confirmed    []bool              // at is known to be a position of this stream
	notBefore    time.Time           // blocks stored earlier are left out
	newest       bool                // it begins with the rows of the table, which it has yet to take
	rows         []*table.Row        // of which it has yet to choose
	chosen       []*table.Row        // to be sent first
	match        *expr.Evaluator     // of the filter; nil without one
	seen         map[string]sight    // by key: of objects that do not stand as unknown says
	unknown      sight               // how all others stand; shown: a client that comes back may have them
	before       *area               // what the client saw until now; nil: nothing
	done         chan struct{}       // closed when run has ended
	*scratch                         // nil while it waits
	events       int                 // in buf
	unsent       []byte              // frames that the queue had no room for; await sends them
	unsentEvents int                 // in unsent
}

// newReplay returns a replay from the start of every partition.
func newReplay(s *subscription) *replay {
	parts := len(s.feed.parts)
	r := &replay{
		c: s.c, s: s, feed: s.feed, slots: s.c.gateway.slots, done: make(chan struct{}),
		at: make([]millrace.Position, parts), confirmed: make([]bool, parts), unknown: shown,
	}
	if s.filter != nil {
		r.match = s.filter.Evaluator()
	}
	return r
}

// Bounds of one turn at reading a stream.
const (
	replaySlots = 16                     // connections that go through the history at the same time
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
	return r.feed.places()
}

// park lets the subscription join while its outlet holds live frames back, and returns the places from
// which on they are held. Where the client is ahead of the feed already (it was connected to another
// node, or told of a gap that the feed has yet to come to), the feed leaves out what it has.
func (r *replay) park() []millrace.Position {
	r.feed.mu.Lock()
	defer r.feed.mu.Unlock()
	places := r.feed.places()
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

// catchUp reads every partition up to its place.
func (r *replay) catchUp(ctx context.Context, places []millrace.Position) error {
	for _, i := range r.s.parts {
		if err := r.confirm(ctx, i, places[i]); err != nil {
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
	for {
		select {
		case <-r.c.out.await():
		case <-ctx.Done():
			return errGone
		}
		frames, events := r.unsent, r.unsentEvents
		if frames == nil {
			return nil
		}
		r.unsent, r.unsentEvents = nil, 0
		if _, err := r.give(frames, events); err != nil { // another subscription may have been faster again
			return err
		}
	}
}

// takeSlot waits for one of the slots, which freeSlot gives back.
func (r *replay) takeSlot(ctx context.Context) error {
	select {
	case r.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return errGone
	}
}

func (r *replay) freeSlot() { <-r.slots }

func (r *replay) reached(i int, place millrace.Position) bool {
	return r.at[i].Compare(place) >= 0
}

// confirm finds out whether a client's position beyond the end of the stream is a gap, since a position
// that is not behind the feed's place is not read from.
func (r *replay) confirm(ctx context.Context, i int, place millrace.Position) error {
	if r.confirmed[i] || r.at[i].Compare(place) <= 0 {
		r.confirmed[i] = true // or it is older: then reading from it says so
		return nil
	}
	gap, err := r.beyond(ctx, i)
	if err != nil {
		return err
	}
	if r.confirmed[i] = true; gap != nil {
		r.gap(i, gap)
	}
	return nil
}

// turn goes through a partition up to place, until the client's socket is full, the time is over, or something
// must be read: then all the others have their turn first, so that those who have come to the same place
// wait for the same reading, and it still is there when the last of them needs it.
func (r *replay) turn(ctx context.Context, i int, place millrace.Position) error {
	if err := r.takeSlot(ctx); err != nil {
		return err
	}
	defer r.freeSlot()
	r.begin()
	defer r.rest()
	until := time.Now().Add(turnTime)
	for first := true; ; first = false {
		w, found := r.feed.parts[i].shelf.find(r.at[i])
		if !found && !first {
			return nil
		}
		if !found {
			var err error
			if w, err = r.read(ctx, i, place); err != nil || w.stretch == nil {
				return err
			}
		} else {
			r.feed.history.fromCache.Add(float64(w.blocksBetween(r.at[i], place)))
		}
		full, err := r.pass(i, &w, place)
		if err != nil || full || r.reached(i, place) || time.Now().After(until) {
			return err
		}
	}
}

// read has the stream read from where the replay is. No window says that there is nothing up to place any more.
func (r *replay) read(ctx context.Context, i int, place millrace.Position) (window, error) {
	p := r.feed.parts[i]
	got, err := p.shelf.fetch(ctx, r.at[i], place)
	switch {
	case err != nil:
		return window{}, err
	case got.late:
		// What was left before place has been trimmed, or reading hangs.
		_, end, err := r.feed.stream.Bounds(ctx, p.Name)
		if err != nil || r.at[i].Compare(end) < 0 {
			return window{}, got.err
		}
		r.at[i] = place
		return window{}, nil
	case got.err != nil:
		return window{}, got.err
	case got.gap != nil:
		r.gap(i, got.gap)
		if r.reached(i, place) {
			return window{}, nil
		}
	}
	return got.window, nil
}

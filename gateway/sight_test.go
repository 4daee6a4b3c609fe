package gateway

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
	"github.com/millrace/millrace/expr"
	"github.com/millrace/millrace/table"
)

// car is an event of the tests of this file: where a car is, or that it is nowhere, and how fast.
type car struct {
	key      string
	located  bool
	lat, lon float64
	speed    int
	deleted  bool
}

func (c car) data() string {
	if !c.located {
		return fmt.Sprintf(`{"speed":%d}`, c.speed)
	}
	return fmt.Sprintf(`{"lat":%g,"lon":%g,"speed":%d}`, c.lat, c.lon, c.speed)
}

func (c car) event() millrace.Event {
	return millrace.Event{Key: c.key, Type: "position", Data: []byte(c.data()), Deleted: c.deleted}
}

func (c car) matches() bool { return c.speed > 5 }

const fast = "speed > 5"

// drive returns random events of a few cars.
func drive(random *rand.Rand, events int) (all []car) {
	for range events {
		all = append(all, car{
			key: fmt.Sprint("car ", random.IntN(6)), located: random.IntN(8) > 0, deleted: random.IntN(8) == 0,
			lat: float64(random.IntN(4)), lon: float64(random.IntN(4)), speed: random.IntN(11),
		})
	}
	return all
}

// square is an area, from a corner on.
type square struct{ south, west float64 }

func (q square) holds(c car) bool {
	return c.located && !c.deleted && c.lat >= q.south && c.lat <= q.south+1 && c.lon >= q.west && c.lon <= q.west+1
}

func (q square) area(t testing.TB) *area {
	t.Helper()
	a, err := newBox(q.west, q.south, q.west+1, q.south+1)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// watcher says as simply as it can be said what a client is told that watches a square and asks for fast cars.
type watcher struct {
	square
	places map[string]car  // where each car is that has not ended
	has    map[string]bool // what the client has been shown, and not been told to forget
	may    map[string]bool // what it may have been shown as far as whoever tells it knows
	every  bool            // may is every car that is inside, or
	any    bool            // any that nothing is known of
	sent   []string
}

func newWatcher(q square) *watcher {
	return &watcher{square: q, places: map[string]car{}, has: map[string]bool{}, may: map[string]bool{}}
}

func (w *watcher) say(format string, args ...any) {
	w.sent = append(w.sent, fmt.Sprintf(format, args...))
}

// forget says that a car has left, if the client may have it.
func (w *watcher) forget(key string) {
	if w.mayHave(key) {
		w.say("%s left", key)
	}
	delete(w.has, key)
	w.may[key] = false
}

func (w *watcher) mayHave(key string) bool {
	if w.every {
		return w.holds(w.places[key])
	}
	if may, known := w.may[key]; known {
		return may
	}
	return w.any
}

// happens is an event that is told as it happens, or is gone through later.
func (w *watcher) happens(c car) {
	was := w.holds(w.places[c.key]) || w.any && w.mayHave(c.key)
	switch {
	case c.deleted && was && c.matches():
		w.say("%s deleted", c.key)
		delete(w.has, c.key)
		w.may[c.key] = false
	case w.holds(c) && c.matches():
		w.say("%s %s", c.key, c.data())
		w.has[c.key], w.may[c.key] = true, true
	case w.holds(c):
		w.may[c.key] = w.mayHave(c.key)
	default:
		w.forget(c.key)
	}
	w.places[c.key] = c
	if c.deleted {
		delete(w.places, c.key)
	}
}

// begin is what a client is shown that begins with where all cars are, or that asks for another square.
func (w *watcher) begin(before *square, places map[string]car) {
	w.places = maps.Clone(places)
	for _, key := range slices.Sorted(maps.Keys(places)) {
		c := places[key]
		switch had := before != nil && before.holds(c); {
		case w.holds(c) && had:
			w.may[key] = true
		case w.holds(c) && c.matches():
			w.say("%s %s", key, c.data())
			w.has[key], w.may[key] = true, true
		case w.holds(c):
			w.may[key] = false
		default:
			if delete(w.has, key); had {
				w.say("%s left", key)
			}
			w.may[key] = false
		}
	}
}

// check looks at whether the client has only what is inside, and all whose newest event is for it.
func (w *watcher) check(t *testing.T) {
	t.Helper()
	for key := range w.has {
		if !w.holds(w.places[key]) {
			t.Fatalf("the client has %s, which is at %+v", key, w.places[key])
		}
	}
}

// saidOf reads frames of the subprotocol.
func saidOf(t *testing.T, f form, frames []byte) (all []string) {
	t.Helper()
	for len(frames) > 0 {
		size := f.frameSize(frames)
		_, payload := splitFrame(t, frames[:size])
		frames = frames[size:]
		var m struct {
			Key           string
			Data          json.RawMessage
			Left, Deleted bool
		}
		if err := json.Unmarshal(payload, &m); err != nil {
			t.Fatal(err)
		}
		switch {
		case m.Left:
			all = append(all, m.Key+" left")
		case m.Deleted:
			all = append(all, m.Key+" deleted")
		case m.Key != "":
			all = append(all, m.Key+" "+string(m.Data))
		}
	}
	return all
}

// watching is a subscription to a square and to fast cars.
func watching(t *testing.T, p *pushing, q square) *subscription {
	t.Helper()
	filter, err := expr.Compile(fast)
	if err != nil {
		t.Fatal(err)
	}
	as, err := newAreas(Location{Lat: "lat", Lon: "lon"})
	if err != nil {
		t.Fatal(err)
	}
	s := p.feed.joined[0]
	p.feed.remove(s)
	p.feed.watched, s.endpoint.areas = []*areas{as}, as
	p.feed.table = table.New(table.Options{Of: p.feed.stream.Name()})
	s.area, s.filter = q.area(t), filter
	return s
}

// An area decides what a client sees, a filter what is sent: as it happens.
func TestAreaAndFilterLive(t *testing.T) {
	for seed := range uint64(20) {
		cars := drive(rand.New(rand.NewPCG(seed, 1)), 300)
		var all []millrace.Event
		for _, c := range cars {
			all = append(all, c.event())
		}
		p := newPushing(t, 1, v1, func(int) string { return "" }, all)
		s := watching(t, p, square{1, 1})
		s.c.out.opening = true // it all waits
		p.feed.joinLive(s, nil)
		p.push(len(all))
		w := newWatcher(square{1, 1})
		w.every = true
		for _, c := range cars {
			w.happens(c)
			w.check(t)
		}
		if got := saidOf(t, s.form, s.c.out.queue); !slices.Equal(got, w.sent) {
			t.Fatalf("seed %d: got %q\nwant %q", seed, got, w.sent)
		}
	}
}

// The same, gone through from a position, or from the newest event of each key, also of another area.
func TestAreaAndFilterReplayed(t *testing.T) {
	for seed := range uint64(60) {
		random := rand.New(rand.NewPCG(seed, 2))
		p := newPushing(t, 1, v1, func(int) string { return "" }, broadcast(1))
		q := square{float64(random.IntN(3)), float64(random.IntN(3))}
		s := watching(t, p, q)
		r := newReplay(s)
		r.begin()
		w := newWatcher(q)
		places := map[string]car{}
		if way := seed % 3; way == 0 {
			w.any = true // it resumes
		} else {
			r.unknown = outside
			tb := p.feed.table
			all := drive(random, 40)
			b := blockOf(t, all)
			for i, c := range all {
				tb.Apply("0", millrace.Position{Block: "a", Event: uint32(i) + 1}, b, i)
				if places[c.key] = c; c.deleted {
					delete(places, c.key)
				}
			}
			var before *square
			if way == 2 {
				before = &square{float64(random.IntN(3)), float64(random.IntN(3))}
				r.before = before.area(t)
				for key, c := range places {
					w.has[key] = before.holds(c)
				}
				maps.DeleteFunc(w.has, func(_ string, has bool) bool { return !has })
			}
			w.begin(before, places)
			rows := tb.AppendRows(nil)
			slices.SortFunc(rows, func(a, b *table.Row) int {
				if a.Event.Key < b.Event.Key {
					return -1
				}
				return 1
			})
			for _, row := range rows {
				if r.judgeRow(row) != nothing {
					r.addRow(row)
				}
			}
			w.check(t)
		}
		all := drive(random, 200)
		b := blockOf(t, all)
		for i, c := range all {
			w.happens(c)
			w.check(t)
			if what := r.judge(b, i); what != nothing {
				r.add(b, i, what)
			}
		}
		if got := saidOf(t, s.form, r.buf); !slices.Equal(got, w.sent) {
			t.Fatalf("seed %d: got %q\nwant %q", seed, got, w.sent)
		}
	}
}

func blockOf(t *testing.T, cars []car) *block.Reader {
	t.Helper()
	var all []millrace.Event
	for _, c := range cars {
		all = append(all, c.event())
	}
	return readerOf(t, all...)
}

// Beyond what a replay remembers too much is said to have left, rather than too little.
func TestSightIsBounded(t *testing.T) {
	r := &replay{unknown: outside}
	for i := range maxSeen + 10 {
		r.see(fmt.Append(nil, i), shown)
	}
	if len(r.seen) != maxSeen {
		t.Errorf("%d objects are remembered", len(r.seen))
	}
	for i := range maxSeen + 10 {
		if r.sight(fmt.Append(nil, i)) != shown {
			t.Fatalf("object %d is forgotten", i)
		}
	}
	r.see([]byte("7"), outside)
	if r.sight([]byte("7")) != outside {
		t.Error("what is remembered does not change any more")
	}
}

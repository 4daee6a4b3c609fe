package sse

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/millrace/millrace"
)

// line is an event of a simulated feed's history.
type line struct {
	id, data string // an empty id: the event sends none
}

// server resumes in one of the ways that real ones do.
type server int

const (
	afterLast  server = iota // after the last event with the id
	afterFirst               // after the first one
	at                       // at the first one
)

func (s server) start(history []line, id string) int {
	if id == "" {
		return 0
	}
	first, last := -1, -1
	for i, l := range history {
		if l.id == id {
			if first < 0 {
				first = i
			}
			last = i
		}
	}
	switch s {
	case afterLast:
		return last + 1
	case afterFirst:
		return first + 1
	default:
		return first
	}
}

// delivered is an event that the place let through.
type delivered struct{ id, data string }

// client consumes a history over connections that are cut after any event, and over restarts, at which
// what was taken after the newest cursor is forgotten.
type client struct {
	*place
	stored []delivered
	cursor millrace.Cursor
	number int
}

// connect takes up to n events in batches of up to size, then loses the connection.
func (c *client) connect(t *testing.T, s server, history []line, n, size int) {
	t.Helper()
	resumed := c.begin()
	c.number++
	last := resumed
	var batch []delivered
	emit := func() {
		c.settle([]byte(last))
		c.stored = append(c.stored, batch...)
		c.cursor = c.place.cursor()
		batch = nil
	}
	from := s.start(history, resumed)
	for i, l := range history[from:min(from+n, len(history))] {
		if l.id != "" {
			last = l.id
		}
		e := Event{ID: []byte(last), OwnID: l.id != "", Type: messageType, Data: []byte(l.data)}
		if id, isNew := c.take(nil, &e, "message", fmt.Sprint("c", c.number)); isNew {
			batch = append(batch, delivered{string(id), l.data})
		}
		if i%size == size-1 {
			emit()
		}
	}
	emit()
}

// restart is what is left after kill -9.
func (c *client) restart(t *testing.T) {
	t.Helper()
	p, err := parseCursor(c.cursor)
	if err != nil {
		t.Fatal(err)
	}
	c.place = p
}

func (c *client) check(t *testing.T, history []line) {
	t.Helper()
	var got, want []string
	ids := make(map[string]bool)
	for _, d := range c.stored {
		got = append(got, d.data)
		if ids[d.id] {
			t.Errorf("the id %q comes twice", d.id)
		}
		ids[d.id] = true
	}
	for _, l := range history {
		want = append(want, l.data)
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
}

// TestResumeExactly runs every kind of feed against every kind of server, cut everywhere.
func TestResumeExactly(t *testing.T) {
	feeds := map[string]func(i int, r *rand.Rand) line{
		"an id each":            func(i int, _ *rand.Rand) line { return line{fmt.Sprint("i", i), fmt.Sprint("d", i)} },
		"an id each, same data": func(i int, _ *rand.Rand) line { return line{fmt.Sprint("i", i), "d"} },
		"every third an id": func(i int, _ *rand.Rand) line {
			if i%3 == 0 {
				return line{fmt.Sprint("i", i), fmt.Sprint("d", i)}
			}
			return line{"", fmt.Sprint("d", i)}
		},
		"few ids": func(i int, r *rand.Rand) line {
			if i == 0 || r.IntN(30) == 0 { // longer groups than there are fingerprints
				return line{fmt.Sprint("i", i), fmt.Sprint("d", i)}
			}
			return line{"", fmt.Sprint("d", i)}
		},
		"three share an id":  func(i int, _ *rand.Rand) line { return line{fmt.Sprint("i", i/3), fmt.Sprint("d", i)} },
		"thirty share an id": func(i int, _ *rand.Rand) line { return line{fmt.Sprint("i", i/30), fmt.Sprint("d", i)} },
		"shared ids and none": func(i int, _ *rand.Rand) line {
			if i%6 == 2 {
				return line{"", fmt.Sprint("d", i)}
			}
			return line{fmt.Sprint("i", i/6), fmt.Sprint("d", i)}
		},
		"ids shared here and there": func(i int, r *rand.Rand) line {
			if i < 4 {
				return line{fmt.Sprint("i", i/2), fmt.Sprint("d", i)}
			}
			return line{fmt.Sprint("i", max(2, i/2+i/7)), fmt.Sprint("d", i)}
		},
	}
	for name, feed := range feeds {
		for _, s := range []server{afterLast, afterFirst, at} {
			t.Run(fmt.Sprintf("%s, server %d", name, s), func(t *testing.T) {
				for seed := range uint64(60) {
					r := rand.New(rand.NewPCG(seed, 1))
					var history []line
					for i := range 100 {
						history = append(history, feed(i, r))
					}
					c := &client{place: new(place)}
					// A feed must have shown that its ids are shared before a group is cut: see place.
					c.connect(t, s, history, 65, 1+r.IntN(9))
					for tries := 0; len(c.stored) < len(history) && tries < 1000; tries++ {
						if r.IntN(3) == 0 {
							c.restart(t)
						}
						// A server may send a whole long group again before there is anything new.
						c.connect(t, s, history, r.IntN(130), 1+r.IntN(9))
					}
					c.check(t, history)
					if t.Failed() {
						t.Fatalf("seed %d", seed)
					}
				}
			})
		}
	}
}

// TestPlainResumeLoses shows what all this is for: several events with one id, a server that resumes
// after the last of them, and a connection that is cut between them.
func TestPlainResumeLoses(t *testing.T) {
	history := []line{{"1", "a"}, {"1", "b"}, {"2", "c"}, {"2", "d"}, {"3", "e"}}
	plain := append(slices.Clone(history[:3]), history[afterLast.start(history, history[2].id):]...)
	if slices.Contains(plain, line{"2", "d"}) {
		t.Error("a plain Last-Event-ID does not lose d")
	}
	c := &client{place: new(place)}
	c.connect(t, afterLast, history, 3, 1)
	c.restart(t)
	c.connect(t, afterLast, history, 5, 1)
	c.check(t, history)
	want := []delivered{{"1", "a"}, {"1#1", "b"}, {"2", "c"}, {"2#1", "d"}, {"3", "e"}}
	if !slices.Equal(c.stored, want) {
		t.Errorf("got %v", c.stored)
	}
}

// TestUnnamedEventsThatAreNotReplayed: a server that sends events without ids only while they happen
// (heartbeats with data) makes nothing be lost.
func TestUnnamedEventsThatAreNotReplayed(t *testing.T) {
	c := &client{place: new(place)}
	c.connect(t, afterFirst, []line{{"1", "a"}, {"", "ping 1"}, {"", "ping 2"}}, 3, 1)
	c.restart(t)
	c.connect(t, afterFirst, []line{{"1", "a"}, {"", "ping 3"}, {"", "ping 4"}, {"2", "b"}}, 4, 1)
	want := []delivered{{"1", "a"}, {"1#1", "ping 1"}, {"1#2", "ping 2"}, {"1#3", "ping 3"}, {"1#4", "ping 4"}, {"2", "b"}}
	if !slices.Equal(c.stored, want) {
		t.Errorf("got %v", c.stored)
	}
}

// TestIDsWithoutEvents: an id that comes without an event moves the place all the same.
func TestIDsWithoutEvents(t *testing.T) {
	p := new(place)
	p.begin()
	e := Event{ID: []byte("1"), OwnID: true, Data: []byte("a")}
	p.take(nil, &e, "message", "")
	p.settle([]byte("5"))
	if got := p.begin(); got != "5" {
		t.Errorf("resumes with %q", got)
	}
	e = Event{ID: []byte("5"), Data: []byte("b")}
	if id, isNew := p.take(nil, &e, "message", ""); !isNew || string(id) != "5" {
		t.Errorf("%q %v", id, isNew)
	}
	p.settle([]byte(""))
	if got := p.begin(); got != "" {
		t.Errorf("after a reset it resumes with %q", got)
	}
}

// TestIDsThatCannotBeSent: they count as none, and the last good one is kept.
func TestIDsThatCannotBeSent(t *testing.T) {
	long := string(make([]byte, maxID+1))
	history := []line{{"1", "a"}, {"2\x01", "b"}, {"3\x7f", "c"}, {long, "d"}, {"", "e"}, {"4\t4", "f"}}
	for cut := 1; cut <= len(history); cut++ {
		c := &client{place: new(place)}
		c.connect(t, afterFirst, history, cut, 1)
		c.restart(t)
		if got := c.begin(); got != "1" && got != "4\t4" {
			t.Errorf("resumes with %q", got)
		}
		c.connect(t, afterFirst, history, len(history), 2)
		c.check(t, history)
		want := []string{"1", "1#1", "1#2", "1#3", "1#4", "4\t4"}
		for i, d := range c.stored {
			if d.id != want[i] {
				t.Errorf("event %d has the id %q, want %q", i, d.id, want[i])
			}
		}
	}
}

// TestNoIDs: nothing is dropped, and no id comes twice.
func TestNoIDs(t *testing.T) {
	history := []line{{"", "a"}, {"", "a"}, {"", "b"}}
	c := &client{place: new(place)}
	c.connect(t, afterLast, history, 3, 2)
	c.connect(t, afterLast, history, 3, 1)
	c.restart(t)
	c.connect(t, afterLast, history, 3, 1)
	c.check(t, slices.Concat(history, history, history))
	if c.stored[0].id != "c1#0" || c.stored[8].id != "c3#8" {
		t.Errorf("ids %q and %q", c.stored[0].id, c.stored[8].id)
	}
}

func TestCursor(t *testing.T) {
	for _, bad := range []millrace.Cursor{"17", "null ", "{", `{"id":1}`, `{"p":"*"}`, `{"p":"AAA"}`} {
		if _, err := parseCursor(bad); bad != "null " && millrace.CodeOf(err) != millrace.Internal {
			t.Errorf("%q: %v", bad, err)
		}
	}
	c := &client{place: new(place)}
	c.connect(t, at, []line{{"a\"b <é>", "1"}, {"a\"b <é>", "2"}, {"c", "3"}}, 3, 1)
	p, err := parseCursor(c.cursor)
	if err != nil || p.cursor() != c.cursor {
		t.Errorf("%s became %s, %v", c.cursor, p.cursor(), err)
	}
}

func FuzzCursor(f *testing.F) {
	f.Add(`{"id":"7","n":3,"own":true,"p":"AAAAAA","shared":true,"prev":{"id":"6"},"blank":5}`)
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := parseCursor(millrace.Cursor(text))
		if err != nil {
			return
		}
		again, err := parseCursor(p.cursor())
		if err != nil || again.cursor() != p.cursor() {
			t.Errorf("%q became %q, then %v", text, p.cursor(), err)
		}
	})
}

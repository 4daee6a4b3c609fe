package gateway

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/gobwas/ws"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
	"github.com/millrace/millrace/stream/memory"
)

// RaceDetector is raceDetector for tests from outside.
const RaceDetector = raceDetector

// stored is a stream that a test appends to, and a feed that is told of it by the test.
type stored struct {
	t      testing.TB
	stream *memory.Stream
	after  millrace.Position
	flush  uint64
}

func (s *stored) append(events ...millrace.Event) millrace.StoredBlock {
	s.t.Helper()
	var b block.Builder
	for i := range events {
		if err := b.Add(&events[i]); err != nil {
			s.t.Fatal(err)
		}
	}
	s.flush++
	encoded, err := b.Encode(nil, millrace.Header{Producer: "test", Flush: s.flush, Commit: true})
	if err == nil {
		s.after, err = s.stream.Append(s.t.Context(), "0", s.after, encoded)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return millrace.StoredBlock{Block: encoded, At: s.after, Stored: blockStored}
}

// Between the place where a replay ends and the moment when it says so, live frames are held back. As many as a
// queue takes follow; with one more the replay goes on. Either way the client gets everything once, in order.
func TestHeldFramesSpill(t *testing.T) {
	for _, partitioned := range []bool{false, true} {
		for extra := range 2 {
			t.Run(fmt.Sprintf("keyed=%t, %d too many", partitioned, extra), func(t *testing.T) { spill(t, partitioned, extra) })
		}
	}
}

func spill(t *testing.T, keyed bool, extra int) {
	var c Config
	c.SetDefaults()
	c.Queue = 4 << 10
	c.Endpoints = map[string]Endpoint{"/e": {From: "s", Key: "query:key"}}
	st := &stored{t: t, stream: memory.New("s", memory.Options{})}
	g, err := New(c, Options{Streams: map[string]millrace.Stream{"s": st.stream}})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	next := func() millrace.StoredBlock {
		n++
		return st.append(millrace.Event{Key: "42", Data: fmt.Appendf(nil, `{"n":%d,"pad":"%s"}`, n-1, strings.Repeat("x", 600))})
	}
	for range 10 {
		next()
	}
	f := g.feeds[0]
	if err := f.open(t.Context()); err != nil {
		t.Fatal(err)
	}
	p := f.parts[0]
	push := func() { // what the feed does with a block
		d, more := delivery{block: next()}, true
		p.shelf.note(p.at, d)
		for more {
			d, more = f.pass(p, d, &lookahead{})
		}
	}

	server, client := sockets(t, true)
	conn := &connection{gateway: g, endpoint: g.endpoints["/e"], form: v1, conn: server}
	conn.out = outlet{conn: server, raw: rawConn(server), form: v1, limit: 4 << 10, flows: &g.flows, done: conn.flushed}
	s := &subscription{c: conn, endpoint: conn.endpoint, feed: f, parts: p.only, dialect: dialect{form: v1}}
	if keyed {
		s.keys = []string{"42"}
	}
	got := make(chan string, 1000)
	size := 0 // of the frames of events
	go func() {
		defer close(got)
		for {
			h, err := ws.ReadHeader(client)
			if err != nil {
				return
			}
			payload := make([]byte, h.Length)
			if _, err := io.ReadFull(client, payload); err != nil {
				return
			}
			if bytes.Contains(payload, []byte(`"key":`)) {
				size += ws.HeaderSize(h) + len(payload)
			}
			got <- string(payload)
		}
	}()

	r := newReplay(s)
	step := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	step(r.catchUp(t.Context(), r.edges()))
	places := r.park()
	push()
	frame := len(s.held)
	for len(s.held)+frame <= conn.out.limit {
		push()
	}
	for range extra {
		push()
	}
	if s.spilled != (extra > 0) || !s.holding {
		t.Fatalf("spilled: %t, holding: %t", s.spilled, s.holding)
	}
	step(r.catchUp(t.Context(), places))
	live, _ := r.goLive()
	if live != (extra == 0) || s.joined != live || s.holding || s.held != nil {
		t.Fatalf("live: %t, joined: %t, holding: %t", live, s.joined, s.holding)
	}
	if !live {
		push() // nobody is told
		step(r.catchUp(t.Context(), r.edges()))
		places = r.park()
		push()
		step(r.catchUp(t.Context(), places))
		if live, _ = r.goLive(); !live {
			t.Fatal("not live")
		}
	}
	push()
	<-conn.out.await()
	f.leave(s)
	_ = server.Close()
	var seen []int
	for text := range got {
		var m struct {
			Data *struct{ N int }
			Live bool
		}
		if err := json.Unmarshal([]byte(text), &m); err != nil {
			t.Fatal(err)
		}
		if m.Data != nil {
			seen = append(seen, m.Data.N)
		}
	}
	if len(seen) != n {
		t.Errorf("got %d of %d events: %v", len(seen), n, seen)
	}
	for i, m := range seen {
		if i != m {
			t.Fatalf("event %d is %d: %v", i, m, seen)
		}
	}
	g.flows.running.Wait()
	// Each event counts once, whichever way it went.
	counted := &conn.endpoint.traffic[v1]
	if e, b := testutil.ToFloat64(counted.events), testutil.ToFloat64(counted.bytes); int(e) != n || int(b) != size {
		t.Errorf("%.0f events of %.0f bytes were counted, want %d of %d", e, b, n, size)
	}
}

package gateway

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/gobwas/ws"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
	"github.com/millrace/millrace/gateway/websocket"
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

// replaying is a connection whose replay a test takes through its steps.
type replaying struct {
	t      *testing.T
	g      *Gateway
	f      *feed
	s      *subscription
	conn   *connection
	next   func() millrace.StoredBlock // stores one more event
	n      int                         // events stored
	got    chan string                 // what the client is sent; closed with its socket
	listen func()                      // lets the client read
	size   int                         // of the frames of events, once got is closed
}

func newReplaying(t *testing.T, keyed bool) *replaying {
	var c Config
	c.SetDefaults()
	c.Queue = 4 << 10
	c.Endpoints = map[string]Endpoint{"/e": {From: "s", Key: "query:key"}}
	st := &stored{t: t, stream: memory.New("s", memory.Options{})}
	g, err := New(c, Options{Streams: map[string]millrace.Stream{"s": st.stream}})
	if err != nil {
		t.Fatal(err)
	}
	p := &replaying{t: t, g: g, got: make(chan string, 1000)}
	p.next = func() millrace.StoredBlock {
		p.n++
		return st.append(millrace.Event{Key: "42", Data: fmt.Appendf(nil, `{"n":%d,"pad":"%s"}`, p.n-1, strings.Repeat("x", 600))})
	}
	for range 10 {
		p.next()
	}
	p.f = g.feeds[0]
	if err := p.f.open(t.Context()); err != nil {
		t.Fatal(err)
	}
	server, client := sockets(t, true)
	p.conn = &connection{gateway: g, endpoint: g.endpoints["/e"], form: v1, conn: server}
	p.conn.out = outlet{conn: server, raw: rawConn(server), form: v1, limit: 4 << 10, flows: &g.flows, done: p.conn.flushed}
	p.s = &subscription{c: p.conn, endpoint: p.conn.endpoint, feed: p.f, parts: p.f.parts[0].only, dialect: dialect{form: v1}}
	if keyed {
		p.s.keys = []string{"42"}
	}
	t.Cleanup(func() { _ = client.Close() })
	p.listen = func() { go p.read(client) }
	return p
}

// read takes what the client is sent.
func (p *replaying) read(client net.Conn) {
	defer close(p.got)
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
			p.size += ws.HeaderSize(h) + len(payload)
		}
		p.got <- string(payload)
	}
}

// push is what the feed does with a block.
func (p *replaying) push() {
	d, more := delivery{block: p.next()}, true
	part := p.f.parts[0]
	part.shelf.note(part.at, d)
	for more {
		d, more = p.f.pass(part, d, &lookahead{})
	}
}

func (p *replaying) step(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

// finish closes the connection and looks whether each event came once, in order, and was counted once.
func (p *replaying) finish() {
	p.t.Helper()
	<-p.conn.out.await()
	p.f.leave(p.s)
	_ = p.conn.conn.Close()
	var seen []int
	for text := range p.got {
		var m struct {
			Data *struct{ N int }
			Live bool
		}
		if err := json.Unmarshal([]byte(text), &m); err != nil {
			p.t.Fatal(err)
		}
		if m.Data != nil {
			seen = append(seen, m.Data.N)
		}
	}
	if len(seen) != p.n {
		p.t.Errorf("got %d of %d events: %v", len(seen), p.n, seen)
	}
	for i, m := range seen {
		if i != m {
			p.t.Fatalf("event %d is %d: %v", i, m, seen)
		}
	}
	p.g.flows.running.Wait()
	counted := &p.conn.endpoint.traffic[v1]
	if e, b := testutil.ToFloat64(counted.events), testutil.ToFloat64(counted.bytes); int(e) != p.n || int(b) != p.size {
		p.t.Errorf("%.0f events of %.0f bytes were counted, want %d of %d", e, b, p.n, p.size)
	}
}

func spill(t *testing.T, keyed bool, extra int) {
	p := newReplaying(t, keyed)
	p.listen()
	s, step, push := p.s, p.step, p.push
	r := newReplay(s)
	step(r.catchUp(t.Context(), r.edges()))
	places := r.park()
	push()
	frame := len(s.held)
	for len(s.held)+frame <= p.conn.out.limit {
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
	p.finish()
}

// A replay whose frames the queue has no room for, because another subscription of the client has filled it, waits
// without a slot: however many clients do so, others resume. What was refused comes when there is room.
func TestFullQueueKeepsNoSlot(t *testing.T) {
	for _, keyed := range []bool{false, true} {
		p := newReplaying(t, keyed)
		other := append(websocket.AppendHeader(nil, ws.OpText, 2), "{}"...) // of another subscription
		for p.conn.out.send(other, false) != refused {
		}
		r := newReplay(p.s)
		places := r.edges()
		p.step(r.turn(t.Context(), 0, places[0]))
		if r.unsent == nil || len(r.slots) != 0 {
			t.Fatalf("keyed %t: %d bytes are unsent, %d slots are taken", keyed, len(r.unsent), len(r.slots))
		}
		p.listen()
		p.step(r.await(t.Context()))
		p.step(r.catchUp(t.Context(), places))
		if r.unsent != nil {
			t.Errorf("keyed %t: %d bytes are unsent at the end", keyed, len(r.unsent))
		}
		p.finish()
	}
}

package gateway

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
	"github.com/millrace/millrace/gateway/websocket"
	"github.com/millrace/millrace/stream/memory"
)

// pushing is a feed with connections over loopback, whose clients read as fast as they can.
type pushing struct {
	g     *Gateway
	feed  *feed
	part  *part
	next  uint64
	raw   []byte
	ahead lookahead
	taken intake
}

// intake is what the clients have read.
type intake struct {
	mu    sync.Mutex
	more  sync.Cond
	bytes int
}

func (in *intake) add(n int) {
	in.mu.Lock()
	in.bytes += n
	in.mu.Unlock()
	in.more.Signal()
}

// await waits until the clients have read so many bytes.
func (in *intake) await(bytes int) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for in.bytes < bytes {
		in.more.Wait()
	}
}

// newPushing connects n clients; key returns what the i-th one wants, "" for every key.
func newPushing(tb testing.TB, n int, f form, key func(i int) string, events []millrace.Event) *pushing {
	tb.Helper()
	p := newPushingTo(tb, events)
	for i := range n {
		p.connect(f, drained(tb, p.taken.add), key(i))
	}
	return p
}

// newPushingTo is newPushing without clients yet.
func newPushingTo(tb testing.TB, events []millrace.Event) *pushing {
	tb.Helper()
	var c Config
	c.SetDefaults()
	c.Endpoints = map[string]Endpoint{"/e": {From: "s", Key: "query:key"}}
	s := memory.New("s", memory.Options{})
	g, err := New(c, Options{Streams: map[string]millrace.Stream{"s": s}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		tb.Fatal(err)
	}
	p := &pushing{g: g, feed: g.feeds[0]}
	p.taken.more.L = &p.taken.mu
	if err := p.feed.open(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	p.part = p.feed.parts[0]
	var b block.Builder
	for i := range events {
		if err := b.Add(&events[i]); err != nil {
			tb.Fatal(err)
		}
	}
	encoded, err := b.Encode(nil, millrace.Header{Producer: "test"})
	if err != nil {
		tb.Fatal(err)
	}
	p.raw = encoded.Raw
	return p
}

// connect connects a client that wants one key, or with "" every key.
func (p *pushing) connect(f form, server net.Conn, key string) {
	c := &connection{gateway: p.g, endpoint: p.g.endpoints["/e"], form: f, conn: server}
	c.out = outlet{conn: server, raw: rawConn(server), form: f, limit: 1 << 20, flows: &p.g.flows, done: c.flushed}
	sub := &subscription{c: c, endpoint: c.endpoint, feed: p.feed, parts: p.part.only, dialect: dialect{form: f}}
	if key != "" {
		sub.keys = []string{key}
	}
	p.feed.joinLive(sub, nil)
}

// drained returns a socket whose other end is read, and each read reported.
func drained(tb testing.TB, read func(bytes int)) net.Conn {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		tb.Fatal(err)
	}
	server, err := l.Accept()
	if err != nil {
		tb.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 16<<10)
		for {
			n, err := client.Read(b)
			if err != nil {
				return
			}
			read(n)
		}
	}()
	tb.Cleanup(func() {
		_ = client.Close()
		_ = server.Close()
		<-done
	})
	return server
}

var blockStored = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// push hands the block out once more, under the next name.
func (p *pushing) push(events int) {
	p.next++
	d := delivery{block: millrace.StoredBlock{
		Block: millrace.Block{Header: millrace.Header{Events: uint32(events)}, Raw: p.raw},
		At:    millrace.Position{Block: blockNames[p.next%2], Event: uint32(events)}, Stored: blockStored,
	}}
	for more := true; more; {
		d, more = p.feed.pass(p.part, d, &p.ahead)
	}
	p.part.at = millrace.Position{}
}

// handed returns the bytes that connections were given.
func (p *pushing) handed() int {
	bytes := 0.0
	for _, f := range []form{plain, v1, sse} {
		bytes += testutil.ToFloat64(p.g.metrics.bytes.WithLabelValues("/e", f.protocol()))
	}
	return int(bytes)
}

// measure returns the allocations of a push, when each client has read what came before: so nobody is ever slow, however
// busy the machine is.
func (p *pushing) measure(events int) float64 {
	p.push(events)
	before := p.handed()
	p.push(events)
	each := p.handed() - before
	for range 20 {
		p.push(events) // the buffers grow to what they need
	}
	all := p.handed()
	return testing.AllocsPerRun(200, func() {
		p.taken.await(all)
		p.push(events)
		all += each
	})
}

var blockNames = [2]string{millrace.BlockName("abc", 1), millrace.BlockName("abc", 2)}

// broadcast is n events of 200 bytes.
func broadcast(n int) []millrace.Event {
	var events []millrace.Event
	for i := range n {
		data := fmt.Appendf(nil, `{"n":%d,"pad":"`, i)
		data = append(append(data, bytes.Repeat([]byte("x"), 198-len(data))...), `"}`...)
		events = append(events, millrace.Event{Key: fmt.Sprint("key ", i), Type: "move", Data: data, Time: blockStored})
	}
	return events
}

// Handing an event to a connection allocates nothing: what a block costs does not depend on how many
// connections and events there are.
func TestAllocations(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector allocates")
	}
	everything := func(int) string { return "" }
	keyed := func(i int) string { return fmt.Sprint("key ", i%8) }
	for _, test := range []struct {
		name string
		form form
		key  func(int) string
	}{
		{"plain, every key", plain, everything},
		{"v1, every key", v1, everything},
		{"event stream, every key", sse, everything},
		{"plain, one key", plain, keyed},
		{"v1, one key", v1, keyed},
	} {
		measure := func(connections, events int) float64 {
			p := newPushing(t, connections, test.form, test.key, broadcast(events))
			return p.measure(events)
		}
		const budget = 12 // of a block: reading its head, and its ids
		few, many := measure(4, 8), measure(40, 64)
		if few > budget || many > budget {
			t.Errorf("%s: %.0f allocations for 4 connections and 8 events, %.0f for 40 and 64; the budget is %d",
				test.name, few, many, budget)
		}
	}
}

// A delivery is one event for one connection.
func BenchmarkFanOut(b *testing.B) {
	for _, connections := range []int{100, 1000} {
		for _, events := range []int{1, 16} {
			for _, f := range []form{plain, v1} {
				b.Run(fmt.Sprintf("%s/connections=%d/events=%d", f.protocol(), connections, events), func(b *testing.B) {
					p := newPushing(b, connections, f, func(int) string { return "" }, broadcast(events))
					b.ReportAllocs()
					for b.Loop() {
						p.push(events)
					}
					b.ReportMetric(float64(b.N)*float64(connections*events)/b.Elapsed().Seconds(), "deliveries/s")
				})
			}
		}
	}
}

// BenchmarkKeys is one event for each of 1,000 connections with a key of their own.
func BenchmarkKeys(b *testing.B) {
	const n = 1000
	p := newPushing(b, n, v1, func(i int) string { return fmt.Sprint("key ", i) }, broadcast(n))
	b.ReportAllocs()
	for b.Loop() {
		p.push(n)
	}
	b.ReportMetric(float64(b.N)*n/b.Elapsed().Seconds(), "deliveries/s")
}

// BenchmarkBareLoop is what BenchmarkFanOut is compared with: a loop that writes a prepared frame to
// each socket.
func BenchmarkBareLoop(b *testing.B) {
	for _, connections := range []int{100, 1000} {
		b.Run(fmt.Sprintf("connections=%d", connections), func(b *testing.B) {
			var conns []io.Writer
			for range connections {
				conns = append(conns, drained(b, func(int) {}))
			}
			frame := append(websocket.AppendHeader(nil, ws.OpText, 200), bytes.Repeat([]byte("x"), 200)...)
			for b.Loop() {
				for _, conn := range conns {
					if _, err := conn.Write(frame); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.ReportMetric(float64(b.N)*float64(connections)/b.Elapsed().Seconds(), "deliveries/s")
		})
	}
}

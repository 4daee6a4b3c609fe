package gateway

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"testing"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
	"github.com/millrace/millrace/expr"
	"github.com/millrace/millrace/stream/memory"
)

// Several handers give each connection what one alone gives it, to the byte.
func TestHanders(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4))
	alone, together := handed(t, 1<<30), handed(t, 1)
	for i := range alone {
		if !bytes.Equal(alone[i], together[i]) {
			t.Errorf("connection %d: %d bytes by one, %d by several, and they differ", i, len(alone[i]), len(together[i]))
		}
	}
}

// handed returns what each of many connections with all kinds of interests is sent.
func handed(t *testing.T, share int) [][]byte {
	var c Config
	c.SetDefaults()
	// What newest_per_key sends depends on when the client reads.
	c.Endpoints = map[string]Endpoint{"/cut": {From: "s", Key: "query:key"}, "/oldest": {From: "s", Key: "query:key", Slow: DropOldest}}
	g, err := New(c, Options{Streams: map[string]millrace.Stream{"s": memory.New("s", memory.Options{})}})
	if err != nil {
		t.Fatal(err)
	}
	f := g.feeds[0]
	f.share = share
	if err := f.open(t.Context()); err != nil {
		t.Fatal(err)
	}
	large, err := expr.Compile("n > 500")
	if err != nil {
		t.Fatal(err)
	}
	paths := []string{"/cut", "/oldest"}
	random := rand.New(rand.NewPCG(3, 4))
	got := make([][]byte, 150)
	var reading sync.WaitGroup
	var conns []*connection
	for i := range got {
		server, client := sockets(t, i%3 > 0)
		conn := &connection{gateway: g, endpoint: g.endpoints[paths[random.IntN(2)]], form: []form{plain, v1, sse}[i%3], conn: server}
		conn.out = outlet{conn: server, raw: rawConn(server), form: conn.form, limit: 1 << 20, flows: &g.flows, done: conn.flushed}
		s := &subscription{c: conn, endpoint: conn.endpoint, feed: f, parts: f.parts[0].only, dialect: dialect{form: conn.form}}
		switch random.IntN(5) {
		case 0:
			if err := s.setKeys([]string{fmt.Sprint("key ", random.IntN(20)), "key 3"}); err != nil {
				t.Fatal(err)
			}
		case 1:
			s.prefix = "key 1"
		case 2:
			s.filter = large
		}
		f.joinLive(s, nil)
		conns = append(conns, conn)
		reading.Go(func() {
			b := make([]byte, 16<<10)
			for {
				n, err := client.Read(b)
				if got[i] = append(got[i], b[:n]...); err != nil {
					return
				}
			}
		})
	}
	var at millrace.Position
	for n := range 40 {
		var b block.Builder
		for range 1 + random.IntN(60) {
			e := millrace.Event{
				Key: fmt.Sprint("key ", random.IntN(20)), Data: fmt.Appendf(nil, `{"n":%d}`, random.IntN(1000)), Time: blockStored,
			}
			if err := b.Add(&e); err != nil {
				t.Fatal(err)
			}
		}
		encoded, err := b.Encode(nil, millrace.Header{Producer: "test", Flush: uint64(n + 1), Commit: true})
		if err != nil {
			t.Fatal(err)
		}
		at = millrace.Position{Block: millrace.BlockName("abc", uint64(n+1)), Event: encoded.Header.Events}
		d, more := delivery{block: millrace.StoredBlock{Block: encoded, At: at, Stored: blockStored}}, true
		for more {
			d, more = f.pass(f.parts[0], d, &lookahead{})
		}
	}
	for _, conn := range conns {
		<-conn.out.await()
		_ = conn.conn.Close()
	}
	reading.Wait()
	g.flows.running.Wait()
	return got
}

// How long a pass takes from the first of a thousand sockets to the last, with one event of 200 bytes. Clients read when
// time is not taken; so with -cpu 1,2 both processors are the gateway's.
func BenchmarkHandOut(b *testing.B) {
	const connections, rest = 1000, 32
	var clients []net.Conn
	p := newPushingTo(b, broadcast(1))
	for range connections {
		server, client := sockets(b, true)
		clients = append(clients, client)
		p.connect(v1, server, "")
	}
	read := make([]byte, 64<<10)
	before := 0
	for n := 0; b.Loop(); n++ {
		if n%rest == 0 {
			b.StopTimer()
			now := p.handed()
			for _, c := range clients {
				if _, err := io.ReadFull(c, read[:(now-before)/connections]); err != nil {
					b.Fatal(err)
				}
			}
			before = now
			b.StartTimer()
		}
		p.push(1)
	}
	b.ReportMetric(float64(connections)*float64(b.N)/b.Elapsed().Seconds(), "deliveries/s")
}

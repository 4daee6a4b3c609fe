package gateway_test

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/gateway"
	"github.com/millrace/millrace/millracetest"
)

// narrowListener gives its connections small send buffers, so that a client that does not read is soon slow.
type narrowListener struct{ net.Listener }

func (l narrowListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil {
		_ = conn.(*net.TCPConn).SetWriteBuffer(4 << 10)
	}
	return conn, err
}

func listenNarrowly(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return narrowListener{l}
}

// dropping are the endpoints of the tests of this file. /all sets the pace.
var dropping = map[string]gateway.Endpoint{
	"/all":            {From: "crossings", Key: "query:VehicleID", Queue: 16 << 20},
	"/drop_oldest":    {From: "crossings", Key: "query:VehicleID", Queue: 128 << 10, Slow: gateway.DropOldest},
	"/newest_per_key": {From: "crossings", Key: "query:VehicleID", Queue: 128 << 10, Slow: gateway.NewestPerKey},
	"/disconnect":     {From: "crossings", Key: "query:VehicleID", Queue: 128 << 10, Slow: gateway.Disconnect},
	"/messages":       {Messages: true, Queue: 128 << 10},
}

// heard is what a client has got: events by number, and how many it was told are dropped.
type heard struct {
	numbers []int
	ids     []string
	newest  map[string]int // by key
	told    int
	before  string // the last id before the first notice
	after   int    // and how many events came before it
}

func (h *heard) event(t *testing.T, id, data string) {
	t.Helper()
	var n int
	var key string
	if _, err := fmt.Sscanf(data, `{"n":%d,"key":%q`, &n, &key); err != nil || !strings.HasSuffix(data, `x"}`) {
		t.Fatalf("%.100s: %v", data, err)
	}
	if last := len(h.numbers) - 1; last >= 0 && h.numbers[last] >= n {
		t.Fatalf("%d comes after %d", n, h.numbers[last])
	}
	if h.newest == nil {
		h.newest = map[string]int{}
	}
	h.numbers, h.ids = append(h.numbers, n), append(h.ids, id)
	h.newest[key] = n
}

func (h *heard) dropped(t *testing.T, n int) {
	t.Helper()
	if n <= 0 {
		t.Errorf("%d events are said to be dropped", n)
	}
	if h.told == 0 && len(h.ids) > 0 {
		h.before, h.after = h.ids[len(h.ids)-1], len(h.ids)
	}
	h.told += n
}

func (h *heard) last() int {
	if len(h.numbers) == 0 {
		return -1
	}
	return h.numbers[len(h.numbers)-1]
}

// hearV1 reads what comes next.
func (h *heard) hearV1(t *testing.T, c *client) (other string) {
	t.Helper()
	var f struct {
		v1Frame
		Dropped *struct{ Events int }
		Pong    any
	}
	text := c.next()
	if err := json.Unmarshal([]byte(text), &f); err != nil {
		t.Fatalf("%.100s: %v", text, err)
	}
	switch {
	case f.Dropped != nil:
		if f.ID != "" {
			t.Errorf("a notice has an id: %s", text)
		}
		h.dropped(t, f.Dropped.Events)
	case f.Key != nil:
		h.event(t, f.ID, string(f.Data))
	default:
		return text
	}
	return ""
}

func (h *heard) hearPlain(t *testing.T, c *client) {
	t.Helper()
	f, err := c.ReadFrame()
	if err != nil {
		t.Fatal(err)
	}
	if f.Op != millracetest.OpPing {
		h.event(t, "", string(f.Payload))
		return
	}
	n := 0
	if _, err := fmt.Sscanf(string(f.Payload), "dropped=%d", &n); err != nil {
		t.Fatalf("ping %q", f.Payload)
	}
	h.dropped(t, n)
}

func (h *heard) hearSSE(t *testing.T, e *events) {
	t.Helper()
	before := e.id
	m := e.next()
	if m.kind != "millrace.dropped" {
		h.event(t, m.id, m.data)
		return
	}
	var what struct{ Events int }
	if err := json.Unmarshal([]byte(m.data), &what); err != nil || m.id != before {
		t.Fatalf("%+v: %v", m, err)
	}
	h.dropped(t, what.Events)
}

// large is an event's data.
func large(n int, key string) string {
	return fmt.Sprintf(`{"n":%d,"key":%q,"pad":"%s"}`, n, key, strings.Repeat("x", 20<<10))
}

const droppingKeys = 3

func (w *writer) number(n int) {
	key := fmt.Sprint("key ", n%droppingKeys)
	w.put(key, large(n, key))
}

// listenNarrow is listen with a client whose kernel takes in few bytes that are not read.
func (s *server) listenNarrow(t *testing.T, path string) *events {
	t.Helper()
	conn, err := net.Dial("tcp", s.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.(*net.TCPConn).SetReadBuffer(16 << 10)
	_ = conn.SetDeadline(time.Now().Add(2 * patience))
	_, _ = fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n", path)
	in := bufio.NewReader(conn)
	response, err := http.ReadResponse(in, nil)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("%v, %v", response, err)
	}
	response.Body = conn // closing it closes that
	return &events{t: t, response: response, in: in}
}

// Clients that read nothing for a while get the newest events when they read again, in order, and are told exactly
// how many they have missed; where they were, they can resume from.
func TestDroppingClients(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"/drop_oldest", "/newest_per_key"} {
		s := newStream(1)
		w := newWriter(t, s)
		registry := prometheus.NewRegistry()
		server := serveOn(t, listenNarrowly(t), s, func(c *gateway.Config, o *gateway.Options) {
			c.Endpoints, o.Metrics = dropping, gateway.NewMetrics(registry)
		})
		pace := server.dial(t, "/all", v1)
		pace.live()
		inV1, inPlain := server.dialNarrow(t, path, v1), server.dialNarrow(t, path, "")
		oneKey := server.dialNarrow(t, path+"?VehicleID=key+1", v1)
		inSSE := server.listenNarrow(t, path)
		tlsClient := overTLS(t, s, path)
		inV1.live()
		oneKey.live()
		tlsClient.live()
		if _, ok := inSSE.read(); !ok {
			t.Fatal("the event stream has ended")
		}
		const events = 120
		for n := range events {
			w.number(n)
			pace.event()
		}
		var hv, hp, hk, hs, ht heard
		for hv.last() < events-1 {
			hv.hearV1(t, inV1)
		}
		for hp.last() < events-1 {
			hp.hearPlain(t, inPlain)
		}
		for hs.last() < events-1 {
			hs.hearSSE(t, inSSE)
		}
		for hk.last() < events-2 {
			hk.hearV1(t, oneKey)
		}
		for ht.last() < events-1 {
			ht.hearV1(t, tlsClient)
		}
		told := 0
		for name, h := range map[string]*heard{"v1": &hv, "plain": &hp, "event stream": &hs, "one key": &hk, "TLS": &ht} {
			total := events
			if name == "one key" {
				total = events / droppingKeys
			} else {
				for n := events - droppingKeys; n < events; n++ {
					if key := fmt.Sprint("key ", n%droppingKeys); h.newest[key] != n {
						t.Errorf("%s, %s: the newest of %s is %d, want %d", path, name, key, h.newest[key], n)
					}
				}
			}
			if h.told == 0 || h.told+len(h.numbers) != total {
				t.Errorf("%s, %s: %d events and %d told, of %d", path, name, len(h.numbers), h.told, total)
			}
			if name != "TLS" {
				told += h.told
			}
			t.Logf("%s, %s: %d events, %d told", path, name, len(h.numbers), h.told)
		}
		// Back to before the notice: what was dropped is in the stream, and comes in order.
		again := server.dial(t, path+"?since="+hv.before, v1)
		var h heard
		h.hearV1(t, again)
		if h.last() != hv.after {
			t.Errorf("%s: after the last event before the notice comes %d, want %d", path, h.last(), hv.after)
		}
		for _, c := range []*client{pace, inV1, inPlain, oneKey, tlsClient, again} {
			_ = c.Close() // ending does not wait for them
		}
		_ = inSSE.response.Body.Close()
		if err := server.stop(); err != nil {
			t.Fatal(err)
		}
		if err := testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP millrace_gateway_queue_bytes Bytes that wait for sockets, over all connections.
# TYPE millrace_gateway_queue_bytes gauge
millrace_gateway_queue_bytes 0
`), "millrace_gateway_queue_bytes"); err != nil {
			t.Error(err)
		}
		if n := counterOf(t, registry, "millrace_gateway_dropped_total", path); n < float64(told) {
			t.Errorf("%s: %v are counted as dropped, %d were told", path, n, told)
		}
	}
}

// counterOf returns the counter that has this value of its only label; -1 if there is none.
func counterOf(t testing.TB, registry *prometheus.Registry, name, label string) float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			if family.GetName() == name && m.GetLabel()[0].GetValue() == label {
				return m.GetCounter().GetValue()
			}
		}
	}
	return -1
}

// What a client resumes is not dropped, however slowly it reads; what comes live meanwhile is, if it must be.
func TestDroppingAfterReplay(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"/drop_oldest", "/newest_per_key"} {
		s := newStream(1)
		w := newWriter(t, s)
		server := serveOn(t, listenNarrowly(t), s, func(c *gateway.Config, _ *gateway.Options) { c.Endpoints = dropping })
		const before, during, after = 50, 50, 60
		for n := range before {
			w.number(n)
		}
		c := server.dialNarrow(t, path+"?since=0", v1)
		done := make(chan struct{})
		go func() {
			defer close(done)
			for n := range during {
				w.number(before + n)
			}
		}()
		var h heard
		for live := false; !live || h.last() < before+during-1; {
			if len(h.numbers)%10 == 0 {
				time.Sleep(time.Millisecond) // a slow client
			}
			live = strings.Contains(h.hearV1(t, c), `"live":true`) || live
		}
		<-done
		for n := range before {
			if h.numbers[n] != n {
				t.Fatalf("%s: event %d of the replay is missing", path, n)
			}
		}
		told := h.told
		pace := server.dial(t, "/all", v1)
		pace.live()
		for n := range after {
			w.number(before + during + n)
			pace.event()
		}
		for h.last() < before+during+after-1 {
			h.hearV1(t, c)
		}
		if h.told == told || h.told+len(h.numbers) != before+during+after {
			t.Errorf("%s: %d events, %d told before and %d in all, of %d", path, len(h.numbers), told, h.told, before+during+after)
		}
		t.Logf("%s: %d events, %d told", path, len(h.numbers), h.told)
	}
}

// Answers reach a client that does not read, and push events out rather than cut it; several subscriptions are
// told each of its own; one that drops nothing is cut.
func TestDroppingSubscriptions(t *testing.T) {
	t.Parallel()
	s := newStream(1)
	w := newWriter(t, s)
	server := serveOn(t, listenNarrowly(t), s, func(c *gateway.Config, _ *gateway.Options) { c.Endpoints = dropping })
	pace := server.dial(t, "/all", v1)
	pace.live()
	c, strict := server.dialNarrow(t, "/messages", v1), server.dialNarrow(t, "/messages", v1)
	for name, to := range map[string]string{"old": "/drop_oldest", "new": "/newest_per_key"} {
		c.say(`{"subscribe":%q,"to":%q,"keys":["key 1"]}`, name, to)
		c.next() // subscribed
		c.next() // live
	}
	strict.say(`{"subscribe":"old","to":"/drop_oldest"}`)
	strict.next()
	strict.next()
	strict.say(`{"subscribe":"strict","to":"/disconnect","keys":["key 2"]}`)
	strict.next()
	strict.next()
	const events, pings = 120, 15
	for n := range events {
		w.number(n)
		pace.event()
		if n%(events/pings) == 0 {
			c.say(`{"ping":%d}`, n)
		}
	}
	pongs, told, got := 0, map[string]int{}, map[string]int{}
	for done := 0; done < 2 || pongs < pings; {
		var f struct {
			Sub     string
			Data    json.RawMessage
			Dropped *struct{ Events int }
			Pong    *int
		}
		if err := json.Unmarshal([]byte(c.next()), &f); err != nil {
			t.Fatal(err)
		}
		switch {
		case f.Pong != nil:
			pongs++
		case f.Dropped != nil:
			told[f.Sub] += f.Dropped.Events
		default:
			got[f.Sub]++
			if strings.HasPrefix(string(f.Data), fmt.Sprintf(`{"n":%d,`, events-2)) {
				done++
			}
		}
	}
	for _, name := range []string{"old", "new"} {
		if told[name] == 0 || told[name]+got[name] != events/droppingKeys {
			t.Errorf("%s: %d events and %d told", name, got[name], told[name])
		}
	}
	if closed := strict.closed(); closed.Code != 1013 || !strings.Contains(closed.Reason, "too slow") {
		t.Errorf("got %v", closed)
	}
}

// overTLS is a client of a gateway that cannot write its socket directly.
func overTLS(t *testing.T, s millrace.Stream, path string) *client {
	t.Helper()
	certified := httptest.NewTLSServer(nil)
	t.Cleanup(certified.Close)
	l := tls.NewListener(listenNarrowly(t), &tls.Config{Certificates: certified.TLS.Certificates})
	serveOn(t, l, s, func(c *gateway.Config, _ *gateway.Options) { c.Endpoints = dropping })
	bare, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_ = bare.(*net.TCPConn).SetReadBuffer(16 << 10)
	config := certified.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	config.ServerName = "example.com"
	conn := tls.Client(bare, config)
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(2 * patience))
	socket, err := millracetest.OpenWebSocket(t.Context(), conn, "ws://x"+path, map[string][]string{"Sec-WebSocket-Protocol": {v1}})
	if err != nil {
		t.Fatal(err)
	}
	client := &client{WebSocket: socket, t: t}
	client.hello()
	return client
}

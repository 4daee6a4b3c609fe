package gateway_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/gateway"
	"github.com/millrace/millrace/millracetest"
)

// dialNarrow opens a WebSocket whose client's kernel takes in few bytes that are not read.
func (s *server) dialNarrow(t *testing.T, path, protocol string) *client {
	t.Helper()
	conn, err := net.Dial("tcp", s.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.(*net.TCPConn).SetReadBuffer(256 << 10); err != nil {
		t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(2 * patience))
	w, err := millracetest.OpenWebSocket(context.Background(), conn, "ws://"+s.address+path, map[string][]string{"Sec-WebSocket-Protocol": {protocol}})
	if err != nil {
		t.Fatal(err)
	}
	c := &client{WebSocket: w, t: t}
	if protocol == v1 {
		c.hello()
	}
	return c
}

// A client that reads nothing is cut with 1013 when its queue is full; the others get every event.
// What it had got up to then is whole, and from there it resumes.
func TestSlowClient(t *testing.T) {
	t.Parallel()
	s := newStream(1)
	w := newWriter(t, s)
	registry := prometheus.NewRegistry()
	server := serve(t, s, func(_ *gateway.Config, o *gateway.Options) { o.Metrics = gateway.NewMetrics(registry) })
	const events = 300
	data := func(n int) string { return fmt.Sprintf(`{"n":%d,"pad":"%s"}`, n, strings.Repeat("x", 20<<10)) }

	slow := []*client{server.dialNarrow(t, "/vehicles", v1), server.dialNarrow(t, "/vehicles?VehicleID=42", v1)}
	quick := []*client{server.dial(t, "/vehicles", v1), server.dial(t, "/vehicles?VehicleID=42", v1), server.dial(t, "/vehicles", v1)}
	got := make(chan struct{}, 64*len(quick)) // one for each event at each of them
	for _, c := range quick {
		go func() {
			for n := range events {
				_, payload, err := c.Read()
				for err == nil && !bytes.Contains(payload, []byte(`"key":`)) {
					_, payload, err = c.Read()
				}
				if err != nil || !bytes.Contains(payload, []byte(data(n))) {
					t.Errorf("a client that reads: event %d: %v", n, err)
					close(got)
					return
				}
				got <- struct{}{}
			}
		}()
	}
	for n := range events {
		w.put("42", data(n))
		if n >= 8 { // as fast as those that read, a few events ahead
			for range quick {
				<-got
			}
		}
	}
	for range 8 * len(quick) {
		<-got
	}
	if t.Failed() {
		return
	}
	for _, c := range slow {
		last := c.live().ID
		n := 0
		for ; ; n++ {
			_, payload, err := c.Read()
			var closed *millracetest.Closed
			if errorAs(err, &closed) {
				if closed.Code != 1013 || !strings.Contains(closed.Reason, "bytes were waiting") {
					t.Errorf("got %v", closed)
				}
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Contains(payload, []byte(data(n))) {
				t.Fatalf("event %d is another one, or broken", n)
			}
			last = string(payload[len(`{"id":"`):bytes.Index(payload, []byte(`","key"`))])
		}
		if n == 0 || n == events {
			t.Errorf("a client that did not read got %d of %d events", n, events)
		}
		// It comes back, still slow, and is not cut while it makes progress.
		c = server.dialNarrow(t, "/vehicles?since="+last, v1)
		for ; n < events; n++ {
			if f := c.event(); string(f.Data) != data(n) {
				t.Fatalf("event %d is another one", n)
			}
		}
		c.live()
	}
	if n := testutil.CollectAndCount(registry, "millrace_gateway_cut_total"); n != 1 {
		t.Errorf("%d reasons to cut", n)
	}
	if err := server.stop(); err != nil {
		t.Fatal(err)
	}
	if err := testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP millrace_gateway_cut_total Connections that the gateway ended: slow (the queue was full), stalled (took no byte), silent (no pong), protocol (malformed frames), gap (a plain connection cannot be told), unavailable (the stream), unauthorized (the token has expired, or none came).
# TYPE millrace_gateway_cut_total counter
millrace_gateway_cut_total{reason="slow"} 2
# HELP millrace_gateway_queue_bytes Bytes that wait for sockets, over all connections.
# TYPE millrace_gateway_queue_bytes gauge
millrace_gateway_queue_bytes 0
`), "millrace_gateway_cut_total", "millrace_gateway_queue_bytes"); err != nil {
		t.Error(err)
	}
}

// An event larger than the queue still reaches clients, live and replayed, in every form, and does not
// end their connections when the next event comes while it is being sent.
func TestLargeEvent(t *testing.T) {
	t.Parallel()
	s := newStream(1)
	w := newWriter(t, s)
	server := serve(t, s, func(c *gateway.Config, _ *gateway.Options) { c.Queue = 8 << 10 })
	large := `"` + strings.Repeat("0123456789", 500<<10) + `"` // 5 MB
	plain := server.dialNarrow(t, "/vehicles", "")
	keyed := server.dialNarrow(t, "/vehicles?VehicleID=42", v1)
	keyed.live()
	e := server.listen(t, "/vehicles", nil)
	if _, ok := e.read(); !ok { // it takes part from now on
		t.Fatal("the event stream has ended")
	}
	w.put("42", large)
	w.put("42", `"small"`)
	check := func(what, got string) {
		t.Helper()
		if got != large {
			t.Errorf("%s: got %d bytes", what, len(got))
		}
	}
	check("plain", plain.next())
	plain.want(`"small"`)
	check("v1", string(keyed.event().Data))
	if f := keyed.event(); string(f.Data) != `"small"` {
		t.Errorf("got %+v", f)
	}
	check("event stream", e.next().data)
	if m := e.next(); m.data != `"small"` {
		t.Errorf("got %+v", m)
	}
	replayed := server.dialNarrow(t, "/vehicles?since=0", v1)
	check("replay", string(replayed.event().Data))
	if f := replayed.event(); string(f.Data) != `"small"` {
		t.Errorf("got %+v", f)
	}
}

func TestPings(t *testing.T) {
	t.Parallel()
	s := newStream(1)
	w := newWriter(t, s)
	server := serve(t, s, func(c *gateway.Config, _ *gateway.Options) { c.Ping = 400 * time.Millisecond })
	silent := server.dial(t, "/vehicles", "")
	good := server.dial(t, "/vehicles?VehicleID=42", v1)
	e := server.listen(t, "/vehicles?VehicleID=42", nil)
	first, _ := e.read()
	live := good.live()
	texts := make(chan string, 100)
	go func() { // reading answers the pings
		defer close(texts)
		for {
			_, payload, err := good.Read()
			if err != nil {
				return
			}
			texts <- string(payload)
		}
	}()
	// An event that is not for them makes progress all the same.
	w.put("another key", "x")
	var progress v1Frame
	if err := json.Unmarshal([]byte(<-texts), &progress); err != nil || progress.ID == live.ID || progress.ID == "" || progress.Live || progress.Key != nil {
		t.Errorf("got %+v after %+v", progress, live)
	}
	second, ok := e.read()
	if !ok || second.id != progress.ID || second.id == first.id {
		t.Errorf("got %+v after %+v", second, first)
	}
	if e.comments == 0 {
		t.Error("a quiet event stream has no comments")
	}

	// One that answers no pings is cut, one that does is not.
	pings := 0
	for {
		f, err := silent.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if f.Op == millracetest.OpPing {
			pings++
			continue
		}
		if f.Op != millracetest.OpText { // the event
			if f.Op != millracetest.OpClose || !strings.Contains(string(f.Payload), "silent") {
				t.Errorf("got %+v", f)
			}
			break
		}
	}
	if pings == 0 {
		t.Error("cut without a ping")
	}
	_ = silent.Close()
	w.put("42", `"still there"`)
	if text := <-texts; !strings.Contains(text, `"still there"`) {
		t.Errorf("got %s", text)
	}
	_ = good.Close()
	for range texts {
	}
}

func TestDrain(t *testing.T) {
	s := newStream(1)
	server := serve(t, s, nil)
	c := server.dial(t, "/vehicles", v1)
	c.live()
	e := server.listen(t, "/vehicles", nil)
	if _, ok := e.read(); !ok {
		t.Fatal("the event stream has ended")
	}
	ended := make(chan error, 1)
	go func() { ended <- server.stop() }()
	closed := c.closed()
	if closed.Code != 1012 || !strings.Contains(closed.Reason, "resume") {
		t.Errorf("got %v", closed)
	}
	if err := c.WriteClose(closed.Code, ""); err != nil {
		t.Error(err)
	}
	_ = c.Close()
	if m, ok := e.read(); !ok || m.kind != "millrace.close" || !strings.Contains(m.data, `"code":1012`) {
		t.Errorf("got %+v", m)
	}
	if m, ok := e.read(); ok {
		t.Errorf("after the end there is %+v", m)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, err := server.tryDial("/vehicles", ""); err == nil {
		t.Error("a gateway that has ended takes connections")
	}
}

// Clients that do not answer do not keep the gateway from ending.
func TestDrainOfDeafClients(t *testing.T) {
	t.Parallel()
	s := newStream(1)
	w := newWriter(t, s)
	server := serve(t, s, nil)
	for range 5 {
		c := server.dialNarrow(t, "/vehicles", v1)
		c.live()
	}
	w.put("42", strings.Repeat("x", 8<<20))
	begun := time.Now()
	if err := server.stop(); err != nil {
		t.Error(err)
	}
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("ending took %s", took)
	}
}

// A stream that fails for good ends the gateway with the error.
func TestStreamFails(t *testing.T) {
	s := newStream(1)
	var c gateway.Config
	c.SetDefaults()
	c.Endpoints = map[string]gateway.Endpoint{"/a": {From: "crossings"}}
	g, err := gateway.New(c, gateway.Options{Streams: map[string]millrace.Stream{"crossings": s}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Run(t.Context(), l); millrace.CodeOf(err) != millrace.Unavailable {
		t.Errorf("got %v", err)
	}
}

package gateway_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/gateway"
	"github.com/millrace/millrace/millracetest"
)

func TestPlain(t *testing.T) {
	s := newStream(1)
	w := newWriter(t, s)
	w.put("42", "before anyone came")
	server := serve(t, s, nil)

	one := server.dial(t, "/vehicles?VehicleID=42", "")
	both := server.dial(t, "/vehicles?VehicleID=42&VehicleID=43&VehicleID=42", "")
	all := server.dial(t, "/vehicles", "")
	nobody := server.dial(t, "/vehicles?VehicleID=", "")
	other := server.dial(t, "/vehicles?unrelated=42", "another.protocol")
	if got := other.Response.Header.Get("Sec-WebSocket-Protocol"); got != "" {
		t.Errorf("the subprotocol %q was chosen", got)
	}

	w.put("42", `{"n":1}`)
	w.put("43", `{"n":2}`)
	w.append(
		millrace.Event{Key: "42", Data: []byte(`{"n":3}`)},
		millrace.Event{Key: "44", Data: []byte("not JSON")},
		millrace.Event{Key: "42", Data: []byte(`{"n":4}`)},
		millrace.Event{Key: "", Data: []byte("the empty key")},
	)
	one.want(`{"n":1}`, `{"n":3}`, `{"n":4}`)
	both.want(`{"n":1}`, `{"n":2}`, `{"n":3}`, `{"n":4}`)
	all.want(`{"n":1}`, `{"n":2}`, `{"n":3}`, "not JSON", `{"n":4}`, "the empty key")
	nobody.want("the empty key")
	other.want(`{"n":1}`)

	// A text frame must hold UTF-8, so other data comes in a binary frame.
	w.put("42", "\xff\xfe")
	w.put("42", "")
	op, payload, err := one.Read()
	if err != nil || op != millracetest.OpBinary || string(payload) != "\xff\xfe" {
		t.Errorf("got opcode %d, %q, %v", op, payload, err)
	}
	one.want("")
}

// v1Frame is a frame of the subprotocol.
type v1Frame struct {
	ID         string          `json:"id"`
	Key        *string         `json:"key"`
	Type       string          `json:"type"`
	Time       string          `json:"time"`
	Data       json.RawMessage `json:"data"`
	DataBase64 []byte          `json:"data_base64"`
	Deleted    bool            `json:"deleted"`
	Live       bool            `json:"live"`
	Gap        *struct{ After, First, Reason string }
}

func (c *client) frame() v1Frame {
	c.t.Helper()
	text := c.next()
	var f v1Frame
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		c.t.Fatalf("%s: %v", text, err)
	}
	return f
}

// live reads the frame that says that the client has come to the live edge.
func (c *client) live() v1Frame {
	c.t.Helper()
	f := c.frame()
	if !f.Live || f.ID == "" || f.Key != nil {
		c.t.Fatalf("got %+v, want the frame that says live", f)
	}
	return f
}

// event reads frames up to the next one with an event.
func (c *client) event() v1Frame {
	c.t.Helper()
	for {
		if f := c.frame(); f.Key != nil || f.Gap != nil {
			return f
		}
	}
}

const v1 = "millrace.v1"

func TestV1(t *testing.T) {
	s := newStream(1)
	w := newWriter(t, s)
	server := serve(t, s, nil)
	c := server.dial(t, "/vehicles", "foo, millrace.v1")
	if got := c.Response.Header.Get("Sec-WebSocket-Protocol"); got != v1 {
		t.Fatalf("the subprotocol is %q", got)
	}
	c.live()

	w.append(millrace.Event{
		ID: "a", Key: "4\"2", Type: "enter", Time: time.Date(2026, 2, 3, 4, 5, 6, 789e6, time.UTC), Data: []byte(" {\"a\": [1,\n2]} "),
	})
	text := c.next()
	var f v1Frame
	if err := json.Unmarshal([]byte(text), &f); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	if want := fmt.Sprintf(`{"id":%q,"key":"4\"2","type":"enter","time":"2026-02-03T04:05:06.789Z","data": {"a": [1,%s2]} }`, f.ID, "\n"); text != want {
		t.Errorf("got  %s\nwant %s", text, want)
	}

	data := []struct{ data, json string }{
		{"not JSON", `"not JSON"`},
		{"", `""`},
		{`{"a":1} {"b":2}`, `"{\"a\":1} {\"b\":2}"`},
		{"tab\tand \x01 and \u2028 and 車", `"tab\tand \u0001 and ` + "\u2028" + ` and 車"`},
		{"null", "null"},
		{`"text"`, `"text"`},
		{"3.0e5", "3.0e5"},
	}
	for _, d := range data {
		w.put("k", d.data)
		if f := c.frame(); string(f.Data) != d.json {
			t.Errorf("%q became %s, want %s", d.data, f.Data, d.json)
		}
	}
	for _, binary := range []string{"\xff", "{\"a\":\"\xff\"}"} {
		w.put("k", binary)
		if f := c.frame(); f.Data != nil || string(f.DataBase64) != binary {
			t.Errorf("%q became %s and %q", binary, f.Data, f.DataBase64)
		}
	}
	w.append(millrace.Event{Key: "k", Type: "remove", Deleted: true, Data: []byte("{}")})
	if f := c.frame(); !f.Deleted || f.Type != "remove" {
		t.Errorf("got %+v", f)
	}
	// Lengths around those at which the frame's header grows.
	for _, n := range []int{0, 1, 20, 60, 120, 125, 126, 127, 300, 65380, 65400, 65436, 65535, 65536, 70000} {
		data := `"` + strings.Repeat("x", n) + `"`
		w.put("k", data)
		if f := c.frame(); string(f.Data) != data {
			t.Errorf("%d bytes became %d", len(data), len(f.Data))
		}
	}
}

func TestSSE(t *testing.T) {
	s := newStream(1)
	w := newWriter(t, s)
	server := serve(t, s, nil)
	e := server.listen(t, "/vehicles?VehicleID=42", nil)
	if got := e.response.Header.Get("Content-Type"); got != "text/event-stream; charset=utf-8" {
		t.Errorf("the content type is %q", got)
	}
	if first, _ := e.read(); first.id == "" || first.data != "" || e.retry == "" {
		t.Errorf("the stream begins with %+v, retry %q", first, e.retry)
	}
	for _, test := range []struct {
		kind, data string
		want       message
	}{
		{"message", "plain", message{kind: "message", data: "plain"}},
		{"", "untyped", message{kind: "message", data: "untyped"}},
		{"enter", "a\nb\r\nc\rd\n", message{kind: "enter", data: "a\nb\nc\nd\n"}},
		{"enter", "\n\nid: forged\n\n", message{kind: "enter", data: "\n\nid: forged\n\n"}},
		{"enter", " leading space", message{kind: "enter", data: " leading space"}},
		{"enter\nid: forged", "x", message{kind: "enter id: forged", data: "x"}},
		{"millrace.gap", "an event of the stream", message{kind: ".millrace.gap", data: "an event of the stream"}},
		{"enter", "", message{kind: "enter"}},
	} {
		w.append(millrace.Event{Key: "41", Type: "other", Data: []byte("not for us")},
			millrace.Event{Key: "42", Type: test.kind, Data: []byte(test.data)})
		got, _ := e.read()
		if got.id == "" {
			t.Error("an event has no id")
		}
		got.id = ""
		if got != test.want {
			t.Errorf("%q %q became %+v, want %+v", test.kind, test.data, got, test.want)
		}
	}
}

func TestResumeSSE(t *testing.T) {
	s := newStream(1)
	w := newWriter(t, s)
	for n := range 4 {
		w.put("42", fmt.Sprint(n))
	}
	server := serve(t, s, nil)
	e := server.listen(t, "/vehicles?since=0", nil)
	var ids []string
	for n := range 4 {
		m := e.next()
		if ids = append(ids, m.id); m.data != fmt.Sprint(n) {
			t.Fatalf("event %d is %+v", n, m)
		}
	}
	// The header is what an EventSource sends when it comes back to the same URL.
	if m := server.listen(t, "/vehicles?since=0", map[string]string{"Last-Event-ID": ids[1]}).next(); m.data != "2" {
		t.Errorf("Last-Event-ID: got %+v", m)
	}
	if m := server.listen(t, "/vehicles?since=0&lastEventId="+ids[2], nil).next(); m.data != "3" {
		t.Errorf("lastEventId: got %+v", m)
	}
	if m := server.listen(t, "/vehicles?since="+ids[0], nil).next(); m.data != "1" {
		t.Errorf("since: got %+v", m)
	}
}

func TestResumeByTime(t *testing.T) {
	clock := millracetest.NewClock()
	s := newStreamAt(2, clock)
	w := newWriter(t, s)
	begun := clock.Now()
	for n := range 10 {
		w.put(fmt.Sprint(n), fmt.Sprint(n)) // stored at begun + n seconds
		clock.Advance(time.Second)
	}
	server := serve(t, s, nil)
	at := begun.Add(7 * time.Second)
	for _, since := range []string{
		at.Format(time.RFC3339), fmt.Sprint(at.UnixMilli()), at.In(time.FixedZone("", 7200)).Format(time.RFC3339),
		at.Add(-time.Millisecond).Format(time.RFC3339Nano),
	} {
		c := server.dial(t, "/vehicles?since="+since, "")
		got := map[string]bool{c.next(): true, c.next(): true, c.next(): true}
		if !got["7"] || !got["8"] || !got["9"] {
			t.Errorf("since %s: got %v", since, got)
		}
		if gap := c.Response.Header.Get("Millrace-Gap"); gap != "" {
			t.Errorf("a gap is said where there is none: %s", gap)
		}
	}
	c := server.dial(t, "/vehicles?VehicleID=3&since=0", v1)
	if f := c.event(); string(f.Data) != "3" {
		t.Errorf("got %+v", f)
	}
	// In the future there is nothing to replay.
	c = server.dial(t, "/vehicles?VehicleID=3&since=2200-01-01T00:00:00Z", v1)
	c.live()
	w.put("3", `"new"`)
	if f := c.event(); string(f.Data) != `"new"` {
		t.Errorf("got %+v", f)
	}
}

// Every position that a client of every key was told resumes over all partitions, with nothing lost
// and nothing repeated, whether its event was replayed or live.
func TestResumeOverPartitions(t *testing.T) {
	s := newStream(3)
	w := newWriter(t, s)
	const before, after = 20, 20
	key := func(n int) string { return fmt.Sprint("key ", n%7) }
	for n := range before {
		w.put(key(n), fmt.Sprint(n))
	}
	server := serve(t, s, nil)
	c := server.dial(t, "/vehicles?since=0", v1)
	type told struct {
		id   string
		seen map[string]bool
	}
	var steps []told
	seen := map[string]bool{}
	note := func(f v1Frame) {
		if f.Key != nil {
			if seen[string(f.Data)] {
				t.Fatalf("%s is repeated", f.Data)
			}
			seen[string(f.Data)] = true
		}
		step := told{id: f.ID, seen: map[string]bool{}}
		for data := range seen {
			step.seen[data] = true
		}
		steps = append(steps, step)
	}
	for f := c.frame(); ; f = c.frame() {
		note(f)
		if f.Live {
			break
		}
	}
	for n := range after {
		w.put(key(before+n), fmt.Sprint(before+n))
		note(c.frame())
	}
	if len(seen) != before+after {
		t.Fatalf("%d events arrived", len(seen))
	}
	for _, step := range steps {
		c := server.dial(t, "/vehicles?since="+step.id, v1)
		for f := c.frame(); !f.Live; f = c.frame() {
			if f.Gap != nil || step.seen[string(f.Data)] {
				t.Fatalf("after %s: got %+v", step.id, f)
			}
			step.seen[string(f.Data)] = true
		}
		if len(step.seen) != before+after {
			t.Fatalf("after %s: %d of %d events", step.id, len(step.seen), before+after)
		}
	}
	// A client of two keys in different partitions resumes by the same kind of id, and one of a single
	// key understands it, too.
	pair := server.dial(t, "/vehicles?VehicleID=key+1&VehicleID=key+2&since="+steps[9].id, v1)
	for f := pair.frame(); !f.Live; f = pair.frame() {
		if *f.Key != "key 1" && *f.Key != "key 2" || f.Gap != nil {
			t.Errorf("got %+v", f)
		}
	}
	single := server.dial(t, "/vehicles?VehicleID=key+1&since="+steps[len(steps)-2].id, v1)
	for f := single.frame(); !f.Live; f = single.frame() {
		if *f.Key != "key 1" || string(f.Data) != fmt.Sprint(before+after-1) {
			t.Errorf("got %+v", f)
		}
	}
}

func TestRequests(t *testing.T) {
	s := newStream(1)
	server := serve(t, s, func(c *gateway.Config, o *gateway.Options) {
		c.MaxConnections = 1
		c.Endpoints["/everything"] = gateway.Endpoint{From: "crossings"}
		o.Page = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "page "+r.URL.Path) })
	})
	for _, test := range []struct {
		method, path, accept string
		status               int
		says                 string
	}{
		{"GET", "/", "", 200, "page /"},
		{"GET", "/other", "", 200, "page /other"},
		{"GET", "/vehicles", "", 426, "connect a WebSocket"},
		{"GET", "/vehicles", "text/html, */*", 426, "text/event-stream"},
		{"GET", "/vehicles", "text/event-stream;q=0", 426, ""},
		{"POST", "/vehicles", "", 405, "GET"},
		{"GET", "/vehicles?since=yesterday", "text/event-stream", 400, `"yesterday" is neither a position`},
		{"GET", "/vehicles?since=0_x", "text/event-stream", 400, "neither"},
		{"GET", "/vehicles?since=1&since=2", "text/event-stream", 400, "since is there 2 times"},
		{"GET", "/vehicles?since=-5", "text/event-stream", 400, "neither"},
		{"GET", "/vehicles?since=99999999999999999999", "text/event-stream", 400, "neither"},
		{"GET", "/vehicles?vehicleid=42", "text/event-stream", 400, `written VehicleID, not "vehicleid"`},
		{"GET", "/vehicles?VehicleID=%zz", "text/event-stream", 400, "invalid URL escape"},
		{"GET", "/vehicles?" + strings.Repeat("VehicleID=x&", 50) + manyKeys(101), "text/event-stream", 400, "102 keys"},
		{"GET", "/vehicles?x=" + strings.Repeat("x", 20<<10), "text/event-stream", 431, ""},
	} {
		response := server.get(t, test.method, test.path, nil, test.accept)
		body, _ := io.ReadAll(response.Body)
		if response.StatusCode != test.status || !strings.Contains(string(body), test.says) {
			t.Errorf("%s %.60s: got %d %s, want %d and %q", test.method, test.path, response.StatusCode, body, test.status, test.says)
		}
	}
	server.dial(t, "/everything?VehicleID=42", "")
	var refused *millracetest.Refused
	if _, err := server.tryDial("/vehicles", ""); !errorAs(err, &refused) || refused.Status != 503 || refused.Header.Get("Retry-After") == "" {
		t.Errorf("over the limit: %v", err)
	}
}

// Over TLS sockets are not written directly; all else is the same.
func TestTLS(t *testing.T) {
	s := newStream(1)
	w := newWriter(t, s)
	w.put("42", "0")
	var c gateway.Config
	c.SetDefaults()
	c.Endpoints = map[string]gateway.Endpoint{"/vehicles": {From: "crossings"}}
	g, err := gateway.New(c, gateway.Options{Streams: map[string]millrace.Stream{"crossings": s}})
	if err != nil {
		t.Fatal(err)
	}
	certified := httptest.NewTLSServer(nil)
	defer certified.Close()
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: certified.TLS.Certificates})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx, l) }()
	var clients []*client
	for range 2 {
		conn, err := tls.Dial("tcp", l.Addr().String(), certified.Client().Transport.(*http.Transport).TLSClientConfig)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(patience))
		socket, err := millracetest.OpenWebSocket(t.Context(), conn, "ws://x/vehicles?since=0", nil)
		if err != nil {
			t.Fatal(err)
		}
		clients = append(clients, &client{WebSocket: socket, t: t})
	}
	large := strings.Repeat("x", 1<<20)
	for n := 1; n < 10; n++ {
		w.put("42", fmt.Sprint(n))
	}
	w.put("42", large)
	for _, c := range clients {
		for n := range 10 {
			c.want(fmt.Sprint(n))
		}
		c.want(large)
	}
	cancel()
	for _, c := range clients {
		if closed := c.closed(); closed.Code != 1012 {
			t.Errorf("got %v", closed)
		}
		_ = c.WriteClose(1012, "")
		_ = c.Close()
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func manyKeys(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "VehicleID=%d&", i)
	}
	return b.String()
}

func TestOrigins(t *testing.T) {
	s := newStream(1)
	server := serve(t, s, func(c *gateway.Config, _ *gateway.Options) { c.Origins = []string{"https://app.example.org"} })
	host := server.address
	for origin, allowed := range map[string]bool{
		"https://app.example.org":      true,
		"http://" + host:               true,
		"https://" + host:              true, // TLS may end in front of us
		"https://app.example.org:8443": false,
		"http://app.example.org":       false,
		"https://app.example.org.evil": false,
		"https://evil.app.example.org": false,
		"null":                         false,
		"http://127.0.0.1":             false,
		"http://x@" + host:             false,
		"http://" + host + "/":         false,
	} {
		response := server.get(t, "GET", "/vehicles", map[string]string{"Origin": origin}, "text/event-stream")
		cors := response.Header.Get("Access-Control-Allow-Origin")
		if allowed && (response.StatusCode != 200 || cors != origin) || !allowed && (response.StatusCode != 403 || cors != "") {
			t.Errorf("event stream from %s: %s, allows %q", origin, response.Status, cors)
		}
		if response.Header.Get("Vary") != "Origin" {
			t.Errorf("Vary is %q", response.Header.Get("Vary"))
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		c, err := millracetest.DialWebSocket(ctx, "ws://"+host+"/vehicles", http.Header{"Origin": {origin}})
		var refused *millracetest.Refused
		if allowed != (err == nil) || !allowed && (!errorAs(err, &refused) || refused.Status != 403) {
			t.Errorf("WebSocket from %s: %v", origin, err)
		}
		if c != nil {
			_ = c.Close()
		}
		cancel()
	}
	response := server.get(t, "OPTIONS", "/vehicles", map[string]string{
		"Origin": "https://app.example.org", "Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "last-event-id",
	}, "")
	if response.StatusCode != 204 || !strings.Contains(response.Header.Get("Access-Control-Allow-Headers"), "Last-Event-ID") {
		t.Errorf("preflight: %s %v", response.Status, response.Header)
	}
	response = server.get(t, "OPTIONS", "/vehicles", map[string]string{"Origin": "https://evil.example"}, "")
	if response.StatusCode != 403 {
		t.Errorf("preflight from elsewhere: %s", response.Status)
	}
	open := serve(t, s, func(c *gateway.Config, _ *gateway.Options) { c.Origins = []string{"*"} })
	if response := open.get(t, "GET", "/vehicles", map[string]string{"Origin": "null"}, "text/event-stream"); response.StatusCode != 200 {
		t.Errorf("with *: %s", response.Status)
	}
}

// Who runs a gateway is told how many connections there are.
func TestAttended(t *testing.T) {
	counts := make(chan int, 10)
	server := serve(t, newStream(1), func(_ *gateway.Config, o *gateway.Options) {
		o.Attended = func(n int) { counts <- n }
	})
	want := func(want int) {
		t.Helper()
		select {
		case n := <-counts:
			if n != want {
				t.Errorf("%d connections, want %d", n, want)
			}
		case <-time.After(patience):
			t.Fatalf("nobody says that there are %d connections", want)
		}
	}
	server.dial(t, "/vehicles?VehicleID=42", "")
	want(1)
	stream := server.listen(t, "/vehicles?VehicleID=42", nil)
	want(2)
	_ = stream.response.Body.Close()
	want(1)
	if err := server.stop(); err != nil {
		t.Fatal(err)
	}
	want(0)
}

package httpsource

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/mapping"
	"github.com/millrace/millrace/millracetest"
)

func gzipped(s string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write([]byte(s))
	_ = w.Close()
	return b.String()
}

func zstandard(s string) string {
	w, _ := zstd.NewWriter(nil)
	return string(w.EncodeAll([]byte(s), nil))
}

// Each kind of body becomes the events that it holds.
func TestBodies(t *testing.T) {
	for _, tt := range []struct {
		name, contentType, body string
		headers                 []string
		mapping                 mapping.Config
		code, accepted          int
		data                    string
	}{
		{name: "one object", contentType: asJSON, body: ` {"a":1} `, code: 200, accepted: 1, data: `{"a":1}`},
		{name: "array", contentType: asJSON + "; charset=UTF-8", body: `[{"a":1}, 2 ,"c"]`, code: 200, accepted: 3, data: `{"a":1} 2 "c"`},
		{name: "empty array", contentType: asJSON, body: `[]`, code: 200},
		{name: "other JSON", contentType: "application/vnd.api+json", body: `7`, code: 200, accepted: 1, data: `7`},
		{name: "lines", contentType: asLines, body: "{\"a\":1}\r\n\n  \n{\"b\":2}\n3", code: 200, accepted: 3, data: `{"a":1} {"b":2} 3`},
		{name: "lines after a byte order mark", contentType: "application/jsonl", body: "\xef\xbb\xbf1\n2\n", code: 200, accepted: 2, data: "1 2"},
		{name: "no lines", contentType: asLines, body: "\n", code: 200},
		{name: "text", contentType: "text/plain; charset=utf-8", body: "not JSON", code: 200, accepted: 1, data: "not JSON"},
		{name: "bytes", contentType: "application/octet-stream", body: "\x00\xff", code: 200, accepted: 1, data: "\x00\xff"},
		{name: "gzip", contentType: asJSON, body: gzipped(`[1,2]`), headers: []string{"Content-Encoding", "gzip"}, code: 200, accepted: 2, data: "1 2"},
		{name: "zstd", contentType: asJSON, body: zstandard(`[1,2]`), headers: []string{"Content-Encoding", "zstd"}, code: 200, accepted: 2, data: "1 2"},
		{name: "identity", contentType: asJSON, body: `1`, headers: []string{"Content-Encoding", "identity"}, code: 200, accepted: 1, data: "1"},
		{name: "no gzip", contentType: asJSON, body: `1`, headers: []string{"Content-Encoding", "gzip"}, code: 400},
		{name: "half of gzip", contentType: asJSON, body: gzipped(`[1,2]`)[:20], headers: []string{"Content-Encoding", "gzip"}, code: 400},
		{name: "brotli", contentType: asJSON, body: `1`, headers: []string{"Content-Encoding", "br"}, code: 415},
		{name: "no type", body: `1`, code: 415},
		{name: "form", contentType: "application/x-www-form-urlencoded", body: `a=1`, code: 415},
		{name: "latin-1", contentType: asJSON + "; charset=iso-8859-1", body: `1`, code: 415},
		{name: "no JSON", contentType: asJSON, body: `{"a":`, code: 400},
		{name: "nothing", contentType: asJSON, code: 400},
		{name: "array that breaks off", contentType: asJSON, body: `[1,2`, code: 400},
		{name: "split", contentType: asLines, body: "[1,2]\n3\n", mapping: mapping.Config{Split: true}, code: 200, accepted: 3, data: "1 2 3"},
		{name: "text where a key is needed", contentType: "text/plain", body: "x", mapping: mapping.Config{Key: "id"}, code: 400},
		{name: "too large", contentType: asJSON, body: `"` + strings.Repeat("x", 2<<20) + `"`, code: 413},
		{name: "bomb", contentType: asJSON, body: gzipped(strings.Repeat(" ", 2<<20)), headers: []string{"Content-Encoding", "gzip"}, code: 413},
		{name: "zstd bomb", contentType: asJSON, body: zstandard(strings.Repeat(" ", 2<<20)), headers: []string{"Content-Encoding", "zstd"}, code: 413},
		{name: "event too large", contentType: asJSON, body: `"` + strings.Repeat("x", 70<<10) + `"`, code: 413},
		{name: "too many", contentType: asLines, body: strings.Repeat("1\n", 1001), code: 413},
		{name: "too many elements", contentType: asJSON, body: "[" + strings.Repeat("1,", 1000) + "1]", code: 413},
		{name: "too many by splitting", contentType: asLines, body: "[" + strings.Repeat("1,", 1000) + "1]", mapping: mapping.Config{Split: true}, code: 413},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newPlace(t, 1)
			p.mapping = tt.mapping
			p.config.MaxBody, p.config.EventLimit, p.config.MaxEvents = 1<<20, 64<<10, 1000
			p.start()
			headers := tt.headers
			if tt.contentType != "" {
				headers = append(headers, "Content-Type", tt.contentType)
			}
			r := p.post("", tt.body, headers...)
			if r.Code != tt.code || r.Accepted != tt.accepted {
				t.Errorf("answered %d, accepted %d (%s, %v); want %d, %d", r.Code, r.Accepted, r.Error, r.Errors, tt.code, tt.accepted)
			}
			if (r.Code == 200) != (r.Error == "") {
				t.Errorf("%d says %q", r.Code, r.Error)
			}
			if got := p.data(); got != tt.data {
				t.Errorf("stored %q, want %q", got, tt.data)
			}
		})
	}
}

// Key and time come from the data, and ids are given where there are none.
func TestEvents(t *testing.T) {
	p := newPlace(t, 1)
	p.mapping = mapping.Config{Key: "id", Time: "at"}
	p.start()
	p.want(p.post("", `[{"id":"a","at":1700000000},{"id":7,"at":"2026-05-01T12:00:00Z"}]`, "Content-Type", asJSON), 200, 2, 0, false)
	p.want(p.post("", `{"id":"a","at":1700000001}`, "Content-Type", asJSON), 200, 1, 0, false)
	events := p.stored()
	if len(events) != 3 {
		t.Fatalf("%d events", len(events))
	}
	if events[0].Key != "a" || events[1].Key != "7" || events[0].Time.Unix() != 1700000000 || events[0].Type != "message" {
		t.Errorf("stored %+v", events)
	}
	ids := map[string]bool{}
	for _, e := range events {
		ids[e.ID] = true
	}
	if len(ids) != 3 || ids[""] {
		t.Errorf("ids %v", ids)
	}
}

// What is wrong is told with its line; the rest is taken if the sender wants it.
func TestMistakes(t *testing.T) {
	body := "{\"id\":1}\n\n{\"id\":\n{}\n{\"id\":2}\n\"" + strings.Repeat("x", 100) + "\"\n"
	p := newPlace(t, 1)
	p.mapping = mapping.Config{Key: "id"}
	p.config.EventLimit = 64
	p.start()
	r := p.post("", body, "Content-Type", asLines)
	p.want(r, 400, 0, 3, false)
	if len(r.Errors) != 3 || *r.Errors[0].Line != 3 || *r.Errors[1].Line != 4 || *r.Errors[2].Line != 6 || !strings.Contains(r.Errors[1].Reason, `"id"`) {
		t.Errorf("errors %+v", r.Errors)
	}
	if got := p.data(); got != "" {
		t.Errorf("stored %q of a request that was refused", got)
	}
	r = p.post("?partial=true", body, "Content-Type", asLines)
	p.want(r, 400, 2, 3, false)
	if got := p.data(); got != `{"id":1} {"id":2}` {
		t.Errorf("stored %q", got)
	}
	r = p.post("?partial=true", `[{},{"id":3}]`, "Content-Type", asJSON)
	p.want(r, 400, 1, 1, false)
	if len(r.Errors) != 1 || *r.Errors[0].Index != 0 {
		t.Errorf("errors %+v", r.Errors)
	}
	p.want(p.post("?partial=true", `[{},{}]`, "Content-Type", asJSON), 400, 0, 2, false)
	p.want(p.post("?partial=perhaps", `[]`, "Content-Type", asJSON), 400, 0, 0, false)
	if n := len(eventsOf(t, p.dead)); n != 0 {
		t.Errorf("%d dead letters; the senders know", n)
	}
}

// on_error is what holds for requests that do not say.
func TestOnError(t *testing.T) {
	p := newPlace(t, 1)
	p.config.OnError = partial
	p.start()
	p.want(p.post("", "1\nx\n", "Content-Type", asLines), 400, 1, 1, false)
	p.want(p.post("?partial=false", "1\nx\n", "Content-Type", asLines), 400, 0, 1, false)
}

func TestRequests(t *testing.T) {
	p := newPlace(t, 1).start()
	for _, tt := range []struct {
		method, path string
		code         int
		header       string
	}{
		{"GET", "/ingest/events", 405, "Allow"},
		{"PUT", "/ingest/events", 405, "Allow"},
		{"POST", "/ingest/other", 404, ""},
		{"POST", "/ingest/", 404, ""},
		{"POST", "/", 404, ""},
	} {
		request, _ := http.NewRequestWithContext(t.Context(), tt.method, strings.TrimSuffix(p.url, "/ingest/events")+tt.path, strings.NewReader("1"))
		request.Header.Set("Content-Type", asJSON)
		response, err := p.client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != tt.code || tt.header != "" && response.Header.Get(tt.header) == "" {
			t.Errorf("%s %s: %d %v, want %d", tt.method, tt.path, response.StatusCode, response.Header, tt.code)
		}
	}
}

// Without a Content-Length the body is bounded, too.
func TestChunked(t *testing.T) {
	p := newPlace(t, 1)
	p.config.MaxBody = 64 << 10
	p.start()
	for _, tt := range []struct{ size, code int }{{1 << 10, 200}, {60 << 10, 200}, {65 << 10, 413}} {
		body := `"` + strings.Repeat("x", tt.size-2) + `"`
		request, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, p.url, struct{ *strings.Reader }{strings.NewReader(body)})
		request.ContentLength = -1
		request.Header.Set("Content-Type", asJSON)
		response, err := p.client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != tt.code {
			t.Errorf("%d bytes: %d, want %d", tt.size, response.StatusCode, tt.code)
		}
	}
}

// While the stream takes nothing, requests wait for room for a bounded time and are turned away; those that
// have room wait until they are durable, or are told that it is not known.
func TestBackPressure(t *testing.T) {
	p := newPlace(t, 1)
	p.config.MaxRequests = 2
	p.config.Timeout = 300 * time.Millisecond
	held := false
	p.way = millracetest.NewFaults(func(_, _ string, h millrace.Header) millracetest.Fault {
		if h.Events > 0 && !held {
			held = true
			return millracetest.Hold
		}
		return millracetest.NoFault
	})
	p.start()
	way := p.way
	var posts sync.WaitGroup
	var mu sync.Mutex
	codes := map[int]int{}
	for range 3 {
		posts.Go(func() {
			r := p.post("", `1`, "Content-Type", asJSON)
			mu.Lock()
			defer mu.Unlock()
			codes[r.Code]++
			if r.Header.Get("Retry-After") == "" {
				t.Errorf("answered %d %v", r.Code, r.Header)
			}
		})
	}
	posts.Wait()
	if codes[503] != 2 || codes[429] != 1 {
		t.Errorf("answered %v", codes)
	}
	way.Release()
	p.settled() // what was given up is let go of when it has ended
	p.want(p.post("", `3`, "Content-Type", asJSON), 200, 1, 0, false)
}

// settled waits until no request has a place.
func (p *place) settled() {
	p.t.Helper()
	if !p.source.room.take(p.t.Context(), 0, p.config.MaxRequests, 20*time.Second) {
		p.t.Fatal("requests are still in flight")
	}
	p.source.room.give(0, p.config.MaxRequests)
}

// A source that ends answers those in flight, and turns new ones away.
func TestDrain(t *testing.T) {
	p, held := newHeldPlace(t, 1)
	draining := make(chan struct{})
	p.options.Step = millracetest.CrashAt("http.draining", 1, func() { close(draining) })
	way := p.start().way
	idle, err := net.Dial("tcp", strings.TrimPrefix(strings.TrimSuffix(p.url, "/ingest/events"), "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	var first sync.WaitGroup
	first.Go(func() { p.want(p.post("", `1`, "Content-Type", asJSON), 200, 1, 0, false) })
	<-held
	stopped := make(chan struct{})
	go func() {
		p.cancel()
		p.closed()
		close(stopped)
	}()
	<-draining
	fmt.Fprintf(idle, "POST /ingest/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1\r\n\r\n2")
	response, err := http.ReadResponse(bufio.NewReader(idle), nil)
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode != 503 || !response.Close {
		t.Errorf("while draining: %d, close %t", response.StatusCode, response.Close)
	}
	way.Release()
	first.Wait()
	<-stopped
	p.cancel = nil
	for range 2 {
		if err := <-p.ended; err != nil {
			t.Error(err)
		}
	}
	if got := p.data(); got != "1" {
		t.Errorf("stored %q", got)
	}
}

// Many clients share flushes, and every event is there once.
func TestGroupCommit(t *testing.T) {
	p := newPlace(t, 2)
	p.mapping = mapping.Config{Key: "k"}
	p.way = millracetest.NewFaults(func(string, string, millrace.Header) millracetest.Fault {
		time.Sleep(time.Millisecond) // a disk that takes its time: others come meanwhile
		return millracetest.NoFault
	})
	p.start()
	way := p.way
	const clients, each = 64, 20
	var all sync.WaitGroup
	for c := range clients {
		all.Go(func() {
			for n := range each {
				r, err := p.try("", fmt.Sprintf(`{"k":"%d","n":%d}`, c, n), "Content-Type", asJSON)
				if err != nil || r.Code != 200 || r.Accepted != 1 {
					t.Errorf("%+v, %v", r, err)
				}
			}
		})
	}
	all.Wait()
	seen := map[string]int{}
	ids := map[string]bool{}
	for _, e := range p.stored() {
		if want := fmt.Sprintf(`{"k":"%s","n":%d}`, e.Key, seen[e.Key]); string(e.Data) != want {
			t.Fatalf("%s, want %s", e.Data, want)
		}
		seen[e.Key]++
		ids[e.ID] = true
	}
	if len(ids) != clients*each {
		t.Errorf("%d events with ids of their own, want %d", len(ids), clients*each)
	}
	if appends := way.Appends(); appends > clients*each/2 {
		t.Errorf("%d appends for %d requests", appends, clients*each)
	}
}

// A source whose producer fails ends with that, and the requests hear that nothing is known.
func TestProducerFails(t *testing.T) {
	p := newPlace(t, 1)
	p.way = millracetest.NewFaults(func(_, _ string, h millrace.Header) millracetest.Fault {
		if h.Events > 0 {
			return millracetest.Crash
		}
		return millracetest.NoFault
	})
	p.start()
	if r := p.post("", `1`, "Content-Type", asJSON); r.Code != 503 {
		t.Errorf("answered %d", r.Code)
	}
	if err := <-p.ended; millrace.CodeOf(err) != millrace.Internal {
		t.Errorf("ended with %v", err)
	}
	if r := p.post("", `1`, "Content-Type", asJSON); r.Code != 503 || !strings.Contains(r.Error, "starting") {
		t.Errorf("answered %d %s", r.Code, r.Error)
	}
}

func TestServerRefusesTwoOfOneStream(t *testing.T) {
	a, b := New(config(), Options{Name: "a", Stream: "s"}), New(config(), Options{Name: "b", Stream: "s"})
	if _, err := NewServer(ServerOptions{}, a, b); err == nil {
		t.Error("it took both")
	}
}

// A sender that goes away leaves nothing behind.
func TestSenderGone(t *testing.T) {
	p, held := newHeldPlace(t, 8)
	p.start()
	way := p.way
	ctx, cancel := context.WithCancel(t.Context())
	request, _ := http.NewRequestWithContext(ctx, http.MethodPost, p.url, strings.NewReader("1"))
	request.Header.Set("Content-Type", asJSON)
	gone := make(chan error)
	go func() {
		_, err := p.client.Do(request)
		gone <- err
	}()
	<-held
	cancel()
	if err := <-gone; err == nil {
		t.Error("an answer")
	}
	way.Release()
	p.settled()
	if got := p.data(); got != "1" {
		t.Errorf("stored %q", got)
	}
}

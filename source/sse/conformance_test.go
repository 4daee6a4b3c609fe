package sse

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/millracetest"
)

// exchange is what happened between a client and the server of a conformance test.
type exchange struct {
	mu       sync.Mutex
	requests []*http.Request
	bodies   []string
}

func (x *exchange) note(r *http.Request) int {
	body, _ := io.ReadAll(r.Body)
	x.mu.Lock()
	defer x.mu.Unlock()
	x.requests, x.bodies = append(x.requests, r), append(x.bodies, string(body))
	return len(x.requests)
}

// converse lets Print talk to a server that answers the n-th request (from 1) as told; the answers after
// those are 204, which ends any client. It returns what was printed.
func converse(t *testing.T, o Options, p PrintOptions, answers ...http.HandlerFunc) (lines []printed, x *exchange, err error) {
	t.Helper()
	x = new(exchange)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n := x.note(r); n <= len(answers) {
			answers[n-1](w, r)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	}))
	defer server.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	o.Random = eager
	if o.Retry == 0 {
		o.Retry = time.Millisecond
	}
	var out bytes.Buffer
	err = Print(ctx, config(server.URL+"/feed"), o, p, &out)
	if ctx.Err() != nil {
		t.Fatal("it did not end")
	}
	return parsePrinted(t, out.Bytes()), x, err
}

func parsePrinted(t *testing.T, text []byte) (all []printed) {
	t.Helper()
	for d := json.NewDecoder(bytes.NewReader(text)); ; {
		var p printed
		err := d.Decode(&p)
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

func streamed(text string) http.HandlerFunc {
	return millracetest.AnswerBody("text/event-stream", text)
}

// TestConformanceAnswers: which answers are a stream, which are tried again, and which end a client, for
// both policies ("HTTP fetch" and "process the next chunk" in the standard).
func TestConformanceAnswers(t *testing.T) {
	typed := func(value string) http.HandlerFunc { return millracetest.AnswerBody(value, "data:x\n\n") }
	untyped := func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["Content-Type"] = nil
		_, _ = io.WriteString(w, "data:x\n\n")
	}
	cut := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "data:x\n\ndata:lost")
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	type verdicts struct{ events, standard, ingest string }
	const (
		goesOn = "goes on" // asks again soon
		fails  = "fails"   // for good
		slow   = "slow"    // raises an alarm and asks again much later
		ends   = "ends"
	)
	for name, tt := range map[string]struct {
		answer http.HandlerFunc
		verdicts
	}{
		"text/event-stream":             {typed("text/event-stream"), verdicts{"x", goesOn, goesOn}},
		"parameters":                    {typed("text/event-stream;charset=windows-1252;x=\"y\""), verdicts{"x", goesOn, goesOn}},
		"a space before the parameters": {typed("Text/Event-Stream ; charset=utf-8"), verdicts{"x", goesOn, goesOn}},
		"another type":                  {typed("text/event-stream-x"), verdicts{"", fails, slow}},
		"text/plain":                    {typed("text/plain"), verdicts{"", fails, slow}},
		"application/json":              {typed("application/json; x=text/event-stream"), verdicts{"", fails, slow}},
		"garbage":                       {typed("x bogus"), verdicts{"", fails, slow}},
		"no type":                       {untyped, verdicts{"", fails, slow}},
		"the end of the body":           {streamed("data:x\n\ndata:lost"), verdicts{"x", goesOn, goesOn}},
		"a broken connection":           {cut, verdicts{"x", goesOn, goesOn}},
		"an empty body":                 {streamed(""), verdicts{"", goesOn, goesOn}},
		"201":                           {millracetest.AnswerStatus(201, "Content-Type", "text/event-stream"), verdicts{"", fails, slow}},
		"202":                           {millracetest.AnswerStatus(202, "Content-Type", "text/event-stream"), verdicts{"", fails, slow}},
		"204":                           {millracetest.AnswerStatus(204), verdicts{"", ends, ends}},
		"205":                           {millracetest.AnswerStatus(205), verdicts{"", fails, slow}},
		"206":                           {millracetest.AnswerStatus(206, "Content-Type", "text/event-stream"), verdicts{"", fails, slow}},
		"300":                           {millracetest.AnswerStatus(300), verdicts{"", fails, slow}},
		"304":                           {millracetest.AnswerStatus(304), verdicts{"", fails, slow}},
		"400":                           {millracetest.AnswerStatus(400), verdicts{"", fails, slow}},
		"401":                           {millracetest.AnswerStatus(401), verdicts{"", fails, slow}},
		"403":                           {millracetest.AnswerStatus(403), verdicts{"", fails, slow}},
		"404":                           {millracetest.AnswerStatus(404), verdicts{"", fails, slow}},
		"407":                           {millracetest.AnswerStatus(407), verdicts{"", fails, slow}},
		"410":                           {millracetest.AnswerStatus(410), verdicts{"", fails, slow}},
		"408":                           {millracetest.AnswerStatus(408), verdicts{"", fails, goesOn}},
		"425":                           {millracetest.AnswerStatus(425), verdicts{"", fails, goesOn}},
		"429":                           {millracetest.AnswerStatus(429), verdicts{"", fails, goesOn}},
		"500":                           {millracetest.AnswerStatus(500), verdicts{"", fails, goesOn}},
		"501":                           {millracetest.AnswerStatus(501), verdicts{"", fails, goesOn}},
		"502":                           {millracetest.AnswerStatus(502), verdicts{"", fails, goesOn}},
		"503":                           {millracetest.AnswerStatus(503), verdicts{"", fails, goesOn}},
		"504":                           {millracetest.AnswerStatus(504), verdicts{"", fails, goesOn}},
		"599":                           {millracetest.AnswerStatus(599), verdicts{"", fails, goesOn}},
		"no location":                   {millracetest.AnswerStatus(302), verdicts{"", fails, slow}},
		"a location that is none":       {millracetest.AnswerRedirect(302, "http://["), verdicts{"", fails, slow}},
		"another scheme":                {millracetest.AnswerRedirect(301, "data:text/event-stream,data:x"), verdicts{"", fails, slow}},
	} {
		t.Run(name, func(t *testing.T) {
			for policy, want := range map[Policy]string{Standard: tt.standard, Ingest: tt.ingest} {
				o := Options{Policy: policy, Once: want == slow}
				events, x, err := converse(t, o, PrintOptions{}, tt.answer)
				var got []string
				for _, e := range events {
					got = append(got, e.Data)
				}
				if strings.Join(got, " ") != tt.events {
					t.Errorf("policy %d: events %q", policy, got)
				}
				n := len(x.requests)
				switch want {
				case goesOn:
					if err != nil || n != 2 {
						t.Errorf("policy %d: %d requests, %v; it must go on", policy, n, err)
					}
				case ends:
					if err != nil || n != 1 {
						t.Errorf("policy %d: %d requests, %v; it must end", policy, n, err)
					}
				default:
					if err == nil || n != 1 {
						t.Errorf("policy %d: %d requests, %v; it must fail", policy, n, err)
					}
				}
			}
		})
	}
}

// TestConformanceRedirects: each kind is followed, with the right method, and a reconnect begins at the
// first URL again.
func TestConformanceRedirects(t *testing.T) {
	for _, tt := range []struct {
		status       int
		method, want string
	}{
		{301, "GET", "GET"},
		{302, "GET", "GET"},
		{303, "GET", "GET"},
		{307, "GET", "GET"},
		{308, "GET", "GET"},
		{301, "POST", "GET"},
		{302, "POST", "GET"},
		{303, "POST", "GET"},
		{307, "POST", "POST"},
		{308, "POST", "POST"},
		{301, "PUT", "PUT"},
		{303, "PUT", "GET"},
	} {
		for _, policy := range []Policy{Standard, Ingest} {
			t.Run(fmt.Sprint(tt.status, tt.method, policy), func(t *testing.T) {
				o := Options{Policy: policy, Method: tt.method}
				if tt.method != "GET" {
					o.Body = []byte("body")
				}
				events, x, err := converse(t, o, PrintOptions{},
					millracetest.AnswerRedirect(tt.status, "/other?x=1"), streamed("id:7\ndata:x\n\n"), millracetest.AnswerRedirect(tt.status, "there"))
				if err != nil || len(events) != 1 {
					t.Fatal(events, err)
				}
				second := x.requests[1]
				if second.Method != tt.want || second.URL.String() != "/other?x=1" {
					t.Errorf("redirected to %s %s", second.Method, second.URL)
				}
				if wantBody := map[bool]string{true: "body"}[tt.want != "GET"]; x.bodies[1] != wantBody {
					t.Errorf("redirected with the body %q", x.bodies[1])
				}
				if tt.method == "POST" {
					return // made once
				}
				if len(x.requests) != 4 || x.requests[2].URL.Path != "/feed" || x.requests[3].URL.Path != "/there" {
					t.Errorf("reconnected with %d requests", len(x.requests))
				}
				for _, r := range x.requests[2:] {
					if r.Header.Get("Last-Event-ID") != "7" {
						t.Errorf("%s resumes with %q", r.URL, r.Header.Get("Last-Event-ID"))
					}
				}
			})
		}
	}
}

// TestConformanceLastEventID: ids go back as the bytes of their UTF-8, and an empty one sends no header.
func TestConformanceLastEventID(t *testing.T) {
	for _, tt := range []struct{ stream, want string }{
		{"id:1\ndata:x\n\n", "1"},
		{"id: two words \ndata:x\n\n", "two words"}, // HTTP takes the white space at the end of a value
		{"id:é…\U0001f68c\ndata:x\n\n", "é…\U0001f68c"},
		{"id:1\ndata:x\n\nid\ndata:y\n\n", "none"},
		{"id:1\ndata:x\n\nid:\n\n", "none"},
		{"id:1\ndata:x\n\nid:2\n\n", "2"},             // without an event
		{"id:1\ndata:x\n\nid:2\ndata:y", "1"},         // an incomplete event
		{"id:1\ndata:x\n\nid:2\x00\ndata:y\n\n", "1"}, // NUL
		{"id:1\ndata:x\n\nid:2\x07\ndata:y\n\n", "1"}, // cannot be sent
		{"id:\"a\\b\",;=\ndata:x\n\n", `"a\b",;=`},
		{"data:x\n\n", "none"},
	} {
		for _, policy := range []Policy{Standard, Ingest} {
			_, x, err := converse(t, Options{Policy: policy}, PrintOptions{}, streamed(tt.stream))
			if err != nil || len(x.requests) != 2 {
				t.Fatalf("%q: %d requests, %v", tt.stream, len(x.requests), err)
			}
			got, sent := x.requests[1].Header["Last-Event-Id"]
			if !sent {
				got = []string{"none"}
			}
			if got[0] != tt.want {
				t.Errorf("policy %d: after %q it resumes with %q, want %q", policy, tt.stream, got[0], tt.want)
			}
			if _, sent := x.requests[0].Header["Last-Event-Id"]; sent {
				t.Error("the first request has a Last-Event-ID")
			}
		}
	}
}

// TestConformanceRetry: what the feed asks for is waited for, garbage changes nothing.
func TestConformanceRetry(t *testing.T) {
	for _, tt := range []struct {
		stream string
		least  time.Duration
	}{
		{"retry:120\n\ndata:x\n\n", 120 * time.Millisecond},
		{"retry:120\ndata:x\n\nretry:1x\nretry:-1\nretry: \n\n", 120 * time.Millisecond},
		{"retry:99999\nretry:120\ndata:x\n\n", 120 * time.Millisecond},
		{"data:x\n\n", 0},
	} {
		for _, policy := range []Policy{Standard, Ingest} {
			began := time.Now()
			if _, x, err := converse(t, Options{Policy: policy}, PrintOptions{}, streamed(tt.stream)); err != nil || len(x.requests) != 2 {
				t.Fatal(err)
			}
			if took := time.Since(began); took < tt.least || took > tt.least+10*time.Second {
				t.Errorf("policy %d: after %q it waited %s", policy, tt.stream, took)
			}
		}
	}
}

// TestConformanceRequest: the headers of the standard, on each request.
func TestConformanceRequest(t *testing.T) {
	_, x, err := converse(t, Options{Policy: Standard}, PrintOptions{LastEventID: "five"}, streamed("data:x\n\n"), streamed("id:6\ndata:y\n\n"))
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"five", "five", "6"} {
		h := x.requests[i].Header
		if h.Get("Accept") != "text/event-stream" || h.Get("Cache-Control") != "no-cache" || h.Get("Last-Event-ID") != want {
			t.Errorf("request %d has %v", i, h)
		}
	}
}

package sse

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/millracetest"
)

// numbered returns n events with ids, from first on.
func numbered(first, n int) []millracetest.FeedEvent {
	var events []millracetest.FeedEvent
	for i := first; i < first+n; i++ {
		events = append(events, millracetest.FeedEvent{ID: fmt.Sprint(i), Type: "vehicle", Data: fmt.Sprintf(`{"n":%d}`, i)})
	}
	return events
}

// wantNumbered checks that the first n of numbered came, once each and in order.
func wantNumbered(t *testing.T, r *running, n int) {
	t.Helper()
	got := r.data(t, n)
	for i := range n {
		if want := fmt.Sprintf(`{"n":%d}`, i); got[i] != want {
			t.Fatalf("event %d is %s\n%s", i, got[i], r.logs)
		}
	}
	if len(got) > n {
		t.Fatalf("%d events too many", len(got)-n)
	}
}

func TestEvents(t *testing.T) {
	feed := millracetest.NewFeed(t, millracetest.FeedOptions{Preamble: "\ufeff:ok\n\n"})
	feed.Send(
		millracetest.FeedEvent{ID: "a", Type: "vehicle", Data: `{"id":1}`},
		millracetest.FeedEvent{Data: "two\nlines"},
		millracetest.FeedEvent{ID: "b", Data: ""},
	)
	clock := millracetest.NewClock()
	c := config(feed.URL + "/stream?token=x")
	c.Headers = map[string]string{"X-Api-Key": "k"}
	r := run(t, c, Options{Now: clock.Now, UserAgent: "millrace/1.2"}, "")
	r.data(t, 3)
	want := []millrace.Event{
		{ID: "a", Type: "vehicle", Time: clock.Now(), Data: []byte(`{"id":1}`)},
		{ID: "a#1", Type: "message", Time: clock.Now(), Data: []byte("two\nlines")},
		{ID: "b", Type: "message", Time: clock.Now(), Data: []byte("")},
	}
	for i, got := range r.Events() {
		if fmt.Sprint(got) != fmt.Sprint(want[i]) {
			t.Errorf("got %v, want %v", got, want[i])
		}
	}
	request := feed.Requests()[0]
	for name, want := range map[string]string{
		"Accept": "text/event-stream", "Cache-Control": "no-cache", "User-Agent": "millrace/1.2", "X-Api-Key": "k",
		"Accept-Encoding": "gzip, zstd, br;q=0.5",
	} {
		if got := request.Header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if _, sent := request.Header["Last-Event-Id"]; sent {
		t.Error("a Last-Event-ID was sent without an id")
	}
	if err := r.stop(); err != nil {
		t.Errorf("Run: %v", err)
	}
}

// TestInterruptions: cut at random bytes, in every shape a feed may have, every event comes once and
// in order.
func TestInterruptions(t *testing.T) {
	for name, o := range map[string]millracetest.FeedOptions{
		"plain":         {CutEvery: 700},
		"CRLF":          {CutEvery: 700, Newline: "\r\n", Preamble: "\ufeff"},
		"CR":            {CutEvery: 700, Newline: "\r"},
		"one byte":      {CutEvery: 900, OneByte: true},
		"gzip":          {CutEvery: 150, Coding: "gzip"},
		"zstd":          {CutEvery: 150, Coding: "zstd"},
		"br":            {CutEvery: 150, Coding: "br"},
		"br, one byte":  {CutEvery: 150, Coding: "br", OneByte: true},
		"sends again":   {CutEvery: 700, Resume: millracetest.ResumeAt},
		"many short":    {EventsEach: 3},
		"after first":   {CutEvery: 700, Resume: millracetest.ResumeAfterFirst},
		"cuts and ends": {CutEvery: 900, EventsEach: 10},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			requests := 0
			for seed := range uint64(4) {
				o.Seed = seed
				feed := millracetest.NewFeed(t, o)
				feed.Send(numbered(0, 100)...)
				r := run(t, config(feed.URL), Options{}, "")
				wantNumbered(t, r, 100)
				requests += len(feed.Requests())
				feed.Send(numbered(100, 20)...)
				feed.End()
				if err := r.ended(); err != nil {
					t.Error(err)
				}
				wantNumbered(t, r, 120)
				feed.Close()
			}
			if requests < 12 {
				t.Errorf("only %d requests: little was interrupted", requests)
			}
		})
	}
}

// TestRestarts: the same when the source, too, is stopped anywhere and goes on from the cursor.
func TestRestarts(t *testing.T) {
	feed := millracetest.NewFeed(t, millracetest.FeedOptions{CutEvery: 2000, Seed: 7})
	var stored []millrace.Event
	var cursor millrace.Cursor
	for i := range 20 {
		feed.Send(numbered(10*i, 10)...)
		r := run(t, config(feed.URL), Options{}, cursor)
		r.data(t, 1+i%7)
		if err := r.stop(); err != nil {
			t.Fatal(err)
		}
		stored, cursor = append(stored, r.Events()...), r.Cursor()
	}
	feed.End()
	r := run(t, config(feed.URL), Options{}, cursor)
	if err := r.ended(); err != nil {
		t.Fatal(err)
	}
	stored = append(stored, r.Events()...)
	if len(stored) != 200 {
		t.Errorf("%d events", len(stored))
	}
	for i, e := range stored {
		if e.ID != fmt.Sprint(i) {
			t.Fatalf("event %d has the id %s", i, e.ID)
		}
	}
}

// TestSharedAndMissingIDs over HTTP; resume_test.go has the cases.
func TestSharedAndMissingIDs(t *testing.T) {
	for name, resume := range map[string]millracetest.FeedResume{
		"after last": millracetest.ResumeAfterLast, "after first": millracetest.ResumeAfterFirst, "again": millracetest.ResumeAt,
	} {
		for kind, id := range map[string]func(i int) string{
			"shared":  func(i int) string { return fmt.Sprint(i / 3) },
			"missing": func(i int) string { return map[bool]string{true: fmt.Sprint(i)}[i%5 == 0] },
		} {
			t.Run(name+" "+kind, func(t *testing.T) {
				t.Parallel()
				events := numbered(0, 100)
				for i := range events {
					events[i].ID = id(i)
				}
				feed := millracetest.NewFeed(t, millracetest.FeedOptions{CutEvery: 800, Resume: resume, Seed: 1})
				// The first connection shows that ids are shared before it is cut.
				var head strings.Builder
				for _, e := range events[:5] {
					if e.ID != "" {
						fmt.Fprintf(&head, "id: %s\n", e.ID)
					}
					fmt.Fprintf(&head, "event: %s\ndata: %s\n\n", e.Type, e.Data)
				}
				feed.Answer(millracetest.AnswerBody("text/event-stream", head.String()))
				feed.Send(events...)
				r := run(t, config(feed.URL), Options{}, "")
				wantNumbered(t, r, 100)
				_ = r.stop()
				ids := make(map[string]bool)
				for _, e := range r.Events() {
					if ids[e.ID] {
						t.Errorf("the id %s comes twice", e.ID)
					}
					ids[e.ID] = true
				}
			})
		}
	}
}

// TestFeedWithoutIDs: every event received is emitted, and no two have the same id, also after a
// restart.
func TestFeedWithoutIDs(t *testing.T) {
	feed := millracetest.NewFeed(t, millracetest.FeedOptions{EventsEach: 2, Live: true})
	ids := make(map[string]bool)
	var cursor millrace.Cursor
	for restart := range 3 {
		r := run(t, config(feed.URL), Options{}, cursor)
		got := 0
		for got < 5 {
			if err := feed.WaitRequests(t.Context(), 1); err != nil {
				t.Fatal(err)
			}
			feed.Send(millracetest.FeedEvent{Data: "the same"})
			got = len(r.Events())
		}
		_ = r.stop()
		for _, e := range r.Events() {
			if ids[e.ID] || !strings.Contains(e.ID, "#") {
				t.Errorf("run %d: the id %q comes twice or is malformed", restart, e.ID)
			}
			ids[e.ID] = true
		}
		cursor = r.Cursor()
	}
}

func TestControlCharactersInIDs(t *testing.T) {
	feed := millracetest.NewFeed(t, millracetest.FeedOptions{EventsEach: 2})
	events := numbered(0, 6)
	events[1].ID, events[3].ID, events[5].ID = "x\x01", "y\x7f", "z\x1b[0m"
	feed.Send(events...)
	r := run(t, config(feed.URL), Options{}, "")
	wantNumbered(t, r, 6)
	if !strings.Contains(fmt.Sprint(r.Events()), "{0#1 ") {
		t.Errorf("got %v", r.Events())
	}
}

func TestTypes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		feed := millracetest.NewFeedHandler(millracetest.FeedOptions{})
		defer feed.Close()
		c := config("http://feed/")
		c.Types = []string{"add", "reset"}
		r := run(t, c, Options{Transport: serve(t, feed)}, "")
		feed.Send(millracetest.FeedEvent{ID: "1", Type: "add", Data: "a"}, millracetest.FeedEvent{ID: "2", Type: "drop", Data: "b"})
		synctest.Wait()
		if got := r.data(t, 1); !slices.Equal(got, []string{"a"}) {
			t.Errorf("got %q", got)
		}
		at := r.Cursor()
		// Dropped events move the cursor, but not each of them with a commit.
		for i := 3; i < 9; i++ {
			feed.Send(millracetest.FeedEvent{ID: fmt.Sprint(i), Type: "drop", Data: "b"})
			synctest.Wait()
		}
		if r.Calls() != 1 {
			t.Errorf("%d calls of Emit", r.Calls())
		}
		time.Sleep(cursorEvery)
		feed.Send(millracetest.FeedEvent{ID: "9", Type: "drop", Data: "b"})
		synctest.Wait()
		if r.Calls() != 2 || r.Cursor() == at || !strings.Contains(string(r.Cursor()), `"9"`) {
			t.Errorf("%d calls of Emit, cursor %s", r.Calls(), r.Cursor())
		}
		feed.Send(millracetest.FeedEvent{ID: "10", Type: "drop", Data: "b"}, millracetest.FeedEvent{ID: "11", Type: "reset", Data: "c"})
		if got := r.data(t, 2); got[1] != "c" {
			t.Errorf("got %q", got)
		}
		if !strings.Contains(string(r.Cursor()), `"11"`) {
			t.Errorf("cursor %s", r.Cursor())
		}
	})
}

func TestTooLarge(t *testing.T) {
	large := strings.Repeat("0123456789", 30000)
	feed := millracetest.NewFeed(t, millracetest.FeedOptions{})
	feed.Send(millracetest.FeedEvent{ID: "1", Data: "a"}, millracetest.FeedEvent{ID: "2", Data: large},
		millracetest.FeedEvent{ID: "3", Data: "c"})
	c := config(feed.URL)
	c.EventLimit = 200_000
	r := run(t, c, Options{}, "")
	if got := r.data(t, 2); !slices.Equal(got, []string{"a", "c"}) {
		t.Errorf("got %.80q", got)
	}
	if len(r.Rejections()) != 1 {
		t.Fatalf("%d rejections", len(r.Rejections()))
	}
	got := r.Rejections()[0]
	sum := sha256.Sum256([]byte(large))
	if got.ID != "2" || got.Length != 300_000 || got.SHA256 != hex.EncodeToString(sum[:]) ||
		string(got.Input) != large[:64<<10] || millrace.CodeOf(got.Reason) != millrace.TooLarge || got.Time.IsZero() {
		got.Input = nil
		t.Errorf("got %+v", got)
	}
	if !strings.Contains(got.Reason.Error(), "event_limit") {
		t.Errorf("reason %v", got.Reason)
	}
}

// answerCoded answers with a body that is said to be compressed.
func answerCoded(coding, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.Header().Set("Content-Encoding", coding)
		_, _ = io.WriteString(w, body)
	}
}

// TestFlushes: what the server has flushed comes at once, though nothing follows, also compressed.
func TestFlushes(t *testing.T) {
	for _, coding := range []string{"", "gzip", "zstd", "br"} {
		t.Run(coding, func(t *testing.T) {
			next := make(chan string)
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "text/event-stream")
				out, flush := io.Writer(w), func() error { return nil }
				if coding != "" {
					w.Header().Set("Content-Encoding", coding)
					z := millracetest.NewCompressor(w, coding)
					defer z.Close() //nolint:errcheck // of a test's server
					out, flush = z, z.Flush
				}
				for data := range next {
					_, _ = fmt.Fprintf(out, "data: %s\n\n", data)
					_ = flush()
					w.(http.Flusher).Flush()
				}
			}))
			defer server.Close()
			r := run(t, config(server.URL), Options{Once: true}, "")
			for i := range 5 {
				next <- strings.Repeat("x", i*1000)
				if got := r.data(t, i+1); len(got[i]) != i*1000 {
					t.Errorf("got %d bytes", len(got[i]))
				}
			}
			close(next)
			if err := r.ended(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestHTTP2(t *testing.T) {
	feed := millracetest.NewFeedHandler(millracetest.FeedOptions{EventsEach: 5})
	server := httptest.NewUnstartedServer(feed)
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	defer feed.Close()
	feed.Send(numbered(0, 20)...)
	transport := server.Client().Transport
	r := run(t, config(server.URL), Options{Transport: transport}, "")
	wantNumbered(t, r, 20)
	if !strings.Contains(r.logs.String(), "HTTP/2.0") {
		t.Error(r.logs)
	}
	_ = r.stop()
	transport.(*http.Transport).CloseIdleConnections()
}

// TestBackPressure: while Emit blocks the socket is not read, and this does not count as a stall.
func TestBackPressure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var written, requests atomic.Int64
		transport := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			requests.Add(1)
			w.Header().Set("Content-Type", "text/event-stream")
			for i := range 10_000 {
				n, err := fmt.Fprintf(w, "id: %d\ndata: {\"n\":%d}\n\n", i, i)
				if err != nil {
					return
				}
				written.Add(int64(n))
			}
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}))
		c := config("http://feed/")
		r := &running{Recorder: millracetest.NewRecorder(), logs: new(logs), done: make(chan error, 1)}
		r.Block()
		ctx, cancel := context.WithCancel(t.Context())
		r.cancel = cancel
		s := New(c, Options{Transport: transport})
		go func() { r.done <- s.Run(ctx, millrace.Resume{}, r) }()
		synctest.Wait()
		before := written.Load()
		time.Sleep(10 * time.Minute)
		if got := written.Load(); got != before || got > 100_000 {
			t.Errorf("the server could write %d bytes, then %d", before, got)
		}
		r.Unblock()
		wantNumbered(t, r, 10_000)
		if requests.Load() != 1 {
			t.Errorf("%d requests", requests.Load())
		}
		if err := r.stop(); err != nil {
			t.Error(err)
		}
	})
}

// TestStall: a connection on which nothing comes is replaced; a comment is a sign of life.
func TestStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		feed := millracetest.NewFeedHandler(millracetest.FeedOptions{CutEvery: 150, Endings: []millracetest.FeedEnding{millracetest.FeedStall}})
		defer feed.Close()
		feed.Send(numbered(0, 20)...)
		r := run(t, config("http://feed/"), Options{Transport: serve(t, feed)}, "")
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if err := r.Wait(ctx, 20); err != nil {
			t.Fatal(err)
		}
		if took, stalls := time.Since(began), len(feed.Requests())-1; stalls < 3 || took < time.Duration(stalls)*time.Minute {
			t.Errorf("%d stalls in %s", stalls, took)
		}
		if !strings.Contains(r.logs.String(), "no byte came for read_timeout 1m0s") {
			t.Error(r.logs)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		feed := millracetest.NewFeedHandler(millracetest.FeedOptions{Heartbeat: 50 * time.Second})
		defer feed.Close()
		r := run(t, config("http://feed/"), Options{Transport: serve(t, feed)}, "")
		time.Sleep(time.Hour)
		if got := len(feed.Requests()); got != 1 {
			t.Errorf("%d requests\n%s", got, r.logs)
		}
	})
	synctest.Test(t, func(t *testing.T) { // no answer at all
		feed := millracetest.NewFeedHandler(millracetest.FeedOptions{})
		defer feed.Close()
		feed.Answer(millracetest.AnswerNothing())
		feed.Send(numbered(0, 1)...)
		r := run(t, config("http://feed/"), Options{Transport: serve(t, feed)}, "")
		time.Sleep(61 * time.Second)
		wantNumbered(t, r, 1)
	})
	synctest.Test(t, func(t *testing.T) { // never
		feed := millracetest.NewFeedHandler(millracetest.FeedOptions{})
		defer feed.Close()
		c := config("http://feed/")
		c.ReadTimeout = 0
		run(t, c, Options{Transport: serve(t, feed)}, "")
		time.Sleep(24 * time.Hour)
		if got := len(feed.Requests()); got != 1 {
			t.Errorf("%d requests", got)
		}
	})
}

// TestAnswers: what the ingest policy does with each kind of answer, on a fake clock.
func TestAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		answer   http.HandlerFunc
		min, max time.Duration // until the next request
		alarm    bool
		log      string
	}{
		"408":           {millracetest.AnswerStatus(408), 0, time.Second, false, "the feed answered 408 Request Timeout"},
		"425":           {millracetest.AnswerStatus(425), 0, time.Second, false, "425 Too Early"},
		"429":           {millracetest.AnswerStatus(429), 0, time.Second, false, "429 Too Many Requests"},
		"500":           {millracetest.AnswerStatus(500), 0, time.Second, false, "500 Internal Server Error"},
		"503":           {millracetest.AnswerStatus(503), 0, time.Second, false, "503 Service Unavailable"},
		"429, later":    {millracetest.AnswerStatus(429, "Retry-After", "120"), 2 * time.Minute, 132 * time.Second, false, "429"},
		"503, date":     {millracetest.AnswerStatus(503, "Retry-After", "Sat, 01 Jan 2000 00:10:00 GMT"), 599 * time.Second, 11 * time.Minute, false, "503"},
		"503, absurd":   {millracetest.AnswerStatus(503, "Retry-After", "4000000000"), time.Hour, 66 * time.Minute, false, "503"},
		"503, nonsense": {millracetest.AnswerStatus(503, "Retry-After", "soon"), 0, time.Second, false, "503"},
		"401":           {millracetest.AnswerStatus(401), time.Minute, 5 * time.Minute, true, "401 Unauthorized: check the credentials in url and headers"},
		"403":           {millracetest.AnswerStatus(403), time.Minute, 5 * time.Minute, true, "403 Forbidden: check the credentials"},
		"404":           {millracetest.AnswerStatus(404), time.Minute, 5 * time.Minute, true, "404 Not Found: check url"},
		"410":           {millracetest.AnswerStatus(410), time.Minute, 5 * time.Minute, true, "410 Gone"},
		"206":           {millracetest.AnswerStatus(206), time.Minute, 5 * time.Minute, true, "206 Partial Content"},
		"unknown":       {millracetest.AnswerStatus(499), time.Minute, 5 * time.Minute, true, "the feed answered 499:"},
		"HTML":          {millracetest.AnswerHTML(), time.Minute, 5 * time.Minute, true, `the feed answered with \"text/html; charset=utf-8\" instead of text/event-stream`},
		"no type":       {millracetest.AnswerStatus(200, "Content-Type", ""), time.Minute, 5 * time.Minute, true, "no Content-Type"},
		"compress":      {millracetest.AnswerStatus(200, "Content-Type", "text/event-stream", "Content-Encoding", "compress"), time.Minute, 5 * time.Minute, true, "compress"},
		"two encodings": {millracetest.AnswerStatus(200, "Content-Type", "text/event-stream", "Content-Encoding", "br, gzip"), time.Minute, 5 * time.Minute, true, "br, gzip"},
		"not gzip":      {answerCoded("gzip", "data: no\n\n"), 0, time.Second, false, "gzip"},
		"not zstd":      {answerCoded("zstd", "data: no\n\n"), 0, time.Second, false, "invalid input"},
		"not br":        {answerCoded("br", "data: no\n\n"), 0, time.Second, false, "brotli"},
		"empty br":      {answerCoded("br", ""), 0, time.Second, false, "unexpected EOF"},
		// RFC 7932 ends at a window of 16 MiB; this declares what is called large window brotli.
		"large window br": {answerCoded("br", "\x11\x1e"+strings.Repeat("\x00", 100)), 0, time.Second, false, "brotli"},
		// RFC 9659: 8 MiB. This frame declares 2 GiB.
		"large window zstd": {answerCoded("zstd", "\x28\xb5\x2f\xfd\x00\xa8"+strings.Repeat("\x00", 100)), 0, time.Second, false, "window size exceeded"},
		"no location":       {millracetest.AnswerStatus(302), time.Minute, 5 * time.Minute, true, "Location"},
		"ftp":               {millracetest.AnswerRedirect(302, "ftp://other/?key=secret"), time.Minute, 5 * time.Minute, true, "neither http nor https"},
		"malformed":         {millracetest.AnswerRedirect(302, "http://%zz/?key=secret"), time.Minute, 5 * time.Minute, true, "Location that is no URL"},
		"empty body":        {millracetest.AnswerBody("text/event-stream", ""), 0, time.Second, false, ""},
		"no event":          {millracetest.AnswerBody("text/event-stream;charset=latin1", ":hello\n\ndata: x\n"), 0, time.Second, false, ""},
		"retry": {
			millracetest.AnswerBody("TEXT/Event-Stream ; charset=utf-8", "retry: 20000\n\n"),
			20 * time.Second, 30 * time.Second, false, "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, random := range []float64{0, 0.999} {
				synctest.Test(t, func(t *testing.T) {
					feed := millracetest.NewFeedHandler(millracetest.FeedOptions{})
					defer feed.Close()
					feed.Answer(c.answer)
					feed.Send(numbered(0, 1)...)
					registry := prometheus.NewRegistry()
					r := run(t, config("http://feed/events?key=secret"), Options{
						Transport: serve(t, feed), Random: func() float64 { return random }, Metrics: NewMetrics(registry),
					}, "")
					ctx, cancel := context.WithTimeout(t.Context(), 2*time.Hour)
					defer cancel()
					if err := r.Wait(ctx, 1); err != nil {
						t.Fatal(err)
					}
					requests := feed.Requests()
					if waited := requests[1].At.Sub(requests[0].At); waited < c.min || waited > c.max {
						t.Errorf("waited %s, want %s to %s", waited, c.min, c.max)
					}
					if !strings.Contains(r.logs.String(), c.log) {
						t.Errorf("%q is missing in\n%s", c.log, r.logs)
					}
					if strings.Contains(r.logs.String(), "secret") {
						t.Errorf("a secret was logged:\n%s", r.logs)
					}
					if alarms := sum(t, registry, "millrace_source_alarms_total"); (alarms > 0) != c.alarm {
						t.Errorf("%v alarms", alarms)
					}
					if c.alarm != strings.Contains(r.logs.String(), "level=ERROR") {
						t.Errorf("log\n%s", r.logs)
					}
				})
			}
		})
	}
}

// sum adds up a metric over its labels.
func sum(t *testing.T, registry *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	total := 0.0
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				total += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return total
}

func TestNoContentEndsTheFeed(t *testing.T) {
	feed := millracetest.NewFeed(t, millracetest.FeedOptions{})
	feed.Answer(millracetest.AnswerStatus(204))
	for _, policy := range []Policy{Ingest, Standard} {
		r := run(t, config(feed.URL), Options{Policy: policy}, "")
		feed.Answer(millracetest.AnswerStatus(204))
		if err := r.ended(); err != nil {
			t.Error(err)
		}
	}
}

func TestStandardPolicy(t *testing.T) {
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		fails  bool
		wait   time.Duration
	}{
		"end":       {millracetest.AnswerBody("text/event-stream", "data: x\n\n"), false, 3 * time.Second},
		"retry":     {millracetest.AnswerBody("text/event-stream", "retry: 700\n\ndata: x\n\n"), false, 700 * time.Millisecond},
		"cut":       {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, false, 3 * time.Second},
		"301":       {millracetest.AnswerRedirect(301, "/other"), false, 0},
		"500":       {millracetest.AnswerStatus(500), true, 0},
		"503":       {millracetest.AnswerStatus(503, "Retry-After", "1"), true, 0},
		"404":       {millracetest.AnswerStatus(404), true, 0},
		"201":       {millracetest.AnswerStatus(201, "Content-Type", "text/event-stream"), true, 0},
		"html":      {millracetest.AnswerHTML(), true, 0},
		"prefix":    {millracetest.AnswerBody("text/event-streams", ""), true, 0},
		"parameter": {millracetest.AnswerBody("text/event-stream;x=y", ""), false, 3 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				feed := millracetest.NewFeedHandler(millracetest.FeedOptions{})
				defer feed.Close()
				feed.Answer(c.answer)
				feed.Send(numbered(1, 1)...)
				r := run(t, config("http://feed/"), Options{Transport: serve(t, feed), Policy: Standard}, "")
				if c.fails {
					if err := r.ended(); err == nil {
						t.Error("Run did not fail")
					}
					return
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				if err := feed.WaitRequests(ctx, 2); err != nil {
					t.Fatal(err)
				}
				requests := feed.Requests()
				if got := requests[1].At.Sub(requests[0].At); got != c.wait {
					t.Errorf("waited %s, want %s", got, c.wait)
				}
			})
		})
	}
}

// TestRedirects: 301, 302, 303, 307 and 308 are followed, five times; the next connection begins at
// the original URL again; another host sees no header of the configuration but the User-Agent.
func TestRedirects(t *testing.T) {
	other := millracetest.NewFeed(t, millracetest.FeedOptions{EventsEach: 1})
	other.Send(numbered(0, 2)...)
	for _, code := range []int{301, 302, 303, 307, 308} {
		feed := millracetest.NewFeed(t, millracetest.FeedOptions{})
		feed.Answer(
			millracetest.AnswerRedirect(code, "/a"), millracetest.AnswerRedirect(code, "b?c=d"), millracetest.AnswerRedirect(code, other.URL),
			millracetest.AnswerRedirect(code, other.URL))
		c := config(strings.Replace(feed.URL, "http://", "http://user:secret@", 1) + "/?token=secret")
		c.Headers = map[string]string{
			"X-Api-Key": "secret", "Authorization": "secret", "Cookie": "secret", "User-Agent": "me", "Accept": "text/event-stream, x/secret",
		}
		before := len(other.Requests())
		r := run(t, c, Options{}, "")
		wantNumbered(t, r, 2)
		_ = r.stop()
		requests := feed.Requests()
		if len(requests) < 4 {
			t.Fatalf("%d: %d requests", code, len(requests))
		}
		for _, request := range requests[:4] {
			if request.Header.Get("X-Api-Key") != "secret" || request.Header.Get("Authorization") != "secret" {
				t.Errorf("%d: the feed's own host got %v", code, request.Header)
			}
		}
		for i, request := range other.Requests()[before:] {
			if text := fmt.Sprint(request.Header); strings.Contains(text, "secret") || request.Header.Get("User-Agent") != "me" {
				t.Errorf("%d: another host got %s", code, text)
			}
			if want := []string{"", "0", "1"}[min(i, 2)]; request.LastEventID != want {
				t.Errorf("%d: request %d resumed with %q", code, i, request.LastEventID)
			}
		}
		feed.Close()
	}
}

func TestTooManyRedirects(t *testing.T) {
	for _, c := range []struct {
		redirects int
		fails     bool
	}{{5, false}, {6, true}} {
		feed := millracetest.NewFeed(t, millracetest.FeedOptions{})
		feed.Send(numbered(0, 1)...)
		for range c.redirects {
			feed.Answer(millracetest.AnswerRedirect(302, "/again"))
		}
		r := run(t, config(feed.URL), Options{Once: true}, "")
		if c.fails {
			if err := r.ended(); err == nil || !strings.Contains(err.Error(), "more than 5 times") {
				t.Errorf("got %v", err)
			}
		} else {
			wantNumbered(t, r, 1)
		}
	}
}

// TestMethods: a redirect changes a POST to a GET except by 307 and 308, which keep the body too.
func TestMethods(t *testing.T) {
	for code, want := range map[int]string{301: "GET ", 302: "GET ", 303: "GET ", 307: "POST body", 308: "POST body"} {
		feed := millracetest.NewFeed(t, millracetest.FeedOptions{EventsEach: 1})
		feed.Send(numbered(0, 1)...)
		feed.Answer(millracetest.AnswerRedirect(code, "/other"))
		r := run(t, config(feed.URL), Options{Method: "POST", Body: []byte("body"), Once: true}, "")
		if err := r.ended(); err != nil {
			t.Error(err)
		}
		requests := feed.Requests()
		if got := requests[1].Method + " " + string(requests[1].Body); got != want || string(requests[0].Body) != "body" {
			t.Errorf("%d: %q, then %q", code, requests[0].Body, got)
		}
	}
}

func TestSameOrigin(t *testing.T) {
	for _, c := range []struct {
		feed, other string
		want        bool
	}{
		{"http://a/x", "http://a:80/y", true},
		{"http://a/x", "https://A/y", true},
		{"https://a/x", "https://a:443/y", true},
		{"https://a/x", "http://a/y", false},
		{"https://a/x", "https://a:444/y", false},
		{"http://a:8080/x", "https://a/y", false},
		{"https://a/x", "https://b.a/y", false},
	} {
		if got := sameOrigin(parse(t, c.feed), parse(t, c.other)); got != c.want {
			t.Errorf("%s to %s: %v", c.feed, c.other, got)
		}
	}
}

func parse(t *testing.T, text string) *url.URL {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// TestUnreachable: names that do not resolve and connections that are refused are said clearly, without
// secrets, and tried again.
func TestUnreachable(t *testing.T) {
	for name, c := range map[string]struct {
		err    error
		reason string
		log    string
	}{
		"dns": {
			&net.OpError{Op: "dial", Err: &net.DNSError{Name: "no.such.host", Err: "no such host", IsNotFound: true}},
			"reason=dns", `the host \"no.such.host\" of url cannot be found: no such host`,
		},
		"refused": {&net.OpError{Op: "dial", Err: errors.New("connection refused")}, "reason=network", "connection refused"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var tries atomic.Int64
				transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
					tries.Add(1)
					return nil, c.err
				}}
				r := run(t, config("http://user:secret@no.such.host/x?token=secret"), Options{
					Transport: transport, Random: func() float64 { return 0.5 },
				}, "")
				time.Sleep(10 * time.Minute)
				// Half of 1, 2, 4, 8, 16, 30, 30... seconds.
				if n := tries.Load(); n < 40 || n > 46 {
					t.Errorf("%d tries", n)
				}
				text := r.logs.String()
				if !strings.Contains(text, c.log) || !strings.Contains(text, c.reason) {
					t.Error(text[:min(len(text), 500)])
				}
				if strings.Contains(text, "secret") {
					t.Errorf("a secret was logged: %.500s", text)
				}
			})
		})
	}
}

// TestEmitterFails: Run ends with the emitter's error, and nothing else.
func TestEmitterFails(t *testing.T) {
	feed := millracetest.NewFeed(t, millracetest.FeedOptions{})
	feed.Send(numbered(0, 1)...)
	r := &running{Recorder: millracetest.NewRecorder()}
	r.FailWith(millrace.Errorf(millrace.Conflict, "emit", "another writer"))
	err := New(config(feed.URL), Options{}).Run(t.Context(), millrace.Resume{}, r)
	if millrace.CodeOf(err) != millrace.Conflict {
		t.Errorf("got %v", err)
	}
	err = New(config(feed.URL), Options{}).Run(t.Context(), millrace.Resume{Cursor: "garbage"}, r)
	if millrace.CodeOf(err) != millrace.Internal {
		t.Errorf("got %v", err)
	}
}

func TestMetrics(t *testing.T) {
	feed := millracetest.NewFeed(t, millracetest.FeedOptions{EventsEach: 3, Resume: millracetest.ResumeAt})
	feed.Send(numbered(0, 3)...)
	feed.Send(millracetest.FeedEvent{ID: "x", Type: "other", Data: "-"})
	feed.Send(numbered(3, 3)...)
	c := config(feed.URL)
	c.Types = []string{"vehicle"}
	registry := prometheus.NewRegistry()
	clock := millracetest.NewClock()
	r := run(t, c, Options{Metrics: NewMetrics(registry), Now: clock.Now}, "")
	wantNumbered(t, r, 6)
	_ = r.stop()
	for name, want := range map[string]float64{
		"millrace_source_events_total": 6, "millrace_source_connected": 0,
		"millrace_source_last_event_timestamp_seconds": float64(clock.Now().Unix()), "millrace_source_alarms_total": 0,
	} {
		if got := sum(t, registry, name); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	for _, name := range []string{"millrace_source_dropped_total", "millrace_source_reconnects_total", "millrace_source_bytes_total"} {
		if sum(t, registry, name) < 2 {
			t.Errorf("%s is %v", name, sum(t, registry, name))
		}
	}
}

func TestReport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		feed := millracetest.NewFeedHandler(millracetest.FeedOptions{})
		defer feed.Close()
		c := config("http://feed/")
		c.ReportEvery = 10 * time.Second
		r := run(t, c, Options{Transport: serve(t, feed)}, "")
		feed.Send(numbered(0, 3)...)
		time.Sleep(11 * time.Second)
		synctest.Wait()
		if text := r.logs.String(); !strings.Contains(text, "events arrived") || !strings.Contains(text, "events=3 bytes=") {
			t.Error(text)
		}
		_ = r.stop()
	})
}

func TestPace(t *testing.T) {
	failed := ending{do: again, err: errors.New("x")}
	ended := ending{do: again, events: 1}
	seconds := func(p pace, endings ...ending) (low, high []float64) {
		for _, random := range []float64{0, 1} {
			q := p
			q.random = func() float64 { return random }
			for _, e := range endings {
				w := q.wait(e).Seconds()
				if random == 0 {
					low = append(low, w)
				} else {
					high = append(high, w)
				}
			}
		}
		return low, high
	}
	many := slices.Repeat([]ending{failed}, 8)
	for name, c := range map[string]struct {
		pace      pace
		endings   []ending
		low, high []float64
	}{
		"doubles to 30 s":       {pace{}, many, []float64{0, 0, 0, 0, 0, 0, 0, 0}, []float64{1, 2, 4, 8, 16, 30, 30, 30}},
		"clean ends do not":     {pace{}, slices.Repeat([]ending{ended}, 3), []float64{0, 0, 0}, []float64{1, 1, 1}},
		"data starts again":     {pace{}, []ending{failed, failed, ended, failed}, []float64{0, 0, 0, 0}, []float64{1, 2, 1, 1}},
		"empty ends do":         {pace{}, slices.Repeat([]ending{{do: again}}, 3), []float64{0, 0, 0}, []float64{1, 2, 4}},
		"long ones do not":      {pace{}, slices.Repeat([]ending{{do: again, lasted: time.Minute}}, 3), []float64{0, 0, 0}, []float64{1, 1, 1}},
		"asked for":             {pace{retry: 10 * time.Second, asked: true}, []ending{ended, failed, failed, failed}, []float64{10, 10, 10, 10}, []float64{15, 15, 20, 30}},
		"asked for more":        {pace{retry: 100 * time.Second, asked: true}, []ending{failed, failed, failed}, []float64{100, 100, 100}, []float64{150, 150, 150}},
		"our own":               {pace{retry: 10 * time.Second}, []ending{ended, failed, failed, failed}, []float64{0, 0, 0, 0}, []float64{10, 10, 20, 30}},
		"alarm":                 {pace{}, []ending{{do: slowly}, {do: slowly}}, []float64{60, 60}, []float64{300, 300}},
		"standard":              {pace{policy: Standard}, []ending{ended, failed, failed, ended}, []float64{3, 3, 6, 3}, []float64{3, 3, 6, 3}},
		"Retry-After is longer": {pace{}, []ending{{do: again, err: errStalled, after: 20 * time.Second}}, []float64{20}, []float64{22}},
	} {
		low, high := seconds(c.pace, c.endings...)
		if fmt.Sprint(low) != fmt.Sprint(c.low) || fmt.Sprint(high) != fmt.Sprint(c.high) {
			t.Errorf("%s: %v to %v, want %v to %v", name, low, high, c.low, c.high)
		}
	}
	var p pace
	for asked, want := range map[time.Duration]time.Duration{0: leastRetry, time.Second: time.Second, 1000 * time.Hour: longestRetry} {
		if p.ask(asked); p.retry != want {
			t.Errorf("%s became %s", asked, p.retry)
		}
	}
}

// TestStops: whatever the source is doing, it ends at once and without an error when ctx ends.
func TestStops(t *testing.T) {
	for name, c := range map[string]struct {
		answer  http.HandlerFunc
		blocked bool
	}{
		"reading":                {nil, false},
		"waiting for an answer":  {millracetest.AnswerNothing(), false},
		"waiting after an alarm": {millracetest.AnswerStatus(401), false},
		"emitting":               {nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				feed := millracetest.NewFeedHandler(millracetest.FeedOptions{})
				defer feed.Close()
				if c.answer != nil {
					feed.Answer(c.answer)
				}
				r := run(t, config("http://feed/"), Options{Transport: serve(t, feed)}, "")
				if c.blocked {
					r.Block()
				}
				feed.Send(numbered(0, 1)...)
				synctest.Wait()
				began := time.Now()
				if err := r.stop(); err != nil || time.Since(began) > 0 {
					t.Errorf("%v after %s", err, time.Since(began))
				}
			})
		})
	}
}

// TestEmitAllocations: what is allocated is allocated for a batch, not for an event.
func TestEmitAllocations(t *testing.T) {
	b := newBatch(New(config("http://feed/"), Options{}), new(place), "", &counter{until: 1 << 62})
	b.begin()
	e := Event{OwnID: true, Type: []byte("vehicle"), Data: make([]byte, 850)}
	next := 0
	fill := func() {
		for range 300 {
			next++
			e.ID = strconv.AppendInt(e.ID[:0], int64(next), 10)
			if err := b.take(t.Context(), &e); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.flush(t.Context(), e.ID); err != nil {
			t.Fatal(err)
		}
	}
	fill()
	if n := testing.AllocsPerRun(100, fill); n > 12 {
		t.Errorf("%v allocations for 300 events", n)
	}
}

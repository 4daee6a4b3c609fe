package httpsource

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/mapping"
)

// nowhere is an Emitter that takes everything at once.
type nowhere struct{}

func (nowhere) Emit(context.Context, []millrace.Event, millrace.Cursor) error     { return nil }
func (nowhere) Reject(context.Context, millrace.Rejection, millrace.Cursor) error { return nil }
func (nowhere) Flush(context.Context) error                                       { return nil }

// quiet is a ResponseWriter that keeps nothing.
type quiet struct {
	header http.Header
	code   int
}

func (q *quiet) Header() http.Header         { return q.header }
func (q *quiet) Write(b []byte) (int, error) { return len(b), nil }
func (q *quiet) WriteHeader(code int)        { q.code = code }

// posting runs a source and returns a function that posts a body to it, with nothing between.
func posting(tb testing.TB, contentType string, body []byte) func() {
	ctx, cancel := context.WithCancel(context.Background())
	s := New(config(), Options{Name: "posts", Stream: "events", Mapping: mapping.Config{Key: "id", Time: "at"}})
	ended := make(chan error)
	go func() { ended <- s.Run(ctx, millrace.Resume{}, nowhere{}) }()
	tb.Cleanup(func() {
		cancel()
		<-ended
	})
	in := bytes.NewReader(body)
	r := httptest.NewRequest(http.MethodPost, "/ingest/events", nil)
	r.Header.Set("Content-Type", contentType)
	r.ContentLength, r.Body = int64(len(body)), io.NopCloser(in)
	w := &quiet{header: http.Header{}}
	return func() {
		in.Reset(body)
		clear(w.header)
		s.ServeHTTP(w, r)
		if w.code != http.StatusOK {
			tb.Fatal(w.code)
		}
	}
}

var (
	oneEvent  = []byte(`{"id":"v1","at":"2026-05-01T12:00:00Z","note":"` + string(bytes.Repeat([]byte("x"), 800)) + `"}`)
	manyLines = bytes.Repeat(append(oneEvent, '\n'), 1000)
)

// What a request allocates, of which the timer is one and the answer's length another.
func TestAllocations(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector makes pools give things away")
	}
	post := posting(t, asJSON, oneEvent)
	if n := testing.AllocsPerRun(500, post); n > 12 {
		t.Errorf("%.0f allocations for a request of one event", n)
	}
	post = posting(t, asLines, manyLines)
	if n := testing.AllocsPerRun(20, post); n > 24 {
		t.Errorf("%.0f allocations for a request of 1,000 events", n)
	}
}

// A body is signed where it lies: who may not post must not make us hold more of it than the queue counts.
func TestSignaturesCopyNoBody(t *testing.T) {
	body := strings.Repeat("x", 1<<20)
	for kind, config := range map[string]*Signature{
		"github": {GitHub: &Secret{webhookSecret}}, "stripe": {Stripe: &Secret{webhookSecret}},
		"standard": {StandardWebhooks: &Secret{webhookSecret}},
	} {
		s, h, now := newSignature(config), http.Header{}, time.Now()
		headers := signed(kind, "1", body, now)
		for i := 0; i < len(headers); i += 2 {
			h.Set(headers[i], headers[i+1])
		}
		b := []byte(body)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range 10 {
			if err := s.check(h, b, now); err != nil {
				t.Fatalf("%s: %v", kind, err)
			}
		}
		runtime.ReadMemStats(&after)
		if n := (after.TotalAlloc - before.TotalAlloc) / 10; n > 64<<10 {
			t.Errorf("%s: checking a body of %d bytes takes %d", kind, len(body), n)
		}
	}
}

func BenchmarkPost(b *testing.B) {
	for name, body := range map[string][]byte{asJSON: oneEvent, asLines: manyLines} {
		b.Run(name, func(b *testing.B) {
			post := posting(b, name, body)
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				post()
			}
		})
	}
}

func BenchmarkSignature(b *testing.B) {
	s := github{[]byte(webhookSecret)}
	h := http.Header{}
	headers := signed("github", "1", string(oneEvent), time.Now())
	for i := 0; i < len(headers); i += 2 {
		h.Set(headers[i], headers[i+1])
	}
	b.SetBytes(int64(len(oneEvent)))
	for b.Loop() {
		if err := s.check(h, oneEvent, time.Time{}); err != nil {
			b.Fatal(err)
		}
	}
}

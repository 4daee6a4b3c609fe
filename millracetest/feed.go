package millracetest

import (
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"
)

// Feed is a server of Server-Sent Events with a history, from which it resumes by Last-Event-ID, and
// with faults: it cuts connections anywhere, ends them, stalls, repeats, trickles, compresses, and
// answers with whatever a test queues. The same seed makes the same faults in the same order of
// connections. All methods may be called concurrently.
type Feed struct {
	URL string // of the running server

	options FeedOptions
	server  *httptest.Server

	mu       sync.Mutex
	history  []FeedEvent
	over     bool          // End was called
	changed  chan struct{} // closed and replaced when history, over or requests change
	closing  chan struct{}
	requests []FeedRequest
	answers  []http.HandlerFunc
}

// FeedEvent is one event as a Feed sends it.
type FeedEvent struct {
	ID   string // "" sends no id
	Type string // "" sends no type
	Data string // each line becomes a data line
	Raw  string // sent as it is, instead of the above: a comment, a retry field, half an event
}

// FeedRequest is what a Feed was asked for.
type FeedRequest struct {
	Method      string
	LastEventID string
	Header      http.Header
	Query       url.Values
	Body        []byte
	At          time.Time
}

// FeedResume is what a Feed does with a Last-Event-ID. One that it does not know counts as none.
type FeedResume int

// The ways to resume.
const (
	ResumeAfterLast  FeedResume = iota // goes on after the last event with that id
	ResumeAfterFirst                   // goes on after the first event with that id
	ResumeAt                           // sends the events with that id again
	ResumeNamed                        // as ResumeAfterLast, but of the past sends only events with an id
	ResumeNever                        // takes no notice of it
)

// FeedEnding is how a connection of a Feed ends when its time has come.
type FeedEnding int

// The endings.
const (
	FeedCut   FeedEnding = iota // the connection breaks
	FeedEnd                     // the body ends properly, though perhaps inside an event
	FeedStall                   // nothing more comes until the client leaves
)

// FeedOptions say how a Feed behaves. The zero value is a faultless one.
type FeedOptions struct {
	// Seed of everything that is random.
	Seed uint64
	// CutEvery ends each connection at a random byte of its body, so many bytes in on average. 0: never.
	CutEvery int
	// Endings are those that CutEvery chooses from. Default: FeedCut and FeedEnd.
	Endings []FeedEnding
	// EventsEach ends each connection properly after so many events. 0: never.
	EventsEach int
	// Resume is what a Last-Event-ID does.
	Resume FeedResume
	// Query is a parameter of the URL that resumes instead of Last-Event-ID, if set.
	Query string
	// Value is what Last-Event-ID or Query name an event by. Default its id.
	Value func(FeedEvent) string
	// Repeat sends so many events again that came before the place where the connection resumes.
	Repeat int
	// Live sends a connection that does not resume only what comes after its beginning; otherwise it
	// begins with the oldest event.
	Live bool
	// Newline ends lines. Default LF.
	Newline string
	// OneByte sends one byte at a time.
	OneByte bool
	// Coding compresses the body, flushed where the feed has nothing more to send: gzip, zstd or br.
	Coding string
	// Preamble is sent at the beginning of each connection: a BOM, a comment, a retry field.
	Preamble string
	// Lifetime ends each connection properly after so long. 0: never.
	Lifetime time.Duration
	// Heartbeat sends a comment when nothing else was sent for so long. 0: never.
	Heartbeat time.Duration
}

// NewFeed starts a feed on loopback, which is closed when the test ends.
func NewFeed(t testing.TB, o FeedOptions) *Feed {
	t.Helper()
	f := NewFeedHandler(o)
	f.server = httptest.NewServer(f)
	f.URL = f.server.URL
	t.Cleanup(f.Close)
	return f
}

// NewFeedHandler returns a feed without a server: an http.Handler. Close ends its connections.
func NewFeedHandler(o FeedOptions) *Feed {
	if o.Newline == "" {
		o.Newline = "\n"
	}
	if len(o.Endings) == 0 {
		o.Endings = []FeedEnding{FeedCut, FeedEnd}
	}
	if o.Value == nil {
		o.Value = func(e FeedEvent) string { return e.ID }
	}
	return &Feed{options: o, changed: make(chan struct{}), closing: make(chan struct{})}
}

// Send appends events to the feed's history; connections that have come to its end send them at once.
func (f *Feed) Send(events ...FeedEvent) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.history = append(f.history, events...)
	f.wake()
}

// Answer queues answers for the next requests, instead of the feed.
func (f *Feed) Answer(answers ...http.HandlerFunc) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answers = append(f.answers, answers...)
}

// End says that there will be no more events: connections end when they have sent everything, and
// later ones are answered with 204 if they have nothing to get, or resume at the newest event.
func (f *Feed) End() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.over = true
	f.wake()
}

// Close ends all connections and the server.
func (f *Feed) Close() {
	f.mu.Lock()
	select {
	case <-f.closing:
	default:
		close(f.closing)
	}
	f.mu.Unlock()
	if f.server != nil {
		f.server.CloseClientConnections()
		f.server.Close()
	}
}

// Requests returns the requests so far, in the order of their arrival.
func (f *Feed) Requests() []FeedRequest {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.requests)
}

// WaitRequests returns once n requests have come, or with an error when ctx ends.
func (f *Feed) WaitRequests(ctx context.Context, n int) error {
	for {
		f.mu.Lock()
		got, changed := len(f.requests), f.changed
		f.mu.Unlock()
		if got >= n {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait for %d requests: %d have come: %w", n, got, context.Cause(ctx))
		}
	}
}

func (f *Feed) wake() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// ServeHTTP implements http.Handler.
func (f *Feed) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	f.mu.Lock()
	number := len(f.requests)
	f.requests = append(f.requests, FeedRequest{
		Method: r.Method, LastEventID: r.Header.Get("Last-Event-ID"), Header: r.Header.Clone(), Query: r.URL.Query(), Body: body, At: time.Now(),
	})
	f.wake()
	var answer http.HandlerFunc
	if len(f.answers) > 0 {
		answer, f.answers = f.answers[0], f.answers[1:]
	}
	lastEventID := r.Header.Get("Last-Event-ID")
	if f.options.Query != "" {
		lastEventID = r.URL.Query().Get(f.options.Query)
	}
	next, past := f.start(lastEventID)
	finished := f.over && (next == len(f.history) || lastEventID != "" && lastEventID == f.options.Value(f.history[len(f.history)-1]))
	f.mu.Unlock()
	switch {
	case answer != nil:
		answer(w, r)
	case finished:
		w.WriteHeader(http.StatusNoContent)
	default:
		f.stream(w, r, number, next, past)
	}
}

// start returns the index of the first event to send, and how many events are the past, of which
// ResumeNamed leaves out those without an id.
func (f *Feed) start(lastEventID string) (next, past int) {
	has := func(e FeedEvent) bool { return f.options.Value(e) == lastEventID }
	if lastEventID == "" || f.options.Resume == ResumeNever || !slices.ContainsFunc(f.history, has) {
		if f.options.Live {
			return len(f.history), 0
		}
		return 0, 0
	}
	next = slices.IndexFunc(f.history, has)
	switch f.options.Resume {
	case ResumeAt:
	case ResumeAfterFirst:
		next++
	default:
		for i, e := range f.history {
			if has(e) {
				next = i + 1
			}
		}
	}
	if f.options.Resume == ResumeNamed {
		past = len(f.history)
	}
	return max(next-f.options.Repeat, 0), past
}

// stream sends events from next on until the connection's time has come.
func (f *Feed) stream(w http.ResponseWriter, r *http.Request, number, next, past int) {
	random := rand.New(rand.NewPCG(f.options.Seed, uint64(number)))
	body := &faultyBody{w: w, flusher: w.(http.Flusher), left: -1, oneByte: f.options.OneByte}
	ending := FeedEnd
	if f.options.CutEvery > 0 {
		body.left = 1 + random.IntN(2*f.options.CutEvery)
		ending = f.options.Endings[random.IntN(len(f.options.Endings))]
	}
	w.Header().Set("Content-Type", "text/event-stream")
	var out io.Writer = body
	flush := func() error { return nil }
	if f.options.Coding != "" {
		w.Header().Set("Content-Encoding", f.options.Coding)
		z := NewCompressor(body, f.options.Coding)
		out, flush = z, z.Flush
		defer z.Close() //nolint:errcheck // a faulty body
	}
	w.WriteHeader(http.StatusOK)
	body.flusher.Flush()

	send := func(text []byte) bool {
		if _, err := out.Write(text); err != nil {
			return false
		}
		if flush() != nil {
			return false
		}
		body.flusher.Flush()
		return true
	}
	alive := f.options.Preamble == "" || send([]byte(f.options.Preamble))
	sent := 0
	var text []byte
	var end <-chan time.Time
	if f.options.Lifetime > 0 {
		timer := time.NewTimer(f.options.Lifetime)
		defer timer.Stop()
		end = timer.C
	}
	for alive {
		f.mu.Lock()
		events, over, changed := f.history[next:], f.over, f.changed
		f.mu.Unlock()
		text = text[:0]
		for len(events) > 0 && len(text) < 64<<10 && (f.options.EventsEach == 0 || sent < f.options.EventsEach) {
			if next >= past || events[0].ID != "" {
				text = events[0].append(text, f.options.Newline)
				sent++
			}
			events = events[1:]
			next++
		}
		switch {
		case len(text) > 0:
			alive = send(text)
		case over, f.options.EventsEach > 0 && sent >= f.options.EventsEach:
			return
		case len(events) > 0: // left out
		default:
			alive = f.idle(r, changed, end, send)
		}
	}
	switch {
	case r.Context().Err() != nil:
	case ending == FeedStall:
		select {
		case <-r.Context().Done():
		case <-f.closing:
		}
	case ending == FeedCut:
		panic(http.ErrAbortHandler)
	}
}

// idle waits for more events and sends heartbeats meanwhile.
func (f *Feed) idle(r *http.Request, changed <-chan struct{}, end <-chan time.Time, send func([]byte) bool) bool {
	var beat <-chan time.Time
	if f.options.Heartbeat > 0 {
		timer := time.NewTimer(f.options.Heartbeat)
		defer timer.Stop()
		beat = timer.C
	}
	select {
	case <-changed:
		return true
	case <-beat:
		return send([]byte(":" + f.options.Newline))
	case <-end:
		return false
	case <-r.Context().Done():
		return false
	case <-f.closing:
		return false
	}
}

// append appends the event as it is sent.
func (e FeedEvent) append(dst []byte, newline string) []byte {
	if e.Raw != "" {
		return append(dst, e.Raw...)
	}
	field := func(name, value string) {
		dst = append(append(append(append(dst, name...), ": "...), value...), newline...)
	}
	if e.ID != "" {
		field("id", e.ID)
	}
	if e.Type != "" {
		field("event", e.Type)
	}
	for line := range strings.SplitSeq(e.Data, "\n") {
		field("data", line)
	}
	return append(dst, newline...)
}

// faultyBody writes until left bytes have been written; then it fails. A negative left never ends.
type faultyBody struct {
	w       io.Writer
	flusher http.Flusher
	left    int
	oneByte bool
}

func (b *faultyBody) Write(p []byte) (int, error) {
	whole := len(p)
	if b.left >= 0 {
		p = p[:min(len(p), b.left)]
		b.left -= len(p)
	}
	if !b.oneByte {
		if _, err := b.w.Write(p); err != nil {
			return 0, err
		}
	} else {
		for i := range p {
			if _, err := b.w.Write(p[i : i+1]); err != nil {
				return i, err
			}
			b.flusher.Flush()
		}
	}
	if len(p) < whole {
		b.flusher.Flush()
		return len(p), io.ErrShortWrite
	}
	return whole, nil
}

// Compressor compresses what is written. After Flush the reader can have all of it.
type Compressor interface {
	io.WriteCloser
	Flush() error
}

// NewCompressor returns a compressor for a Content-Encoding: gzip, zstd or br. It panics on any other.
func NewCompressor(w io.Writer, coding string) Compressor {
	switch coding {
	case "gzip":
		return gzip.NewWriter(w)
	case "zstd":
		z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1))
		if err != nil {
			panic(err) // the options are constants
		}
		return z
	case "br":
		return brotli.NewWriter(w)
	default:
		panic(fmt.Sprintf("no compressor for %q", coding))
	}
}

// AnswerStatus answers with a status and headers (name, value, name, value...).
func AnswerStatus(status int, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i+1 < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(status)
	}
}

// AnswerRedirect answers with a redirect.
func AnswerRedirect(status int, location string) http.HandlerFunc {
	return AnswerStatus(status, "Location", location)
}

// AnswerHTML answers with a page, as a captive portal or a login does.
func AnswerHTML() http.HandlerFunc {
	return AnswerBody("text/html; charset=utf-8", "<!doctype html><title>Please log in</title>")
}

// AnswerBody answers 200 with a body, which then ends.
func AnswerBody(contentType, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		_, _ = io.WriteString(w, body)
	}
}

// AnswerNothing keeps the client waiting for an answer until it leaves.
func AnswerNothing() http.HandlerFunc {
	return func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
}

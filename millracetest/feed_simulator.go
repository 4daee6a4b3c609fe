package millracetest

import (
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"
)

// SimulatorOptions are the faults and limits that the simulators of well-known feeds share.
type SimulatorOptions struct {
	// Seed of where connections are cut.
	Seed uint64
	// CutEvery breaks each connection at a random byte of its body, so many bytes in on average. 0: never.
	CutEvery int
	// Lifetime ends each connection properly after so long. 0: never.
	Lifetime time.Duration
	// Heartbeat is how often a quiet connection hears something, in the feed's own way. 0: never.
	Heartbeat time.Duration
}

// simulator is what the simulators of well-known feeds have in common: a history that grows, and
// connections that are cut.
type simulator struct {
	URL     string // of the running server
	options SimulatorOptions
	server  *httptest.Server

	mu       sync.Mutex
	changed  chan struct{} // closed and replaced at each change
	closing  chan struct{}
	requests []FeedRequest
	open     int // connections now
	most     int // at once
}

// serve starts a simulator, which the end of the test closes.
func (s *simulator) serve(t testing.TB, o SimulatorOptions, h http.HandlerFunc) {
	s.options, s.changed, s.closing = o, make(chan struct{}), make(chan struct{})
	s.server = httptest.NewServer(h)
	s.URL = s.server.URL
	t.Cleanup(func() {
		close(s.closing)
		s.server.CloseClientConnections()
		s.server.Close()
	})
}

// Requests returns the requests so far, in the order of their arrival.
func (s *simulator) Requests() []FeedRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

// MostConnections returns how many connections were open at once at most.
func (s *simulator) MostConnections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.most
}

// Disconnect breaks all connections.
func (s *simulator) Disconnect() { s.server.CloseClientConnections() }

// wake is called with the lock held.
func (s *simulator) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// admit notes a request and returns its number, and how many connections there are with it; leave is
// called at the end.
func (s *simulator) admit(r *http.Request) (number, open int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, FeedRequest{
		Method: r.Method, LastEventID: r.Header.Get("Last-Event-ID"), Header: r.Header.Clone(), Query: r.URL.Query(), At: time.Now(),
	})
	s.open++
	s.most = max(s.most, s.open)
	s.wake()
	return len(s.requests) - 1, s.open
}

func (s *simulator) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open--
}

// stream sends what next returns, which is called with the lock held: nothing means that there is
// nothing now, and over that the connection ends.
func (s *simulator) stream(w http.ResponseWriter, r *http.Request, number int, heartbeat string, next func() (text []byte, over bool)) {
	body := &faultyBody{w: w, flusher: w.(http.Flusher), left: -1}
	if s.options.CutEvery > 0 {
		random := rand.New(rand.NewPCG(s.options.Seed, uint64(number)))
		body.left = 1 + random.IntN(2*s.options.CutEvery)
	}
	w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	w.WriteHeader(http.StatusOK)
	body.flusher.Flush()
	var end, beat <-chan time.Time
	if s.options.Lifetime > 0 {
		timer := time.NewTimer(s.options.Lifetime)
		defer timer.Stop()
		end = timer.C
	}
	if s.options.Heartbeat > 0 {
		ticker := time.NewTicker(s.options.Heartbeat)
		defer ticker.Stop()
		beat = ticker.C
	}
	for {
		s.mu.Lock()
		text, over := next()
		changed := s.changed
		s.mu.Unlock()
		if len(text) == 0 && !over {
			select {
			case <-changed:
				continue
			case <-beat:
				text = []byte(heartbeat)
			case <-end:
				return
			case <-r.Context().Done():
				return
			case <-s.closing:
				return
			}
		}
		if _, err := body.Write(text); err != nil {
			panic(http.ErrAbortHandler)
		}
		body.flusher.Flush()
		if over {
			return
		}
		select {
		case <-end:
			return
		default:
		}
	}
}

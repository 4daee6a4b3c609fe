package httpsource

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/netutil"
)

// Bounds on what clients can tie up.
const (
	maxConnections = 16_384
	maxHeaderBytes = 32 << 10
	headerTimeout  = 10 * time.Second
	bodyTimeout    = 60 * time.Second  // for the headers and the body
	writeTimeout   = 420 * time.Second // from the headers on: body, room, Config.Timeout, and the answer
	idleTimeout    = 120 * time.Second
	drainTimeout   = 8 * time.Second // for requests in flight when the server ends
	closeTimeout   = time.Second
)

// Server is a listener that one or more sources share.
type Server struct {
	log         *slog.Logger
	instruments instruments                        // of requests that reach no source
	sources     atomic.Pointer[map[string]*Source] // by stream

	draining atomic.Bool
	requests sync.WaitGroup // in flight
	entering sync.Mutex     // guards the beginning of requests against that of draining
}

// ServerOptions are what a server needs.
type ServerOptions struct {
	// Metrics of requests that reach no source; default none.
	Metrics *Metrics
	// Logger hears of faults of single connections at level debug; default none.
	Logger *slog.Logger
}

// NewServer returns a server of the sources, each at /ingest/ and its stream's name. It fails if two have
// the same. It does nothing before Run, and may run again after that.
func NewServer(o ServerOptions, sources ...*Source) (*Server, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	s := &Server{log: o.Logger, instruments: o.Metrics.of("")}
	return s, s.Serve(sources...)
}

// Serve makes requests from now on reach these sources; those in flight end where they are. It may be called
// while the server runs. It fails, and changes nothing, if two have the same stream.
func (s *Server) Serve(sources ...*Source) error {
	byStream := make(map[string]*Source, len(sources))
	for _, source := range sources {
		if other, taken := byStream[source.o.Stream]; taken {
			return fmt.Errorf("sources %q and %q share a listener and a stream; one of them must have another",
				other.o.Name, source.o.Name)
		}
		byStream[source.o.Stream] = source
	}
	s.sources.Store(&byStream)
	return nil
}

// Run serves on the listener, which it closes, until ctx ends (nil) or the listener fails. When ctx ends it
// answers new requests 503, lets those in flight end, and closes all connections.
func (s *Server) Run(ctx context.Context, listener net.Listener) error {
	s.draining.Store(false)
	server := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       bodyTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(netutil.LimitListener(listener, maxConnections)) }()
	select {
	case err := <-served:
		_ = server.Close()
		return fmt.Errorf("serve events: %w", err)
	case <-ctx.Done():
	}
	s.drain()
	server.SetKeepAlivesEnabled(false)
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	if err := server.Shutdown(closing); err != nil {
		_ = server.Close()
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve events: %w", err)
	}
	return nil
}

// drain waits until the requests in flight have been answered, for a bounded time; new ones are turned
// away meanwhile.
func (s *Server) drain() {
	s.entering.Lock()
	s.draining.Store(true)
	s.entering.Unlock()
	ended := make(chan struct{})
	go func() {
		s.requests.Wait()
		close(ended)
	}()
	timer := time.NewTimer(drainTimeout)
	defer timer.Stop()
	select {
	case <-ended:
	case <-timer.C:
	}
}

// enter counts a request in, unless the server is draining.
func (s *Server) enter() bool {
	s.entering.Lock()
	defer s.entering.Unlock()
	if s.draining.Load() {
		return false
	}
	s.requests.Add(1)
	return true
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	stream, found := strings.CutPrefix(r.URL.Path, "/ingest/")
	source := (*s.sources.Load())[stream]
	if !found || source == nil {
		s.answer(w, answer{code: http.StatusNotFound, problem: fmt.Sprintf("nothing takes events at %.100q; post to /ingest/STREAM", r.URL.Path)})
		return
	}
	if !s.enter() {
		source.instruments.answered(http.StatusServiceUnavailable)
		answerEnding.write(w)
		return
	}
	defer s.requests.Done()
	source.ServeHTTP(w, r)
}

func (s *Server) answer(w http.ResponseWriter, a answer) {
	s.instruments.answered(a.code)
	a.write(w)
}

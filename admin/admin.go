// Package admin serves what operators and their tools ask of a running program:
//
//	/healthz       200 while the process lives
//	/readyz        200 while every stage runs; else 503 and a line for each stage that does not
//	/metrics       Prometheus
//	/debug/pprof/  profiles, on a loopback listener only
//	/reload        POST: reads the configuration again; needs a token
//
// and what Options.Handlers adds.
//
// Beyond loopback the configuration demands TLS and a token, which every request carries but those for
// /healthz, for those who ask whether the process lives know no secrets. On loopback the token may be left
// out, and a browser is no way around that: requests for a host's name that the configuration does not list
// are refused (DNS rebinding), and so are requests that come from another site's page. Whatever changes
// something takes a token in any case: the configured one, or the one that the program keeps in its data_dir
// for the command line.
package admin

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/net/netutil"

	"github.com/millrace/millrace/listener"
)

// Bounds on what clients can tie up.
const (
	maxConnections = 256
	maxHeaderBytes = 16 << 10
	headerTimeout  = 5 * time.Second
	requestTimeout = 10 * time.Second
	idleTimeout    = 60 * time.Second
	closeTimeout   = 2 * time.Second
)

// Stage is what /readyz knows of a stage.
type Stage struct {
	Name  string // source/buses, query/crossings, archive/positions, gateway...
	Ready bool
	State string // running, starting, failed, drained...
	Err   error  // why it is not ready, if it failed
}

// Options are what the server shows.
type Options struct {
	// Stages returns the present state of every stage; called by /readyz, concurrently.
	Stages func() []Stage
	// Metrics is what /metrics shows.
	Metrics prometheus.Gatherer
	// Token is what whoever changes something must present, unless it has the configured one. Without either
	// nothing can be changed.
	Token string
	// Reload reads the configuration again and returns what has changed. file is the one that the caller
	// means. It is not cut off when the caller goes away. Its errors are shown as they are: Invalid for a
	// configuration that is wrong, Conflict for another file, Unavailable where the program ends. Without
	// Reload there is no /reload.
	Reload func(file string) (Changes, error)
	// Handlers serve further paths, by patterns of http.ServeMux. What is refused elsewhere is refused there, too, and
	// whatever is no GET or HEAD takes a token.
	Handlers map[string]http.Handler
	// Logger hears of faults of single connections at level debug; default none.
	Logger *slog.Logger
}

// Server is the admin listener.
type Server struct {
	config  Config
	options Options
}

// New returns a server. It does nothing before Run.
func New(c Config, o Options) *Server {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Stages == nil {
		o.Stages = func() []Stage { return nil }
	}
	if o.Metrics == nil {
		o.Metrics = prometheus.NewRegistry()
	}
	return &Server{config: c, options: o}
}

// NewRegistry returns a registry that already holds what the Go runtime and the operating system know of
// the process.
func NewRegistry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return r
}

// Run serves on the listener, which it closes, until ctx ends (nil) or the listener fails.
func (s *Server) Run(ctx context.Context, l net.Listener) error {
	server := &http.Server{
		Handler:           s.Handler(listener.Loopback(l.Addr().String())),
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       requestTimeout,
		WriteTimeout:      requestTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(s.options.Logger.Handler(), slog.LevelDebug),
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(netutil.LimitListener(l, maxConnections)) }()
	select {
	case err := <-served:
		return fmt.Errorf("admin listener: %w", err)
	case <-ctx.Done():
	}
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	if err := server.Shutdown(closing); err != nil {
		server.Close() //nolint:errcheck // a request that hangs is cut
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("admin listener: %w", err)
	}
	return nil
}

// Handler serves everything; profiles only if asked for.
func (s *Server) Handler(profiles bool) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { text(w, http.StatusOK, "ok\n") })
	mux.HandleFunc("GET /readyz", s.ready)
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.options.Metrics, promhttp.HandlerOpts{
		ErrorLog:            slog.NewLogLogger(s.options.Logger.Handler(), slog.LevelWarn),
		ErrorHandling:       promhttp.ContinueOnError, // one bad collector does not hide the others
		MaxRequestsInFlight: 4,
		Timeout:             requestTimeout,
	}))
	index := "/healthz\n/readyz\n/metrics\n"
	if profiles {
		// Importing pprof registers it with http.DefaultServeMux, too, which nothing in this program serves.
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
		index += "/debug/pprof/\n"
	}
	for pattern, h := range s.options.Handlers {
		mux.Handle(pattern, s.shows(h))
	}
	index += strings.Join(append(slices.Sorted(maps.Keys(s.options.Handlers)), ""), "\n")
	if s.options.Reload != nil {
		mux.HandleFunc("POST /reload", s.authorized(s.reload))
	}
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { text(w, http.StatusOK, index) })
	return s.guard(mux)
}

// shows lets everyone look whom the guard has let through, and those with a token do more.
func (s *Server) shows(h http.Handler) http.Handler {
	changes := s.authorized(h.ServeHTTP)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet || r.Method == http.MethodHead {
			h.ServeHTTP(w, r)
			return
		}
		changes(w, r)
	})
}

// ready answers 200 if every stage is ready.
func (s *Server) ready(w http.ResponseWriter, _ *http.Request) {
	var lines strings.Builder
	for _, stage := range s.options.Stages() {
		if stage.Ready {
			continue
		}
		lines.WriteString(stage.Name + ": " + stage.State)
		if stage.Err != nil {
			lines.WriteString(": " + strings.Join(strings.Fields(stage.Err.Error()), " ")) // one line each
		}
		lines.WriteByte('\n')
	}
	if lines.Len() > 0 {
		text(w, http.StatusServiceUnavailable, lines.String())
		return
	}
	text(w, http.StatusOK, "ready\n")
}

// guard refuses what only a web page elsewhere would send, and what does not carry the token.
func (s *Server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
		h.Set("Cache-Control", "no-store")
		switch {
		case !s.known(r.Host):
			text(w, http.StatusMisdirectedRequest,
				fmt.Sprintf("%.200q is no name of this listener; use an IP address or localhost, or list the name under admin.hosts\n", hostOf(r.Host)))
		case foreign(r):
			text(w, http.StatusForbidden, "requests from other sites' pages are refused\n")
		case s.config.Token != "" && r.URL.Path != "/healthz" && !s.entitled(r):
			h.Set("WWW-Authenticate", `Bearer realm="millrace"`)
			text(w, http.StatusUnauthorized, "this takes the header \"Authorization: Bearer TOKEN\", TOKEN being admin.token\n")
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// entitled says whether a request has a token that counts. How long that takes says nothing about the tokens.
func (s *Server) entitled(r *http.Request) bool {
	scheme, given, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	sum := sha256.Sum256([]byte(strings.TrimLeft(given, " ")))
	found := false
	for _, token := range []string{s.config.Token, s.options.Token} {
		hash := sha256.Sum256([]byte(token))
		if token != "" && subtle.ConstantTimeCompare(sum[:], hash[:]) == 1 {
			found = true
		}
	}
	return found && strings.EqualFold(scheme, "Bearer")
}

// known says whether a Host header names this listener: an IP address can't be rebound, a name can.
func (s *Server) known(host string) bool {
	name := strings.ToLower(strings.TrimSuffix(hostOf(host), "."))
	if name == "localhost" || strings.HasSuffix(name, ".localhost") { // RFC 6761, section 6.3: always loopback
		return true
	}
	if _, err := netip.ParseAddr(name); err == nil {
		return true
	}
	return slices.ContainsFunc(s.config.Hosts, func(h string) bool { return strings.EqualFold(h, name) })
}

func hostOf(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		return name
	}
	return strings.Trim(host, "[]")
}

// foreign says whether a browser sent the request for a page of another site.
func foreign(r *http.Request) bool {
	if site := r.Header.Get("Sec-Fetch-Site"); site == "cross-site" || site == "same-site" {
		return true
	}
	origin := r.Header.Get("Origin")
	if origin == "" {
		return false
	}
	u, err := url.Parse(origin)
	return err != nil || u.Host == "" || !strings.EqualFold(u.Host, r.Host)
}

func text(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(body)) // the client may have gone
}

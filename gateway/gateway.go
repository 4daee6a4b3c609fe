package gateway

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace"
)

// Options are what a gateway works with beside its configuration.
type Options struct {
	// Streams by the names that the endpoints give. The gateway does not close them.
	Streams map[string]millrace.Stream
	// State keeps the snapshots of tables. Nil: every start reads all that a stream has kept.
	State millrace.State
	// Page serves every path that is no endpoint, "/" included. Nil answers them 404.
	Page    http.Handler
	Logger  *slog.Logger     // nil: nothing is logged
	Metrics *Metrics         // nil: nothing is measured
	Now     func() time.Time // for the lag behind the streams' clock; nil: time.Now
}

// Gateway serves endpoints.
type Gateway struct {
	config    Config
	endpoints map[string]*endpoint // by path
	patterns  []*endpoint          // those whose path names a key
	feeds     []*feed
	page      http.Handler
	origins   map[string]bool
	anyOrigin bool
	logger    *slog.Logger
	metrics   *Metrics
	flows     flows
	slots     chan struct{} // one for each connection that reads a stream at this moment

	mu          sync.Mutex
	connections []*connection // dense, in no order
	reserved    int           // connections, and requests that become some
	draining    bool
	ended       chan struct{} // closed when draining and reserved is 0
}

// New returns a gateway that serves nothing yet. It fails with Invalid if the configuration is wrong
// or an endpoint names a stream that is not in o.Streams.
func New(c Config, o Options) (*Gateway, error) {
	const op = "make gateway"
	var wrong error
	c.Validate(func(path, format string, args ...any) {
		wrong = errors.Join(wrong, millrace.Errorf(millrace.Invalid, path, format, args...))
	})
	if wrong != nil {
		return nil, millrace.Errorf(millrace.Invalid, op, "%w", wrong)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	g := &Gateway{
		config: c, page: o.Page, logger: o.Logger, metrics: o.Metrics,
		endpoints: map[string]*endpoint{}, origins: map[string]bool{},
		slots: make(chan struct{}, replaySlots), ended: make(chan struct{}),
	}
	g.flows.queued = func(bytes int) {
		if bytes != 0 {
			o.Metrics.queued.Add(float64(bytes))
		}
	}
	for _, origin := range c.Origins {
		g.origins[strings.ToLower(origin)] = true
		g.anyOrigin = g.anyOrigin || origin == "*"
	}
	feeds := map[string]*feed{}
	for path, config := range c.Endpoints {
		e := &endpoint{path: path, config: config}
		e.measure(o.Metrics)
		g.endpoints[path] = e
		if config.From == "" {
			continue
		}
		stream := o.Streams[config.From]
		if stream == nil {
			return nil, millrace.Errorf(millrace.Invalid, op, "endpoints.%s.from: there is no stream %q", path, config.From)
		}
		e.feed = feeds[config.From]
		if e.feed == nil {
			e.feed = newFeed(stream, g, o)
			feeds[config.From] = e.feed
			g.feeds = append(g.feeds, e.feed)
		}
		if err := e.feed.serve(e); err != nil {
			return nil, err
		}
		if e.inPath() {
			g.patterns = append(g.patterns, e)
		}
	}
	slices.SortFunc(g.patterns, func(a, b *endpoint) int { return cmp.Compare(a.path, b.path) })
	return g, nil
}

// Limits of requests.
const (
	headerTimeout = 10 * time.Second
	headerBytes   = 16 << 10
	pageTimeout   = 30 * time.Second // of a response that is no connection
)

// Run serves l, which it closes, until ctx ends or a stream cannot be read for good. Then it drains:
// it takes no more connections and closes those that there are one after the other, WebSockets with
// code 1012, over at most Config.Drain, and returns when all are gone, a few seconds later at most.
// After ctx has ended it returns nil. It is called once.
func (g *Gateway) Run(ctx context.Context, l net.Listener) error {
	for _, f := range g.feeds {
		if err := f.open(ctx); err != nil {
			_ = l.Close()
			return err
		}
	}
	living, stop := context.WithCancel(context.WithoutCancel(ctx)) // ends after the connections
	defer stop()
	failed := make(chan error, 1)
	fail := func(err error) {
		select {
		case failed <- err:
		default:
		}
	}
	var feeds sync.WaitGroup
	for _, f := range g.feeds {
		for _, p := range f.parts {
			feeds.Go(func() {
				if err := f.follow(living, p); err != nil {
					fail(err)
				}
			})
		}
		feeds.Go(func() { f.saveTable(living) })
	}
	feeds.Go(func() { g.pinger(living) })

	server := &http.Server{
		Handler:           g,
		ReadHeaderTimeout: headerTimeout, MaxHeaderBytes: headerBytes,
		ReadTimeout: pageTimeout, WriteTimeout: pageTimeout, IdleTimeout: time.Minute,
		ErrorLog: slog.NewLogLogger(g.logger.Handler(), slog.LevelDebug),
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			fail(millrace.Errorf(millrace.Internal, "serve "+l.Addr().String(), "%w", err))
		}
	})
	g.logger.Info("gateway: serving", "address", l.Addr().String(), "endpoints", len(g.endpoints))

	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	serving.Go(func() { // no new connections; the requests for pages that are being answered, are
		down, cancel := context.WithTimeout(living, closeTimeout)
		defer cancel()
		if server.Shutdown(down) != nil {
			_ = server.Close() // what is left is given up
		}
	})
	g.drain()
	serving.Wait()
	stop()
	feeds.Wait()
	g.flows.running.Wait()
	return err
}

// drain closes all connections, in random order.
func (g *Gateway) drain() {
	g.mu.Lock()
	g.draining = true
	if g.reserved == 0 {
		close(g.ended)
	}
	all := append([]*connection(nil), g.connections...)
	g.mu.Unlock()

	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	const pace = 500 * time.Microsecond // between two; with few connections this takes no time
	span := min(g.config.Drain, time.Duration(len(all))*pace)
	begun := time.Now()
	for i, c := range all {
		if ahead := span*time.Duration(i)/time.Duration(len(all)) - time.Since(begun); ahead > time.Millisecond {
			time.Sleep(ahead)
		}
		c.end(ending{code: statusServiceRestart, reason: "the gateway ends; come back and resume from the last id"})
	}
	select {
	case <-g.ended:
		return
	case <-time.After(closeTimeout):
	}
	g.mu.Lock()
	all = append(all[:0], g.connections...)
	g.mu.Unlock()
	for _, c := range all {
		c.out.close()
	}
	<-g.ended
}

// reserve makes room for a connection. It returns false if there is none, or the gateway is ending.
func (g *Gateway) reserve() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.draining || g.reserved >= g.config.MaxConnections {
		return false
	}
	g.reserved++
	return true
}

// unreserve gives the room back.
func (g *Gateway) unreserve() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.reserved--
	if g.draining && g.reserved == 0 {
		close(g.ended)
	}
}

// admit takes a connection in that was reserved. It returns false, and has given the room back, if the
// gateway has begun to drain.
func (g *Gateway) admit(c *connection) bool {
	g.mu.Lock()
	draining := g.draining
	if !draining {
		c.index = len(g.connections)
		g.connections = append(g.connections, c)
	}
	g.mu.Unlock()
	if draining {
		g.unreserve()
		return false
	}
	t := &c.endpoint.traffic[c.form]
	t.connections.Inc()
	t.connects.Inc()
	return true
}

// forget ends what admit began.
func (g *Gateway) forget(c *connection) {
	c.endpoint.traffic[c.form].connections.Dec()
	g.mu.Lock()
	last := len(g.connections) - 1
	g.connections[c.index] = g.connections[last]
	g.connections[c.index].index = c.index
	g.connections[last] = nil
	g.connections = g.connections[:last]
	g.mu.Unlock()
	g.unreserve()
}

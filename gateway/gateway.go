package gateway

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/gateway/apigateway"
	"github.com/millrace/millrace/gateway/auth"
	"github.com/millrace/millrace/gateway/limit"
	"github.com/millrace/millrace/producer"
)

// Options are what a gateway works with beside its configuration.
type Options struct {
	// Streams by the names that the endpoints give. The gateway does not close them.
	Streams map[string]millrace.Stream
	// State keeps the snapshots of tables. Nil: every start reads all that a stream has kept.
	State millrace.State
	// Page serves every path that is no endpoint, "/" included. Nil answers them 404.
	Page http.Handler
	// Ready is called when clients are served: the tables are read, and the journal is open. May be nil.
	Ready func()
	// Attended is told how many connections there are when that has changed; two calls may change places. It must be
	// quick. May be nil.
	Attended func(connections int)
	// Dead takes what the journal of connections cannot encode, which does not happen. Required with presence.
	Dead            millrace.Stream
	ProducerMetrics *producer.Metrics
	Step            func(name string) // of the journal's producer; nil: nobody is told
	Logger          *slog.Logger      // nil: nothing is logged
	Metrics         *Metrics          // nil: nothing is measured
	Now             func() time.Time  // the wall clock; nil: time.Now

	maxWaiting  int           // of an endpoint's deliveries; tests set it
	pageTimeout time.Duration // in place of pageTimeout; tests set it
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
	now       func() time.Time
	options   Options
	guards    []*auth.Guard
	limits    *limit.Limits
	apis      []*apigateway.API
	presence  *presence // nil: nobody asks
	flows     flows
	history   *history
	slots     chan struct{} // one for each connection that goes through the history at this moment

	mu          sync.Mutex
	connections []*connection // dense, in no order
	reserved    int           // connections, and requests that become some
	draining    bool
	ended       chan struct{} // closed when draining and reserved is 0
	byID        map[string]*connection

	life       context.Context // of what is still to be told when a connection is gone
	departures sync.WaitGroup
	postponed  []departure // guarded by mu
	overflow   sync.Once   // says that there are too many
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
	if o.Attended == nil {
		o.Attended = func(int) {}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	g := &Gateway{
		config: c, page: o.Page, logger: o.Logger, metrics: o.Metrics, now: o.Now, options: o,
		endpoints: map[string]*endpoint{}, origins: map[string]bool{}, byID: map[string]*connection{},
		slots: make(chan struct{}, replaySlots), ended: make(chan struct{}),
	}
	g.flows.queued = func(bytes int) {
		if bytes != 0 {
			o.Metrics.queued.Add(float64(bytes))
		}
	}
	g.history = newHistory(c.ReplayCache, o.Metrics)
	for _, origin := range c.Origins {
		g.origins[strings.ToLower(origin)] = true
		g.anyOrigin = g.anyOrigin || origin == "*"
	}
	if err := g.furnish(); err != nil {
		return nil, millrace.Errorf(millrace.CodeOf(err), op, "%w", err)
	}
	return g, nil
}

// furnish makes the endpoints, and what they share.
func (g *Gateway) furnish() (err error) {
	o := g.options
	if g.limits, err = limit.New(g.config.Limits, limit.Options{Now: o.Now, Metrics: o.Metrics.limits}); err != nil {
		return err
	}
	guard := func(c *auth.Config) (*auth.Guard, error) {
		if c == nil {
			c = &auth.Config{} // everyone may
		}
		made, err := auth.New(*c, auth.Options{Logger: o.Logger, Now: o.Now, Metrics: o.Metrics.auth})
		g.guards = append(g.guards, made)
		return made, err
	}
	common, err := guard(g.config.Auth)
	if err != nil {
		return err
	}
	feeds := map[string]*feed{}
	follow := func(name string) (*feed, error) {
		if feeds[name] == nil {
			stream := o.Streams[name]
			if stream == nil {
				return nil, millrace.Errorf(millrace.Invalid, "find stream", "there is no stream %q", name)
			}
			feeds[name] = newFeed(stream, g, o)
			g.feeds = append(g.feeds, feeds[name])
		}
		return feeds[name], nil
	}
	for path, config := range g.config.Endpoints {
		e := &endpoint{path: path, config: config, auth: g.config.Auth, guard: common}
		e.measure(o.Metrics)
		g.endpoints[path] = e
		if config.Auth != nil {
			e.auth = config.Auth
			if e.guard, err = guard(config.Auth); err != nil {
				return err
			}
		}
		if config.APIGateway != nil {
			if err := g.emulate(e); err != nil {
				return err
			}
		}
		if source := config.Source(); source != "" {
			if e.feed, err = follow(source); err == nil {
				err = e.feed.serve(e)
			}
			if err != nil {
				return fmt.Errorf("endpoint %s: %w", path, err)
			}
		}
		if e.inPath() {
			g.patterns = append(g.patterns, e)
		}
	}
	slices.SortFunc(g.patterns, func(a, b *endpoint) int { return cmp.Compare(a.path, b.path) })
	slices.SortFunc(g.apis, func(a, b *apigateway.API) int { return cmp.Compare(a.Path(), b.Path()) })
	if journal := g.config.Journal(); journal != "" {
		f, err := follow(journal)
		if err != nil {
			return fmt.Errorf("presence: %w", err)
		}
		f.tableKeys = max(f.tableKeys, defaultLatestKeys)
		g.presence = &presence{into: f.stream, feed: f}
	}
	return nil
}

// emulate makes an endpoint of API Gateway's kind.
func (g *Gateway) emulate(e *endpoint) (err error) {
	e.api, err = apigateway.New(e.path, *e.config.APIGateway, apigateway.Options{
		Connections: clients{g, e}, Logger: g.logger, Metrics: g.metrics.apis, Now: g.now, MaxWaiting: g.options.maxWaiting,
	})
	if err != nil {
		return err
	}
	g.apis = append(g.apis, e.api)
	e.deliverer = apigateway.NewDeliverer(e.api)
	if s := e.config.APIGateway.Subscribe; s != nil {
		e.config.Key = s.Key
	}
	return nil
}

// Limits of requests.
const (
	headerTimeout = 10 * time.Second
	headerBytes   = 16 << 10
	pageTimeout   = 30 * time.Second // of a response that is no connection
)

func (g *Gateway) pageTimeout() time.Duration { return cmp.Or(g.options.pageTimeout, pageTimeout) }

// Run serves l, which it closes, until ctx ends or a stream cannot be read for good. Then it drains:
// it takes no more connections and closes those that there are one after the other, WebSockets with
// code 1012, over at most Config.Drain, and returns when all are gone, a few seconds later at most.
// After ctx has ended it returns nil. It is called once.
func (g *Gateway) Run(ctx context.Context, l net.Listener) error {
	for _, f := range g.feeds {
		if err := f.open(ctx); err != nil {
			_ = l.Close()
			if ctx.Err() != nil {
				return nil // it was to end before it had begun
			}
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
	endJournal, err := g.openJournal(ctx, fail)
	if err != nil {
		_ = l.Close()
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	for _, guard := range g.guards {
		feeds.Go(func() { _ = guard.Run(living) }) // it only ends with living
	}
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
		ReadTimeout: g.pageTimeout(), WriteTimeout: g.pageTimeout(), IdleTimeout: time.Minute,
		ErrorLog: slog.NewLogLogger(g.logger.Handler(), slog.LevelDebug),
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			fail(millrace.Errorf(millrace.Internal, "serve "+l.Addr().String(), "%w", err))
		}
	})
	g.logger.Info("gateway: serving", "address", l.Addr().String(), "endpoints", len(g.endpoints))
	if g.options.Ready != nil {
		g.options.Ready()
	}

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
	endJournal()
	for _, api := range g.apis {
		api.Close()
	}
	stop()
	feeds.Wait()
	g.flows.running.Wait()
	g.history.end()
	return err
}

// departTimeout bounds how long a gateway that ends waits until all that is to be told of its connections' ends
// is told. What is not, is told after the next start.
const departTimeout = 10 * time.Second

// openJournal makes ready for connections: it opens the journal, if there is one, and settles what an earlier
// life has left. end waits for what is still to be told, and closes the journal.
func (g *Gateway) openJournal(ctx context.Context, fail func(error)) (end func(), err error) {
	life, stop := context.WithCancel(context.WithoutCancel(ctx))
	g.life = life
	if g.presence == nil {
		return func() {
			g.awaitDepartures(stop)
		}, nil
	}
	left := g.presence.left()
	if err := g.presence.open(ctx, g.options); err != nil {
		stop()
		return nil, err
	}
	writing, stopWriting := context.WithCancel(context.WithoutCancel(ctx))
	written := make(chan struct{})
	go func() {
		defer close(written)
		if err := g.presence.out.Run(writing); err != nil {
			fail(err)
		}
	}()
	g.settle(life, left)
	telling, stopTelling := context.WithCancel(life)
	told := make(chan struct{})
	go func() {
		defer close(told)
		g.tellPostponed(telling)
	}()
	return func() {
		stopTelling()
		<-told
		g.awaitDepartures(stop)
		flushing, cancel := context.WithTimeout(context.Background(), closeTimeout)
		if err := g.presence.out.Flush(flushing); err != nil {
			g.logger.Warn("gateway: the journal of connections does not close cleanly", "error", err)
		}
		cancel()
		stopWriting()
		<-written
	}, nil
}

// awaitDepartures waits until all is told, or the time is over.
func (g *Gateway) awaitDepartures(giveUp func()) {
	timer := time.AfterFunc(departTimeout, giveUp)
	g.departures.Wait()
	timer.Stop()
	giveUp()
}

// drain closes all connections, in random order.
func (g *Gateway) drain() {
	g.mu.Lock()
	g.draining = true
	if g.reserved == 0 {
		close(g.ended)
	}
	g.mu.Unlock()
	all := g.all()

	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	const pace = 500 * time.Microsecond // between two; with few connections this takes no time
	span := min(g.config.Drain, time.Duration(len(all))*pace)
	begun := time.Now()
	for i, c := range all {
		if ahead := span*time.Duration(i)/time.Duration(len(all)) - time.Since(begun); ahead > time.Millisecond {
			time.Sleep(ahead)
		}
		again := retryLeast + rand.Int64N(retrySpread) //nolint:gosec // spread, not secrecy
		c.end(ending{code: statusServiceRestart, reason: fmt.Sprintf("the gateway ends; come back after %d ms, and resume from the last id", again)})
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

// all returns the connections of this moment.
func (g *Gateway) all() []*connection {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.connections)
}

// connection returns the one with an id, nil if there is none.
func (g *Gateway) connection(id string) *connection {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.byID[id]
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

// admit takes a connection in for which there is room, which forget gives back. It returns false if the gateway has
// begun to drain.
func (g *Gateway) admit(c *connection) bool {
	g.mu.Lock()
	draining := g.draining
	if !draining {
		c.index = len(g.connections)
		g.connections = append(g.connections, c)
		g.byID[c.id] = c
	}
	n := len(g.connections)
	g.mu.Unlock()
	if draining {
		return false
	}
	g.options.Attended(n)
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
	delete(g.byID, c.id)
	g.mu.Unlock()
	g.options.Attended(last)
	g.unreserve()
}

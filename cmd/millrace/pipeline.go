package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/admin"
	"github.com/millrace/millrace/archive"
	"github.com/millrace/millrace/config"
	"github.com/millrace/millrace/gateway"
	"github.com/millrace/millrace/objectstore/disk"
	"github.com/millrace/millrace/producer"
	"github.com/millrace/millrace/query"
	"github.com/millrace/millrace/source/sse"
	"github.com/millrace/millrace/stream/nats"
)

// pipelineOptions are what a pipeline is given besides its configuration.
type pipelineOptions struct {
	log *slog.Logger
	// page is served by the gateway at /, if the configuration asks for a page; by default the map.
	page func(c *config.Config, metrics prometheus.Gatherer) http.Handler
	// ready is called once when every stage runs, with the addresses of the listeners; may be nil.
	ready func(gateway, admin string)
	// ended is called when the pipeline has drained, with what it counted; may be nil.
	ended func(metrics prometheus.Gatherer)
}

// runPipeline runs a configuration until ctx ends, then drains it in the order of the data. It fails at
// once where starting again would not help: an address or the data directory in use, a directory that
// can't be written, a configuration that a room refuses. Whatever fails later is started again.
func runPipeline(ctx context.Context, c *config.Config, o pipelineOptions) error {
	if o.log == nil {
		o.log = slog.New(slog.DiscardHandler)
	}
	if o.page == nil {
		o.page = func(c *config.Config, metrics prometheus.Gatherer) http.Handler { return page(c, nil, metrics) }
	}
	p := &pipeline{
		config: c, options: o, log: o.log, started: time.Now(),
		step: crashPoint(), metrics: admin.NewRegistry(),
		streams: map[string]*nats.Stream{}, stores: map[string]*disk.Store{}, ending: make(chan struct{}),
	}
	p.producers, p.stages = producer.NewMetrics(p.metrics), newStageMetrics(p.metrics)
	defer p.close()
	if err := p.open(ctx); err != nil {
		if ctx.Err() != nil {
			return nil // interrupted before anything ran
		}
		return err
	}
	err := p.run(ctx)
	if o.ended != nil {
		o.ended(p.metrics)
	}
	return err
}

// pipeline is a configuration at work.
type pipeline struct {
	config  *config.Config
	options pipelineOptions
	log     *slog.Logger
	started time.Time
	step    func(string) // nil but in builds for crash tests
	metrics *prometheus.Registry

	producers                      *producer.Metrics // of sources and queries
	stages                         *stageMetrics
	gatewayListener, adminListener net.Listener
	engine                         *nats.Engine
	streams                        map[string]*nats.Stream
	state                          millrace.State
	stores                         map[string]*disk.Store // by directory
	holds                          []func(context.Context) error
	tiers                          []*tier
	ending                         chan struct{} // closed when draining begins
}

// tier is a set of stages that drain together, when those before it have drained.
type tier struct {
	stages []*stage
	finish func() // tells the stages that their input is complete; may be nil
	stop   context.CancelFunc
	ended  chan struct{} // closed when all stages have
}

// open touches the world in the order in which failures are likely, builds all stages in the order in
// which an event passes them, and starts none.
func (p *pipeline) open(ctx context.Context) error {
	if err := p.listen(); err != nil {
		return err
	}
	if err := p.openStreams(ctx); err != nil {
		return err
	}
	if err := p.addSources(); err != nil {
		return err
	}
	if err := p.addQueries(); err != nil {
		return err
	}
	if err := p.addArchives(); err != nil {
		return err
	}
	if err := p.addGateway(); err != nil {
		return err
	}
	p.addStreams()
	p.addAdmin()
	// Readers say what they still need before the first trim.
	for _, hold := range p.holds {
		if err := hold(ctx); err != nil {
			return err
		}
	}
	return nil
}

// listen binds the addresses before anything is touched on disk.
func (p *pipeline) listen() (err error) {
	if c := p.config.Gateway; c != nil {
		if p.gatewayListener, err = listen("gateway", c.Listen); err != nil {
			return err
		}
	}
	if c := p.config.Admin; c != nil {
		p.adminListener, err = listen("admin", c.Listen)
	}
	return err
}

func listen(section, address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		var failure *net.OpError
		if errors.As(err, &failure) {
			err = failure.Err // without the address a second time
		}
		return nil, fmt.Errorf("%s.listen: can't listen on %q: %w", section, address, err)
	}
	return l, nil
}

// openStreams opens the engine and all streams, side by side: each creation waits for the disk.
func (p *pipeline) openStreams(ctx context.Context) (err error) {
	p.engine, err = nats.Open(ctx, nats.Options{
		Config: p.config.Engine, DataDir: p.config.DataDir,
		Logger: p.log, Metrics: nats.NewMetrics(p.metrics),
	})
	if err != nil {
		return err
	}
	var mu sync.Mutex
	var all sync.WaitGroup
	var failures []error
	limit := make(chan struct{}, 16)
	for name, c := range sorted(p.config.Streams) {
		all.Go(func() {
			limit <- struct{}{}
			defer func() { <-limit }()
			s, err := p.engine.Stream(ctx, name, c)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failures = append(failures, err)
				return
			}
			p.streams[name] = s
		})
	}
	all.Wait()
	if len(failures) > 0 {
		return errors.Join(failures...)
	}
	p.state, err = p.engine.State(ctx)
	return err
}

func (p *pipeline) addSources() error {
	feeds := sse.NewMetrics(p.metrics)
	var stages []*stage
	for name, c := range sorted(p.config.Sources) {
		s := &source{
			config: c,
			producer: producer.Config{
				Name: "source/" + name, Into: p.streams[c.Into], Dead: p.streams[config.DeadStream],
				Step: p.step, Metrics: p.producers, Logger: p.log,
			},
		}
		switch { // the kinds of sources
		case c.SSE != nil:
			s.producer.EventLimit = int(c.SSE.EventLimit)
			s.open = func() millrace.Source {
				return sse.New(*c.SSE, sse.Options{Name: name, Logger: p.log, Metrics: feeds, UserAgent: userAgent()})
			}
		default:
			return fmt.Errorf("source %q has no kind", name) // config has checked it
		}
		stages = append(stages, p.stage("source/"+name, s.run))
	}
	p.addTier(stages...)
	return nil
}

// addQueries adds a tier for each step that results may take through queries, so that a query drains
// after those that it reads from.
func (p *pipeline) addQueries() error {
	metrics := query.NewMetrics(p.metrics)
	depths := queryDepths(p.config.Queries)
	for depth := range len(depths) {
		complete := make(chan struct{})
		var stages []*stage
		for name, c := range sorted(p.config.Queries) {
			if depths[name] != depth {
				continue
			}
			from := p.streams[c.Query.From]
			q, err := query.New(name, c.Query, query.Options{
				From: &input{from, complete}, Into: p.streams[c.Query.Into], Dead: p.streams[config.DeadStream],
				State: p.state, Drain: p.config.DrainTimeout, Logger: p.log,
				Metrics: metrics, ProducerMetrics: p.producers, Step: p.step,
			})
			if err != nil {
				return err
			}
			// The query replaces this hold by that of its snapshot when it starts.
			p.holds = append(p.holds, func(ctx context.Context) error { return holdAll(ctx, from, "query/"+name) })
			stages = append(stages, p.stage("query/"+name, func(ctx context.Context, ready func()) error {
				ready()
				return q.Run(ctx)
			}))
		}
		if t := p.addTier(stages...); t != nil {
			t.finish = sync.OnceFunc(func() { close(complete) })
		}
	}
	return nil
}

// holdAll keeps all that a stream has for a reader that has not said yet what it needs.
func holdAll(ctx context.Context, s retained, reader string) error {
	partitions, err := s.Partitions(ctx)
	for _, partition := range partitions {
		s.Hold(partition.Name, reader, millrace.Position{})
	}
	return err
}

// queryDepths returns how many queries stand before each. Config has refused cycles.
func queryDepths(queries map[string]config.Query) map[string]int {
	depths := make(map[string]int, len(queries))
	for range queries { // a longest path has at most all of them
		for name, q := range queries {
			for before, b := range queries {
				if b.Query.Into == q.Query.From && before != name {
					depths[name] = max(depths[name], depths[before]+1)
				}
			}
		}
	}
	for name := range queries {
		depths[name] += 0 // present, also without any before it
	}
	return depths
}

func (p *pipeline) addArchives() error {
	metrics := archive.NewMetrics(p.metrics)
	var stages []*stage
	for name, c := range sorted(p.config.Archives) {
		store, err := p.store(c.To)
		if err != nil {
			return err
		}
		a, err := archive.New(name, c.Archive, archive.Options{
			From: p.streams[c.Archive.From], To: store, State: p.state,
			Drain: p.config.DrainTimeout, Logger: p.log, Metrics: metrics, Step: p.step,
		})
		if err != nil {
			return err
		}
		p.holds = append(p.holds, a.Hold)
		stages = append(stages, p.stage("archive/"+name, func(ctx context.Context, ready func()) error {
			ready()
			return a.Run(ctx)
		}))
	}
	p.addTier(stages...)
	return nil
}

// store opens an object store, once for all archives that write to it.
func (p *pipeline) store(to config.To) (millrace.ObjectStore, error) {
	switch { // the kinds of object stores
	case to.Disk != "":
		if s, ok := p.stores[to.Disk]; ok {
			return s, nil
		}
		s, err := disk.Open(to.Disk)
		if err != nil {
			return nil, err
		}
		p.stores[to.Disk] = s
		return s, nil
	default:
		return nil, errors.New("an archive has no place for its objects") // config has checked it
	}
}

func (p *pipeline) addGateway() error {
	c := p.config.Gateway
	if c == nil {
		return nil
	}
	streams := make(map[string]millrace.Stream, len(p.streams))
	for name, s := range p.streams {
		streams[name] = s
	}
	options := gateway.Options{
		Streams: streams, Page: p.options.page(p.config, p.metrics),
		Logger: p.log, Metrics: gateway.NewMetrics(p.metrics),
	}
	if _, err := gateway.New(*c, options); err != nil {
		return err
	}
	p.addTier(p.stage("gateway", p.serve("gateway", &p.gatewayListener, func(ctx context.Context, l net.Listener) error {
		g, err := gateway.New(*c, options) // one runs once
		if err != nil {
			return err
		}
		return g.Run(ctx, l)
	})))
	return nil
}

// addStreams adds the loops that trim the streams.
func (p *pipeline) addStreams() {
	var stages []*stage
	for name, s := range sorted(p.streams) {
		stages = append(stages, p.stage("stream/"+name, func(ctx context.Context, ready func()) error {
			ready()
			return s.Run(ctx)
		}))
	}
	p.addTier(stages...)
}

func (p *pipeline) addAdmin() {
	if p.adminListener == nil {
		return
	}
	a := admin.New(*p.config.Admin, admin.Options{Stages: p.status, Metrics: p.metrics, Logger: p.log})
	p.addTier(p.stage("admin", p.serve("admin", &p.adminListener, a.Run)))
}

// serve is the work of a stage with a listener. The listener that was bound at the start serves once; after
// a failure the same address is bound again.
func (p *pipeline) serve(section string, bound *net.Listener, run func(context.Context, net.Listener) error) func(context.Context, func()) error {
	address := (*bound).Addr().String()
	return func(ctx context.Context, ready func()) error {
		l := *bound
		*bound = nil
		if l == nil {
			var err error
			if l, err = listen(section, address); err != nil {
				return err
			}
		}
		ready()
		return run(ctx, l)
	}
}

func (p *pipeline) stage(name string, work func(context.Context, func()) error) *stage {
	return newStage(name, p.log, p.stages, work)
}

// addTier adds a tier behind the others, unless it has no stages.
func (p *pipeline) addTier(stages ...*stage) *tier {
	if len(stages) == 0 {
		return nil
	}
	t := &tier{stages: stages, ended: make(chan struct{})}
	p.tiers = append(p.tiers, t)
	return t
}

// status is what /readyz shows.
func (p *pipeline) status() []admin.Stage {
	var all []admin.Stage
	if over(context.Background(), p.ending) {
		all = append(all, admin.Stage{Name: "millrace", State: "draining"})
	}
	for _, t := range p.tiers {
		for _, s := range t.stages {
			all = append(all, s.status())
		}
	}
	return all
}

// run starts all stages and, when ctx ends, drains them.
func (p *pipeline) run(ctx context.Context) error {
	gateway, admin := address(p.gatewayListener), address(p.adminListener)
	running := context.WithoutCancel(ctx)
	for _, t := range p.tiers {
		var work context.Context
		work, t.stop = context.WithCancel(running)
		defer t.stop()
		var all sync.WaitGroup
		for _, s := range t.stages {
			all.Go(func() { s.run(work, p.ending) })
		}
		go func() {
			all.Wait()
			close(t.ended)
		}()
	}
	if p.waitReady(ctx) {
		attributes := []any{"took", time.Since(p.started).Round(time.Millisecond)}
		if gateway != "" {
			attributes = append(attributes, "gateway", gateway)
		}
		if admin != "" {
			attributes = append(attributes, "admin", admin)
		}
		p.log.Info("ready", attributes...)
		if p.options.ready != nil {
			p.options.ready(gateway, admin)
		}
	}
	<-ctx.Done()
	return p.drain()
}

func address(l net.Listener) string {
	if l == nil {
		return ""
	}
	return l.Addr().String()
}

// waitReady returns true when every stage has begun, false when ctx ends before.
func (p *pipeline) waitReady(ctx context.Context) bool {
	for _, t := range p.tiers {
		for _, s := range t.stages {
			select {
			case <-s.begun:
			case <-ctx.Done():
				return false
			}
		}
	}
	return true
}

// drain ends one tier after the other, as far as the time goes, so that what the sources took in goes all
// the way. What it does not reach is done after the next start: nothing is lost.
func (p *pipeline) drain() error {
	close(p.ending)
	p.log.Info("draining", "timeout", p.config.DrainTimeout)
	started := time.Now()
	timeout := time.NewTimer(p.config.DrainTimeout)
	defer timeout.Stop()
	for _, t := range p.tiers {
		if t.finish != nil {
			// What is left in the input may take up to half of the time that is left.
			t.finish()
			enough := time.NewTimer((p.config.DrainTimeout - time.Since(started)) / 2)
			select {
			case <-t.ended:
			case <-enough.C:
			}
			enough.Stop()
		}
		t.stop()
		select {
		case <-t.ended:
		case <-timeout.C:
			return p.giveUp()
		}
	}
	p.log.Info("drained", "took", time.Since(started).Round(time.Millisecond))
	return nil
}

// giveUp ends all stages at once.
func (p *pipeline) giveUp() error {
	var late []string
	for _, t := range p.tiers {
		select {
		case <-t.ended:
		default:
			for _, s := range t.stages {
				if s.status().State != stateDrained {
					late = append(late, s.name)
				}
			}
		}
	}
	for _, t := range p.tiers {
		t.stop()
	}
	grace := time.NewTimer(time.Second)
	defer grace.Stop()
	for _, t := range p.tiers {
		select {
		case <-t.ended:
		case <-grace.C:
		}
	}
	return fmt.Errorf("draining took longer than %s (drain_timeout); cut off: %s", p.config.DrainTimeout, strings.Join(late, ", "))
}

// closeTimeout bounds how long a disk that hangs holds up the end.
const closeTimeout = 10 * time.Second

// close releases what open has taken.
func (p *pipeline) close() {
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		p.release()
	}()
	select {
	case <-closed:
	case <-time.After(closeTimeout):
		p.log.Error("the streams did not close in time", "timeout", closeTimeout)
	}
}

func (p *pipeline) release() {
	for _, s := range p.stores {
		if err := s.Close(); err != nil {
			p.log.Warn("close archive directory", "error", err)
		}
	}
	if p.engine != nil {
		if err := p.engine.Close(); err != nil {
			p.log.Warn("close streams", "error", err)
		}
	}
	for _, l := range []net.Listener{p.gatewayListener, p.adminListener} {
		if l != nil {
			l.Close()
		}
	}
}

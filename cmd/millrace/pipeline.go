package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/admin"
	"github.com/millrace/millrace/config"
	"github.com/millrace/millrace/objectstore/disk"
	"github.com/millrace/millrace/producer"
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
	// load reads the configuration again, from file; without it the pipeline can't reload.
	load func() (*config.Config, error)
	file string
	// hangup asks for a reload. Its capacity is 1: what comes while one is under way asks for another.
	hangup <-chan os.Signal
	// memory is what the process may have in bytes; 0: there is no limit.
	memory int64
}

// runPipeline runs a configuration until ctx ends, then drains it in the order of the data. It fails at
// once where starting again would not help: an address or the data directory in use, a directory that
// can't be written, a configuration that a room refuses. Whatever fails later is started again.
func runPipeline(ctx context.Context, c *config.Config, o pipelineOptions) error {
	if o.log == nil {
		o.log = slog.New(slog.DiscardHandler)
	}
	if o.page == nil {
		o.page = func(c *config.Config, metrics prometheus.Gatherer) http.Handler { return page(c, metrics) }
	}
	p := newPipeline(c, o)
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
	options   pipelineOptions
	log       *slog.Logger
	started   time.Time
	step      func(string) // nil but in builds for crash tests
	metrics   *prometheus.Registry
	measures  measures
	token     string // of who may change something
	engine    *nats.Engine
	state     millrace.State
	page      currentPage
	clients   connections // what the admin listener says of the gateway's
	requests  chan reloadRequest
	opening   chan struct{}    // see source
	budget    *producer.Budget // of all sources
	collector collector
	ending    chan struct{} // closed when draining begins

	// What is at work. Only run, and what it calls, changes it.
	config  *config.Config
	doors   map[string]*door // by doorName
	streams map[string]*nats.Stream
	stores  map[string]*disk.Store // by directory
	servers map[string]*ingest     // by address

	mu      sync.Mutex // for status and cleanUp
	stages  []*stage
	leaving []*stage // that a reload has told to end and that have not yet
}

// sourcesBudget bounds what all sources together hold of events that are not durable yet, in bytes: where memory is
// limited, a thirty-second of it at most. When the disk stands still they take several times as much: buffers grow, and
// what is gathered is encoded.
func sourcesBudget(memory int64) int64 {
	const most = 32 << 20
	if memory == 0 {
		return most
	}
	return min(most, memory/32)
}

func newPipeline(c *config.Config, o pipelineOptions) *pipeline {
	metrics := admin.NewRegistry()
	return &pipeline{
		options: o, log: o.log, started: time.Now(), step: crashPoint(),
		metrics: metrics, measures: newMeasures(metrics), token: newToken(), config: c,
		requests: make(chan reloadRequest), opening: make(chan struct{}, openAtOnce),
		budget: producer.NewBudget(sourcesBudget(o.memory)), ending: make(chan struct{}),
	}
}

// open makes everything ready to run.
func (p *pipeline) open(ctx context.Context) error {
	// An address or a file that is wrong is found before anything is touched on disk.
	listening := &plan{config: p.config, doors: map[string]*door{}}
	if err := p.listen(listening); err != nil {
		listening.drop()
		return err
	}
	p.doors = listening.doors
	if err := p.openEngine(ctx); err != nil {
		return err
	}
	n, err := p.plan(ctx, p.config)
	if err != nil {
		return err
	}
	p.adopt(n)
	p.writeControl()
	return nil
}

// adopt makes a plan what is at work, and holds what its new stages will read.
func (p *pipeline) adopt(n *plan) {
	p.collector.serve(len(n.config.Sources))
	p.page.show(n.page)
	p.config, p.doors, p.streams, p.stores, p.servers = n.config, n.doors, n.streams, n.stores, n.servers
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stages = make([]*stage, len(n.stages))
	for i, s := range n.stages {
		if !n.keeps(s.stage) {
			for _, h := range s.holds {
				h.take()
			}
		}
		s.stage.tier = s.tier
		p.stages[i] = s.stage
	}
	slices.SortStableFunc(p.stages, func(a, b *stage) int { return a.tier - b.tier })
}

// writeControl tells the command line how to reach this program.
func (p *pipeline) writeControl() {
	if p.config.Admin == nil {
		removeControl(p.config.DataDir, p.token)
		return
	}
	c := control{Admin: reachable(p.address("admin", p.config.Admin.Listen)), Token: p.token}
	for _, s := range p.stages {
		if s.name == "admin" {
			c.TLS = s.seal
		}
	}
	if err := c.write(p.config.DataDir); err != nil {
		p.log.Warn("millrace reload will not find this program", "error", err)
	}
}

func (p *pipeline) stage(name string, work func(context.Context, func()) error) *stage {
	return newStage(name, p.log, p.measures.stages, work)
}

// currentPage is what the gateway shows at /, and can be replaced.
type currentPage struct{ handler atomic.Pointer[http.Handler] }

func (c *currentPage) show(h http.Handler) {
	if h == nil {
		h = http.NotFoundHandler()
	}
	c.handler.Store(&h)
}

// ServeHTTP implements http.Handler.
func (c *currentPage) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	(*c.handler.Load()).ServeHTTP(w, r)
}

// status is what /readyz shows.
func (p *pipeline) status() []admin.Stage {
	var all []admin.Stage
	if over(context.Background(), p.ending) {
		all = append(all, admin.Stage{Name: "millrace", State: "draining"})
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.stages {
		all = append(all, s.status())
	}
	return all
}

// run starts all stages, changes what a reload asks for and, when ctx ends, drains them.
func (p *pipeline) run(ctx context.Context) error {
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	for _, s := range p.stages {
		s.start(running, p.ending, nil)
	}
	first := p.stages
	ready := make(chan struct{})
	var waiting sync.WaitGroup
	waiting.Go(func() {
		if waitReady(ctx, first) {
			close(ready)
		}
	})
	defer waiting.Wait()
	for {
		select {
		case <-ready:
			ready = nil
			p.sayReady()
		case <-p.options.hangup:
			_, _ = p.reload(ctx, running) // it has said what went wrong
		case r := <-p.requests:
			r.answer(p.reload(ctx, running))
		case <-ctx.Done():
			return p.drain()
		}
	}
}

// waitReady returns true when every stage has begun or ended, false when ctx ends before.
func waitReady(ctx context.Context, stages []*stage) bool {
	for _, s := range stages {
		select {
		case <-s.begun:
		case <-s.ended: // replaced before it had begun
		case <-ctx.Done():
			return false
		}
	}
	return true
}

func (p *pipeline) sayReady() {
	gateway, admin := "", ""
	attributes := []any{"took", time.Since(p.started).Round(time.Millisecond)}
	if c := p.config.Gateway; c != nil {
		gateway = p.address("gateway", c.Listen)
		attributes = append(attributes, "gateway", gateway)
	}
	if c := p.config.Admin; c != nil {
		admin = p.address("admin", c.Listen)
		attributes = append(attributes, "admin", admin)
	}
	var ingest []string
	for address := range sorted(p.servers) {
		ingest = append(ingest, p.address("sources", address))
	}
	if len(ingest) > 0 {
		attributes = append(attributes, "ingest", strings.Join(ingest, ","))
	}
	p.log.Info("ready", attributes...)
	if p.options.ready != nil {
		p.options.ready(gateway, admin)
	}
}

// address is what a configured address was bound to.
func (p *pipeline) address(section, configured string) string {
	return p.doors[doorName(section, configured)].bound
}

// drain ends one tier after the other, as far as the time goes, so that what the sources took in goes all
// the way. What it does not reach is done after the next start: nothing is lost.
func (p *pipeline) drain() error {
	close(p.ending)
	p.log.Info("draining", "timeout", p.config.DrainTimeout)
	started := time.Now()
	timeout := time.NewTimer(p.config.DrainTimeout)
	defer timeout.Stop()
	for tier := range slices.Values(p.tiers()) {
		finishing := false
		for _, s := range tier {
			if s.finish != nil {
				s.finish()
				finishing = true
			}
		}
		if finishing {
			// What is left in the input may take up to half of the time that is left.
			enough := time.NewTimer((p.config.DrainTimeout - time.Since(started)) / 2)
			allEnded(tier, enough.C)
			enough.Stop()
		}
		for _, s := range tier {
			s.stop()
		}
		if !allEnded(tier, timeout.C) {
			return p.giveUp()
		}
	}
	p.log.Info("drained", "took", time.Since(started).Round(time.Millisecond))
	return nil
}

// tiers are all stages, those that are leaving among them, by what drains before what.
func (p *pipeline) tiers() (tiers [][]*stage) {
	all := slices.Concat(p.leaving, p.stages)
	slices.SortStableFunc(all, func(a, b *stage) int { return a.tier - b.tier })
	for i, s := range all {
		if i == 0 || s.tier != all[i-1].tier {
			tiers = append(tiers, nil)
		}
		tiers[len(tiers)-1] = append(tiers[len(tiers)-1], s)
	}
	return tiers
}

// allEnded waits for stages; false if the time was over before.
func allEnded[T any](stages []*stage, timeout <-chan T) bool {
	for _, s := range stages {
		select {
		case <-s.ended:
		case <-timeout:
			return false
		}
	}
	return true
}

// giveUp ends all stages at once.
func (p *pipeline) giveUp() error {
	var late []string
	all := slices.Concat(p.tiers()...)
	for _, s := range all {
		select {
		case <-s.ended:
		default:
			late = append(late, s.name)
		}
		s.stop()
	}
	grace := time.NewTimer(time.Second)
	defer grace.Stop()
	allEnded(all, grace.C)
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
	removeControl(p.config.DataDir, p.token)
	for _, s := range p.stores {
		p.closeStore(s)
	}
	if p.engine != nil {
		if err := p.engine.Close(); err != nil {
			p.log.Warn("close streams", "error", err)
		}
	}
	for _, d := range p.doors {
		d.shut()
	}
}

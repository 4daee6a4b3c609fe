package main

import (
	"context"
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
		ingest:  map[string]*net.Listener{},
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
	ingest                         map[string]*net.Listener // of HTTP sources, by address in the configuration
	engine                         *nats.Engine
	streams                        map[string]*nats.Stream
	state                          millrace.State
	stores                         map[string]*disk.Store // by directory
	tiers                          []*tier
	connections                    connections   // what the admin listener says of the gateway's
	ending                         chan struct{} // closed when draining begins
}

// tier is a set of stages that drain together, when those before it have drained.
type tier struct {
	stages []*stage
	finish func() // tells the stages that their input is complete; may be nil
	stop   context.CancelFunc
	ended  chan struct{} // closed when all stages have
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
	var ingest []string
	for _, l := range sorted(p.ingest) {
		ingest = append(ingest, address(*l))
	}
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
		if len(ingest) > 0 {
			attributes = append(attributes, "ingest", strings.Join(ingest, ","))
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
	listeners := []net.Listener{p.gatewayListener, p.adminListener}
	for _, l := range p.ingest {
		listeners = append(listeners, *l)
	}
	for _, l := range listeners {
		if l != nil {
			l.Close()
		}
	}
}

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/admin"
	"github.com/millrace/millrace/archive"
	"github.com/millrace/millrace/config"
	"github.com/millrace/millrace/gateway"
	"github.com/millrace/millrace/listener"
	"github.com/millrace/millrace/mapping"
	"github.com/millrace/millrace/objectstore/disk"
	"github.com/millrace/millrace/producer"
	"github.com/millrace/millrace/query"
	httpsource "github.com/millrace/millrace/source/http"
	"github.com/millrace/millrace/source/sse"
	"github.com/millrace/millrace/stream/nats"
)

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
	if err := p.addQueries(ctx); err != nil {
		return err
	}
	if err := p.addArchives(ctx); err != nil {
		return err
	}
	if err := p.addGateway(ctx); err != nil {
		return err
	}
	p.addStreams()
	p.addAdmin()
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
		if p.adminListener, err = listen("admin", c.Listen); err != nil {
			return err
		}
	}
	for name, c := range sorted(p.config.Sources) {
		if c.HTTP == nil || p.ingest[c.HTTP.Listen] != nil {
			continue
		}
		l, err := listen("sources."+name+".http", c.HTTP.Listen)
		if err != nil {
			return err
		}
		p.ingest[c.HTTP.Listen] = &l
	}
	return nil
}

func listen(section, address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		if failure, ok := errors.AsType[*net.OpError](err); ok {
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
	feeds, posts := sse.NewMetrics(p.metrics), httpsource.NewMetrics(p.metrics)
	posted := map[string][]*httpsource.Source{} // by listener
	shared := map[string]listener.Config{}
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
		case c.HTTP != nil:
			s.producer.EventLimit = int(c.HTTP.EventLimit)
			taking := httpsource.New(*c.HTTP, httpsource.Options{
				Name: name, Stream: c.Into, Mapping: c.Mapping, MaxBlock: p.streams[c.Into].MaxBlock(),
				Step: p.step, Metrics: posts, Logger: p.log,
			})
			s.config.Mapping = mapping.Config{} // it maps by itself, to tell senders what is wrong
			s.open = func() millrace.Source { return taking }
			posted[c.HTTP.Listen] = append(posted[c.HTTP.Listen], taking)
			shared[c.HTTP.Listen] = c.HTTP.Listener // the same in each; config has checked it
		default:
			return fmt.Errorf("source %q has no kind", name) // config has checked it
		}
		stages = append(stages, p.stage("source/"+name, s.run))
	}
	for address, sources := range sorted(posted) {
		server, err := httpsource.NewServer(httpsource.ServerOptions{Metrics: posts, Logger: p.log}, sources...)
		if err != nil {
			return err
		}
		stages = append(stages, p.stage("ingest/"+address, p.serve("ingest", p.ingest[address], shared[address], server.Run)))
	}
	p.addTier(stages...)
	return nil
}

// addQueries adds a tier for each step that results may take through queries, so that a query drains
// after those that it reads from.
func (p *pipeline) addQueries(ctx context.Context) error {
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
			if err := holdAll(ctx, from, "query/"+name); err != nil {
				return err
			}
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

// holdAll keeps all that a stream has for a reader that has not said yet what it needs. Nothing may be
// trimmed before that; the reader replaces the hold, by the same name, when it starts.
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

func (p *pipeline) addArchives(ctx context.Context) error {
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
		if err := holdAll(ctx, p.streams[c.Archive.From], "archive/"+name); err != nil {
			return err
		}
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

func (p *pipeline) addGateway(ctx context.Context) error {
	c := p.config.Gateway
	if c == nil {
		return nil
	}
	streams := make(map[string]millrace.Stream, len(p.streams))
	for name, s := range p.streams {
		streams[name] = s
	}
	for name := range c.Tables() {
		if err := holdAll(ctx, p.streams[name], "table/"+name); err != nil {
			return err
		}
	}
	options := gateway.Options{
		Streams: streams, State: p.state, Page: p.options.page(p.config, p.metrics),
		Dead: p.streams[config.DeadStream], ProducerMetrics: p.producers, Step: p.step,
		Logger: p.log, Metrics: gateway.NewMetrics(p.metrics),
	}
	if _, err := gateway.New(*c, options); err != nil {
		return err
	}
	p.addTier(p.stage("gateway", p.serve("gateway", &p.gatewayListener, c.Listener, func(ctx context.Context, l net.Listener) error {
		g, err := gateway.New(*c, options) // one runs once
		if err != nil {
			return err
		}
		defer p.connections.show(g.Control())()
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
	a := admin.New(*p.config.Admin, admin.Options{
		Stages: p.status, Metrics: p.metrics, Logger: p.log, Handlers: p.connections.handlers(),
	})
	p.addTier(p.stage("admin", p.serve("admin", &p.adminListener, listener.Config{TLS: p.config.Admin.TLS}, a.Run)))
}

// serve is the work of a stage with a listener. The listener that was bound at the start serves once; after
// a failure the same address is bound again.
func (p *pipeline) serve(section string, bound *net.Listener, c listener.Config, run func(context.Context, net.Listener) error) func(context.Context, func()) error {
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
		l, err := listener.Wrap(l, c, listener.Options{Logger: p.log, DataDir: p.config.DataDir})
		if err != nil {
			return err
		}
		ready()
		return run(ctx, l)
	}
}

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
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

// plan touches the world in the order in which failures are likely, and makes all stages that are not at
// work yet in the order in which an event passes them; it starts none. If it fails, nothing that is at work has
// noticed; streams and directories that were made for it stay, empty.
func (p *pipeline) plan(ctx context.Context, c *config.Config) (*plan, error) {
	n := &plan{
		config: c, working: map[string]*stage{},
		doors: map[string]*door{}, streams: map[string]*nats.Stream{}, stores: map[string]*disk.Store{},
		servers: map[string]*ingest{}, page: p.options.page(c, p.metrics),
	}
	for _, s := range p.stages {
		n.working[s.name] = s
	}
	for _, step := range []func() error{
		func() error { return p.listen(n) },
		func() error { return p.openStreams(ctx, n) },
		func() error { return p.addSources(n) },
		func() error { return p.addQueries(n) },
		func() error { return p.addArchives(n) },
		func() error { return p.addGateway(n) },
		func() error { return p.addStreams(n) },
		func() error { return p.addAdmin(n) },
	} {
		if err := step(); err != nil {
			n.drop()
			return nil, err
		}
	}
	return n, nil
}

// listen binds the addresses before anything is touched on disk.
func (p *pipeline) listen(n *plan) error {
	if c := n.config.Gateway; c != nil {
		if err := p.bind(n, "gateway", c.Listen); err != nil {
			return err
		}
	}
	if c := n.config.Admin; c != nil {
		if err := p.bind(n, "admin", c.Listen); err != nil {
			return err
		}
	}
	for name, c := range sorted(n.config.Sources) {
		if c.HTTP == nil {
			continue
		}
		if err := p.bind(n, "sources."+name+".http", c.HTTP.Listen); err != nil {
			return err
		}
	}
	return nil
}

// bind opens the door at an address, unless it is open.
func (p *pipeline) bind(n *plan, section, address string) (err error) {
	name := doorName(section, address)
	d := n.doors[name]
	if d == nil {
		d = p.doors[name]
	}
	if d == nil {
		if d, err = openDoor(section, address); err != nil {
			return err
		}
		n.undo = append(n.undo, d.shut)
	}
	n.doors[name] = d
	return nil
}

// doorName tells doors apart: by their addresses, so that what changes places with something else finds the
// door open. Each port 0 is another one; sources that share an address share it.
func doorName(section, address string) string {
	if _, port, _ := net.SplitHostPort(address); port != "0" {
		return address
	}
	section, _, _ = strings.Cut(section, ".")
	return section + " " + address
}

// openEngine opens what holds the streams.
func (p *pipeline) openEngine(ctx context.Context) (err error) {
	p.engine, err = nats.Open(ctx, nats.Options{
		Config: p.config.Engine, DataDir: p.config.DataDir, Logger: p.log, Metrics: p.measures.streams,
	})
	if err == nil {
		p.state, err = p.engine.State(ctx)
	}
	return err
}

// openStreams opens the streams that are not open yet, side by side: each creation waits for the disk.
func (p *pipeline) openStreams(ctx context.Context, n *plan) error {
	var mu sync.Mutex
	var all sync.WaitGroup
	var failures []error
	limit := make(chan struct{}, 16)
	for name, c := range sorted(n.config.Streams) {
		if s, open := p.streams[name]; open {
			mu.Lock()
			n.streams[name] = s
			mu.Unlock()
			continue
		}
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
			n.streams[name] = s
			n.undo = append(n.undo, func() { p.closeStream(s) })
		})
	}
	all.Wait()
	return errors.Join(failures...)
}

// closeStream closes a stream that nobody uses. Its blocks stay.
func (p *pipeline) closeStream(s *nats.Stream) {
	if err := s.Close(); err != nil {
		p.log.Warn("close stream", "stream", s.Name(), "error", err)
	}
	p.measures.streams.Forget(s.Name())
}

func (p *pipeline) addSources(n *plan) error {
	for name, c := range sorted(n.config.Sources) {
		err := n.add(tierSources, "source/"+name, c, func() (*stage, error) { return p.newSource(n, name, c) })
		if err != nil {
			return err
		}
		if c.HTTP != nil {
			if n.servers[c.HTTP.Listen] == nil {
				n.servers[c.HTTP.Listen] = &ingest{}
			}
			server := n.servers[c.HTTP.Listen]
			server.sources = append(server.sources, n.stages[len(n.stages)-1].posts)
			server.listener = c.HTTP.Listener // the same in each; config has checked it
		}
	}
	for address, i := range sorted(n.servers) {
		if working := p.servers[address]; working != nil {
			i.Server = working.Server
		} else {
			var err error
			i.Server, err = httpsource.NewServer(httpsource.ServerOptions{Metrics: p.measures.posts, Logger: p.log}, i.sources...)
			if err != nil {
				return err
			}
		}
		err := n.add(tierSources, "ingest/"+address, i.listener, func() (*stage, error) {
			return p.server("ingest/"+address, n.doors[doorName("sources", address)], i.listener, atOnce(i.Run)), nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *pipeline) newSource(n *plan, name string, c config.Source) (*stage, error) {
	s := &source{
		config: c, opening: p.opening,
		producer: producer.Config{
			Name: "source/" + name, Into: n.streams[c.Into], Dead: n.streams[config.DeadStream],
			Budget: p.budget, Step: p.step, Metrics: p.measures.producers, Logger: p.log,
		},
	}
	var taking *httpsource.Source
	switch { // the kinds of sources
	case c.SSE != nil:
		s.producer.EventLimit = int(c.SSE.EventLimit)
		s.open = func() millrace.Source {
			return sse.New(*c.SSE, sse.Options{Name: name, Logger: p.log, Metrics: p.measures.feeds, UserAgent: userAgent()})
		}
	case c.HTTP != nil:
		s.producer.EventLimit = int(c.HTTP.EventLimit)
		taking = httpsource.New(*c.HTTP, httpsource.Options{
			Name: name, Stream: c.Into, Mapping: c.Mapping, MaxBlock: n.streams[c.Into].MaxBlock(),
			Step: p.step, Metrics: p.measures.posts, Logger: p.log,
		})
		s.config.Mapping = mapping.Config{} // it maps by itself, to tell senders what is wrong
		s.open = func() millrace.Source { return taking }
	default:
		return nil, fmt.Errorf("source %q has no kind", name) // config has checked it
	}
	made := p.stage("source/"+name, s.run)
	made.posts = taking
	made.forget = func(by *stage) {
		if by != nil {
			return
		}
		p.measures.feeds.Forget(name)
		p.measures.posts.Forget(name)
		p.measures.producers.Forget("source/" + name)
	}
	return made, nil
}

// addQueries adds queries in a tier for each step that results may take through them, so that a query
// drains after those that it reads from.
func (p *pipeline) addQueries(n *plan) error {
	depths := queryDepths(n.config.Queries)
	for name, c := range sorted(n.config.Queries) {
		err := n.add(tierQueries+depths[name], "query/"+name, c, func() (*stage, error) { return p.newQuery(n, name, c) })
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *pipeline) newQuery(n *plan, name string, c config.Query) (*stage, error) {
	from, complete := n.streams[c.Query.From], make(chan struct{})
	q, err := query.New(name, c.Query, query.Options{
		From: &input{from, complete}, Into: n.streams[c.Query.Into], Dead: n.streams[config.DeadStream],
		State: p.state, Drain: n.config.DrainTimeout, Logger: p.log,
		Metrics: p.measures.queries, ProducerMetrics: p.measures.producers, Step: p.step,
	})
	if err != nil {
		return nil, err
	}
	made := p.stage("query/"+name, func(ctx context.Context, ready func()) error {
		ready()
		return q.Run(ctx)
	})
	made.holds = []hold{{from, "query/" + name}}
	made.finish = sync.OnceFunc(func() { close(complete) })
	partitions := n.config.Streams[c.Query.From].Partitions
	made.forget = func(by *stage) {
		if by != nil {
			return
		}
		p.measures.queries.Forget(name)
		for i := range partitions {
			p.measures.producers.Forget(fmt.Sprintf("query/%s/%d", name, i))
		}
	}
	return made, nil
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

func (p *pipeline) addArchives(n *plan) error {
	for name, c := range sorted(n.config.Archives) {
		store, err := p.store(n, c.To)
		if err != nil {
			return err
		}
		err = n.add(tierArchives, "archive/"+name, c, func() (*stage, error) {
			a, err := archive.New(name, c.Archive, archive.Options{
				From: n.streams[c.Archive.From], To: store, State: p.state,
				Drain: n.config.DrainTimeout, Logger: p.log, Metrics: p.measures.archives, Step: p.step,
			})
			if err != nil {
				return nil, err
			}
			made := p.stage("archive/"+name, func(ctx context.Context, ready func()) error {
				ready()
				return a.Run(ctx)
			})
			made.holds = []hold{{n.streams[c.Archive.From], "archive/" + name}}
			made.forget = func(by *stage) {
				if by == nil {
					p.measures.archives.Forget(name)
				}
			}
			return made, nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// store opens an object store, once for all archives that write to it.
func (p *pipeline) store(n *plan, to config.To) (millrace.ObjectStore, error) {
	switch { // the kinds of object stores
	case to.Disk != "":
		s, open := n.stores[to.Disk]
		if !open {
			s, open = p.stores[to.Disk]
		}
		if !open {
			var err error
			if s, err = disk.Open(to.Disk); err != nil {
				return nil, err
			}
			n.undo = append(n.undo, func() { p.closeStore(s) })
		}
		n.stores[to.Disk] = s
		return s, nil
	default:
		return nil, errors.New("an archive has no place for its objects") // config has checked it
	}
}

func (p *pipeline) closeStore(s *disk.Store) {
	if err := s.Close(); err != nil {
		p.log.Warn("close archive directory", "error", err)
	}
}

func (p *pipeline) addGateway(n *plan) error {
	c := n.config.Gateway
	if c == nil {
		return nil
	}
	return n.add(tierGateway, "gateway", *c, func() (*stage, error) {
		streams := make(map[string]millrace.Stream, len(n.streams))
		for name, s := range n.streams {
			streams[name] = s
		}
		options := gateway.Options{
			Streams: streams, State: p.state, Dead: n.streams[config.DeadStream],
			ProducerMetrics: p.measures.producers, Step: p.step, Logger: p.log, Metrics: p.measures.gateway,
			Attended: p.collector.attend,
		}
		if n.page != nil {
			options.Page = &p.page // what it shows may change while the gateway stays
		}
		if _, err := gateway.New(*c, options); err != nil {
			return nil, err
		}
		made := p.server("gateway", n.doors[doorName("gateway", c.Listen)], c.Listener, func(ctx context.Context, l net.Listener, ready func()) error {
			options.Ready = ready
			g, err := gateway.New(*c, options) // one runs once
			if err != nil {
				return err
			}
			defer p.clients.show(g.Control())()
			return g.Run(ctx, l)
		})
		for name := range sorted(c.Tables()) {
			made.holds = append(made.holds, hold{n.streams[name], "table/" + name})
		}
		made.routes = slices.Collect(maps.Keys(c.Endpoints))
		made.forget = func(by *stage) {
			for _, route := range made.routes {
				if by == nil || !slices.Contains(by.routes, route) {
					p.measures.gateway.Forget(route)
				}
			}
		}
		return made, nil
	})
}

// addStreams adds the loops that trim the streams.
func (p *pipeline) addStreams(n *plan) error {
	for name, s := range sorted(n.streams) {
		err := n.add(tierStreams, "stream/"+name, name, func() (*stage, error) {
			return p.stage("stream/"+name, func(ctx context.Context, ready func()) error {
				ready()
				return s.Run(ctx)
			}), nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *pipeline) addAdmin(n *plan) error {
	c := n.config.Admin
	if c == nil {
		return nil
	}
	return n.add(tierAdmin, "admin", *c, func() (*stage, error) {
		options := admin.Options{Stages: p.status, Metrics: p.metrics, Logger: p.log, Token: p.token, Handlers: p.clients.handlers()}
		if p.options.load != nil {
			options.Reload = p.askReload
		}
		a := admin.New(*c, options)
		made := p.server("admin", n.doors[doorName("admin", c.Listen)], listener.Config{TLS: c.TLS}, atOnce(a.Run))
		var err error
		made.seal, err = sealOf(c.TLS)
		return made, err
	})
}

// atOnce is for servers that are ready as soon as they run.
func atOnce(run func(context.Context, net.Listener) error) func(context.Context, net.Listener, func()) error {
	return func(ctx context.Context, l net.Listener, ready func()) error {
		ready()
		return run(ctx, l)
	}
}

// server is a stage that serves at a door. After a failure the same address is bound again.
func (p *pipeline) server(name string, d *door, c listener.Config, run func(context.Context, net.Listener, func()) error) *stage {
	dataDir := p.config.DataDir // which never changes
	s := p.stage(name, func(ctx context.Context, ready func()) error {
		bare, err := d.serve(ctx)
		if err != nil {
			return err
		}
		defer bare.Close() // if nobody else has
		l, err := listener.Wrap(bare, c, listener.Options{Logger: p.log, DataDir: dataDir})
		if err != nil {
			return err
		}
		defer l.Close() // if run has not
		err = run(ctx, l, ready)
		if err != nil || over(context.Background(), p.ending) {
			d.shut()
		}
		return err
	})
	s.door = d
	return s
}

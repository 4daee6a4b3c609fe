package httpsource

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
	"github.com/millrace/millrace/mapping"
	"github.com/millrace/millrace/millracetest"
	"github.com/millrace/millrace/producer"
	"github.com/millrace/millrace/stream/memory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const token = "0123456789abcdef-token"

// config returns a source's configuration with the defaults.
func config() Config {
	var c Config
	c.SetDefaults()
	c.Wait = 50 * time.Millisecond
	return c
}

// place is a source with all around it: stream, producer, server, socket. It may die and start again.
type place struct {
	t          *testing.T
	config     Config
	mapping    mapping.Config
	options    Options
	into, dead *memory.Stream
	way        *millracetest.Faults // to the streams; set by start unless it is set
	url        string
	source     *Source
	client     *http.Client

	cancel context.CancelFunc
	ended  chan error // of the source and of the server
	closed func()
}

// newPlace returns a place whose stream has some partitions. It does not run.
func newPlace(t *testing.T, partitions int) *place {
	p := &place{
		t: t, config: config(),
		into: memory.New("events", memory.Options{Partitions: partitions}), dead: memory.New("dead", memory.Options{}),
		client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 300}},
	}
	t.Cleanup(func() {
		p.stop()
		p.client.CloseIdleConnections()
	})
	return p
}

// start opens the producer and serves on a port of its own.
func (p *place) start() *place {
	p.t.Helper()
	if p.way == nil {
		p.way = millracetest.NewFaults(nil)
	}
	out, err := producer.Open(p.t.Context(), producer.Config{
		Name: "source/posts", Into: p.way.Stream(p.into), Dead: p.way.Stream(p.dead), EventLimit: int(p.config.EventLimit),
	})
	if err != nil {
		p.t.Fatal(err)
	}
	o := p.options
	o.Name, o.Stream, o.Mapping = "posts", "events", p.mapping
	p.source = New(p.config, o)
	server, err := NewServer(ServerOptions{}, p.source)
	if err != nil {
		p.t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		p.t.Fatal(err)
	}
	p.url = "http://" + listener.Addr().String() + "/ingest/events"
	ctx, cancel := context.WithCancel(context.Background())
	producing, stop := context.WithCancel(context.Background())
	p.cancel, p.ended = cancel, make(chan error, 2)
	var running, committing sync.WaitGroup
	committing.Go(func() { _ = out.Run(producing) })
	attached := p.source.attached
	running.Go(func() { p.ended <- p.source.Run(ctx, out.Resume(), out) })
	running.Go(func() { p.ended <- server.Run(ctx, listener) })
	p.closed = func() {
		running.Wait()
		stop()
		committing.Wait()
	}
	select {
	case <-attached:
	case <-time.After(20 * time.Second):
		p.t.Fatal("it does not start")
	}
	return p
}

// stop drains, unless it has been stopped.
func (p *place) stop() {
	if p.cancel == nil {
		return
	}
	p.cancel()
	p.closed()
	p.cancel, p.way = nil, nil
	p.client.CloseIdleConnections()
}

// die ends the process as far as the streams can tell, and starts another.
func (p *place) restart() *place {
	p.t.Helper()
	if p.way != nil {
		p.way.Crash()
	}
	p.stop()
	p.into, p.dead = p.into.Reopen(), p.dead.Reopen()
	return p.start()
}

// reply is an answer as a client sees it.
type reply struct {
	Code      int
	Header    http.Header
	Accepted  int
	Rejected  int
	Duplicate bool
	Error     string
	Errors    []struct {
		Line, Index *int
		Reason      string
	}
}

// try posts a body with headers, given as pairs.
func (p *place) try(query, body string, headers ...string) (reply, error) {
	request, err := http.NewRequestWithContext(p.t.Context(), http.MethodPost, p.url+query, strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := p.client.Do(request)
	if err != nil {
		return reply{}, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return reply{}, err
	}
	r := reply{Code: response.StatusCode, Header: response.Header}
	if err := json.Unmarshal(text, &r); err != nil {
		p.t.Errorf("the answer %d %q is no JSON: %v", response.StatusCode, text, err)
	}
	return r, nil
}

// post is try that must get an answer.
func (p *place) post(query, body string, headers ...string) reply {
	p.t.Helper()
	r, err := p.try(query, body, headers...)
	if err != nil {
		p.t.Fatal(err)
	}
	return r
}

const (
	asJSON  = "application/json"
	asLines = "application/x-ndjson"
)

// want posts and checks code and counts.
func (p *place) want(r reply, code, accepted, rejected int, duplicate bool) {
	p.t.Helper()
	if r.Code != code || r.Accepted != accepted || r.Rejected != rejected || r.Duplicate != duplicate {
		p.t.Errorf("answered %d, accepted %d, rejected %d, duplicate %t (%s); want %d, %d, %d, %t",
			r.Code, r.Accepted, r.Rejected, r.Duplicate, r.Error, code, accepted, rejected, duplicate)
	}
}

// stored returns all events that are in the stream, partition by partition.
func (p *place) stored() []millrace.Event {
	p.t.Helper()
	return eventsOf(p.t, p.into)
}

func eventsOf(t testing.TB, s millrace.Stream) (all []millrace.Event) {
	t.Helper()
	partitions, err := s.Partitions(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, partition := range partitions {
		err := millracetest.ReadPartition(t.Context(), s, partition.Name, func(b millrace.StoredBlock) error {
			events, err := block.Events(b.Raw)
			all = append(all, events...)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// data returns the data of all events in the stream, joined.
func (p *place) data() string {
	p.t.Helper()
	var texts []string
	for _, e := range p.stored() {
		texts = append(texts, string(e.Data))
	}
	return strings.Join(texts, " ")
}

func newMemory(name string, clock *millracetest.Clock) *memory.Stream {
	return memory.New(name, memory.Options{Now: clock.Now})
}

// resume stops the place and returns what its next life would begin with.
func (p *place) resume() millrace.Resume {
	p.t.Helper()
	p.stop()
	p.into, p.dead = p.into.Reopen(), p.dead.Reopen()
	out, err := producer.Open(p.t.Context(), producer.Config{Name: "source/posts", Into: p.into, Dead: p.dead})
	if err != nil {
		p.t.Fatal(err)
	}
	r := out.Resume()
	if err := out.Close(); err != nil {
		p.t.Fatal(err)
	}
	return r
}

// newHeldPlace returns a place whose stream holds appends with events until way.Release, and tells of each;
// at most so many are told of and not yet received.
func newHeldPlace(t *testing.T, told int) (p *place, held chan struct{}) {
	p = newPlace(t, 1)
	held = make(chan struct{}, told)
	p.way = millracetest.NewFaults(func(_, _ string, h millrace.Header) millracetest.Fault {
		if h.Events > 0 {
			held <- struct{}{}
			return millracetest.Hold
		}
		return millracetest.NoFault
	})
	return p, held
}

package e2e

import (
	"context"
	"encoding/json"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace"
)

const applicationConfig = `
data_dir: data
streams:
  events: {}
  presence: {partitions: 2}
archives:
  presence:
    from: presence
    to: {disk: archive}
    prefix: "presence/!{timestamp:yyyy/MM/dd/HH}/"
    buffer: {size: 4KiB, interval: 50ms}
gateway:
  listen: 127.0.0.1:0
  presence: {into: presence}
  endpoints:
    /events: {from: events}
    /who: {from: presence, latest: true}
    /prod:
      apigateway:
        routes:
          $connect: {lambda: {url: "${env:APPLICATION}"}}
          $disconnect: {lambda: {url: "${env:APPLICATION}"}}
admin: {listen: "127.0.0.1:0"}
`

func newApplicationPipeline(t *testing.T, a *application) *pipeline {
	t.Helper()
	return newPipeline(t, "", map[string]string{"config.yaml": applicationConfig}, "APPLICATION="+a.server.URL)
}

// Killed with -9 while clients are connected, the program tells $disconnect of each of them when it starts again,
// once; and so it does where it ends in order.
func TestDisconnectsAfterKill(t *testing.T) {
	const n = 200
	t.Parallel()
	need(t)
	app := newApplication(t, nil)
	pipeline := newApplicationPipeline(t, app)
	p := pipeline.start()
	for range n {
		dial(t, p, "/prod", "")
	}
	if got := app.count(); got != (tally{Connects: n, Missing: n}) {
		t.Fatalf("before the kill: %+v", got)
	}
	p.kill()
	p = pipeline.start()
	app.await(t, "of all disconnects", func(all map[string]*heard) bool {
		return !slices.ContainsFunc(slices.Collect(maps.Values(all)), func(h *heard) bool { return h.disconnects == 0 || h.code != 1006 })
	})
	for range n {
		dial(t, p, "/prod", "")
	}
	p.end(syscall.SIGTERM)
	if got := app.count(); got != (tally{Connects: 2 * n, Disconnects: 2 * n}) {
		t.Errorf("after the end: %+v", got)
	}
	pipeline.serve().end(syscall.SIGTERM)
	if got := app.count(); got != (tally{Connects: 2 * n, Disconnects: 2 * n}) {
		t.Errorf("after a life without clients: %+v", got)
	}
	t.Logf("%+v", app.count())
}

// Killed between any two steps of a connection's life, the program tells $disconnect of whatever $connect may
// have heard of.
func TestDisconnectAfterCrash(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		at   string
		want tally
	}{
		{"producer.flush-encoded:1", tally{}},                                        // nothing is durable, and nobody was asked
		{"producer.home-appended:1", tally{Unheard: 1, Disconnects: 1}},              // it is durable that somebody comes
		{"connect", tally{Connects: 1, Disconnects: 1}},                              // while $connect is being asked
		{"disconnect", tally{Connects: 1, Disconnects: 1, Repeats: 1}},               // while $disconnect is being told
		{"producer.flush-encoded:2", tally{Connects: 1, Disconnects: 1, Repeats: 1}}, // it was told, and nobody knows
		{"producer.home-appended:2", tally{Connects: 1, Disconnects: 1}},             // the journal is complete
	} {
		t.Run(tt.at, func(t *testing.T) {
			t.Parallel()
			need(t)
			victim := make(chan *program, 1)
			app := newApplication(t, func(e connectionEvent) int {
				if strings.EqualFold(e.RequestContext.EventType, tt.at) {
					select {
					case p := <-victim:
						p.kill()
					default:
					}
				}
				return 200
			})
			pipeline := newApplicationPipeline(t, app)
			var environment []string
			if strings.Contains(tt.at, ":") {
				environment = []string{"MILLRACE_CRASH_AT=" + tt.at}
			}
			p := pipeline.start(environment...)
			victim <- p
			if w, err := tryDial(t.Context(), p, "/prod", ""); err == nil {
				_ = w.WriteClose(1000, "") // it may be dead already
				_ = w.Close()
			}
			p.waitEnd()
			if !p.killed() {
				t.Fatalf("it was not killed, but ended with %v", p.wait)
			}
			pipeline.serve().end(syscall.SIGTERM) // waits until all is told
			if got := app.count(); got != tt.want {
				t.Errorf("%+v, want %+v", got, tt.want)
			}
		})
	}
}

// Killed with -9 at random moments while connections come and go, the program leaves none out: whatever $connect
// has heard of, $disconnect is told of at least once, and the journal of connections, which is archived, has exactly one
// end for each beginning.
func TestConnectionsComeAndGoOverKills(t *testing.T) {
	kills := 10
	if long {
		kills = 50
	}
	t.Parallel()
	need(t)
	var mu sync.Mutex
	random := rand.New(rand.NewPCG(4, 5))
	chance := func(n int) bool {
		mu.Lock()
		defer mu.Unlock()
		return random.IntN(n) == 0
	}
	span := func(most time.Duration) time.Duration {
		mu.Lock()
		defer mu.Unlock()
		return time.Duration(random.Int64N(int64(most)))
	}
	app := newApplication(t, func(e connectionEvent) int {
		switch {
		case e.RequestContext.EventType == "CONNECT" && chance(10):
			return 403
		case chance(50):
			return 500
		}
		return 200
	})
	pipeline := newApplicationPipeline(t, app)

	// Clients of all kinds that connect, stay for a while, and go with and without a word.
	ctx, stop := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	defer clients.Wait()
	defer stop()
	for i := range 30 {
		clients.Go(func() {
			for ctx.Err() == nil {
				p := pipeline.serving(ctx)
				if p == nil {
					return
				}
				path, protocol := "/prod", ""
				if i%3 == 2 {
					path, protocol = "/events", "millrace.v1"
				}
				w, err := tryDial(ctx, p, path, protocol)
				if err != nil {
					sleep(ctx, 5*time.Millisecond) // it was killed, or says no
					continue
				}
				sleep(ctx, span(300*time.Millisecond))
				if chance(2) {
					_ = w.WriteClose(4000+uint16(i), "enough") // or it was killed
				}
				_ = w.Close()
			}
		})
	}
	for i := range kills {
		p := pipeline.launch()
		if i%4 != 3 { // the others die while they start
			p.waitReady()
		}
		moment := time.NewTimer(span(700 * time.Millisecond))
		select {
		case <-moment.C:
		case <-p.ended:
			t.Fatalf("life %d has ended by itself: %v", i, p.wait)
		}
		p.kill()
	}
	stop()
	clients.Wait()

	// Who is connected after that, by the stream and by the admin listener.
	p := pipeline.start()
	for i := range 20 {
		if w, err := tryDial(t.Context(), p, []string{"/prod", "/events"}[i%2], ""); err == nil { // it may be denied
			defer w.Close()
		}
	}
	p.checkWho(t)
	p.end(syscall.SIGTERM)
	pipeline.start().end(syscall.SIGTERM) // the archive ends before the last connections do, and catches up
	got := app.count()
	t.Logf("%d kills: %+v", kills, got)
	if got.Missing > 0 {
		t.Errorf("$disconnect was not told of %d connections", got.Missing)
	}
	if got.Connects < 100 {
		t.Errorf("only %d connections: that proves little", got.Connects)
	}

	journal := readStreams(t, filepath.Join(pipeline.dir, "data"), map[string]int{"presence": 2, "dead": 1})
	if len(journal["dead"][0]) > 0 {
		t.Errorf("%d dead letters", len(journal["dead"][0]))
	}
	known := checkJournal(t, slices.Concat(journal["presence"]...))
	for id, h := range app.heard {
		if h.connects > 0 && !known[id] {
			t.Errorf("connection %s is not in the journal", id)
		}
	}
	archived := readArchive(t, filepath.Join(pipeline.dir, "archive"), "presence", "presence")
	for i, events := range journal["presence"] {
		compareArchive(t, "presence", i, events, archived[strconv.Itoa(i)])
	}
	t.Logf("%d connections in the journal and in the archive, each with one end", len(known))
}

// checkJournal checks that each connection comes once, and then goes once.
func checkJournal(t *testing.T, events []millrace.Event) (known map[string]bool) {
	t.Helper()
	known = map[string]bool{}
	open := map[string]bool{}
	for _, e := range events {
		switch {
		case e.Type == "connect" && !known[e.Key]:
			known[e.Key], open[e.Key] = true, true
		case e.Type == "disconnect" && open[e.Key] && e.Deleted:
			delete(open, e.Key)
		default:
			t.Errorf("%s of connection %s does not fit what came before: %s", e.Type, e.Key, e.Data)
		}
	}
	if len(open) > 0 {
		t.Errorf("%d of %d connections have no end", len(open), len(known))
	}
	return known
}

// checkWho compares what the stream of presence says of who is connected with what the admin listener says.
func (p *program) checkWho(t *testing.T) {
	t.Helper()
	w := dial(t, p, "/who?since=latest", "millrace.v1")
	told := map[string]string{} // endpoints by connection
	for {
		var m struct {
			Key, Type string
			Data      struct{ Endpoint string }
		}
		if text := read(t, w); json.Unmarshal([]byte(text), &m) != nil {
			t.Fatalf("who is connected: %s", text)
		}
		switch m.Type {
		case "connect":
			told[m.Key] = m.Data.Endpoint
		case "disconnect":
			delete(told, m.Key)
		}
		listed := map[string]string{}
		for _, c := range p.connections("") {
			listed[c.ID] = c.Endpoint
		}
		if maps.Equal(told, listed) { // or more is to come
			return
		}
	}
}

// serve starts the program and waits until the gateway takes connections.
func (p *pipeline) serve() *program {
	p.t.Helper()
	next := p.start()
	next.logged("that the gateway serves", func(l logLine) bool { return l.Msg == "gateway: serving" })
	return next
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

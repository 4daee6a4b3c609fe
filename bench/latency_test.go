package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
	"github.com/millrace/millrace/gateway"
	"github.com/millrace/millrace/mapping"
	"github.com/millrace/millrace/producer"
	"github.com/millrace/millrace/query"
	"github.com/millrace/millrace/query/fence"
	"github.com/millrace/millrace/source/sse"
	"github.com/millrace/millrace/stream/memory"
)

const (
	latencyRate   = 1000 // events a second
	latencyEvents = 3000
	latencyWarm   = 500 // not counted: connections open, memory grows
)

// BenchmarkLatency measures, at 1,000 events a second, how long it takes from the moment the feed's server
// writes an event until it is durable, and until the crossing it causes arrives in a WebSocket frame:
// each event drives a vehicle into the fence or out of it.
func BenchmarkLatency(b *testing.B) {
	for b.Loop() {
		durable, pushed := latencies(b)
		for name, all := range map[string][]time.Duration{"durable": durable, "pushed": pushed} {
			all = all[latencyWarm:]
			slices.Sort(all)
			b.ReportMetric(all[len(all)/2].Seconds()*1e3, name+"-p50-ms")
			b.ReportMetric(all[len(all)*99/100].Seconds()*1e3, name+"-p99-ms")
			b.ReportMetric(all[len(all)-1].Seconds()*1e3, name+"-max-ms")
		}
	}
	b.ReportMetric(0, "ns/op")
}

func latencies(b *testing.B) (durable, pushed []time.Duration) {
	ctx, cancel := context.WithCancel(b.Context())
	engine := openEngine(b)
	positions := &timed{Stream: openStream(b, engine, "positions")}
	crossings, dead := openStream(b, engine, "crossings"), openStream(b, engine, "dead")
	var stages sync.WaitGroup
	run := func(name string, stage func(context.Context) error) {
		stages.Go(func() {
			if err := stage(ctx); err != nil {
				b.Errorf("%s: %v", name, err)
			}
		})
	}
	defer stages.Wait()
	defer cancel()

	fences := filepath.Join(b.TempDir(), "fences.geojson")
	square := `{"type":"Feature","id":"depot","properties":{},"geometry":{"type":"Polygon","coordinates":[[[0,0],[1,0],[1,1],[0,1],[0,0]]]}}`
	if err := os.WriteFile(fences, []byte(square), 0o600); err != nil {
		b.Fatal(err)
	}
	fenceConfig := fence.Config{Fences: fences, Lat: "lat", Lon: "lon"}
	fenceConfig.SetDefaults()
	q, err := query.New("crossings", query.Config{From: "positions", Into: "crossings", Fence: &fenceConfig}, query.Options{
		From: positions, Into: crossings, Dead: dead, State: memory.NewState(),
	})
	if err != nil {
		b.Fatal(err)
	}
	run("query", q.Run)

	address := serveGateway(b, run, crossings)
	conn, _, _, err := ws.Dial(ctx, "ws://"+address+"/crossings")
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetReadDeadline(time.Now().Add(latencyEvents/latencyRate*time.Second + patience)); err != nil {
		b.Fatal(err)
	}

	out, err := producer.Open(ctx, producer.Config{Name: "source/bench", Into: positions, Dead: dead})
	if err != nil {
		b.Fatal(err)
	}
	run("producer", out.Run)
	server := httptest.NewServer(http.HandlerFunc(pacedFeed))
	defer server.Close()
	defer cancel() // before the server waits for its connections
	feed := sse.Config{URL: server.URL}
	feed.SetDefaults()
	run("source", func(ctx context.Context) error {
		mapper := mapping.New(mapping.Config{Key: "vehicle", Time: "time"}, mapping.Options{}, out)
		return sse.New(feed, sse.Options{Name: "bench"}).Run(ctx, out.Resume(), mapper)
	})

	for len(pushed) < latencyEvents {
		frame, err := wsutil.ReadServerText(conn)
		if err != nil {
			b.Fatal(err)
		}
		var crossing struct{ Time time.Time }
		if err := json.Unmarshal(frame, &crossing); err != nil {
			b.Fatal(err)
		}
		pushed = append(pushed, time.Since(crossing.Time))
	}
	positions.mu.Lock()
	defer positions.mu.Unlock()
	return positions.latencies, pushed
}

// serveGateway serves a stream at /crossings and returns the address.
func serveGateway(b *testing.B, run func(string, func(context.Context) error), crossings millrace.Stream) string {
	c := gateway.Config{}
	c.SetDefaults()
	c.Endpoints = map[string]gateway.Endpoint{"/crossings": {From: "crossings"}}
	g, err := gateway.New(c, gateway.Options{Streams: map[string]millrace.Stream{"crossings": crossings}})
	if err != nil {
		b.Fatal(err)
	}
	var config net.ListenConfig
	listener, err := config.Listen(b.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	run("gateway", func(ctx context.Context) error { return g.Run(ctx, listener) })
	return listener.Addr().String()
}

// pacedFeed writes one event a millisecond, each with the time at which it is written.
func pacedFeed(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	control := http.NewResponseController(w)
	tick := time.NewTicker(time.Second / latencyRate)
	defer tick.Stop()
	var data []byte
	for n := range latencyEvents {
		select {
		case <-tick.C:
		case <-r.Context().Done():
			return
		}
		now := time.Now()
		// Vehicle n%100 is in the fence in every other round.
		data = fmt.Appendf(data[:0], `{"vehicle":"%d","time":%q,"lat":0.5,"lon":%.1f,"report":`,
			n%100, now.Format(time.RFC3339Nano), 0.5+float64(n/100%2))
		data = append(appendEvent(data, n, now), '}')
		fmt.Fprintf(w, "id: %d\ndata: %s\n\n", n, data)
		if control.Flush() != nil {
			return
		}
	}
	<-r.Context().Done()
}

// timed notes how old the events of each block are when the block is durable.
type timed struct {
	millrace.Stream

	mu        sync.Mutex
	latencies []time.Duration
}

func (s *timed) Append(ctx context.Context, partition string, after millrace.Position, b millrace.Block) (millrace.Position, error) {
	at, err := s.Stream.Append(ctx, partition, after, b)
	now := time.Now()
	var r block.Reader
	if err == nil && r.Reset(b.Raw) == nil && r.Load(block.Keys) == nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		for i := range r.Len() {
			s.latencies = append(s.latencies, now.Sub(r.Time(i)))
		}
	}
	return at, err
}

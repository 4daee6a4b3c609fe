package e2e

import (
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/millracetest"
)

// traffic is the scenario of most tests: vehicles drive through the town, a resumable feed reports where
// they are, and the whole pipeline works on it: streams of several partitions, a geofence query, two
// archives, endpoints. Where the vehicles drive depends on nothing but the seed.
type traffic struct {
	t         *testing.T
	feed      *millracetest.Feed
	pipeline  *pipeline
	positions *books
	crossings *books
	clients   []*client
	stops     []func() // of the clients

	random   *rand.Rand
	patrol   *patrol
	vehicles []vehicle
	reported int
}

type vehicle struct {
	key                string
	steps              int
	start, pace, swing point // where on its course it begins, how fast it goes, how far it swings
}

// The partitions of the scenario's streams: several, so that a flush has several blocks.
var trafficPartitions = map[string]int{"positions": 3, "crossings": 2, "dead": 1}

const trafficConfig = `
data_dir: "${env:DATA}"
engine: {embedded: {reserve: "${env:RESERVE}"}}
streams:
  positions: {partitions: 3}
  crossings: {partitions: 2}
sources:
  vehicles:
    sse: {url: "${env:FEED}"}
    into: positions
    key: vehicle.id
    time: at
queries:
  crossings:
    from: positions
    fence: {fences: town.geojson, lat: place.lat, lon: place.lon}
    into: crossings
archives:
  positions:
    from: positions
    to: {disk: archive}
    prefix: "positions/!{timestamp:yyyy/MM/dd/HH}/"
    buffer: {size: "${env:SIZE}", interval: "${env:INTERVAL}"}
  crossings:
    from: crossings
    to: {disk: archive}
    prefix: "crossings/!{timestamp:yyyy/MM/dd/HH}/"
    buffer: {size: "${env:SIZE}", interval: "${env:INTERVAL}"}
gateway:
  listen: 127.0.0.1:0
  queue: "${env:QUEUE}"
  endpoints:
    /positions: {from: positions, key: "query:vehicle"}
    /crossings: {from: crossings, key: "query:vehicle"}
admin: {listen: "127.0.0.1:0"}
`

// trafficOptions differ between the tests.
type trafficOptions struct {
	vehicles int
	dir      string // of the pipeline; one of the test's if empty
	dataDir  string // relative to dir
	reserve  string // free space that the streams leave
	queue    string // of each connection in the gateway
	drained  bool   // objects are cut only where the program ends in order, instead of all the time
	feed     millracetest.FeedOptions
}

func newTraffic(t *testing.T, o trafficOptions) *traffic {
	t.Helper()
	need(t)
	if o.dataDir == "" {
		o.dataDir = "data"
	}
	if o.reserve == "" {
		o.reserve = "1MiB"
	}
	if o.queue == "" {
		o.queue = "64KiB"
	}
	size, interval := "8KiB", "50ms"
	if o.drained {
		size, interval = "5MiB", "1h"
	}
	fences := town()
	s := &traffic{
		t: t, feed: millracetest.NewFeed(t, o.feed),
		positions: newBooks("positions"), crossings: newBooks("crossings"),
		random: rand.New(rand.NewPCG(2, 0)), patrol: newPatrol(fences),
	}
	s.pipeline = newPipeline(t, o.dir, map[string]string{"config.yaml": trafficConfig, "town.geojson": geoJSON(fences)},
		"FEED="+s.feed.URL, "DATA="+o.dataDir, "RESERVE="+o.reserve, "QUEUE="+o.queue, "SIZE="+size, "INTERVAL="+interval)
	part := func(most float64) point { return point{most * s.random.Float64(), most * s.random.Float64()} }
	for i := range o.vehicles {
		s.vehicles = append(s.vehicles, vehicle{
			key: fmt.Sprintf("v%03d", i), start: part(2 * math.Pi), pace: part(0.35), swing: part(0.1),
		})
	}
	for _, b := range []*books{s.positions, s.crossings} {
		b.expect("stream")
		b.expect("archive")
	}
	return s
}

// connectClients connects clients of every kind: WebSocket and SSE, of all keys and of some.
func (s *traffic) connectClients() {
	s.t.Helper()
	s.client(s.positions, "all keys", false)
	s.client(s.positions, "one key", false, "v003")
	s.client(s.crossings, "all keys", false)
	s.client(s.crossings, "all keys, SSE", true)
	s.client(s.crossings, "two keys", false, "v001", "v004")
	s.client(s.crossings, "one key, SSE", true, "v002")
}

func (s *traffic) client(b *books, place string, sse bool, keys ...string) *client {
	s.t.Helper()
	b.expect(place, keys...)
	path := "/" + b.name
	for i, key := range keys {
		path += string("?&"[min(i, 1)]) + "vehicle=" + key
	}
	c := &client{place: place, path: path, sse: sse, take: func(m message) { b.arrive(place, m.key, "", m.data) }}
	s.follow(c)
	return c
}

func (s *traffic) follow(c *client) {
	s.t.Helper()
	s.clients = append(s.clients, c)
	s.stops = append(s.stops, follow(s.t, s.pipeline, c))
}

// stopClients stops the clients, each where it is.
func (s *traffic) stopClients() {
	s.t.Helper()
	for _, stop := range s.stops {
		stop()
	}
	s.stops = nil
}

// report makes vehicles report n times, and enters what must come of it.
func (s *traffic) report(n int) {
	begin := time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)
	events := make([]millracetest.FeedEvent, 0, n)
	for range n {
		v := &s.vehicles[s.random.IntN(len(s.vehicles))]
		at := begin.Add(time.Duration(s.reported) * 20 * time.Millisecond)
		if s.reported%29 == 28 {
			at = at.Add(-time.Hour) // late: the query ignores it
		}
		step := float64(v.steps)
		lat := coordinate(40.075 + v.swing.lat*math.Sin(v.start.lat+step*v.pace.lat))
		lon := coordinate(20.06 + v.swing.lon*math.Cos(v.start.lon+step*v.pace.lon))
		id := millracetest.LedgerID(v.key, v.steps)
		data := fmt.Sprintf(`{"vehicle":{"id":%q,"step":%d},"place":{"lat":%s,"lon":%s},"at":%q}`, v.key, v.steps, lat, lon, at.Format(time.RFC3339Nano))
		v.steps++
		s.reported++
		s.positions.send(v.key, id, data)
		for _, c := range s.patrol.move(v.key, lat, lon, at) {
			s.crossings.send(v.key, "", c)
		}
		events = append(events, millracetest.FeedEvent{ID: id, Data: data})
	}
	s.feed.Send(events...)
}

func coordinate(v float64) string { return strconv.FormatFloat(v, 'f', 6, 64) }

// drive lets the vehicles report at a steady pace until stop is called, which returns when the last report
// was sent.
func (s *traffic) drive(reports int, every time.Duration) (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		pace := time.NewTicker(every)
		defer pace.Stop()
		for {
			select {
			case <-pace.C:
				s.report(reports)
			case <-quit:
				return
			}
		}
	}()
	stop = sync.OnceFunc(func() { close(quit); <-done })
	s.t.Cleanup(stop)
	return stop
}

// awaitClients returns when every client has everything. If that does not come the test has failed, and
// goes on to see whether the streams have it.
func (s *traffic) awaitClients() {
	s.t.Helper()
	for _, b := range []*books{s.positions, s.crossings} {
		if b.wait(nil, b.clients()) != nil {
			s.t.Errorf("not everything in %s comes to all clients:\n%s", b.name, b.report())
			s.t.Logf("what the program does meanwhile:\n%s", s.pipeline.current.get("/debug/pprof/goroutine?debug=2"))
		}
	}
}

// settle enters what is in the streams and in the archive of a program that has ended, and checks the
// books. The archive must hold each partition's events as the stream does, in its order.
func (s *traffic) settle() {
	s.t.Helper()
	s.stopClients()
	streams := s.readStreams()
	for _, b := range []*books{s.positions, s.crossings} {
		archived := readArchive(s.t, filepath.Join(s.pipeline.dir, "archive"), b.name, b.name)
		for i, events := range streams[b.name] {
			compareArchive(s.t, b.name, i, events, archived[strconv.Itoa(i)])
			for _, e := range events {
				b.arrive("stream", e.Key, e.ID, string(e.Data))
			}
			for _, line := range archived[strconv.Itoa(i)] {
				b.arrive("archive", "", "", line)
			}
		}
		b.check(s.t)
	}
	for _, events := range streams["dead"] {
		for _, e := range events {
			s.t.Errorf("a dead letter: %s", e.Data)
		}
	}
}

func (s *traffic) readStreams() map[string][][]millrace.Event {
	s.t.Helper()
	return readStreams(s.t, s.dataDir(), trafficPartitions)
}

func (s *traffic) dataDir() string {
	for _, e := range s.pipeline.environment {
		if name, ok := strings.CutPrefix(e, "DATA="); ok {
			if filepath.IsAbs(name) {
				return name
			}
			return filepath.Join(s.pipeline.dir, name)
		}
	}
	panic("the pipeline has no data directory")
}

// compareArchive compares an archived partition with the stream, line by line.
func compareArchive(t *testing.T, stream string, partition int, events []millrace.Event, lines []string) {
	t.Helper()
	for i := range min(len(events), len(lines)) {
		if string(events[i].Data) != lines[i] {
			t.Errorf("stream %s, partition %d: event %d is %s, and the archive has %s there", stream, partition, i, events[i].Data, lines[i])
			return
		}
	}
	if len(events) != len(lines) {
		t.Errorf("stream %s, partition %d has %d events, and the archive %d", stream, partition, len(events), len(lines))
	}
}

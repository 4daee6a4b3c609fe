package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/millrace/millrace/config"
	"github.com/millrace/millrace/millracetest"
	"github.com/millrace/millrace/query"
)

// pipelineOf returns a pipeline of which only the stages are there.
func pipelineOf(timeout time.Duration) *pipeline {
	return &pipeline{
		config: &config.Config{DrainTimeout: timeout},
		log:    slog.New(slog.DiscardHandler), ending: make(chan struct{}), started: time.Now(),
		measures: newMeasures(nil),
	}
}

// add adds a stage in a tier of its own, behind the others.
func (p *pipeline) add(name string, work func(context.Context, func()) error) *stage {
	s := p.stage(name, work)
	s.tier = len(p.stages)
	p.stages = append(p.stages, s)
	return s
}

// Stages drain in the order of the data, each tier when the one before has ended.
func TestDrainFollowsTheData(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(30 * time.Second)
		var mu sync.Mutex
		var order []string
		add := func(name string, takes time.Duration) *stage {
			return p.add(name, func(ctx context.Context, ready func()) error {
				ready()
				<-ctx.Done()
				time.Sleep(takes)
				mu.Lock()
				defer mu.Unlock()
				order = append(order, name)
				return nil
			})
		}
		add("source", 3*time.Second)
		add("query", time.Second).finish = func() { order = append(order, "input complete") }
		add("archive", 2*time.Second)
		add("stream", 0)
		ctx, cancel := context.WithCancel(t.Context())
		ready := false
		p.options.ready = func(string, string) { ready = true; cancel() }
		if err := p.run(ctx); err != nil {
			t.Error(err)
		}
		if !ready {
			t.Error("it was never ready")
		}
		want := []string{"source", "input complete", "query", "archive", "stream"}
		if !slices.Equal(order, want) {
			t.Errorf("ended in the order %v, want %v", order, want)
		}
		if s := p.status(); s[0].State != "draining" || s[0].Ready {
			t.Errorf("while it drains it says %+v", s[0])
		}
	})
}

// What does not end in time is cut off and named.
func TestDrainIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(10 * time.Second)
		release := make(chan struct{})
		p.add("source/a", func(ctx context.Context, ready func()) error {
			ready()
			<-ctx.Done()
			return nil
		})
		p.add("archive/b", func(_ context.Context, ready func()) error {
			ready()
			<-release // hangs
			return nil
		})
		p.add("stream/c", func(ctx context.Context, ready func()) error {
			ready()
			<-ctx.Done()
			return nil
		})
		ctx, cancel := context.WithCancel(t.Context())
		p.options.ready = func(string, string) { cancel() }
		began := time.Now()
		err := p.run(ctx)
		if err == nil || !strings.HasSuffix(err.Error(), "cut off: archive/b, stream/c") {
			t.Error(err)
		}
		if took := time.Since(began); took < 10*time.Second || took > 12*time.Second {
			t.Errorf("it took %s", took)
		}
		close(release)
	})
}

// A pipeline that is interrupted before everything runs drains, too.
func TestDrainBeforeReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(10 * time.Second)
		p.add("source/a", func(context.Context, func()) error { return fmt.Errorf("no") })
		p.options.ready = func(string, string) { t.Error("ready") }
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := p.run(ctx); err != nil {
			t.Error(err)
		}
	})
}

func TestQueryDepths(t *testing.T) {
	q := func(from, into string) config.Query { return config.Query{Query: query.Config{From: from, Into: into}} }
	got := queryDepths(map[string]config.Query{
		"a": q("in", "x"), "b": q("x", "y"), "c": q("in", "y"), "d": q("y", "z"), "e": q("other", "w"),
	})
	want := map[string]int{"a": 0, "b": 1, "c": 0, "d": 2, "e": 0}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// begin runs a configuration and waits until it is ready. end interrupts it and waits until it has drained.
func begin(t *testing.T, c *config.Config) (gateway, admin string, end func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	listening := make(chan [2]string, 1)
	ended := make(chan error, 1)
	go func() {
		ended <- runPipeline(ctx, c, pipelineOptions{ready: func(gateway, admin string) { listening <- [2]string{gateway, admin} }})
	}()
	select {
	case addresses := <-listening:
		return addresses[0], addresses[1], func() {
			t.Helper()
			cancel()
			if err := <-ended; err != nil {
				t.Fatal(err)
			}
		}
	case err := <-ended:
		cancel()
		t.Fatal(err)
		return "", "", nil
	}
}

// A whole pipeline that has drained leaves nothing behind: no goroutine (TestMain looks), no lock.
func TestPipelineLeavesNothing(t *testing.T) {
	feed := millracetest.NewFeed(t, millracetest.FeedOptions{})
	feed.Send(millracetest.FeedEvent{ID: "1", Data: "{}"})
	c, err := config.Parse(filepath.Join(t.TempDir(), "x.yaml"), fmt.Appendf(nil, `
streams: {events: {partitions: 2}}
sources: {a: {sse: {url: %q}, into: events}}
archives: {a: {from: events, to: {disk: objects}, prefix: a/}}
gateway: {listen: "127.0.0.1:0", endpoints: {/e: {from: events}}}
admin: {listen: "127.0.0.1:0"}
`, feed.URL), func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		gateway, _, end := begin(t, c)
		readOne(t, "http://"+gateway+"/e?since=2020-01-01T00:00:00Z")
		end()
	}
	if objects, err := filepath.Glob(filepath.Join(c.Archives["a"].To.Disk, "a", "*", "*", "*", "*", "*.gz")); err != nil || len(objects) != 1 {
		t.Errorf("one event is in the objects %v, %v", objects, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := runPipeline(ctx, c, pipelineOptions{}); err != nil {
		t.Errorf("interrupted at the start: %v", err)
	}
}

// Sources that share a listener take posts, also after a restart, and their events go all the way.
func TestPipelineTakesPosts(t *testing.T) {
	address := freePorts(t, 1)[0]
	c, err := config.Parse(filepath.Join(t.TempDir(), "x.yaml"), fmt.Appendf(nil, `
streams: {a: {partitions: 2}, b: {}}
sources:
  a: {http: {listen: %[1]q}, into: a, key: id}
  b: {http: {listen: %[1]q}, into: b}
gateway: {listen: "127.0.0.1:0", endpoints: {/a: {from: a}, /b: {from: b}}}
`, address), func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal(err)
	}
	for run := range 2 {
		gateway, _, end := begin(t, c)
		for _, stream := range []string{"a", "b"} {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+address+"/ingest/"+stream, strings.NewReader(`[{"id":1},{"id":2}]`))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Content-Type", "application/json")
			r.Header.Set("Idempotency-Key", "k")
			response, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			text, err := io.ReadAll(response.Body)
			response.Body.Close()
			if response.StatusCode != http.StatusOK || err != nil || strings.Contains(string(text), "duplicate") != (run == 1) {
				t.Errorf("run %d, %s: %d %s %v", run, stream, response.StatusCode, text, err)
			}
			readOne(t, "http://"+gateway+"/"+stream+"?since=2020-01-01T00:00:00Z")
		}
		http.DefaultClient.CloseIdleConnections()
		end()
	}
}

// readOne reads a stream of Server-Sent Events until it has an event.
func readOne(t *testing.T, url string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Accept", "text/event-stream")
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	for lines := bufio.NewScanner(response.Body); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "data:") {
			return
		}
	}
	t.Fatalf("%s: no event", url)
}

// The page shows the input and the results of the first fence query.
func TestPage(t *testing.T) {
	c, err := config.Parse("testdata/page.yaml", []byte(`
streams: {positions: {}, crossings: {}}
sources: {a: {sse: {url: "http://127.0.0.1:1/"}, into: positions}}
queries:
  q: {from: positions, into: crossings, fence: {fences: none.geojson, lat: p.lat, lon: p.lon}}
gateway:
  page: map
  endpoints: {/c: {from: crossings, key: "query:id"}, /p: {from: positions, key: "query:vehicle"}}
`), func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal(err)
	}
	h := page(c, prometheus.NewRegistry())
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/map/setup.json", nil))
	var setup map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &setup); err != nil {
		t.Fatalf("%v: %s", err, w.Body)
	}
	for key, want := range map[string]string{
		"positions": "/p", "crossings": "/c", "connect": "/p", "lat": "p.lat", "lon": "p.lon",
	} {
		if setup[key] != want {
			t.Errorf("%s is %v, want %s", key, setup[key], want)
		}
	}
	c.Gateway.Page = ""
	if page(c, prometheus.NewRegistry()) != nil {
		t.Error("a page that nobody asked for")
	}
}

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/admin"
	"github.com/millrace/millrace/block"
	"github.com/millrace/millrace/config"
	"github.com/millrace/millrace/millracetest"
	"github.com/millrace/millrace/producer"
)

// live is a pipeline at work whose configuration can be written anew.
type live struct {
	*pipeline
	t         *testing.T
	dir, file string
}

const square = `{"type":"FeatureCollection","features":[{"type":"Feature","id":%q,"properties":{},
"geometry":{"type":"Polygon","coordinates":[[[0,0],[1,0],[1,1],[0,1],[0,0]]]}}]}`

// goLive runs a configuration until the test ends.
func goLive(t *testing.T, text string) *live {
	t.Helper()
	dir := t.TempDir()
	l := &live{t: t, dir: dir, file: filepath.Join(dir, "config.yaml")}
	l.write("square.geojson", fmt.Sprintf(square, "square"))
	l.write("secret", "one")
	l.write("config.yaml", text)
	c, err := load(l.file)
	if err != nil {
		t.Fatal(err)
	}
	ready := make(chan struct{})
	l.pipeline = newPipeline(c, pipelineOptions{
		log:  pipelineOf(0).log,
		page: func(c *config.Config, _ prometheus.Gatherer) http.Handler { return page(c, nil) },
		load: func() (*config.Config, error) { return load(l.file) }, file: l.file,
		ready: func(string, string) { close(ready) },
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	if err := l.open(ctx); err != nil {
		cancel()
		l.close()
		t.Fatal(err)
	}
	go func() { ended <- l.run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		l.close()
	})
	select {
	case <-ready:
	case <-time.After(20 * time.Second):
		t.Fatalf("not ready: %+v", l.status())
	}
	return l
}

func (l *live) write(name, text string) {
	l.t.Helper()
	if err := os.WriteFile(filepath.Join(l.dir, name), []byte(text), 0o600); err != nil {
		l.t.Fatal(err)
	}
}

// try writes the configuration and reloads it.
func (l *live) try(text string) (admin.Changes, error) {
	l.t.Helper()
	l.write("config.yaml", text)
	return l.askReload(l.file)
}

// atWork are the stages by name.
func (l *live) atWork() map[string]*stage {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := map[string]*stage{}
	for _, s := range l.stages {
		all[s.name] = s
	}
	return all
}

// freePorts returns n addresses on which nobody listens.
func freePorts(t *testing.T, n int) (addresses []string) {
	t.Helper()
	for len(addresses) < n {
		if a := millracetest.FreeAddress(t); !slices.Contains(addresses, a) {
			addresses = append(addresses, a)
		}
	}
	return addresses
}

// What a change of the configuration starts anew, what it only adds or ends, and what it is refused for.
// Everything else goes on as it was: the very same stages.
func TestReloadTable(t *testing.T) {
	feed := millracetest.NewFeed(t, millracetest.FeedOptions{})
	occupied, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { occupied.Close() })
	ports := freePorts(t, 4)
	base := fmt.Sprintf(`streams:
  in: {retention: {age: 1h}}
  out: {}
sources:
  one: {sse: {url: %[1]q, headers: {x: "${file:secret}"}}, into: in}
  two: {sse: {url: %[1]q}, into: in}
  posts: {http: {listen: %[2]q}, into: in}
  more: {http: {listen: %[2]q}, into: out}
queries:
  q: {from: in, into: out, fence: {fences: square.geojson, lat: lat, lon: lon}}
archives:
  a: {from: in, to: {disk: objects}, prefix: a/}
gateway:
  listen: %[3]q
  endpoints: {/in: {from: in}}
admin: {listen: %[4]q}
`, feed.URL, ports[0], ports[1], ports[2])
	l := goLive(t, base)

	edit := func(text, instead string) string {
		t.Helper()
		if !strings.Contains(base, text) {
			t.Fatalf("the base has no %q", text)
		}
		return strings.Replace(base, text, instead, 1)
	}
	two := fmt.Sprintf("  two: {sse: {url: %q}, into: in}\n", feed.URL)
	archive := "archives:\n  a: {from: in, to: {disk: objects}, prefix: a/}\n"
	for _, c := range []struct {
		name, text string
		before     func() // changes a file beside the configuration
		want       admin.Changes
		back       admin.Changes // by the base again; default: the same, with added and removed exchanged
		problem    string        // instead of want
	}{
		{name: "nothing", text: base},
		{name: "layout", text: "# a comment\n" + strings.ReplaceAll(base, "{from: in}", "{ from: \"in\" }")},
		{name: "a default written down", text: edit("into: in}\n  two", "into: in, split: false}\n  two")},
		{name: "time to drain", text: base + "drain_timeout: 20s\n"},
		{name: "a source", text: edit("into: in}\n  two", "into: in, split: true}\n  two"), want: admin.Changes{Changed: []string{"source/one"}}},
		{name: "where a source goes", text: edit("into: in}\n  two", "into: out}\n  two"), want: admin.Changes{Changed: []string{"source/one"}}},
		{name: "a source less", text: edit(two, ""), want: admin.Changes{Removed: []string{"source/two"}}},
		{
			name: "a source more", text: edit(two, two+strings.Replace(two, "two", "three", 1)),
			want: admin.Changes{Added: []string{"source/three"}},
		},
		{
			name: "a source of another name", text: edit(two, strings.Replace(two, "two", "three", 1)),
			want: admin.Changes{Added: []string{"source/three"}, Removed: []string{"source/two"}},
		},
		{
			name: "what a value's file holds", text: base, before: func() { l.write("secret", "two") },
			want: admin.Changes{Changed: []string{"source/one"}}, back: admin.Changes{},
		},
		{
			name: "the fences", text: base, before: func() { l.write("square.geojson", fmt.Sprintf(square, "another")) },
			want: admin.Changes{Changed: []string{"query/q"}}, back: admin.Changes{},
		},
		{name: "a query", text: edit("lon: lon}", "lon: lng}"), want: admin.Changes{Changed: []string{"query/q"}}},
		{
			name: "what takes posts", text: edit(fmt.Sprintf("posts: {http: {listen: %q}", ports[0]), fmt.Sprintf("posts: {http: {listen: %q, max_events: 7}", ports[0])),
			want: admin.Changes{Changed: []string{"source/posts"}},
		},
		{
			name: "where posts go", text: edit(fmt.Sprintf("more: {http: {listen: %q}", ports[0]), fmt.Sprintf("more: {http: {listen: %q}", ports[3])),
			want: admin.Changes{Changed: []string{"source/more"}, Added: []string{"ingest/" + ports[3]}},
			back: admin.Changes{Changed: []string{"source/more"}, Removed: []string{"ingest/" + ports[3]}},
		},
		{name: "an archive", text: edit("prefix: a/", "prefix: b/"), want: admin.Changes{Changed: []string{"archive/a"}}},
		{name: "an archive less", text: edit(archive, ""), want: admin.Changes{Removed: []string{"archive/a"}}},
		{name: "a stream more", text: edit("  out: {}\n", "  out: {}\n  third: {partitions: 2}\n"), want: admin.Changes{Added: []string{"stream/third"}}},
		{name: "retention", text: edit("age: 1h", "age: 2h, bytes: 1GiB"), want: admin.Changes{Changed: []string{"stream/in"}}},
		{name: "endpoints", text: edit("{/in: {from: in}}", "{/in: {from: in}, /out: {from: out}}"), want: admin.Changes{Changed: []string{"gateway"}}},
		{name: "the gateway's address", text: edit(ports[1], ports[3]), want: admin.Changes{Changed: []string{"gateway"}}},
		{
			name: "addresses that change places", text: strings.NewReplacer(ports[1], ports[2], ports[2], ports[1]).Replace(base),
			want: admin.Changes{Changed: []string{"admin", "gateway"}},
		},
		{name: "no gateway", text: edit(base[strings.Index(base, "gateway:"):strings.Index(base, "admin:")], ""), want: admin.Changes{Removed: []string{"gateway"}}},
		{name: "the admin listener", text: edit(fmt.Sprintf("admin: {listen: %q}", ports[2]), fmt.Sprintf("admin: {listen: %q, hosts: [a.example]}", ports[2])), want: admin.Changes{Changed: []string{"admin"}}},
		{
			name: "all at once", text: edit("lon: lon}", "lon: lng}") + "drain_timeout: 20s\n# and so on\n",
			want: admin.Changes{Changed: []string{"query/q"}},
		},

		{name: "a mistake", text: edit("into: in}\n  two", "into: inn}\n  two"), problem: `config.yaml:5:`},
		{name: "no YAML", text: "streams: [", problem: "config.yaml:1:"},
		{name: "fences that are none", text: edit("square.geojson", "secret"), problem: "queries.q.fence.fences"},
		{name: "the data directory", text: base + "data_dir: elsewhere\n", problem: "data_dir: "},
		{name: "the engine", text: base + "engine: {embedded: {reserve: 1MiB}}\n", problem: "engine: "},
		{name: "partitions", text: edit("out: {}", "out: {partitions: 3}"), problem: "config.yaml:3:21: streams.out.partitions: 3 is not possible, the stream has 1"},
		{name: "an address in use", text: edit(ports[1], occupied.Addr().String()), problem: "gateway.listen: can't listen"},
		{name: "a directory that is a file", text: edit("disk: objects", "disk: secret"), problem: "secret"},
		{ // found when the stages before it have been made, which leaves nothing
			name: "a source more and a directory that is a file", problem: "secret",
			text: strings.Replace(edit("disk: objects", "disk: secret"), two, two+strings.Replace(two, "two", "three", 1), 1),
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := l.atWork()
			check := func(want admin.Changes) {
				t.Helper()
				now := l.atWork()
				for name, s := range before {
					touched := slices.Contains(want.Changed, name) && !strings.HasPrefix(name, "stream/") || slices.Contains(want.Removed, name)
					if (now[name] != s) != touched {
						t.Errorf("%s: started anew %v, want %v", name, now[name] != s, touched)
					}
				}
				if got, want := len(now), len(before)+len(want.Added)-len(want.Removed); got != want {
					t.Errorf("%d stages, want %d: %v", got, want, now)
				}
				before = now
			}
			if c.before != nil {
				c.before()
			}
			got, err := l.try(c.text)
			if c.problem != "" {
				if err == nil || !strings.Contains(err.Error(), c.problem) {
					t.Errorf("got %+v, %v; want %q", got, err, c.problem)
				}
				check(admin.Changes{})
				return
			}
			if err != nil || !equalChanges(got, c.want) {
				t.Fatalf("got %+v, %v; want %+v", got, err, c.want)
			}
			check(c.want)
			back := admin.Changes{Added: c.want.Removed, Changed: c.want.Changed, Removed: c.want.Added}
			if c.back.Changed != nil || c.before != nil {
				back = c.back
			}
			if got, err := l.try(base); err != nil || !equalChanges(got, back) {
				t.Fatalf("back: got %+v, %v; want %+v", got, err, back)
			}
			check(back)
		})
	}
	if refused := testutil.ToFloat64(l.measures.reloads.total.WithLabelValues(reloadRefused)); refused != 9 {
		t.Errorf("%v reloads were refused by count, want 9", refused)
	}
	families, err := l.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			for _, label := range m.GetLabel() {
				if v := label.GetValue(); strings.Contains(v, "third") || strings.Contains(v, "three") || v == "/out" {
					t.Errorf("%s still has %s=%q, which is gone", family.GetName(), label.GetName(), v)
				}
			}
		}
	}
}

func equalChanges(a, b admin.Changes) bool {
	return slices.Equal(a.Added, b.Added) && slices.Equal(a.Changed, b.Changed) && slices.Equal(a.Removed, b.Removed)
}

// Twenty reloads go by, and feeds and clients that they do not concern notice nothing: one connection each,
// every event once and in order.
func TestReloadLeavesOthersAlone(t *testing.T) {
	const feeds, reloads = 5, 20
	text := "streams: {in: {}, other: {}}\ngateway: {listen: \"127.0.0.1:0\", endpoints: {/in: {from: in}}}\nsources:\n"
	all := make([]*millracetest.Feed, feeds)
	for i := range all {
		all[i] = millracetest.NewFeed(t, millracetest.FeedOptions{})
		text += fmt.Sprintf("  feed%d: {sse: {url: %q}, into: in, key: feed}\n", i, all[i].URL)
	}
	changing := millracetest.NewFeed(t, millracetest.FeedOptions{})
	last := fmt.Sprintf("  changing: {sse: {url: %q}, into: other, key: feed}\n", changing.URL)
	l := goLive(t, text+last)

	sending, stop := context.WithCancel(t.Context())
	var sent [feeds + 1]int
	var drivers sync.WaitGroup
	for i, feed := range append(all, changing) {
		drivers.Go(func() {
			for ; sending.Err() == nil; sent[i]++ {
				feed.Send(millracetest.FeedEvent{ID: fmt.Sprint(sent[i]), Data: fmt.Sprintf(`{"feed":%d,"n":%d}`, i, sent[i])})
				time.Sleep(time.Millisecond)
			}
		})
	}
	following, cut := context.WithCancel(t.Context())
	defer cut()
	r, err := http.NewRequestWithContext(following, http.MethodGet, "http://"+l.address("gateway", "127.0.0.1:0")+"/in", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Accept", "text/event-stream")
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	client := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, response.Body)
		client <- err
	}()
	for i := range reloads {
		extra := []string{
			last,
			fmt.Sprintf("  changing: {sse: {url: %q, read_timeout: %ds}, into: other, key: feed}\n", changing.URL, 60+i),
			last + fmt.Sprintf("  more: {sse: {url: %q}, into: other}\n", changing.URL) + "archives: {a: {from: in, to: {disk: objects}, prefix: a/}}\n",
		}[i%3]
		if _, err := l.try(text + extra); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	drivers.Wait()
	if _, err := l.try(text + last + fmt.Sprintf("  two: {sse: {url: %q}, into: other, key: feed}\n", changing.URL)); err != nil {
		t.Fatal(err)
	}
	for i, feed := range all {
		if n := len(feed.Requests()); n != 1 {
			t.Errorf("feed %d saw %d connections, want 1", i, n)
		}
	}
	if n := len(changing.Requests()); n < 2 {
		t.Errorf("the feed that changes saw %d connections only", n)
	}
	seen := [feeds]int{}
	total := 0
	for b, err := range l.streams["in"].Read(t.Context(), "0", millrace.Position{}) {
		if err != nil {
			t.Fatal(err)
		}
		events, err := block.Events(b.Raw)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			var v struct{ Feed, N int }
			if err := json.Unmarshal(e.Data, &v); err != nil {
				t.Fatal(err)
			}
			if v.N != seen[v.Feed] {
				t.Fatalf("feed %d: event %d after %d", v.Feed, v.N, seen[v.Feed]-1)
			}
			seen[v.Feed]++
			total++
		}
		whole := 0
		for _, n := range sent[:feeds] {
			whole += n
		}
		if total == whole {
			break
		}
	}
	select {
	case err := <-client:
		t.Errorf("the client was cut: %v", err)
	default:
		cut()
		<-client
	}
}

// A second reload does what the first would not wait for: what does not end holds up only what takes its
// place, and is among what a drain waits for.
func TestReloadLeavesBehindWhatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(10 * time.Second)
		release := make(chan struct{})
		var ran []string
		work := func(name string, hangs bool) func(context.Context, func()) error {
			return func(ctx context.Context, ready func()) error {
				ran = append(ran, name)
				ready()
				<-ctx.Done()
				if hangs {
					<-release
				}
				return nil
			}
		}
		p.add("source/a", work("a", true))
		running, stop := context.WithCancel(t.Context())
		defer stop()
		p.stages[0].start(running, p.ending, nil)
		synctest.Wait()
		next := func(name string) *plan {
			n := &plan{config: p.config, working: map[string]*stage{}}
			for _, s := range p.stages {
				n.working[s.name] = s
			}
			if name != "" {
				n.stages = []planned{{p.stage("source/a", work(name, false)), tierSources}}
			}
			return n
		}
		began := time.Now()
		p.apply(t.Context(), running, next("b"))
		if took := time.Since(began); took != 10*time.Second || len(p.leaving) != 1 || len(ran) != 1 {
			t.Errorf("after %s %d are leaving and %v ran", took, len(p.leaving), ran)
		}
		p.apply(t.Context(), running, next(""))
		p.apply(t.Context(), running, next("c"))
		if len(p.leaving) != 2 || len(ran) != 1 {
			t.Errorf("%d are leaving and %v ran", len(p.leaving), ran)
		}
		close(release)
		synctest.Wait()
		if !slices.Equal(ran, []string{"a", "c"}) { // b was told to end before its turn came
			t.Errorf("%v ran", ran)
		}
		if err := p.drain(); err != nil {
			t.Error(err)
		}
		if s := p.status(); len(s) != 2 || s[1].State != stateDrained {
			t.Errorf("%+v", s)
		}
	})
}

// What hangs in several tiers holds up a reload for drain_timeout once, and is named; what ends at once is not.
func TestReloadWaitsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(10 * time.Second)
		var log bytes.Buffer
		p.log = slog.New(slog.NewTextHandler(&log, nil))
		release := make(chan struct{})
		for _, name := range []string{"source/a", "query/b", "archive/c"} {
			p.add(name, func(ctx context.Context, ready func()) error {
				ready()
				<-ctx.Done()
				if name != "archive/c" {
					<-release
				}
				return nil
			})
		}
		running, stop := context.WithCancel(t.Context())
		defer stop()
		for _, s := range p.stages {
			s.start(running, p.ending, nil)
		}
		synctest.Wait()
		began := time.Now()
		changes := p.apply(t.Context(), running, &plan{config: p.config})
		if took := time.Since(began); took != 10*time.Second+moment {
			t.Errorf("it took %s", took)
		}
		if !slices.Equal(changes.Removed, []string{"archive/c", "query/b", "source/a"}) {
			t.Errorf("%v were removed", changes.Removed)
		}
		synctest.Wait()
		for _, name := range []string{"source/a", "query/b"} {
			if strings.Count(log.String(), "has not ended in time; what takes its place waits for it\" stage="+name) != 1 {
				t.Errorf("the log does not name %s once:\n%s", name, &log)
			}
		}
		if strings.Contains(log.String(), "archive/c") {
			t.Errorf("the log says that archive/c is late:\n%s", &log)
		}
		close(release)
		synctest.Wait()
		if !allEnded(p.leaving, time.After(time.Second)) {
			t.Error("some have not ended")
		}
	})
}

// A stage that ends when there is a third one of its name takes nothing from that one: neither its hold on the
// retention, nor its metrics. And a stream that only the first one still has open is known when it comes back.
func TestReloadWhileTheFirstHangs(t *testing.T) {
	text := "drain_timeout: 50ms\nstreams: {in: {retention: {age: 1ms}}, out: {partitions: 2, retention: {age: 1h}}}\n"
	file := filepath.Join(t.TempDir(), "x.yaml")
	parse := func(text string) *config.Config {
		c, err := config.Parse(file, []byte(text), os.LookupEnv)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	p := newPipeline(parse(text), pipelineOptions{
		log:  pipelineOf(0).log,
		page: func(*config.Config, prometheus.Gatherer) http.Handler { return nil },
	})
	defer p.close()
	if err := p.open(t.Context()); err != nil {
		t.Fatal(err)
	}
	release := make(chan struct{})
	var forgotten []*stage
	query := func(hangs bool) *stage {
		s := p.stage("query/q", func(ctx context.Context, ready func()) error {
			ready()
			<-ctx.Done()
			if hangs {
				<-release
			}
			return nil
		})
		s.tier = tierQueries
		s.holds = []hold{{p.streams["in"], s.name}}
		s.forget = func(by *stage) { forgotten = append(forgotten, by) }
		return s
	}
	running, stop := context.WithCancel(t.Context())
	defer stop()
	for _, s := range p.stages {
		s.start(running, p.ending, nil)
	}
	reload := func(text string, added ...*stage) admin.Changes {
		t.Helper()
		c := parse(text)
		if problems := p.fixed(c); len(problems) > 0 {
			t.Fatal(problems)
		}
		n, err := p.plan(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range added {
			n.stages = append(n.stages, planned{s, s.tier})
		}
		return p.apply(t.Context(), running, n)
	}
	first, third := query(true), query(false)
	reload(text, first)
	<-first.begun
	less := strings.Replace(text, ", out: {partitions: 2, retention: {age: 1h}}", "", 1)
	if got := reload(less); !equalChanges(got, admin.Changes{Removed: []string{"query/q", "stream/out"}}) || len(p.leaving) != 1 {
		t.Fatalf("got %+v, %d are leaving", got, len(p.leaving))
	}
	if problems := p.fixed(parse(strings.Replace(text, "partitions: 2", "partitions: 3", 1))); len(problems) != 1 {
		t.Errorf("three partitions where the stream still has two: %v", problems)
	}
	if got := reload(text, third); !equalChanges(got, admin.Changes{Added: []string{"query/q", "stream/out"}}) {
		t.Errorf("got %+v", got)
	}
	close(release)
	<-first.ended
	<-third.begun
	if len(forgotten) != 1 || forgotten[0] != third {
		t.Errorf("the first made way for %v", forgotten)
	}
	if testutil.ToFloat64(p.measures.stages.running.WithLabelValues("query/q")) != 1 {
		t.Error("the third does not run by its metrics")
	}

	// What the third one holds stays, though it is over its age; what nobody holds does not.
	in := p.streams["in"]
	out, err := producer.Open(t.Context(), producer.Config{Name: "source/a", Into: in, Dead: p.streams[config.DeadStream]})
	if err != nil {
		t.Fatal(err)
	}
	committed := make(chan error, 1)
	committing, enough := context.WithCancel(t.Context())
	go func() { committed <- out.Run(committing) }()
	for range 2 {
		if err := out.Emit(t.Context(), []millrace.Event{{Time: time.Now(), Data: []byte("{}")}}, ""); err != nil {
			t.Fatal(err)
		}
		if err := out.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	enough()
	if err := <-committed; err != nil {
		t.Fatal(err)
	}
	time.Sleep(5 * time.Millisecond) // over its age, by the clock that stamps blocks
	trimmed := func() bool {
		if err := in.Trim(t.Context()); err != nil {
			t.Fatal(err)
		}
		first, _, err := in.Bounds(t.Context(), "0")
		if err != nil {
			t.Fatal(err)
		}
		return !first.IsStart()
	}
	if trimmed() {
		t.Error("the third does not hold what it has not read")
	}
	for _, h := range third.holds {
		h.release()
	}
	if !trimmed() {
		t.Error("without a hold it was not trimmed either")
	}
}

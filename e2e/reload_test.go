package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace/millracetest"
)

// The configuration changes all the time, by SIGHUP and by the verb, while feeds send and clients follow, and
// now and then the program is killed in the middle of it: nothing is lost or repeated, feeds that are always
// there keep one connection for each life of the program, and clients resume when the gateway starts anew.
func TestReload(t *testing.T) {
	const feeds = 4
	lives, reloads := 3, 12
	if long {
		lives, reloads = 10, 40
	}
	var all []*millracetest.Feed
	sources, sent := "", make([]int, feeds)
	for i := range feeds {
		all = append(all, millracetest.NewFeed(t, millracetest.FeedOptions{Preamble: "retry: 10\n\n"}))
		sources += fmt.Sprintf("  feed%d: {sse: {url: %q}, into: events, key: key}\n", i, all[i].URL)
	}
	now := time.Now()
	configuration := func(n int) string {
		endpoints := `/events: {from: events, key: "query:key"}`
		if n%4 == 3 {
			endpoints += ", /dead: {from: dead}"
		}
		text := fmt.Sprintf("data_dir: data\nstreams: {events: {retention: {age: %dh}}, crossings: {}}\nsources:\n%s", 24+n%2, sources)
		if n%3 == 1 { // goes, comes back, and knows where it stood
			text = strings.Replace(text, "  feed3:", "  # feed3:", 1)
		}
		if n%3 == 2 {
			text += "queries:\n  q: {from: events, into: crossings, fence: {fences: square.geojson, lat: lat, lon: lon}}\n"
		}
		if n%2 == 1 {
			text += "archives:\n  a: {from: events, to: {disk: archive}, prefix: \"events/!{timestamp:yyyy/MM/dd/HH}/\"}\n"
		}
		return text + fmt.Sprintf("gateway:\n  listen: 127.0.0.1:0\n  endpoints: {%s}\nadmin: {listen: \"127.0.0.1:0\"}\n", endpoints)
	}
	p := newPipeline(t, "", map[string]string{
		"config.yaml":    configuration(0),
		"square.geojson": geoJSON([]area{{id: "square", properties: "{}", polygons: [][][]point{{{{0, 0}, {0, 1}, {1, 1}, {1, 0}}}}}}),
	})
	box := newInbox()
	stopClient := follow(t, p, &client{place: "client", path: "/events", take: box.take})
	stop := make(chan struct{})
	var driving sync.WaitGroup
	for i, feed := range all {
		driving.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(2 * time.Millisecond):
				}
				n := sent[i]
				sent[i]++
				feed.Send(millracetest.FeedEvent{ID: fmt.Sprint(n), Data: fmt.Sprintf(
					`{"key":"k%d","n":%d,"lat":%d.5,"lon":0.5,"at":%q}`, i, n, n/20%2, now.Add(time.Duration(n)*time.Second).Format(time.RFC3339))})
			}
		})
	}
	random := rand.New(rand.NewPCG(3, 1))
	n := 0
	reload := func(life *program) {
		n++
		if err := os.WriteFile(filepath.Join(p.dir, "config.yaml"), []byte(configuration(n)), 0o600); err != nil {
			t.Fatal(err)
		}
		if n%2 == 0 {
			if err := life.command.Process.Signal(syscall.SIGHUP); err != nil {
				t.Fatal(err)
			}
			return
		}
		verb := launch(t, p.dir, nil, "reload", "config.yaml")
		verb.waitEnd()
		if verb.wait != nil {
			t.Errorf("millrace reload: %v\n%s", verb.wait, verb.tail(10))
		}
	}
	reloaded := func(l logLine) bool {
		if strings.Contains(l.Msg, "not reloaded") {
			t.Errorf("refused: %s", l.Text)
		}
		return l.Msg == "reloaded"
	}
	for i := range lives {
		life := p.start()
		for range reloads {
			reload(life)
			life.logged("that it has reloaded", reloaded)
		}
		if i == lives-1 {
			break
		}
		n++
		if err := os.WriteFile(filepath.Join(p.dir, "config.yaml"), []byte(configuration(n)), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := life.command.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(random.Int64N(int64(30 * time.Millisecond)))) // somewhere in the middle
		life.kill()
	}
	close(stop)
	driving.Wait()
	p.mu.Lock()
	life := p.current
	p.mu.Unlock()
	n = n/12*12 + 10 // the next one is with all feeds, the query, and the archive
	reload(life)
	life.logged("that it has reloaded", reloaded)
	want, total := map[string][]string{}, 0
	for i := range feeds {
		for n := range sent[i] {
			want[fmt.Sprintf("k%d", i)] = append(want[fmt.Sprintf("k%d", i)], fmt.Sprint(n))
		}
		total += sent[i]
	}
	box.await(t, total)
	life.end(syscall.SIGTERM)
	stopClient()
	if log := life.tail(1 << 20); strings.Contains(log, `"level":"ERROR"`) {
		t.Error("the program logs errors")
	}
	numbers := func(data string) string {
		_, rest, _ := strings.Cut(data, `"n":`)
		number, _, _ := strings.Cut(rest, ",")
		return number
	}
	came := map[string][]string{}
	for _, m := range box.await(t, total) {
		came[m.key] = append(came[m.key], numbers(m.data))
	}
	sameByKey(t, "client", came, want)
	stored := map[string][]string{}
	streams := readStreams(t, filepath.Join(p.dir, "data"), map[string]int{"events": 1, "crossings": 1})
	for _, e := range streams["events"][0] {
		stored[e.Key] = append(stored[e.Key], numbers(string(e.Data)))
	}
	sameByKey(t, "stream", stored, want)
	compareArchive(t, "events", 0, streams["events"][0], readArchive(t, filepath.Join(p.dir, "archive"), "events", "events")["0"])
	for i, feed := range all[:3] {
		if connections := len(feed.Requests()); connections > lives {
			t.Errorf("feed %d saw %d connections in %d lives of the program", i, connections, lives)
		}
	}
	t.Logf("%d events, %d crossings, %d reloads, %d lives; the feed that comes and goes saw %d connections",
		total, len(streams["crossings"][0]), n, lives, len(all[3].Requests()))
}

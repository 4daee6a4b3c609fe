package e2e

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace/millracetest"
)

const feedConfig = `
data_dir: data
streams: {events: {partitions: 2}}
sources:
  feed:
    sse: {url: "${env:FEED}", %s}
    into: events
    %s
archives:
  events: {from: events, to: {disk: archive}, prefix: "events/!{timestamp:yyyy/MM/dd/HH}/"}
gateway:
  listen: 127.0.0.1:0
  endpoints: {/events: {from: events, key: "query:key"}}
admin: {listen: "127.0.0.1:0"}
`

// inbox is what came to a client, in order.
type inbox struct {
	mu   sync.Mutex
	came []message
	news chan struct{} // capacity 1
}

func newInbox() *inbox { return &inbox{news: make(chan struct{}, 1)} }

func (b *inbox) take(m message) {
	b.mu.Lock()
	b.came = append(b.came, m)
	b.mu.Unlock()
	select {
	case b.news <- struct{}{}:
	default:
	}
}

// await returns the first n messages.
func (b *inbox) await(t *testing.T, n int) []message {
	t.Helper()
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for {
		b.mu.Lock()
		came := slices.Clone(b.came)
		b.mu.Unlock()
		if len(came) >= n {
			return came
		}
		select {
		case <-b.news:
		case <-timeout.C:
			t.Fatalf("%d messages of %d have come: %v", len(came), n, came)
		}
	}
}

// byKey returns "KIND DATA" of the messages of each key, in order.
func byKey(messages []message) map[string][]string {
	m := map[string][]string{}
	for _, e := range messages {
		m[e.key] = append(m[e.key], e.kind+" "+e.data)
	}
	return m
}

func sameByKey(t *testing.T, place string, got, want map[string][]string) {
	t.Helper()
	for key := range got {
		if want[key] == nil {
			t.Errorf("%s: key %q: %q, want none", place, key, got[key])
		}
	}
	for key := range want {
		if !slices.Equal(got[key], want[key]) {
			t.Errorf("%s: key %q:\n%s\nwant\n%s", place, key, strings.Join(got[key], "\n"), strings.Join(want[key], "\n"))
		}
	}
}

// A feed as MBTA's: reset carries the whole state as an array, add and update one object, remove only who
// has gone; no ids; keys and times lie deep in the data.
func TestFeedWithoutIDs(t *testing.T) {
	object := func(id string, n int) string {
		return fmt.Sprintf(`{"attributes":{"bearing":%d,"carriages":[],"label":"café \u2603","latitude":42.3%02d,"longitude":-71.05,"speed":null,"updated_at":"2026-03-01T08:00:%02d-05:00"},"id":%q,"links":{"self":"/vehicles/%s"},"type":"vehicle"}`, n, n, n, id, id)
	}
	feed := millracetest.NewFeed(t, millracetest.FeedOptions{Preamble: "\ufeff: keep-alive\r\nretry: 20\r\n\r\n", Newline: "\r\n", Resume: millracetest.ResumeNever, Live: true})
	p := newPipeline(t, "", map[string]string{
		"config.yaml": fmt.Sprintf(feedConfig, "types: [reset, add, update]", "split: true\n    key: id\n    time: attributes.updated_at"),
	}, "FEED="+feed.URL)
	box := newInbox()
	stop := follow(t, p, &client{place: "client", path: "/events", take: box.take})
	one := newInbox()
	stopOne := follow(t, p, &client{place: "client of one", path: "/events?key=y2", sse: true, take: one.take})

	connected := func(n int) {
		t.Helper()
		if err := feed.WaitRequests(t.Context(), n); err != nil {
			t.Fatal(err)
		}
	}
	life := p.start()
	connected(1)
	feed.Send(
		millracetest.FeedEvent{Type: "reset", Data: "[" + object("y1", 1) + ", " + object("y2", 2) + ",\n" + object("y3", 3) + "]"},
		millracetest.FeedEvent{Type: "update", Data: object("y2", 4)},
		millracetest.FeedEvent{Raw: ": a comment\r\n\r\n"},
		millracetest.FeedEvent{Type: "add", Data: object("G-10044", 5)},
		millracetest.FeedEvent{Type: "remove", Data: `{"id":"y3","type":"vehicle"}`},
		millracetest.FeedEvent{Type: "reset", Data: "[]"},
		millracetest.FeedEvent{Type: "update", Data: object("y1", 6)},
	)
	want := map[string][]string{
		"y1":      {"reset " + object("y1", 1), "update " + object("y1", 6)},
		"y2":      {"reset " + object("y2", 2), "update " + object("y2", 4)},
		"y3":      {"reset " + object("y3", 3)},
		"G-10044": {"add " + object("G-10044", 5)},
	}
	sameByKey(t, "client", byKey(box.await(t, 6)), want)

	// A feed without ids can't be resumed; its reset is the resume.
	life.kill()
	life = p.start()
	connected(2)
	feed.Send(millracetest.FeedEvent{Type: "reset", Data: "[" + object("y2", 7) + "]"})
	want["y2"] = append(want["y2"], "reset "+object("y2", 7))
	sameByKey(t, "client", byKey(box.await(t, 7)), want)
	one.await(t, 3)
	life.end(syscall.SIGTERM)
	stop()
	stopOne()
	sameByKey(t, "client", byKey(box.await(t, 7)), want)
	for i, m := range one.await(t, 3) {
		if m.kind+" "+m.data != want["y2"][i] {
			t.Errorf("the client of one key gets %s, want %s", m.data, want["y2"][i])
		}
	}
	for _, r := range feed.Requests() {
		if r.LastEventID != "" {
			t.Errorf("a feed that gives no ids is resumed with Last-Event-ID %q", r.LastEventID)
		}
	}
	checkFeed(t, p, want, 7)
}

// A feed as Wikimedia's: ids are JSON arrays with commas and quotes, which come back as they are; ":ok"
// first, comments between; a few KB each; the feed begins again with the newest event that was seen.
func TestFeedWithArrayIDs(t *testing.T) {
	id := func(n int) string {
		return fmt.Sprintf(`[{"topic":"eqiad.change","partition":0,"timestamp":%d},{"topic":"codfw.change","partition":0,"offset":-1}]`, 1767225600000+n)
	}
	change := func(wiki string, n int) string {
		return fmt.Sprintf(`{"$schema":"/change/1.0.0","meta":{"uri":"https://%s.example.org/wiki/%%D7%%AA:%d","dt":"2026-01-01T00:00:%02d.5Z","offset":%d},"title":"ערך \"%d\"","comment":%q,"wiki":%q}`,
			wiki, n, n, n, n, strings.Repeat("è, “quoted”; ", 60+n), wiki)
	}
	feed := millracetest.NewFeed(t, millracetest.FeedOptions{Preamble: ":ok\n\n", Resume: millracetest.ResumeAt, Coding: "gzip"})
	p := newPipeline(t, "", map[string]string{
		"config.yaml": fmt.Sprintf(feedConfig, "headers: {User-Agent: a test}", "key: wiki\n    time: meta.dt"),
	}, "FEED="+feed.URL)
	box := newInbox()
	stop := follow(t, p, &client{place: "client", path: "/events", take: box.take})

	want := map[string][]string{}
	n := 0
	send := func() {
		for range 10 {
			wiki := []string{"hewiki", "commonswiki", "enwiki"}[n%3]
			data := change(wiki, n)
			want[wiki] = append(want[wiki], "message "+data)
			feed.Send(millracetest.FeedEvent{ID: id(n), Type: "message", Data: data}, millracetest.FeedEvent{Raw: ":\n\n"})
			n++
		}
	}
	send()
	life := p.start()
	box.await(t, n)
	life.kill()
	send()
	life = p.start()
	box.await(t, n)
	life.end(syscall.SIGTERM)
	stop()
	sameByKey(t, "client", byKey(box.await(t, n)), want)
	requests := feed.Requests()
	if len(requests) != 2 || requests[0].LastEventID != "" || requests[1].LastEventID != id(9) || requests[0].Header.Get("User-Agent") != "a test" {
		t.Errorf("the feed was asked for %+v; the second time with Last-Event-ID %s is wanted", requests, id(9))
	}
	checkFeed(t, p, want, n)
}

// checkFeed compares the stream and the archive with what is wanted.
func checkFeed(t *testing.T, p *pipeline, want map[string][]string, n int) {
	t.Helper()
	streams := readStreams(t, filepath.Join(p.dir, "data"), map[string]int{"events": 2, "dead": 1})
	archived := readArchive(t, filepath.Join(p.dir, "archive"), "events", "events")
	got, ids := map[string][]string{}, map[string]bool{}
	for i, events := range streams["events"] {
		compareArchive(t, "events", i, events, archived[fmt.Sprint(i)])
		for _, e := range events {
			got[e.Key] = append(got[e.Key], e.Type+" "+string(e.Data))
			ids[e.ID] = true
		}
	}
	sameByKey(t, "stream", got, want)
	if len(ids) != n {
		t.Errorf("%d different ids, want %d", len(ids), n)
	}
	for _, e := range streams["dead"][0] {
		t.Errorf("a dead letter: %s", e.Data)
	}
}

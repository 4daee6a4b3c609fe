package e2e

import (
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace/millracetest"
)

const drainConfig = `
data_dir: data
streams: {events: {partitions: 2}}
sources:
  feed: {sse: {url: "${env:FEED}"}, into: events, key: key}
gateway:
  listen: 127.0.0.1:0
  drain: 3s
  endpoints: {/events: {from: events, key: "query:key"}}
admin: {listen: "127.0.0.1:0"}
`

// drainPace is the least time from one closing to the next, as far as gateway.drain allows.
const drainPace = 500 * time.Microsecond

// SIGTERM while hundreds of clients follow a feed: they are closed one after the other with a code that says come
// back, event streams with a hint when; and all come back to the next life and miss nothing.
func TestPacedDrain(t *testing.T) {
	const clients, keys = 200, 8
	t.Parallel()
	need(t)
	feed := millracetest.NewFeed(t, millracetest.FeedOptions{})
	pipeline := newPipeline(t, "", map[string]string{"config.yaml": drainConfig}, "FEED="+feed.URL)
	type end struct {
		sse   bool
		code  int
		retry string
		at    time.Time
	}
	var mu sync.Mutex
	var ends []end
	var came atomic.Int64 // events at all clients
	var stops []func()
	for i := range clients {
		key, next := strconv.Itoa(i%keys), 0
		c := &client{place: fmt.Sprintf("client %d", i), path: "/events?key=" + key, sse: i%4 == 0}
		c.take = func(m message) {
			if want := fmt.Sprintf(`{"key":%q,"n":%d}`, key, next); m.data != want {
				c.wonder("got %s, want %s", m.data, want)
			}
			next++
			came.Add(1)
		}
		c.ended = func(code int, retry string) {
			mu.Lock()
			defer mu.Unlock()
			ends = append(ends, end{c.sse, code, retry, time.Now()})
		}
		stops = append(stops, follow(t, pipeline, c))
	}
	sent := 0 // for each key
	drive := func(n int) {
		for range n {
			var events []millracetest.FeedEvent
			for key := range keys {
				events = append(events, millracetest.FeedEvent{
					ID: fmt.Sprintf("%d-%d", sent, key), Data: fmt.Sprintf(`{"key":"%d","n":%d}`, key, sent),
				})
			}
			sent++
			feed.Send(events...)
		}
	}
	await := func(what string, n int64) {
		t.Helper()
		for deadline := time.Now().Add(patience); came.Load() < n; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: %d events of %d have come", what, came.Load(), n)
			}
		}
	}
	p := pipeline.start()
	drive(20)
	await("before", 20*clients)
	told := time.Now()
	if err := p.command.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	drive(20) // some of it goes into this life, the rest into the next
	p.waitEnd()
	if p.wait != nil {
		t.Errorf("the program ended with %v", p.wait)
	}
	var first []end
	for deadline := time.Now().Add(patience); len(first) < clients && time.Now().Before(deadline); {
		mu.Lock()
		first = slices.Clone(ends)
		mu.Unlock()
		time.Sleep(5 * time.Millisecond) // they read what was sent before it ended
	}
	hints := map[string]bool{}
	for _, e := range first {
		if e.code != 1012 {
			t.Errorf("a connection was closed with %d", e.code)
		}
		if e.sse {
			hints[e.retry] = true
			if n, err := strconv.Atoi(e.retry); err != nil || n < 1000 || n > 3000 {
				t.Errorf("an event stream ends with the hint %q", e.retry)
			}
		}
	}
	if len(first) != clients || len(hints) < 10 {
		t.Errorf("%d of %d connections were told, event streams with %d different hints", len(first), clients, len(hints))
	}
	latest := first[len(first)-1].at.Sub(told)
	if least := drainPace * (clients - 10); latest < least {
		t.Errorf("the last was closed after %s, want %s at least", latest, least)
	}
	t.Logf("%d connections closed from %s to %s after SIGTERM, %d different hints", len(first), first[0].at.Sub(told), latest, len(hints))

	p = pipeline.start()
	drive(20)
	await("after", int64(sent)*clients)
	for _, stop := range stops {
		stop()
	}
	if n := came.Load(); n != int64(sent)*clients {
		t.Errorf("%d events have come, want %d", n, sent*clients)
	}
	p.end(syscall.SIGTERM)
}

package gateway_test

import (
	"context"
	"fmt"
	"iter"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/gateway"
	"github.com/millrace/millrace/millracetest"
	"github.com/millrace/millrace/stream/memory"
)

// However many clients come back to a gateway that has just started, the stream is read a few times.
func TestResumeIsShared(t *testing.T) {
	clients, few := 2000, 400
	if testing.Short() || gateway.RaceDetector {
		clients, few = 300, 100
	}
	for _, test := range []struct {
		resuming
		reads, passes int // at most
	}{
		{resuming{name: "one place", clients: clients, events: 5 * clients, perBlock: 20, keyed: true}, 3, 1},
		{resuming{name: "spread", clients: clients, events: 5 * clients, perBlock: 20, keyed: true, spread: true}, clients / 20, 3},
		{resuming{name: "every key", clients: few, events: few, perBlock: 20, spread: true}, few / 10, 3},
		// The cache holds a part of what they have missed, and they go through it together, a quarter as often as there
		// are clients at most: whoever the machine leaves behind reads a few blocks alone.
		{resuming{name: "small cache", clients: few, events: 10 * few, perBlock: 20, keyed: true, cache: 512 * int64(few), together: true}, 2 * few, few / 4},
	} {
		t.Run(test.name, func(t *testing.T) {
			reads, blocks := test.run(t)
			t.Logf("%d clients, %d blocks: %d readings of %d blocks", test.clients, test.events/test.perBlock, reads, blocks)
			if most := test.passes * (test.events/test.perBlock + 1); reads == 0 || int(reads) > test.reads || int(blocks) > most {
				t.Errorf("%d readings of %d blocks, at most %d of %d are wanted", reads, blocks, test.reads, most)
			}
		})
	}
}

// Clients that come back after a moment get what the feed has just handed out; the stream is not read. That it has
// trimmed it does not matter.
func TestRecentBlocksAreNotRead(t *testing.T) {
	clock := millracetest.NewClock()
	s := &counted{
		Stream:    memory.New("crossings", memory.Options{Partitions: 2, Now: clock.Now, Retention: memory.Retention{Age: time.Hour}}),
		following: make(chan struct{}),
	}
	w := newWriter(t, s)
	registry := prometheus.NewRegistry()
	server := serve(t, s, func(_ *gateway.Config, o *gateway.Options) { o.Metrics = gateway.NewMetrics(registry) })
	live := server.dial(t, "/vehicles", v1)
	ids := []string{live.live().ID}
	for n := range 20 {
		w.put(fmt.Sprint("key ", n%5), fmt.Sprint(n))
		ids = append(ids, live.event().ID)
	}
	before := s.readers.Load()
	clock.Advance(2 * time.Hour)
	w.put("key 0", "20")
	live.event()
	if err := s.Trim(t.Context()); err != nil {
		t.Fatal(err)
	}
	for n, id := range ids {
		for _, c := range []*client{server.dial(t, "/vehicles?since="+id, v1), server.dial(t, "/vehicles?VehicleID=key%200&since="+id, v1)} {
			keyed := strings.Contains(c.Response.Request.URL.RawQuery, "VehicleID")
			want := map[string]bool{}
			for m := n; m <= 20; m++ {
				if !keyed || m%5 == 0 {
					want[fmt.Sprint(m)] = true
				}
			}
			for len(want) > 0 {
				f := c.event()
				if f.Gap != nil || !want[string(f.Data)] {
					t.Fatalf("since %s: got %+v", id, f)
				}
				delete(want, string(f.Data))
			}
			c.live()
		}
		plain := server.dial(t, "/vehicles?since="+id, "")
		if gap := plain.Response.Header.Get("Millrace-Gap"); gap != "" {
			t.Errorf("since %s: a gap %s", id, gap)
		}
	}
	if n := s.readers.Load(); n != before || n != 2 {
		t.Errorf("%d readers, the feed has 2", n)
	}
	if n := testutil.CollectAndCount(registry, "millrace_gateway_replay_blocks_total"); n != 2 {
		t.Errorf("%d series", n)
	}
}

// A stream that has lost its end and has other blocks there now: nobody gets the lost ones.
func TestLostBlocksAreForgotten(t *testing.T) {
	s := newStream(1)
	w := newWriter(t, s)
	server := serve(t, s, nil)
	live := server.dial(t, "/vehicles", v1)
	live.live()
	w.put("42", `"a"`)
	a := live.event().ID
	w.put("42", `"lost"`)
	live.event()
	at, err := parse(a)
	if err != nil {
		t.Fatal(err)
	}
	s.Truncate("0", at)
	w.after["0"] = at
	if f := live.event(); f.Gap == nil {
		t.Fatalf("got %+v", f)
	}
	w.put("42", `"b"`)
	live.event()
	c := server.dial(t, "/vehicles?since="+a, v1)
	if f := c.event(); string(f.Data) != `"b"` {
		t.Errorf("got %+v", f)
	}
	c.live()
}

// What hangs in the stream ends when nobody waits for it any more, and only then.
func TestReadingEndsWithTheLastWhoWaits(t *testing.T) {
	s := newStream(1)
	w := newWriter(t, s)
	w.put("42", `"1"`)
	var mu sync.Mutex
	var readers []context.Context
	asked := make(chan struct{}, 100)
	hanging := &bent{Stream: s, read: func(ctx context.Context, first bool, blocks iter.Seq2[millrace.StoredBlock, error]) iter.Seq2[millrace.StoredBlock, error] {
		if first {
			return blocks
		}
		mu.Lock()
		defer mu.Unlock()
		readers = append(readers, ctx)
		asked <- struct{}{}
		return func(yield func(millrace.StoredBlock, error) bool) {
			<-ctx.Done()
			yield(millrace.StoredBlock{}, millrace.Errorf(millrace.Unavailable, "read", "%w", context.Cause(ctx)))
		}
	}}
	registry := prometheus.NewRegistry()
	server := serve(t, hanging, func(_ *gateway.Config, o *gateway.Options) { o.Metrics = gateway.NewMetrics(registry) })
	server.dial(t, "/vehicles", v1).live()
	one, other := server.dial(t, "/vehicles?since=0_", v1), server.dial(t, "/vehicles?since=0_", v1)
	<-asked
	_ = one.Close()
	_ = other.Close()
	mu.Lock()
	ctx := readers[0]
	mu.Unlock()
	select {
	case <-ctx.Done():
	case <-time.After(patience / 4): // less than a reading may take by itself
		t.Error("the reading goes on")
	}
}

package gateway

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/gateway/websocket"
)

// Random frames of several subscriptions over sockets, to a client that reads at its own pace: what must arrive
// arrives, in order; what does not is told before anything that comes after it, and in the end exactly; the bound
// holds.
func TestDropping(t *testing.T) {
	for seed := range uint64(24) {
		direct, f := seed%2 == 0, []form{v1, sse, plain}[seed/2%3]
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(seed, 7))
			server, client := sockets(t, direct)
			var fl flows
			const limit = 8 << 10
			o, balance := newOutlet(server, &fl, limit)
			policies := []string{[]string{DropOldest, NewestPerKey}[seed%4/2]}
			if f == v1 {
				policies = []string{DropOldest, NewestPerKey, Disconnect, NewestPerKey}
			}
			subs := policied(o, f, policies...)

			var heard []said
			var closed bool
			var reading sync.WaitGroup
			pace := rand.New(rand.NewPCG(seed, 8))
			reading.Go(func() {
				heard, closed = hear(t, f, client, func() {
					if pace.IntN(8) == 0 {
						time.Sleep(time.Duration(pace.IntN(400)) * time.Microsecond) // a slow client
					}
				})
			})
			must := map[int]bool{} // what was taken and must not be dropped
			given := map[string][]int{}
			n := 0
			for step := range 700 {
				if step == 5 {
					o.start()
				}
				s := subs[random.IntN(len(subs))]
				if random.IntN(20) == 0 {
					s = &subscription{endpoint: &endpoint{}} // what is not an event
				}
				var frames []byte
				var keys []string
				first := n
				for range 1 + random.IntN(3) {
					size := random.IntN(300)
					if s.endpoint.drops() && random.IntN(100) == 0 {
						size = random.IntN(40 << 10)
					}
					key := fmt.Sprint("key ", random.IntN(12))
					keys = append(keys, key)
					frames = append(frames, sayFrame(f, said{Sub: s.name, N: n, Key: key}, size)...)
					n++
				}
				verdict := o.sendEvents(frames, false, cargoOf(s, keys...))
				if o.backlogOf() > limit+2*parcelCost && verdict != sent {
					t.Errorf("%d bytes count against the limit of %d", o.backlogOf(), limit)
				}
				switch {
				case verdict == gone, verdict == refused && s.endpoint.drops():
					t.Fatalf("verdict %d", verdict)
				case verdict == refused:
				case s.endpoint.drops():
					for i := first; i < n; i++ {
						given[s.name] = append(given[s.name], i)
					}
				default:
					for i := first; i < n; i++ {
						must[i] = true
					}
				}
				if random.IntN(8) == 0 {
					time.Sleep(time.Duration(random.IntN(200)) * time.Microsecond) // others have their turn
				}
			}
			last := websocket.AppendClose(nil, 1000, "")
			if f == sse {
				last = appendSSEClose(nil, 1000, "")[len(appendRetry(nil)):]
			}
			o.finish(last, false, time.Time{})
			reading.Wait()
			fl.running.Wait()
			o.close()
			if !closed || balance.Load() != 0 {
				t.Fatalf("closed: %v; the gauge is at %d", closed, balance.Load())
			}
			before, told, dropped := -1, map[string]int{}, 0
			arrived := map[int]bool{}
			for i, what := range heard {
				if what.Dropped != nil {
					told[what.Sub] += what.Dropped.Events
					dropped += what.Dropped.Events
					continue
				}
				if what.N <= before {
					t.Fatalf("message %d is %d, after %d", i, what.N, before)
				}
				before = what.N
				arrived[what.N] = true
				delete(must, what.N)
				missing := 0
				for _, n := range given[what.Sub] {
					if n >= what.N {
						break
					}
					if !arrived[n] {
						missing++
					}
				}
				if missing > told[what.Sub] {
					t.Fatalf("%d of subscription %s came, %d before it are missing, and %d were told", what.N, what.Sub, missing, told[what.Sub])
				}
			}
			if len(must) > 0 {
				t.Errorf("%d of what must not be dropped is missing", len(must))
			}
			for name, all := range given {
				missing := 0
				for _, n := range all {
					if !arrived[n] {
						missing++
					}
				}
				if missing != told[name] {
					t.Errorf("subscription %q: %d are missing, %d were told", name, missing, told[name])
				}
			}
			if testing.Verbose() {
				t.Logf("%d given, %d dropped", n, dropped)
			}
		})
	}
}

// backlogOf is what counts against the limit.
func (o *outlet) backlogOf() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.behind()
}

// The newest event of each key arrives, whatever else happens, as long as there is room for one of each; nothing is
// dropped that the socket takes.
func TestNewestPerKey(t *testing.T) {
	for _, direct := range []bool{true, false} {
		random := rand.New(rand.NewPCG(1, 2))
		server, client := sockets(t, direct)
		var fl flows
		o, balance := newOutlet(server, &fl, 64<<10)
		s := policied(o, v1, NewestPerKey)[0]
		o.start()
		// Nobody reads until the sockets are full, which may last: the kernel makes room as it goes along. Then one of
		// each key waits.
		newest := map[string]int{}
		const atLeast, atMost, keys = 15_000, 1_000_000, 100
		waiting, most, events := 0, 0, 0
		for ; (events < atLeast || waiting < keys) && events < atMost; events++ {
			key := fmt.Sprint("key ", random.IntN(keys))
			newest[key] = events
			if o.sendEvents(sayFrame(v1, said{Sub: "0", N: events, Key: key}, 20), false, cargoOf(s, key)) == gone {
				t.Fatal("gone")
			}
			o.mu.Lock()
			if waiting = 0; o.line != nil {
				waiting = len(o.line.newest)
			}
			o.mu.Unlock()
			most = max(most, waiting)
		}
		if waiting != keys || most != keys {
			t.Errorf("direct %v: of %d keys %d wait, at most %d", direct, keys, waiting, most)
		}
		o.finish(websocket.AppendClose(nil, 1000, ""), false, time.Time{})
		heard, _ := hear(t, v1, client, func() {})
		fl.running.Wait()
		got, told, count := map[string]int{}, 0, 0
		for _, what := range heard {
			if what.Dropped != nil {
				told += what.Dropped.Events
				continue
			}
			got[what.Key] = what.N
			count++
		}
		for key, n := range newest {
			if got[key] != n {
				t.Errorf("direct %v: the newest of %s is %d, want %d", direct, key, got[key], n)
			}
		}
		if told+count != events || balance.Load() != 0 {
			t.Errorf("direct %v: %d came, %d were told, of %d; the gauge is at %d", direct, count, told, events, balance.Load())
		}
	}
}

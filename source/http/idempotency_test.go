package httpsource

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/mapping"
	"github.com/millrace/millrace/millracetest"
	"github.com/millrace/millrace/stream/memory"
)

// A repeat is recognised, in the same life and in the next ones.
func TestIdempotencyKey(t *testing.T) {
	p := newPlace(t, 2).start()
	key := []string{"Content-Type", asJSON, "Idempotency-Key", "order-1"}
	p.want(p.post("", `[1,2,3]`, key...), 200, 3, 0, false)
	p.want(p.post("", `[1,2,3]`, key...), 200, 3, 0, true)
	p.want(p.post("", `[1,2,3]`, "Content-Type", asJSON, "Idempotency-Key", `"order-1"`), 200, 3, 0, true)
	p.want(p.post("", `[1,2,4]`, key...), 422, 0, 0, false)
	p.want(p.post("", `[4]`, "Content-Type", asJSON), 200, 1, 0, false)
	for range 2 {
		p.restart()
		p.want(p.post("", `[1,2,3]`, key...), 200, 3, 0, true)
		p.want(p.post("", `[1]`, key...), 422, 0, 0, false)
	}
	p.want(p.post("", `[1]`, "Content-Type", asJSON, "Idempotency-Key", strings.Repeat("x", 256)), 400, 0, 0, false)
	events := p.stored()
	var ids []string
	for _, e := range events {
		if e.Attributes[attribute] != "" {
			ids = append(ids, e.ID)
		}
	}
	if want := []string{"order-1#0", "order-1#1", "order-1#2"}; len(events) != 4 || !slices.Equal(ids, want) {
		t.Errorf("%d events, ids %v", len(events), ids)
	}
}

// A request that was refused may be sent again, right, with the same key.
func TestKeyOfRefusedRequest(t *testing.T) {
	p := newPlace(t, 1).start()
	key := []string{"Content-Type", asLines, "Idempotency-Key", "k"}
	p.want(p.post("", "1\nx\n", key...), 400, 0, 1, false)
	p.want(p.post("?partial=true", "1\ny\n", key...), 400, 1, 1, false)
	p.want(p.post("?partial=true", "1\ny\n", key...), 400, 1, 1, true)
	p.restart()
	p.want(p.post("?partial=true", "1\ny\n", key...), 400, 1, 1, true)
	if got := p.data(); got != "1" {
		t.Errorf("stored %q", got)
	}
}

// Of requests with the same key at the same time one takes effect; the others wait for it, or are told.
func TestConcurrentKeys(t *testing.T) {
	p := newPlace(t, 1)
	p.config.Wait = 10 * time.Second
	p.start()
	var all sync.WaitGroup
	var mu sync.Mutex
	first := 0
	for range 32 {
		all.Go(func() {
			r := p.post("", `1`, "Content-Type", asJSON, "Idempotency-Key", "k")
			mu.Lock()
			defer mu.Unlock()
			if r.Code != 200 || r.Accepted != 1 {
				t.Errorf("answered %+v", r)
			}
			if !r.Duplicate {
				first++
			}
		})
	}
	all.Wait()
	if got := p.data(); got != "1" || first != 1 {
		t.Errorf("stored %q, %d were the first", got, first)
	}
}

func TestKeyInFlight(t *testing.T) {
	p, held := newHeldPlace(t, 1)
	p.start()
	way := p.way
	key := []string{"Content-Type", asJSON, "Idempotency-Key", "k"}
	var first sync.WaitGroup
	first.Go(func() { p.want(p.post("", `1`, key...), 200, 1, 0, false) })
	<-held
	p.want(p.post("", `1`, key...), 409, 0, 0, false)
	p.want(p.post("", `2`, key...), 422, 0, 0, false)
	way.Release()
	first.Wait()
	p.want(p.post("", `1`, key...), 200, 1, 0, true)
}

// Whatever append of a request a crash falls on, before or after it: the sender tries again until it is
// answered, and every event is there once. The stream has several partitions, so that a request may become
// durable in part.
func TestRetryAfterCrash(t *testing.T) {
	for _, fault := range []millracetest.Fault{millracetest.Crash, millracetest.CrashAfter} {
		for nth := 1; ; nth++ {
			crashed := false
			ok := t.Run(fmt.Sprint(fault, nth), func(t *testing.T) {
				p := newPlace(t, 4)
				p.mapping = mapping.Config{Key: "k"}
				p.start()
				p.want(p.post("", `{"k":"before"}`, "Content-Type", asJSON), 200, 1, 0, false)
				p.stop()
				n := 0
				p.way = millracetest.NewFaults(func(_, _ string, h millrace.Header) millracetest.Fault {
					if h.Events == 0 && n == 0 {
						return millracetest.NoFault // taking over
					}
					if n++; n == nth {
						crashed = true
						return fault
					}
					return millracetest.NoFault
				})
				p.start()
				var lines []string
				for i := range 12 {
					lines = append(lines, fmt.Sprintf(`{"k":"%d"}`, i))
				}
				body := strings.Join(lines, "\n")
				r, err := p.try("", body, "Content-Type", asLines, "Idempotency-Key", "request")
				for err != nil || r.Code != 200 {
					if !crashed {
						t.Fatalf("%+v, %v", r, err)
					}
					p.restart()
					// Others come first: many enough that the producer gives its own recovery up.
					if nth == 2 {
						for range 4 {
							p.want(p.post("", strings.Repeat(`{"k":"other"}`+"\n", 4000), "Content-Type", asLines), 200, 4000, 0, false)
						}
					}
					r, err = p.try("", body, "Content-Type", asLines, "Idempotency-Key", "request")
				}
				p.restart()
				p.want(p.post("", body, "Content-Type", asLines, "Idempotency-Key", "request"), 200, 12, 0, true)
				seen := map[string]int{}
				for _, e := range p.stored() {
					if strings.HasPrefix(e.ID, "request#") {
						seen[e.ID]++
					}
				}
				for i := range 12 {
					if n := seen[fmt.Sprint("request#", i)]; n != 1 {
						t.Errorf("request#%d is there %d times", i, n)
					}
				}
			})
			if !ok || !crashed {
				break
			}
			if nth > 20 {
				t.Fatal("it crashes on and on")
			}
		}
	}
}

// A process that dies between its own steps: the answer is lost, and the next try finds what was taken.
func TestCrashSteps(t *testing.T) {
	for _, step := range []string{"http.taken", "http.emitted", "http.durable"} {
		t.Run(step, func(t *testing.T) {
			p := newPlace(t, 1)
			var way *millracetest.Faults
			p.options.Step = millracetest.CrashAt(step, 1, func() { way.Crash() })
			p.way = millracetest.NewFaults(nil)
			way = p.way
			p.config.Timeout = time.Second
			p.start()
			key := []string{"Content-Type", asJSON, "Idempotency-Key", "k"}
			r := p.post("", `[1,2]`, key...)
			if step != "http.durable" && r.Code != 503 {
				t.Errorf("answered %+v", r)
			}
			p.options.Step = nil
			p.restart()
			r = p.post("", `[1,2]`, key...)
			p.want(r, 200, 2, 0, step == "http.durable" || r.Duplicate)
			if got := p.data(); got != "1 2" {
				t.Errorf("stored %q", got)
			}
		})
	}
}

// secondBlock lets a fault happen at the second block that has events.
func secondBlock(f millracetest.Fault) *millracetest.Faults {
	n := 0
	return millracetest.NewFaults(func(_, _ string, h millrace.Header) millracetest.Fault {
		if h.Events > 0 {
			if n++; n == 2 {
				return f
			}
		}
		return millracetest.NoFault
	})
}

// Ids that we give are never given again, not even when the life that gave them left events behind without
// a commit: a new event must not be taken for one of those.
func TestIdsAfterCrash(t *testing.T) {
	p := newPlace(t, 4)
	p.mapping = mapping.Config{Key: "k"}
	p.way = secondBlock(millracetest.CrashAfter)
	p.start()
	body := "{\"k\":\"1\"}\n{\"k\":\"2\"}\n{\"k\":\"3\"}\n{\"k\":\"4\"}\n{\"k\":\"5\"}\n{\"k\":\"6\"}\n"
	if r := p.post("", body, "Content-Type", asLines); r.Code != 503 {
		t.Fatalf("answered %+v", r)
	}
	p.restart()
	before := len(p.stored())
	p.want(p.post("", body, "Content-Type", asLines), 200, 6, 0, false)
	if after := len(p.stored()); after != before+6 {
		t.Errorf("%d events, then %d", before, after)
	}
}

// What is remembered is bounded by number and age.
func TestKeysAreForgotten(t *testing.T) {
	clock := millracetest.NewClock()
	forgotten := 0
	k := newKeys(Idempotency{Window: time.Hour, Keys: 3}, func(n int) { forgotten = n })
	add := func(name string) {
		what, known := k.begin(t.Context(), name, digest{1}, false, clock.Now(), 0)
		if what != isNew {
			t.Fatalf("%s: %d", name, what)
		}
		k.settle(known, true, 1, 0, clock.Now())
	}
	is := func(name string) outcome {
		what, known := k.begin(t.Context(), name, digest{1}, false, clock.Now(), 0)
		if what == isNew {
			k.settle(known, false, 0, 0, clock.Now())
		}
		return what
	}
	for _, name := range []string{"a", "b", "c", "d"} {
		add(name)
		clock.Advance(20 * time.Minute)
	}
	// d was 20 minutes ago, c 40, b 60; a was one too many.
	for name, want := range map[string]outcome{"a": isNew, "b": isRepeat, "c": isRepeat, "d": isRepeat} {
		if got := is(name); got != want {
			t.Errorf("%s: %d, want %d", name, got, want)
		}
	}
	if got := k.oldest(clock.Now()); !got.Equal(clock.Now().Add(-time.Hour)) {
		t.Errorf("the oldest is of %s", got)
	}
	clock.Advance(time.Second)
	if got := is("b"); got != isNew {
		t.Errorf("b: %d", got)
	}
	clock.Advance(time.Hour)
	if !k.oldest(clock.Now()).IsZero() || len(k.known) != 0 || forgotten != 0 {
		t.Errorf("%d are remembered", len(k.known))
	}
}

// A request that was there in part keeps its place in the line when its next try completes it: what the next
// life must read begins with its first events, and those behind it are not forgotten with it.
func TestCompletedKeyKeepsItsPlace(t *testing.T) {
	clock := millracetest.NewClock()
	k := newKeys(Idempotency{Window: time.Hour, Keys: 10}, func(int) {})
	begin := func(name string) (outcome, *key) {
		return k.begin(t.Context(), name, digest{1}, false, clock.Now(), 0)
	}
	first := clock.Now()
	k.found("part#0", formatMark(2, 0, digest{1}), first)
	clock.Advance(10 * time.Minute)
	_, other := begin("other")
	k.settle(other, true, 1, 0, clock.Now())
	clock.Advance(10 * time.Minute)
	what, part := begin("part")
	if what != isNew {
		t.Fatalf("the rest of a request: %d", what)
	}
	k.settle(part, true, 2, 0, clock.Now())
	if got := k.oldest(clock.Now()); !got.Equal(first) {
		t.Errorf("the oldest is of %s, %s after the first event", got, got.Sub(first))
	}
	clock.Advance(40*time.Minute + time.Second)
	if got := k.oldest(clock.Now()); !got.Equal(first.Add(10 * time.Minute)) {
		t.Errorf("then the oldest is of %s", got)
	}
	if what, _ := begin("other"); what != isRepeat {
		t.Errorf("the key behind it: %d", what)
	}
	clock.Advance(10 * time.Minute)
	if !k.oldest(clock.Now()).IsZero() || len(k.known) != 0 {
		t.Errorf("%d are remembered", len(k.known))
	}
}

// The same through the stream: each life knows the keys of the lives before it, also those that came between
// the two tries of a request that a crash had cut.
func TestKeysAfterCompletedRequest(t *testing.T) {
	clock := millracetest.NewClock()
	p := newPlace(t, 4)
	p.mapping, p.options.Now = mapping.Config{Key: "k"}, clock.Now
	p.into = memory.New("events", memory.Options{Partitions: 4, Now: clock.Now})
	p.dead = newMemory("dead", clock)
	p.way = secondBlock(millracetest.Crash)
	p.start()
	var body strings.Builder
	for i := range 12 {
		fmt.Fprintf(&body, `{"k":"%d"}`+"\n", i)
	}
	cut := []string{"Content-Type", asLines, "Idempotency-Key", "cut"}
	other := []string{"Content-Type", asJSON, "Idempotency-Key", "other"}
	if r := p.post("", body.String(), cut...); r.Code != 503 {
		t.Fatalf("answered %+v", r)
	}
	p.restart()
	if n := len(p.stored()); n == 0 || n == 12 {
		t.Fatalf("%d events of the request are there, not a part", n)
	}
	clock.Advance(10 * time.Minute)
	p.want(p.post("", `{"k":"x"}`, other...), 200, 1, 0, false)
	clock.Advance(10 * time.Minute)
	p.want(p.post("", body.String(), cut...), 200, 12, 0, false)
	clock.Advance(10 * time.Minute)
	p.want(p.post("", `{"k":"y"}`, "Content-Type", asJSON), 200, 1, 0, false)
	for range 2 {
		p.restart()
		p.want(p.post("", `{"k":"x"}`, other...), 200, 1, 0, true)
		p.want(p.post("", body.String(), cut...), 200, 12, 0, true)
	}
	if n := len(p.stored()); n != 14 {
		t.Errorf("%d events are stored", n)
	}
}

// A batch is emitted before the keys of the last one are settled: its cursor must not leave them behind.
func TestCursorOfNextBatch(t *testing.T) {
	clock := millracetest.NewClock()
	p := newPlace(t, 1)
	p.into, p.dead = newMemory("events", clock), newMemory("dead", clock)
	p.options.Now = clock.Now
	var next sync.WaitGroup
	first := true
	p.options.Step = func(step string) {
		if step != "http.durable" || !first {
			return
		}
		first = false // the first batch is durable, and nobody was told: the next one queues, late
		clock.Advance(10 * time.Minute)
		run := p.source.run
		select {
		case <-run.wake:
		default:
		}
		next.Go(func() { p.want(p.post("", `2`, "Content-Type", asJSON), 200, 1, 0, false) })
		<-run.wake
	}
	p.start()
	key := []string{"Content-Type", asJSON, "Idempotency-Key", "k"}
	p.want(p.post("", `1`, key...), 200, 1, 0, false)
	next.Wait()
	p.restart()
	p.want(p.post("", `1`, key...), 200, 1, 0, true)
}

// A source reads its past from the oldest key that it remembers, and no further.
func TestPastIsReadAsFarAsNeeded(t *testing.T) {
	clock := millracetest.NewClock()
	p := newPlace(t, 1)
	p.options.Now = clock.Now
	p.into, p.dead = newMemory("events", clock), newMemory("dead", clock)
	p.start()
	for range 5 {
		p.want(p.post("", `1`, "Content-Type", asJSON), 200, 1, 0, false)
		clock.Advance(time.Hour)
	}
	p.want(p.post("", `1`, "Content-Type", asJSON, "Idempotency-Key", "k"), 200, 1, 0, false)
	clock.Advance(time.Hour)
	p.want(p.post("", `1`, "Content-Type", asJSON), 200, 1, 0, false)
	from := p.resume()
	blocks, err := p.source.remember(t.Context(), from, newKeys(p.config.Idempotency, func(int) {}))
	if err != nil || blocks != 2 {
		t.Errorf("%d blocks were read, %v; the key's and the one after it are enough", blocks, err)
	}
	clock.Advance(25 * time.Hour)
	if blocks, err = p.source.remember(t.Context(), from, newKeys(p.config.Idempotency, func(int) {})); err != nil || blocks != 0 {
		t.Errorf("%d blocks were read, %v; all keys are too old", blocks, err)
	}
}

func TestCursor(t *testing.T) {
	c := cursor{life: 1777636800123456789, request: 42, since: 1777636800}
	if got := parseCursor(c.format()); got != c {
		t.Errorf("%q is read as %+v", c.format(), got)
	}
	for _, at := range []millrace.Cursor{"", "x", "1.2", "1.2.z", "é.1.2"} {
		if got := parseCursor(at); got != (cursor{}) {
			t.Errorf("%q is read as %+v", at, got)
		}
	}
}

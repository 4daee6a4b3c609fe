package gateway

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"github.com/millrace/millrace/table"

	"github.com/millrace/millrace/gateway/websocket"
)

// policied returns subscriptions to endpoints with these policies, on one connection. They are named by their
// numbers.
func policied(o *outlet, f form, policies ...string) []*subscription {
	c := &connection{form: f}
	m := NewMetrics(nil)
	var all []*subscription
	for i, slow := range policies {
		e := &endpoint{path: fmt.Sprint("/", i), config: Endpoint{Slow: slow}}
		e.measure(m)
		s := &subscription{c: c, endpoint: e, dialect: dialect{form: f}}
		if f == v1 {
			s.name = fmt.Sprint(i)
		}
		all = append(all, s)
	}
	o.form = f
	return all
}

// cargoOf is the cargo of events with these keys; one that begins with "-" has left an area.
func cargoOf(s *subscription, keys ...string) *cargo {
	if !s.endpoint.drops() {
		return nil
	}
	c := &cargo{s: s, batch: &batch{}}
	for i, key := range keys {
		key, left := strings.CutPrefix(key, "-")
		c.batch.events = len(keys)
		c.batch.keyring.text = append(c.batch.keyring.text, key...)
		c.batch.ends = append(c.batch.ends, len(c.batch.keyring.text))
		if c.events = append(c.events, int32(i)); left {
			c.events[i] = ^c.events[i]
		}
	}
	return c
}

// said is what a client is told in the tests of this file.
type said struct {
	Sub     string
	N       int // numbers everything that is sent
	Key     string
	Pad     string
	Dropped *struct{ Events int }
}

func sayFrame(f form, what said, size int) []byte {
	what.Pad = strings.Repeat("x", size)
	text, _ := json.Marshal(what)
	switch f {
	case v1:
		return append(websocket.AppendHeader(nil, ws.OpText, len(text)), text...)
	case sse:
		return append(append([]byte("data: "), text...), "\n\n"...)
	default:
		return append(websocket.AppendHeader(nil, ws.OpText, len(text)), text...)
	}
}

// hear splits what a client has got into messages; closed says that a close frame was the last.
func hear(t *testing.T, f form, in io.Reader, pause func()) (all []said, closed bool) {
	t.Helper()
	r := bufio.NewReader(in)
	for {
		pause()
		var text []byte
		var what said
		if f == sse {
			event, err := r.ReadString('\n')
			if err != nil {
				return all, closed
			}
			name := ""
			if cut, found := strings.CutPrefix(event, "event: "); found {
				name = strings.TrimSpace(cut)
				event, _ = r.ReadString('\n')
			}
			data, found := strings.CutPrefix(event, "data: ")
			if end, err := r.ReadString('\n'); err != nil || end != "\n" || !found {
				t.Fatalf("an event is cut: %q, then %q, %v", event, end, err)
			}
			if text = []byte(data); name == droppedEvent {
				text = fmt.Appendf(nil, `{"dropped":%s}`, data)
			} else if name == closeEvent {
				closed = true
				continue
			}
		} else {
			h, err := ws.ReadHeader(r)
			if err != nil {
				return all, closed
			}
			text = make([]byte, h.Length)
			if _, err := io.ReadFull(r, text); err != nil {
				t.Fatalf("a frame is cut: %v", err)
			}
			switch h.OpCode {
			case ws.OpClose:
				closed = true
				continue
			case ws.OpPing:
				what.Dropped = &struct{ Events int }{}
				if _, err := fmt.Sscanf(string(text), "dropped=%d", &what.Dropped.Events); err != nil {
					t.Fatalf("ping %q: %v", text, err)
				}
				all = append(all, what)
				continue
			}
		}
		if err := json.Unmarshal(text, &what); err != nil || closed {
			t.Fatalf("%.100q: %v; after the end: %v", text, err, closed)
		}
		what.Pad = ""
		all = append(all, what)
	}
}

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

// What was held during a replay is not dropped if the socket takes it, and is as all else if it does not.
func TestHoldingDroppable(t *testing.T) {
	for _, direct := range []bool{true, false} {
		for _, stuffed := range []bool{false, true} {
			server, client := sockets(t, direct)
			var fl flows
			o, balance := newOutlet(server, &fl, 64<<10)
			s := policied(o, v1, NewestPerKey)[0]
			s.c.out.limit, s.c.out.flows = o.limit, o.flows
			o.start()
			if stuffed {
				for o.backlogOf() < 4<<10 {
					o.send(sayFrame(v1, said{N: -1}, 1000), false)
				}
			}
			s.hold()
			gap := sayFrame(v1, said{Sub: "0", N: 2}, 10)
			s.putEvents(append(sayFrame(v1, said{Sub: "0", N: 0, Key: "a"}, 10), sayFrame(v1, said{Sub: "0", N: 1, Key: "b"}, 10)...), false, cargoOf(s, "a", "b"))
			s.put(gap, false)
			s.putEvents(sayFrame(v1, said{Sub: "0", N: 3, Key: "a"}, 10), false, cargoOf(s, "-a"))
			kept, complete := s.kept, !s.spilled
			s.drop()
			if !complete {
				t.Error("spilled")
			}
			o.followLine(kept)
			o.finish(websocket.AppendClose(nil, 1000, ""), false, time.Time{})
			heard, closed := hear(t, v1, client, func() {})
			fl.running.Wait()
			var numbers []int
			told := 0
			for _, what := range heard {
				if what.Dropped != nil {
					told += what.Dropped.Events
				} else if what.N >= 0 {
					numbers = append(numbers, what.N)
				}
			}
			want, wantTold := []int{0, 1, 2, 3}, 0
			if stuffed || !direct {
				want, wantTold = []int{1, 2, 3}, 1
			}
			if !slices.Equal(numbers, want) || told != wantTold || !closed || balance.Load() != 0 {
				t.Errorf("direct %v, stuffed %v: got %v and %d told; closed %v, the gauge is at %d", direct, stuffed, numbers, told, closed, balance.Load())
			}

			s.hold()
			for n := range 1000 {
				s.putEvents(sayFrame(v1, said{N: n}, 100), false, cargoOf(s, "k"))
			}
			if !s.spilled || s.kept != nil {
				t.Error("more than the limit was held")
			}
			s.drop()
			if balance.Load() != 0 {
				t.Errorf("the gauge is at %d", balance.Load())
			}
		}
	}
}

// model is a line as simply as it can be said.
type model struct {
	limit   int
	half    []byte // what is left of the frame that the socket is taking
	free    bool   // half is not counted
	notices []*modelItem
	items   []*modelItem
}

type modelItem struct {
	frame []byte
	s     *subscription // nil: not an event
	key   string
	lost  int
	free  bool // once it is half written
}

func (i *modelItem) cost(limit int) int {
	cost := parcelCost + len(i.key)
	if len(i.frame) <= limit {
		cost += len(i.frame)
	}
	return cost
}

func (m *model) used() (all, fixed int) {
	if !m.free {
		all = len(m.half)
	}
	fixed = all
	for _, i := range m.items {
		if all += i.cost(m.limit); i.s == nil {
			fixed += i.cost(m.limit)
		}
	}
	return all, fixed
}

func (m *model) lose(s *subscription) {
	for _, n := range m.notices {
		if n.s == s {
			n.lost++
			return
		}
	}
	m.notices = append([]*modelItem{{s: s, lost: 1}}, m.notices...)
}

func (m *model) dropFirst(which func(*modelItem) bool) {
	i := slices.IndexFunc(m.items, func(i *modelItem) bool { return i.s != nil && which(i) })
	if i >= 0 {
		m.lose(m.items[i].s)
		m.items = slices.Delete(m.items, i, i+1)
	}
}

func (m *model) event(s *subscription, key string, frame []byte, shared bool) {
	item := &modelItem{frame: frame, s: s, free: shared || len(frame) > m.limit}
	if s.endpoint.config.Slow == NewestPerKey {
		item.key = key
		m.dropFirst(func(i *modelItem) bool { return i.s == s && i.key == key })
	}
	if len(frame) > m.limit {
		m.dropFirst(func(i *modelItem) bool { return len(i.frame) > m.limit })
	}
	if _, fixed := m.used(); fixed+item.cost(m.limit) > m.limit {
		m.lose(s)
		return
	}
	for all, _ := m.used(); all+item.cost(m.limit) > m.limit; all, _ = m.used() {
		m.dropFirst(func(*modelItem) bool { return true })
	}
	m.items = append(m.items, item)
}

// control returns whether it is taken.
func (m *model) control(frame []byte) bool {
	all, fixed := m.used()
	switch {
	case len(m.bytes()) == 0, all+len(frame) <= m.limit:
	case fixed+len(frame)+parcelCost > m.limit:
		return false
	default:
		for all+len(frame)+parcelCost > m.limit {
			m.dropFirst(func(*modelItem) bool { return true })
			all, _ = m.used()
		}
	}
	m.items = append(m.items, &modelItem{frame: frame})
	return true
}

// bytes is what waits.
func (m *model) bytes() []byte {
	all := bytes.Clone(m.half)
	for _, n := range m.notices {
		all = n.s.appendDropped(all, n.lost)
	}
	for _, i := range m.items {
		all = append(all, i.frame...)
	}
	return all
}

func (m *model) take(n int) {
	for n > 0 {
		if k := min(n, len(m.half)); k > 0 {
			m.half, n = m.half[k:], n-k
			continue
		}
		switch {
		case len(m.notices) > 0:
			m.free = false
			m.half, m.notices = m.notices[0].s.appendDropped(nil, m.notices[0].lost), m.notices[1:]
		case len(m.items) > 0:
			free := m.items[0].free
			m.half, m.items = m.items[0].frame, m.items[1:]
			m.free = free
		default:
			return
		}
	}
}

// The line is compared with the model, step by step: events of three subscriptions, other frames, and a socket that
// takes some bytes now and then.
func FuzzLine(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3})
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 3))
		b := make([]byte, 30+random.IntN(600))
		for i := range b {
			b[i] = byte(random.IntN(256))
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, steps []byte) {
		steps = steps[:min(len(steps), 900)] // the model is slow
		server, _ := sockets(t, false)
		var fl flows
		const limit = 4 << 10
		o, balance := newOutlet(server, &fl, limit) // it is opening: only this test takes from it
		subs := policied(o, v1, DropOldest, NewestPerKey, NewestPerKey)
		m := &model{limit: limit}
		started := false // there is a line, and has been since the queue was empty
		for i := 0; i+2 < len(steps); i += 3 {
			verb, a, b := steps[i]%8, int(steps[i+1]), int(steps[i+2])
			size := b * 4
			if b == 255 {
				size = 5000 + a
			}
			switch {
			case verb < 5 || !started:
				s, key := subs[a%3], fmt.Sprint("key ", a/3%9)
				frame := sayFrame(v1, said{Sub: s.name, N: i, Key: key}, size)
				if v := o.sendEvents(frame, b%2 == 0, cargoOf(s, key)); v != queued {
					t.Fatalf("step %d: verdict %d", i, v)
				}
				m.event(s, key, frame, b%2 == 0)
				started = true
			case verb < 6:
				frame := sayFrame(v1, said{N: i}, size)
				v := o.send(frame, false)
				if taken := m.control(frame); taken != (v == queued) {
					t.Fatalf("step %d: verdict %d, the model says %v", i, v, taken)
				}
			default:
				n := a * b / 8
				m.take(n)
				o.mu.Lock()
				takeFrom(o, n)
				started = o.line != nil // else other frames go to the queue, which is tested elsewhere
				o.mu.Unlock()
			}
			if got, want := waitingBytes(o), m.bytes(); !bytes.Equal(got, want) {
				t.Fatalf("step %d: got %d bytes, want %d", i, len(got), len(want))
			}
			if o.waiting() != len(waitingBytes(o)) || int64(o.waiting()) != balance.Load() {
				t.Fatalf("step %d: %d bytes wait, the gauge is at %d", i, o.waiting(), balance.Load())
			}
		}
	})
}

// takeFrom takes bytes as a socket does; mu is held.
func takeFrom(o *outlet, n int) {
	n = min(n, o.waiting())
	o.flows.queued(-n)
	for n > 0 {
		front := o.queue
		if o.big != nil {
			front = o.big
		}
		if len(front) == 0 {
			k := min(n, len(o.line.join(nil, o.limit)))
			o.took(k)
			n -= k
			continue
		}
		k := min(n, len(front)-o.off)
		if o.off, n = o.off+k, n-k; o.off == len(front) {
			if o.off = 0; o.big != nil {
				o.big = nil
			} else {
				o.queue = nil
			}
		}
	}
}

func waitingBytes(o *outlet) []byte {
	var all []byte
	if o.big != nil {
		all = append(all, o.big[o.off:]...)
	} else {
		all = append(all, o.queue[o.off:]...)
	}
	if o.line != nil {
		for p := o.line.first; p != nil; p = p.next {
			all = append(all, p.frame...)
		}
	}
	return all
}

// A dropped event costs no more than a little garbage, however long the queue is.
func BenchmarkDropping(b *testing.B) {
	for _, slow := range []string{DropOldest, NewestPerKey} {
		for _, limit := range []int{64 << 10, 16 << 20} {
			b.Run(fmt.Sprintf("%s/limit=%d", slow, limit), func(b *testing.B) {
				var fl flows
				fl.queued = func(int) {}
				o := &outlet{limit: limit, flows: &fl, opening: true}
				s := policied(o, v1, slow)[0]
				frame := sayFrame(v1, said{}, 150)
				var c []*cargo
				for i := range 100 {
					c = append(c, cargoOf(s, fmt.Sprint("key ", i)))
				}
				for range limit / 100 {
					o.sendEvents(frame, false, c[0])
				}
				b.ReportAllocs()
				i := 0
				for b.Loop() {
					o.sendEvents(frame, false, c[i%100])
					i++
				}
			})
		}
	}
}

// dropping makes the endpoint of p one that drops.
func (p *pushing) dropping(slow string) {
	p.g.endpoints["/e"].config.Slow = slow
	p.feed.keepKeys = slow == NewestPerKey
}

// Events that wait are known by their keys, by whichever way they came: also an object's that has left an area, and
// a key's end.
func TestKeysOfWhatWaits(t *testing.T) {
	const events = 40
	all := broadcast(events)
	for i := range all {
		all[i].Key = fmt.Sprint("key ", i%10)
		all[i].Data = fmt.Appendf(nil, `{"n":%d,"lat":%d,"lon":1}`, i, i/10%2*50)
		all[i].Deleted = i >= 35
	}
	p := newPushing(t, 3, v1, func(i int) string { return []string{"", "", "key 7"}[i] }, all)
	p.dropping(NewestPerKey)
	as, err := newAreas(Location{Lat: "lat", Lon: "lon"})
	if err != nil {
		t.Fatal(err)
	}
	p.feed.watched, p.feed.table = append(p.feed.watched, as), table.New(table.Options{Of: p.feed.stream.Name(), MaxKeys: 100})
	p.g.endpoints["/e"].areas = as
	byPrefix, byArea := p.feed.joined[0], p.feed.joined[1]
	p.feed.remove(byPrefix)
	byPrefix.prefix = "key "
	p.feed.joinLive(byPrefix, nil)
	p.feed.remove(byArea)
	if byArea.area, err = newBox(-10, -10, 10, 10); err != nil {
		t.Fatal(err)
	}
	p.feed.joinLive(byArea, nil)
	for _, s := range p.feed.joined {
		s.c.out.opening = true // it all waits
	}
	p.push(events)
	check := func(s *subscription, want ...string) {
		t.Helper()
		var got []string
		for q := s.c.out.line.first; q != nil; q = q.next {
			if q.lost > 0 {
				got = append(got, fmt.Sprint("dropped ", q.lost))
				continue
			}
			var m struct {
				Key           string
				Data          struct{ N *int }
				Left, Deleted bool
			}
			_, payload := splitFrame(t, q.frame)
			if err := json.Unmarshal(payload, &m); err != nil || m.Key != q.key || s.c.out.line.newest[subject{s, q.key}] != q {
				t.Errorf("%s is taken for %q, %v", payload, q.key, err)
			}
			text := m.Key
			if m.Left {
				text += " left"
			}
			if m.Data.N != nil {
				text += fmt.Sprint(" n ", *m.Data.N)
			}
			if m.Deleted {
				text += " deleted"
			}
			got = append(got, text)
		}
		if !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	check(p.feed.joined[slices.IndexFunc(p.feed.joined, func(s *subscription) bool { return len(s.keys) > 0 })],
		"dropped 3", "key 7 n 37 deleted")
	check(byPrefix, "dropped 30", "key 0 n 30", "key 1 n 31", "key 2 n 32", "key 3 n 33", "key 4 n 34", "key 5 n 35 deleted",
		"key 6 n 36 deleted", "key 7 n 37 deleted", "key 8 n 38 deleted", "key 9 n 39 deleted")
	// Each comes, leaves, comes, and leaves again or ends.
	check(byArea, "dropped 30", "key 0 left", "key 1 left", "key 2 left", "key 3 left", "key 4 left", "key 5 n 35 deleted",
		"key 6 n 36 deleted", "key 7 n 37 deleted", "key 8 n 38 deleted", "key 9 n 39 deleted")
}

// As long as nobody is slow, an endpoint that drops costs no allocation more.
func TestAllocationsOfDropping(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector allocates")
	}
	for _, slow := range []string{DropOldest, NewestPerKey} {
		for _, key := range []string{"", "key 3"} {
			p := newPushing(t, 40, v1, func(int) string { return key }, broadcast(64))
			p.dropping(slow)
			if n := p.measure(64); n > 12 {
				t.Errorf("%s, key %q: %.0f allocations", slow, key, n)
			}
		}
	}
}

package gateway

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"weak"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
	"github.com/millrace/millrace/stream/memory"
)

// newShelves returns a history over a stream of n blocks with up to 40 events of 10 keys each, and the blocks.
func newShelves(t *testing.T, limit int64, n int) (*shelf, []millrace.StoredBlock) {
	t.Helper()
	st := &stored{t: t, stream: memory.New("s", memory.Options{})}
	random := rand.New(rand.NewPCG(1, 2))
	var blocks []millrace.StoredBlock
	for i := range n {
		var events []millrace.Event
		for k := range random.IntN(41) {
			pad := make([]byte, random.IntN(200))
			for j := range pad {
				pad[j] = byte('a' + random.IntN(26))
			}
			events = append(events, millrace.Event{
				Key: fmt.Sprint("key ", random.IntN(10)), Type: "move", Data: fmt.Appendf(nil, `{"n":%d,"pad":"%s"}`, 100*i+k, pad), Time: blockStored,
			})
		}
		blocks = append(blocks, st.append(events...))
	}
	h := newHistory(limit, NewMetrics(nil))
	t.Cleanup(h.end)
	return newShelf(h, st.stream, "0"), blocks
}

// check proves that the history is in order, and counts its bytes anew.
func (s *shelf) check(t *testing.T) {
	t.Helper()
	h := s.history
	h.mu.Lock()
	defer h.mu.Unlock()
	sum, blocks, afters := int64(0), 0, 0
	for e := h.kept.Front(); e != nil; e = e.Next() {
		st := e.Value.(*stretch)
		sum += st.size
		if st.element != e || len(st.starts) != len(st.blocks)+1 {
			t.Errorf("a stretch of %d blocks has %d starts", len(st.blocks), len(st.starts))
		}
		for b, p := range st.blocks {
			if s.names[p.At.Block] != st || st.starts[b+1]-st.starts[b] != int(p.Header.Events) {
				t.Errorf("block %s is somewhere else", p.At)
			}
		}
		for _, after := range st.afters {
			if s.afters[after] != st {
				t.Errorf("what comes after %s is somewhere else", after)
			}
		}
		blocks, afters = blocks+len(st.blocks), afters+len(st.afters)
	}
	if sum != h.bytes || h.bytes > h.limit || blocks != len(s.names) || afters != len(s.afters) {
		t.Errorf("%d bytes are %d, the limit is %d; %d blocks are %d, %d positions are %d",
			h.bytes, sum, h.limit, blocks, len(s.names), afters, len(s.afters))
	}
}

// Many go through the history from random positions in many ways, while it grows at its end and is far too small:
// everybody sees everything, and the bound holds all the time.
func TestHistory(t *testing.T) {
	for _, limit := range []int64{0, 1 << 10, 100 << 10, 64 << 20} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			s, blocks := newShelves(t, limit, 300)
			place := blocks[len(blocks)-1].At
			var all sync.WaitGroup
			for n := range 16 {
				random := rand.New(rand.NewPCG(3, uint64(n)))
				all.Go(func() {
					for range 5 {
						i := random.IntN(len(blocks))
						at := blocks[i].At
						at.Event = uint32(random.IntN(int(at.Event) + 1))
						walkHistory(t, s, blocks[i:], at, place, random)
						s.check(t)
					}
				})
			}
			all.Go(func() {
				after := blocks[199].At
				for _, sb := range blocks[200:] {
					s.put(after, sb)
					after = sb.At
				}
			})
			all.Wait()
			s.check(t)
			s.forget()
			if s.history.bytes != 0 || len(s.names)+len(s.afters)+s.history.kept.Len()+len(s.flights) != 0 {
				t.Errorf("something is left: %+v", s)
			}
		})
	}
}

// walkHistory goes from at, in the first of the blocks, to place, and compares.
func walkHistory(t *testing.T, s *shelf, blocks []millrace.StoredBlock, at, place millrace.Position, random *rand.Rand) {
	var r block.Reader
	for at != place {
		w, found := s.find(at)
		if !found {
			got, err := s.fetch(t.Context(), at, place)
			if err != nil || got.err != nil || got.gap != nil || got.stretch == nil {
				t.Errorf("after %s: %+v, %v", at, got, err)
				return
			}
			w = got.window
		}
		n, total := w.events(at), w.events(place)
		key := fmt.Sprint("key ", random.IntN(11))
		var want, got []int32
		d := dialect{form: []form{plain, v1, sse}[random.IntN(3)]}
		x, y := w.indexed(), w.writtenIn(d)
		var ids idText
		for first := true; len(blocks) > 0 && blocks[0].At.Compare(w.end()) <= 0; blocks, first = blocks[1:], false {
			sb := blocks[0]
			if sb.At.Compare(at) <= 0 {
				continue
			}
			if err := r.Reset(sb.Raw); err != nil {
				t.Error(err)
			}
			if err := r.Load(block.All); err != nil {
				t.Error(err)
			}
			ids.single("0", sb.At.Block)
			for k := sb.Skip(at); k < r.Len(); k++ {
				if p := w.position(n); p != sb.Position(k) || w.events(p) != n+1 {
					t.Errorf("event %d stands at %s, not %s", n, p, sb.Position(k))
					return
				}
				if b := w.block(n); first || w.starts[b] <= n {
					if err := w.blocks[b].load(w.stretch, block.All); err != nil || !bytes.Equal(w.blocks[b].reader.Data(n-w.starts[b]), r.Data(k)) {
						t.Errorf("event %d is another one: %v", n, err)
					}
				}
				if string(r.Key(k)) == key {
					want = append(want, int32(n))
				}
				if y != nil {
					frame, _ := d.appendEvent(nil, nil, itemOf(&r, k), uint32(k)+1, &ids)
					if !bytes.Equal(y.frames[y.starts[n]:y.starts[n+1]], frame) {
						t.Errorf("event %d is written %q, not %q", n, y.frames[y.starts[n]:y.starts[n+1]], frame)
					}
				}
				n++
			}
		}
		if x != nil {
			if got = x.find(nil, &w, []string{key}, w.events(at), total); !slices.Equal(got, want) {
				t.Errorf("%s: events %d, want %d", key, got, want)
			}
		}
		if n != total {
			t.Errorf("%d events, want %d", n, total)
			return
		}
		at = w.end()
	}
}

// Whoever waits for its client keeps nothing of the history alive, and what is counted is what is taken.
func TestHistoryMemory(t *testing.T) {
	const limit = 8 << 20
	s, blocks := newShelves(t, limit, 2000)
	before := heapInUse()
	walk := func(from, to int) {
		for at := blocks[from].At; at.Compare(blocks[to].At) < 0; {
			w, found := s.find(at)
			if !found {
				got, err := s.fetch(t.Context(), at, blocks[to].At)
				if err != nil || got.err != nil {
					t.Fatal(err, got.err)
				}
				w = got.window
			}
			for range 2 {
				w.indexed()
				w.writtenIn(dialect{form: v1})
				w.writtenIn(dialect{form: sse})
			}
			at = w.end()
		}
	}
	walk(0, len(blocks)-1)
	s.check(t)
	counted, taken := s.history.bytes, heapInUse()-before
	runtime.KeepAlive(blocks)
	if counted < limit*3/4 {
		t.Errorf("%d bytes are counted, the history is not full", counted)
	}
	// The blocks themselves are the stream's here.
	t.Logf("%d bytes counted, %d bytes more in use", counted, taken)
	if !raceDetector && taken > counted*5/4 {
		t.Errorf("%d bytes are taken, %d are counted", taken, counted)
	}

	st := weak.Make(s.history.kept.Front().Value.(*stretch))
	s.forget()
	runtime.GC()
	if st.Value() != nil {
		t.Error("a stretch is kept that was forgotten")
	}
}

func heapInUse() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// A replay whose client does not read holds no block and no buffer.
func TestSlowReplayHoldsNothing(t *testing.T) {
	var c Config
	c.SetDefaults()
	c.Endpoints = map[string]Endpoint{"/e": {From: "s"}}
	st := &stored{t: t, stream: memory.New("s", memory.Options{})}
	g, err := New(c, Options{Streams: map[string]millrace.Stream{"s": st.stream}})
	if err != nil {
		t.Fatal(err)
	}
	for range 200 {
		st.append(broadcast(100)...)
	}
	f := g.feeds[0]
	if err := f.open(t.Context()); err != nil {
		t.Fatal(err)
	}
	server, _ := sockets(t, true)
	conn := &connection{gateway: g, endpoint: g.endpoints["/e"], form: v1, conn: server}
	conn.out = outlet{conn: server, raw: rawConn(server), form: v1, limit: 64 << 10, flows: &g.flows, done: conn.flushed}
	s := &subscription{c: conn, endpoint: conn.endpoint, feed: f, parts: f.parts[0].only, dialect: dialect{form: v1}}
	r := newReplay(s)
	place := r.edges()[0]
	for {
		if err := r.turn(t.Context(), 0, place); err != nil {
			t.Fatal(err)
		}
		if waiting, _ := conn.out.backlog(); waiting > 0 {
			break
		}
	}
	w, _ := f.parts[0].shelf.find(r.at[0])
	held := weak.Make(w.stretch)
	w = window{}
	if r.reached(0, place) || r.scratch != nil || len(g.slots) != 0 {
		t.Fatalf("at %s, %d slots are taken", r.at[0], len(g.slots))
	}
	f.parts[0].shelf.forget()
	runtime.GC()
	if held.Value() != nil {
		t.Error("a replay that waits holds a stretch")
	}
	runtime.KeepAlive(r)
	conn.out.close()
	g.flows.running.Wait()
}

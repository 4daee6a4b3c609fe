package gateway

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

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

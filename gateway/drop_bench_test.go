package gateway

import (
	"fmt"
	"testing"
)

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

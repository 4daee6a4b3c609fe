package gateway

import (
	"slices"
	"testing"
	"time"

	"github.com/millrace/millrace/gateway/websocket"
)

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

package query

import (
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/millracetest"
)

// TestCrashes lets the query live many short lives that end at random steps, with appends and saves that
// are refused, lost, delayed, or the end of the process. In the end every transition that brute force finds
// is in the output, once and in order, and every malformed event in the dead letters, once.
func TestCrashes(t *testing.T) {
	seeds := 30
	if testing.Short() {
		seeds = 10
	}
	for seed := range seeds {
		synctest.Test(t, func(t *testing.T) { crashes(t, uint64(seed)) })
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func crashes(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 99))
	w := newWorld(t, 1+r.IntN(3), 1+r.IntN(3))
	w.options.SnapshotEvents = 1 + r.IntN(60)
	w.options.SnapshotEvery = time.Duration(1+r.IntN(5)) * time.Second
	malformed := 0
	clock := 0.0
	send := func() {
		events := walk(r, r.IntN(25), 6, &clock)
		w.send(events...)
		for _, e := range events {
			if string(e.Data) == `{"p":{"x":1}}` {
				malformed++
			}
		}
	}
	crashed := 0
	for range 25 {
		// What happens is drawn before the life begins: goroutines may not share r.
		var mu sync.Mutex
		fate := rand.New(rand.NewPCG(r.Uint64(), 1))
		draw := func(n int) int {
			mu.Lock()
			defer mu.Unlock()
			return fate.IntN(n)
		}
		faults := millracetest.NewFaults(func(string, string, millrace.Header) millracetest.Fault {
			switch draw(25) {
			case 0:
				return millracetest.Refuse
			case 1:
				return millracetest.LoseReply
			case 2:
				return millracetest.Delay
			case 3:
				return millracetest.Crash
			case 4:
				return millracetest.CrashAfter
			default:
				return millracetest.NoFault
			}
		})
		steps := 1 + r.IntN(80)
		l := w.start(faults, func(o *Options) {
			o.Step = func(string) {
				mu.Lock()
				steps--
				over := steps == 0
				mu.Unlock()
				if over {
					faults.Crash()
				}
			}
			o.State = &faultyState{State: w.state, faults: faults, next: func() millracetest.Fault {
				return []millracetest.Fault{
					millracetest.NoFault, millracetest.NoFault, millracetest.NoFault, millracetest.NoFault,
					millracetest.Refuse, millracetest.LoseReply, millracetest.Crash, millracetest.CrashAfter,
				}[draw(8)]
			}}
		})
		for range r.IntN(4) {
			send()
			switch r.IntN(3) {
			case 0:
				l.settle()
			case 1:
				time.Sleep(time.Duration(r.IntN(3000)) * time.Millisecond)
			}
		}
		if r.IntN(3) > 0 {
			l.settle()
			faults.Crash()
		}
		select {
		case <-faults.Crashed():
			crashed++
		default:
		}
		_ = l.stop() // with an error, if it crashed
		if r.IntN(2) == 0 {
			faults.Land()
		}
	}
	last := w.start(nil, nil)
	last.settle()
	if err := last.stop(); err != nil {
		t.Fatal(err)
	}
	if crashed < 5 {
		t.Errorf("only %d lives crashed", crashed)
	}
	w.check(overlapping)
	if letters := events(t, w.dead); len(letters) != malformed {
		t.Errorf("%d dead letters for %d malformed events", len(letters), malformed)
	}
}

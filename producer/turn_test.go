package producer_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/millracetest"
	"github.com/millrace/millrace/producer"
	"github.com/millrace/millrace/stream/memory"
)

// turns is a stream with turns, as the one over JetStream has them.
type turns struct {
	millrace.Stream
	free chan struct{} // has something for each turn that is taken

	mu        sync.Mutex
	now, most int
	waiting   int
	longest   time.Duration // that somebody waited
}

func withTurns(s millrace.Stream, n int) *turns {
	return &turns{Stream: s, free: make(chan struct{}, n)}
}

func (s *turns) Turn(ctx context.Context, _ string) (done func(), err error) {
	s.count(0, 1)
	defer s.count(0, -1)
	defer s.waited(time.Now())
	select {
	case s.free <- struct{}{}:
	case <-ctx.Done():
		return nil, millrace.Errorf(millrace.Unavailable, "wait for a turn", "%w", context.Cause(ctx))
	}
	s.count(1, 0)
	var once sync.Once
	return func() {
		once.Do(func() {
			s.count(-1, 0)
			<-s.free
		})
	}, nil
}

func (s *turns) count(now, waiting int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now += now
	s.waiting += waiting
	s.most = max(s.most, s.now)
}

func (s *turns) waited(since time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.longest = max(s.longest, time.Since(since))
}

// taken returns how many turns are taken at this moment, and how many producers wait for one.
func (s *turns) taken() (now, waiting int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now, s.waiting
}

func openWithTurns(t *testing.T, s *turns, name string) (*producer.Producer, func()) {
	t.Helper()
	return open(t, producer.Config{
		Name: "source/" + name, Into: s, Dead: memory.New("dead", memory.Options{}), BlockEvents: 100,
	})
}

// What gathers while a producer waits for its turn goes together when the turn comes; and while it waits, it
// takes no more than it would take while it appends.
func TestTurn(t *testing.T) {
	for _, test := range []struct {
		emit, taken int
		blocks      string
	}{
		{10, 10, "[10]"},        // ten calls, one block
		{1000, 200, "[100 100"}, // one encoded ahead, one gathered; the rest waits
	} {
		t.Run(strconv.Itoa(test.emit), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				into := memory.New("into", memory.Options{})
				s := withTurns(into, 1)
				p, stop := openWithTurns(t, s, "a")
				_, err := s.Turn(t.Context(), "0") // somebody else's
				if err != nil {
					t.Fatal(err)
				}
				taken, ended := 0, make(chan error, 1)
				go func() {
					for i := range test.emit {
						if err := p.Emit(context.Background(), []millrace.Event{event(i)}, millrace.Cursor(strconv.Itoa(i))); err != nil {
							ended <- err
							return
						}
						taken++
					}
					ended <- nil
				}()
				synctest.Wait()
				if taken != test.taken {
					t.Errorf("%d events were taken, want %d", taken, test.taken)
				}
				if n := len(events(t, into)); n > 0 {
					t.Errorf("%d events were appended out of turn", n)
				}
				s.count(-1, 0)
				<-s.free
				if err := <-ended; err != nil {
					t.Fatal(err)
				}
				if err := p.Flush(t.Context()); err != nil {
					t.Fatal(err)
				}
				stop()
				if got := fmt.Sprint(sizes(t, into)); len(got) < len(test.blocks) || got[:len(test.blocks)] != test.blocks {
					t.Errorf("blocks of %s events, want %s", got, test.blocks)
				}
				if now, waiting := s.taken(); now != 0 || waiting != 0 {
					t.Errorf("%d turns are taken, %d waited for", now, waiting)
				}
			})
		})
	}
}

// Many producers share a few turns over a stream that takes its time. Nobody starves and nobody sleeps on with
// something to do: synctest would call that a deadlock.
func TestTurnsOfMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const producers, each, width = 60, 40, 3
		const latency = time.Millisecond // at most, each way
		into := memory.New("into", memory.Options{})
		rng := rand.New(rand.NewPCG(5, 5))
		faults := millracetest.NewFaults(nil)
		faults.Latency = func() time.Duration { return time.Duration(rng.Int64N(int64(latency))) }
		s := withTurns(faults.Stream(into), width)
		budget := producer.NewBudget(32 << 10)
		var all sync.WaitGroup
		for i := range producers {
			all.Go(func() {
				p, stop := open(t, producer.Config{
					Name: fmt.Sprint("source/", i), Into: s, Dead: memory.New("dead", memory.Options{}), Budget: budget,
				})
				for n := range each {
					e := event(n)
					e.Data = make([]byte, heavy)
					if err := p.Emit(t.Context(), []millrace.Event{e}, millrace.Cursor(strconv.Itoa(n))); err != nil {
						t.Error(err)
					}
					if n%7 == i%7 {
						if err := p.Flush(t.Context()); err != nil {
							t.Error(err)
						}
					}
				}
				if err := p.Flush(t.Context()); err != nil {
					t.Error(err)
				}
				stop()
			})
		}
		all.Wait()
		if n := len(events(t, into)); n != producers*each {
			t.Errorf("%d events are stored, want %d", n, producers*each)
		}
		if now, waiting := s.taken(); now != 0 || waiting != 0 || s.most > width {
			t.Errorf("%d turns are taken, %d waited for; %d at a time", now, waiting, s.most)
		}
		if held := budget.Held(); held != 0 {
			t.Errorf("%d bytes are held of the budget", held)
		}
		// Nobody keeps a turn for longer than one commit, so a wait is one round at most.
		if round := producers / width * 2 * latency; s.longest > round {
			t.Errorf("somebody waited %s for a turn; all others need %s", s.longest, round)
		}
	})
}

// A producer that is closed while it waits for its turn does not wait on, and one that fails gives its turn back.
func TestTurnIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := withTurns(memory.New("into", memory.Options{}), 1)
		p, stop := openWithTurns(t, s, "waits")
		if _, err := s.Turn(t.Context(), "0"); err != nil { // somebody else's
			t.Fatal(err)
		}
		if err := p.Emit(t.Context(), []millrace.Event{event(1)}, "1"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if _, waiting := s.taken(); waiting != 1 {
			t.Fatalf("%d wait for a turn", waiting)
		}
		stop()
		if now, waiting := s.taken(); now != 1 || waiting != 0 {
			t.Errorf("%d turns are taken, %d waited for", now, waiting)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		into := memory.New("into", memory.Options{})
		s := withTurns(into, 1)
		old, err := producer.Open(t.Context(), producer.Config{Name: "source/a", Into: s, Dead: memory.New("dead", memory.Options{})})
		if err != nil {
			t.Fatal(err)
		}
		ran := make(chan error, 1)
		go func() { ran <- old.Run(context.Background()) }()
		_, stop := openWithTurns(t, s, "a") // takes over
		if err := old.Emit(t.Context(), []millrace.Event{event(1)}, "1"); err != nil {
			t.Fatal(err)
		}
		if err := <-ran; millrace.CodeOf(err) != millrace.Conflict {
			t.Errorf("Run: %v, want conflict", err)
		}
		if now, waiting := s.taken(); now != 0 || waiting != 0 {
			t.Errorf("%d turns are taken, %d waited for", now, waiting)
		}
		stop()
	})
}

package producer_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/millracetest"
	"github.com/millrace/millrace/producer"
	"github.com/millrace/millrace/stream/memory"
)

// heavy is the data of an event that counts for about a kibibyte. With all that an event takes besides it
// counts for less than heavyMost.
const (
	heavy     = 1 << 10
	heavyMost = heavy + 100
)

// member is one of the producers that share a budget, each with streams of its own.
type member struct {
	*producer.Producer
	into   *memory.Stream
	faults *millracetest.Faults
	hold   *bool // holds its appends from now on
	stop   func()
}

func join(t *testing.T, budget *producer.Budget, name string) member {
	t.Helper()
	into, hold := memory.New("into", memory.Options{}), new(bool)
	faults := millracetest.NewFaults(func(string, string, millrace.Header) millracetest.Fault {
		if *hold {
			return millracetest.Hold
		}
		return millracetest.NoFault
	})
	p, stop := open(t, producer.Config{
		Name: "source/" + name, Into: faults.Stream(into), Dead: memory.New("dead", memory.Options{}), Budget: budget,
	})
	return member{p, into, faults, hold, stop}
}

// emit hands n heavy events over, one in a call, and returns how many were taken.
func (m member) emit(ctx context.Context, n int) (taken int, err error) {
	for i := range n {
		e := millrace.Event{ID: strconv.Itoa(i), Data: make([]byte, heavy)}
		if err := m.Emit(ctx, []millrace.Event{e}, millrace.Cursor(strconv.Itoa(i))); err != nil {
			return i, err
		}
	}
	return n, nil
}

// TestBudget: while nothing can be appended the producers together hold about the budget, each of them has got
// its fair share, and when the streams go on everything becomes durable.
func TestBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const members, each, limit = 20, 400, 256 << 10 // each wants more than there is
		budget := producer.NewBudget(limit)
		var all []member
		for i := range members {
			m := join(t, budget, strconv.Itoa(i))
			*m.hold = true
			all = append(all, m)
		}
		taken := make([]int, members)
		var emitting sync.WaitGroup
		for i, m := range all {
			emitting.Go(func() {
				for n := range each {
					if _, err := m.emit(t.Context(), 1); err != nil {
						t.Errorf("event %d: %v", n, err)
					}
					taken[i]++
				}
			})
		}
		synctest.Wait()
		// In flight, encoded ahead, and gathered: from each of these at most a share, and the event that went over
		// it, may have come after the budget was overdrawn.
		const most = limit + members*3*(producer.FairShare+heavyMost)
		if held := budget.Held(); held <= limit || held > most {
			t.Errorf("%d bytes are held of a budget of %d; want no more than %d", held, limit, most)
		}
		for i, n := range taken {
			if n*heavyMost < producer.FairShare {
				t.Errorf("producer %d was let in with %d bytes, the fair share is %d", i, n*heavy, producer.FairShare)
			}
			if n == each {
				t.Errorf("producer %d did not wait", i)
			}
		}
		for _, m := range all {
			*m.hold = false
			m.faults.Release()
		}
		emitting.Wait()
		for i, m := range all {
			if err := m.Flush(t.Context()); err != nil {
				t.Error(err)
			}
			m.stop()
			if n := len(events(t, m.into)); n != each {
				t.Errorf("producer %d: %d events are stored, want %d", i, n, each)
			}
		}
		if held := budget.Held(); held != 0 {
			t.Errorf("%d bytes are held when all is durable", held)
		}
	})
}

// Who is alone may gather far more than a fair share: a whole block.
func TestBudgetOfOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := join(t, producer.NewBudget(1<<20), "alone")
		*m.hold = true
		if _, err := m.emit(t.Context(), 1); err != nil { // in flight from now on
			t.Fatal(err)
		}
		synctest.Wait()
		if _, err := m.emit(t.Context(), 900); err != nil {
			t.Fatal(err)
		}
		*m.hold = false
		m.faults.Release()
		if err := m.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		m.stop()
		if n := sizes(t, m.into); fmt.Sprint(n) != "[1 900]" {
			t.Errorf("blocks of %v events", n)
		}
	})
}

// sizes are the numbers of events of a stream's blocks that have any.
func sizes(t *testing.T, s millrace.Stream) (all []uint32) {
	t.Helper()
	err := millracetest.ReadPartition(t.Context(), s, "0", func(b millrace.StoredBlock) error {
		if b.Header.Events > 0 {
			all = append(all, b.Header.Events)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// One whose stream hangs, and who holds the whole budget, slows nobody down but himself.
func TestBudgetThatIsHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		budget := producer.NewBudget(64 << 10)
		hog := join(t, budget, "hog")
		*hog.hold = true
		ended := make(chan error, 1)
		go func() {
			_, err := hog.emit(context.Background(), 1000)
			ended <- err
		}()
		synctest.Wait()
		if held := budget.Held(); held <= 64<<10 {
			t.Fatalf("it holds %d bytes only", held)
		}
		other := join(t, budget, "other")
		if _, err := other.emit(t.Context(), 1000); err != nil {
			t.Fatal(err)
		}
		if err := other.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, n := range sizes(t, other.into) {
			if n*heavy > producer.FairShare {
				t.Errorf("a block has %d events, more than the fair share of an overdrawn budget", n)
			}
		}
		other.stop()

		// He ends, and what he held comes back, also what never became durable.
		*hog.hold = false
		hog.faults.Crash()
		if err := hog.Close(); err != nil {
			t.Error(err)
		}
		if err := <-ended; err == nil {
			t.Error("Emit ended without an error")
		}
		if held := budget.Held(); held != 0 {
			t.Errorf("%d bytes are held by producers that are closed", held)
		}
	})
}

// Who waits for the budget can be called off; nothing of his call was taken then.
func TestBudgetIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		budget := producer.NewBudget(16 << 10)
		m := join(t, budget, "one")
		*m.hold = true
		ctx, cancel := context.WithCancelCause(t.Context())
		taken, ended := 0, make(chan error, 1)
		go func() {
			n, err := m.emit(ctx, 1000)
			taken = n
			ended <- err
		}()
		synctest.Wait()
		held := budget.Held()
		reason := errors.New("enough")
		cancel(reason)
		if err := <-ended; millrace.CodeOf(err) != millrace.Unavailable || !errors.Is(err, reason) {
			t.Errorf("Emit: %v", err)
		}
		if got := budget.Held(); got != held {
			t.Errorf("a call that was called off changed what is held from %d to %d", held, got)
		}
		*m.hold = false
		m.faults.Release()
		if err := m.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		m.stop()
		if n := len(events(t, m.into)); n != taken {
			t.Errorf("%d events are stored, and %d were taken", n, taken)
		}
	})
}

// A producer that is closed before it ran gives back what it had gathered, once.
func TestBudgetWithoutRun(t *testing.T) {
	budget := producer.NewBudget(1 << 20)
	c := config(1)
	c.Budget = budget
	p, err := producer.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Emit(t.Context(), []millrace.Event{event(1)}, "1"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		if held := budget.Held(); held != 0 {
			t.Errorf("%d bytes are held", held)
		}
	}
}

package memory_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
	"github.com/millrace/millrace/millracetest"
	"github.com/millrace/millrace/stream/memory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	_ millrace.Stream   = (*memory.Stream)(nil)
	_ millrace.Retainer = (*memory.Stream)(nil)
	_ millrace.State    = (*memory.State)(nil)
)

func open(t *testing.T, o millracetest.StreamOptions) *millracetest.StreamHarness {
	clock := new(stoppable)
	options := memory.Options{
		Partitions: o.Partitions,
		Retention:  memory.Retention{Age: o.Age, Bytes: o.Bytes},
		Now:        clock.now,
	}
	s := memory.New("positions", options)
	t.Cleanup(func() { _ = s.Close() })
	return &millracetest.StreamHarness{
		Stream: s,
		Reopen: func(*testing.T) millrace.Stream {
			s = s.Reopen()
			return s
		},
		Recreate: func(*testing.T) millrace.Stream {
			_ = s.Close()
			clock.set(time.Now().Add(time.Millisecond)) // creation times tell incarnations apart
			s = memory.New("positions", options)
			return s
		},
		Truncate: func(_ *testing.T, partition string, after millrace.Position) millrace.Stream {
			s.Truncate(partition, after)
			s = s.Reopen()
			return s
		},
		SetClock: clock.set,
	}
}

func TestStream(t *testing.T)   { millracetest.Stream(t, open) }
func TestRetainer(t *testing.T) { millracetest.Retainer(t, open) }

func TestState(t *testing.T) {
	millracetest.State(t, func(*testing.T) *millracetest.StateHarness {
		s := memory.NewState()
		return &millracetest.StateHarness{State: s, Reopen: func(*testing.T) millrace.State { return s }}
	})
}

// stoppable is the clock of the system until it is set; then it stands still.
type stoppable struct{ stopped atomic.Pointer[time.Time] }

func (c *stoppable) now() time.Time {
	if t := c.stopped.Load(); t != nil {
		return *t
	}
	return time.Now()
}

func (c *stoppable) set(now time.Time) { c.stopped.Store(&now) }

func Example() {
	ctx := context.Background()
	s := memory.New("positions", memory.Options{})
	b, err := block.Empty(millrace.Header{Producer: "source/buses", Flush: 1, Commit: true, Cursor: "17"})
	if err != nil {
		fmt.Println(err)
		return
	}
	// The first block of a producer comes after the start, the next one after the first.
	first, err := s.Append(ctx, "0", millrace.Position{}, b)
	fmt.Println(err)
	_, err = s.Append(ctx, "0", millrace.Position{}, b)
	fmt.Println(millrace.CodeOf(err))
	_, err = s.Append(ctx, "0", first, b)
	fmt.Println(err)
	last, err := s.Last(ctx, "0", "source/buses")
	fmt.Println(last.Header.Cursor, err)
	// Output:
	// <nil>
	// conflict
	// <nil>
	// 17 <nil>
}

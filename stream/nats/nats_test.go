package nats_test

import (
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
	"github.com/millrace/millrace/millracetest"
	"github.com/millrace/millrace/stream/nats"
)

var (
	_ millrace.Stream   = (*nats.Stream)(nil)
	_ millrace.Retainer = (*nats.Stream)(nil)
)

// TestMain runs this binary again as another process: a NATS server, or a program that appends.
func TestMain(m *testing.M) {
	switch os.Getenv("MILLRACE_TEST_CHILD") {
	case "":
		goleak.VerifyTestMain(m)
	case "server":
		runServer()
	case "crowd":
		runCrowd()
	case "appender":
		runAppender()
	}
}

// logger shows what is logged to who runs a test with -v.
func logger(t *testing.T) *slog.Logger {
	if os.Getenv("MILLRACE_TEST_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func openEngine(t *testing.T, o nats.Options) *nats.Engine {
	t.Helper()
	e, err := nats.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

func openStream(t *testing.T, e *nats.Engine, o millracetest.StreamOptions) *nats.Stream {
	t.Helper()
	s, err := e.Stream(t.Context(), "positions", nats.StreamConfig{
		Partitions: o.Partitions,
		Retention:  nats.Retention{Age: o.Age, Bytes: o.Bytes},
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStreamEmbedded(t *testing.T) {
	millracetest.Stream(t, openEmbedded)
	millracetest.Retainer(t, openEmbedded)
}

func openEmbedded(t *testing.T, o millracetest.StreamOptions) *millracetest.StreamHarness {
	x := newEmbedded(t, o)
	return &millracetest.StreamHarness{
		Stream: x.s,
		Reopen: func(t *testing.T) millrace.Stream {
			x.close(t)
			return x.open(t)
		},
		Recreate: func(t *testing.T) millrace.Stream {
			_ = x.s.Close()
			if err := x.e.Delete(t.Context(), "positions"); err != nil {
				t.Fatal(err)
			}
			x.s = openStream(t, x.e, o)
			return x.s
		},
		Truncate: func(t *testing.T, partition string, after millrace.Position) millrace.Stream {
			x.close(t)
			truncateStore(t, x.options.DataDir, partition, after)
			return x.open(t)
		},
		SetClock: x.clock.set,
	}
}

// opened is an embedded engine with the stream "positions".
type opened struct {
	options nats.Options
	o       millracetest.StreamOptions
	clock   *stoppable
	e       *nats.Engine
	s       *nats.Stream
}

func newEmbedded(t *testing.T, o millracetest.StreamOptions) *opened {
	t.Helper()
	clock := new(stoppable)
	x := &opened{o: o, clock: clock, options: nats.Options{DataDir: t.TempDir(), Logger: logger(t), Now: clock.now}}
	x.open(t)
	return x
}

func (x *opened) open(t *testing.T) *nats.Stream {
	t.Helper()
	x.e = openEngine(t, x.options)
	x.s = openStream(t, x.e, x.o)
	return x.s
}

func (x *opened) close(t *testing.T) {
	t.Helper()
	if err := x.e.Close(); err != nil {
		t.Error(err)
	}
}

// encode returns a block of one event. Any goroutine of a test may call it.
func encode(t *testing.T, producer string, flush uint64, data []byte) millrace.Block {
	t.Helper()
	var b block.Builder
	if err := b.Add(&millrace.Event{ID: fmt.Sprint(flush), Data: data}); err != nil {
		t.Error(err)
	}
	encoded, err := b.Encode(nil, millrace.Header{Producer: producer, Flush: flush, Commit: true})
	if err != nil {
		t.Error(err)
	}
	return encoded
}

func TestStateEmbedded(t *testing.T) {
	millracetest.State(t, func(t *testing.T) *millracetest.StateHarness {
		options := nats.Options{DataDir: t.TempDir(), Logger: logger(t)}
		e := openEngine(t, options)
		open := func(t *testing.T) millrace.State {
			s, err := e.State(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		return &millracetest.StateHarness{
			State: open(t),
			Reopen: func(t *testing.T) millrace.State {
				if err := e.Close(); err != nil {
					t.Error(err)
				}
				e = openEngine(t, options)
				return open(t)
			},
		}
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

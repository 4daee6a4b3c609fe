package producer_test

import (
	"bytes"
	"context"
	"iter"
	"log/slog"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
	"github.com/millrace/millrace/millracetest"
	"github.com/millrace/millrace/producer"
	"github.com/millrace/millrace/stream/memory"
)

func TestZombieIsFenced(t *testing.T) {
	for _, partitions := range []int{1, 4} {
		c := config(partitions)
		zombie, err := producer.Open(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		if err := zombie.Emit(t.Context(), []millrace.Event{event(0), event(1), event(2)}, "3"); err != nil {
			t.Fatal(err)
		}
		p, stop := open(t, c)
		if err := zombie.Run(t.Context()); millrace.CodeOf(err) != millrace.Conflict {
			t.Errorf("the older one's Run: %v, want conflict", err)
		}
		if err := zombie.Flush(t.Context()); millrace.CodeOf(err) != millrace.Conflict {
			t.Errorf("the older one's Flush: %v, want conflict", err)
		}
		if err := p.Emit(t.Context(), []millrace.Event{event(0), event(1), event(2)}, "3"); err != nil {
			t.Fatal(err)
		}
		if err := p.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		stop()
		if n := len(events(t, c.Into)); n != 3 {
			t.Errorf("%d events arrived, want 3", n)
		}
	}
}

// TestSlowOpenerIsFenced: whoever was overtaken between taking the home partition and fencing the
// others must not append after the newer writer's blocks there.
func TestSlowOpenerIsFenced(t *testing.T) {
	c := config(4)
	var p *producer.Producer
	var stop func()
	slow := c
	slow.Step = func(step string) {
		if step == "producer.takeover" {
			p, stop = open(t, c)
		}
	}
	if _, err := producer.Open(t.Context(), slow); millrace.CodeOf(err) != millrace.Conflict {
		t.Errorf("the slow one's Open: %v, want conflict", err)
	}
	for i := range 30 {
		if err := p.Emit(t.Context(), []millrace.Event{event(i)}, millrace.Cursor(strconv.Itoa(i))); err != nil {
			t.Fatal(err)
		}
		if err := p.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	stop()
}

// TestStreamLosesItsEnd: blocks that were acknowledged are gone while the producer runs. It must not go
// on as if they were there; its next life goes on from what is left.
func TestStreamLosesItsEnd(t *testing.T) {
	c := config(1)
	p, err := producer.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	ran := make(chan error, 1)
	go func() { ran <- p.Run(context.Background()) }()
	var middle millrace.Position
	for i := range 4 {
		if err := p.Emit(t.Context(), []millrace.Event{event(i)}, millrace.Cursor(strconv.Itoa(i))); err != nil {
			t.Fatal(err)
		}
		if err := p.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if i == 1 {
			_, middle, _ = c.Into.Bounds(t.Context(), "0")
		}
	}
	c.Into.(*memory.Stream).Truncate("0", middle)
	_ = p.Emit(t.Context(), []millrace.Event{event(4)}, "4")
	if err := <-ran; millrace.CodeOf(err) != millrace.Internal || !strings.Contains(err.Error(), "has lost its end") {
		t.Errorf("Run: %v, want internal", err)
	}
	p, stop := open(t, c)
	if got := p.Resume().Cursor; got != "1" {
		t.Errorf("the cursor is %q, want 1", got)
	}
	stop()
}

// unfinished leaves a flush of the events 0 to 8 without a commit: all partitions but the home have it.
func unfinished(t *testing.T, c producer.Config) {
	t.Helper()
	faults := millracetest.NewFaults(nil)
	into := c.Into
	c.Into, c.Dead = faults.Stream(c.Into), faults.Stream(c.Dead)
	c.Step = millracetest.CrashAt("producer.partitions-appended", 1, faults.Crash)
	p, err := producer.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	var list []millrace.Event
	for i := range 9 {
		list = append(list, event(i))
	}
	if err := p.Emit(t.Context(), list, "9"); err != nil {
		t.Fatal(err)
	}
	if err := p.Run(t.Context()); err == nil {
		t.Fatal("Run did not fail")
	}
	if n := len(events(t, into)); n == 0 || n == 9 {
		t.Fatalf("%d of 9 events were appended", n)
	}
}

// TestDropSetIsGivenUp: the input has taken another course.
func TestDropSetIsGivenUp(t *testing.T) {
	c := config(4)
	unfinished(t, c)
	p, stop := open(t, c)
	for i := range 30_000 {
		e := event(i)
		e.ID = "other-" + strconv.Itoa(i)
		if err := p.Emit(t.Context(), []millrace.Event{e}, millrace.Cursor(strconv.Itoa(i))); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	stop()
	for _, partition := range []string{"0", "1", "2", "3"} {
		last, err := c.Into.Last(t.Context(), partition, c.Name)
		if err != nil {
			t.Fatal(err)
		}
		if last.Header.Commit && len(last.Header.Uncommitted) > 0 {
			t.Errorf("the newest commit still names %v", last.Header.Uncommitted)
		}
	}
}

func TestLeftoversThatAreGone(t *testing.T) {
	var log bytes.Buffer
	c := config(4)
	clock := millracetest.NewClock()
	c.Into = memory.New("into", memory.Options{Partitions: 4, Retention: memory.Retention{Age: time.Hour}, Now: clock.Now})
	unfinished(t, c)
	if _, err := producer.Open(t.Context(), c); err != nil { // names them in the home partition
		t.Fatal(err)
	}
	clock.Advance(2 * time.Hour)
	if err := c.Into.(*memory.Stream).Trim(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.Logger = slog.New(slog.NewTextHandler(&log, nil))
	p, stop := open(t, c)
	if !strings.Contains(log.String(), "cannot be recovered") || !strings.Contains(log.String(), "retention has passed it") {
		t.Errorf("the log does not tell of the blocks that are gone:\n%s", &log)
	}
	if err := p.Emit(t.Context(), []millrace.Event{event(0)}, "1"); err != nil {
		t.Fatal(err)
	}
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	stop()
}

// TestHomeLosesItsEnd: the home partition has lost commits that other partitions have blocks of. It is
// said, and the newest of these flushes is not repeated.
func TestHomeLosesItsEnd(t *testing.T) {
	var log bytes.Buffer
	c := config(4)
	c.Logger = slog.New(slog.NewTextHandler(&log, nil))
	p, stop := open(t, c)
	var home string
	var early millrace.Position
	for i := range 5 {
		list := []millrace.Event{event(3 * i), event(3*i + 1), event(3*i + 2)}
		if err := p.Emit(t.Context(), list, millrace.Cursor(strconv.Itoa(i))); err != nil {
			t.Fatal(err)
		}
		if err := p.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if i == 2 {
			home = homeOf(t, c).Name
			last, err := c.Into.Last(t.Context(), home, c.Name)
			if err != nil {
				t.Fatal(err)
			}
			early = last.At
		}
	}
	stop()
	c.Into.(*memory.Stream).Truncate(home, early)
	p, stop = open(t, c)
	stop()
	if got := p.Resume().Cursor; got != "2" || !strings.Contains(log.String(), "the stream has lost blocks") {
		t.Errorf("the cursor is %q, want 2; the log is\n%s", got, &log)
	}
}

// TestDamagedLeftover: a block that was left behind cannot be read. The producer says so and goes on.
func TestDamagedLeftover(t *testing.T) {
	var log bytes.Buffer
	c := config(4)
	unfinished(t, c)
	c.Into = damagedStream{c.Into}
	c.Logger = slog.New(slog.NewTextHandler(&log, nil))
	p, stop := open(t, c)
	if err := p.Emit(t.Context(), []millrace.Event{event(0)}, "1"); err != nil {
		t.Fatal(err)
	}
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	stop()
	if !strings.Contains(log.String(), "it is damaged") || !strings.Contains(log.String(), "checksum") {
		t.Errorf("the log does not tell of the damage:\n%s", &log)
	}
}

// damagedStream flips a bit near the end of every block that is read.
type damagedStream struct{ millrace.Stream }

func (s damagedStream) Read(ctx context.Context, partition string, after millrace.Position) iter.Seq2[millrace.StoredBlock, error] {
	return func(yield func(millrace.StoredBlock, error) bool) {
		for b, err := range s.Stream.Read(ctx, partition, after) {
			if err == nil && b.Header.Events > 0 {
				b.Raw = bytes.Clone(b.Raw)
				var r block.Reader
				if err := r.Reset(b.Raw); err == nil {
					for i := range b.Raw { // the first bit whose flip damages the ids and not the head
						b.Raw[i] ^= 1
						if r.Reset(b.Raw) == nil && r.Load(block.IDs) != nil {
							break
						}
						b.Raw[i] ^= 1
					}
				}
			}
			if !yield(b, err) {
				return
			}
		}
	}
}

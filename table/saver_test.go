package table

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/millracetest"
	"github.com/millrace/millrace/stream/memory"
)

// greedy returns a stream whose Trim drops all that nobody holds.
func greedy(partitions int) *memory.Stream {
	now := begin
	return memory.New("positions", memory.Options{
		Partitions: partitions, Retention: memory.Retention{Age: time.Nanosecond},
		Now: func() time.Time { now = now.Add(time.Second); return now },
	})
}

// faultyState is a state whose saves are refused, or whose outcome is lost, or in which the process dies.
type faultyState struct {
	millrace.State
	fault func() millracetest.Fault
}

func (s faultyState) Save(ctx context.Context, name string, version uint64, write func(io.Writer) error) (uint64, error) {
	fault := s.fault()
	switch fault {
	case millracetest.Refuse:
		return 0, millrace.Errorf(millrace.Unavailable, "save state", "refused")
	case millracetest.Crash:
		panic(millracetest.Crashed{Step: "save"})
	}
	version, err := s.State.Save(ctx, name, version, write)
	switch fault {
	case millracetest.LoseReply:
		return 0, millrace.Errorf(millrace.Unavailable, "save state", "the reply got lost")
	case millracetest.CrashAfter:
		panic(millracetest.Crashed{Step: "saved"})
	}
	return version, err
}

// TestCrashes lets a table live many short lives that end anywhere, also between the saving of a snapshot and
// the hold that goes with it, on a stream that drops at once what nobody holds. Each life finds the table as it
// should be, and no gap.
func TestCrashes(t *testing.T) {
	seeds := 60
	if testing.Short() {
		seeds = 15
	}
	reached, crashes := &millracetest.Steps{}, 0
	for seed := range seeds {
		crashes += crash(t, uint64(seed), reached)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	if crashes < 5*seeds {
		t.Errorf("only %d lives crashed", crashes)
	}
	for _, step := range []string{"table.loaded", "table.saved", "table.held"} {
		if reached.Count("crash at "+step) == 0 {
			t.Errorf("no life crashed at %s", step)
		}
	}
}

func crash(t *testing.T, seed uint64, reached *millracetest.Steps) (crashes int) {
	r := rand.New(rand.NewPCG(seed, 7))
	s := greedy(1 + r.IntN(3))
	partitions, _ := s.Partitions(t.Context()) // never fails
	state := memory.NewState()
	f := newFeed(t, s)
	n := 0
	send := func() {
		for range r.IntN(4) {
			partition := partitions[r.IntN(len(partitions))].Name
			var events []millrace.Event
			for range r.IntN(4) {
				n++
				e := event(fmt.Sprintf("%s/%d", partition, r.IntN(15)), n)
				e.Deleted = r.IntN(6) == 0
				events = append(events, e)
			}
			f.send(partition, events...)
		}
	}
	trim := func() {
		if err := s.Trim(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	trimmed := false
	for range 25 {
		s = s.Reopen()
		f.stream = s
		steps := r.IntN(12)
		o := SaverOptions{
			Name: "positions", Stream: s,
			State: faultyState{state, func() millracetest.Fault {
				return []millracetest.Fault{
					millracetest.NoFault, millracetest.NoFault, millracetest.NoFault, millracetest.NoFault,
					millracetest.Refuse, millracetest.LoseReply, millracetest.Crash, millracetest.CrashAfter,
				}[r.IntN(8)]
			}},
			Step: func(step string) {
				trim() // whenever it may
				if steps--; steps == 0 {
					reached.Step("crash at " + step)
					panic(millracetest.Crashed{Step: step})
				}
			},
		}
		saver := NewSaver(o)
		if err := saver.Hold(t.Context()); err != nil { // as whoever trims does first
			t.Fatal(err)
		}
		trim()
		send()
		if millracetest.Survive(func() {
			table, err := saver.Load(t.Context(), Options{})
			if err != nil {
				t.Fatal(err)
			}
			for range 1 + r.IntN(6) {
				trim()
				wantGaps(t, bringUp(t, s, table))
				checkRows(t, &f.model, table)
				send()
				trim()
				if err := saver.Save(t.Context(), table.Freeze()); err != nil && millrace.CodeOf(err) != millrace.Unavailable {
					t.Fatal(err)
				}
				trim()
				first, _, err := s.Bounds(t.Context(), "0")
				trimmed = trimmed || err == nil && !first.IsStart()
			}
		}) {
			crashes++
		}
	}
	if !trimmed {
		t.Error("nothing was trimmed in all that time: the snapshots let nothing go")
	}
	return crashes
}

// checkRows compares rows alone: trimming appends empty blocks, so that the places move.
func checkRows(t testing.TB, m *model, table *Table) {
	t.Helper()
	if table.Len() != len(m.rows) {
		t.Fatalf("%d rows, want %d", table.Len(), len(m.rows))
	}
	for i := range m.rows {
		row := table.Get(m.rows[i].Event.Key)
		if row == nil {
			t.Fatalf("key %q is missing", m.rows[i].Event.Key)
		}
		sameRow(t, row, &m.rows[i])
	}
}

// TestRun: at once, then when the table has moved, and at the end.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, state := greedy(1), memory.NewState()
		f := newFeed(t, s)
		saver := NewSaver(SaverOptions{Name: "a", Stream: s, State: state, Every: time.Minute})
		table, err := saver.Load(t.Context(), Options{})
		if err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		next := func(n int) millrace.Position {
			f.send("0", event("a", n))
			mu.Lock()
			defer mu.Unlock()
			bringUp(t, s, table)
			return table.Place("0")
		}
		saved := func(want millrace.Position, version uint64) {
			t.Helper()
			synctest.Wait()
			found, v, err := Load(t.Context(), state, "table/a", Options{})
			if err != nil || found.Place("0") != want || v != version {
				t.Fatalf("version %d at %q, %v; want %d at %q", v, found.Place("0"), err, version, want)
			}
			if err := s.Trim(t.Context()); err != nil {
				t.Fatal(err)
			}
			if first, _, err := s.Bounds(t.Context(), "0"); err != nil || first != want {
				t.Fatalf("trimmed to %q, %v; want %q", first, err, want)
			}
		}
		at := next(1)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			done <- saver.Run(ctx, func() *Snapshot {
				mu.Lock()
				defer mu.Unlock()
				return table.Freeze()
			})
		}()
		saved(at, 1)
		time.Sleep(10 * time.Minute)
		saved(at, 1)
		later := next(2)
		synctest.Wait()
		time.Sleep(time.Minute)
		saved(later, 2)
		last := next(3)
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}

		// The next life holds what comes after the snapshot, and nothing before it.
		s = s.Reopen()
		f.stream = s
		later = f.send("0", event("a", 4))
		if table, err = NewSaver(SaverOptions{Name: "a", Stream: s, State: state}).Load(t.Context(), Options{}); err != nil {
			t.Fatal(err)
		}
		saved(last, 3)
		wantGaps(t, bringUp(t, s, table))
		if got := table.Place("0"); got.Compare(later) < 0 {
			t.Errorf("the table came to %q, want %q", got, later)
		}
	})
}

// TestForeignSnapshot: a snapshot that someone else has saved meanwhile is saved over.
func TestForeignSnapshot(t *testing.T) {
	s, state := greedy(2), memory.NewState()
	f := newFeed(t, s)
	for n := range 3 {
		f.send("0", event("a", n))
		saver := NewSaver(SaverOptions{Name: "a", Stream: s, State: state})
		table, err := saver.Load(t.Context(), Options{})
		if err != nil {
			t.Fatal(err)
		}
		_, version, err := Load(t.Context(), state, "table/a", Options{})
		if err != nil && millrace.CodeOf(err) != millrace.NotFound {
			t.Fatal(err)
		}
		if _, err := New(Options{}).Freeze().Save(t.Context(), state, "table/a", version); err != nil {
			t.Fatal(err)
		}
		bringUp(t, s, table)
		if err := saver.Save(t.Context(), table.Freeze()); err != nil {
			t.Fatal(err)
		}
	}
	table, _, err := Load(t.Context(), state, "table/a", Options{})
	if err != nil {
		t.Fatal(err)
	}
	checkRows(t, &f.model, table)
}

// TestUnusableSnapshot: the table begins anew with all of the stream held, says why, and saves over it.
func TestUnusableSnapshot(t *testing.T) {
	s, state := greedy(1), memory.NewState()
	f := newFeed(t, s)
	f.send("0", event("a", 1))
	_, err := state.Save(t.Context(), "table/a", 0, func(w io.Writer) error {
		_, err := io.WriteString(w, "MRT2....")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	saver := NewSaver(SaverOptions{Name: "a", Stream: s, State: state, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	table, err := saver.Load(t.Context(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), "a later one has written it") {
		t.Errorf("the log says %s", log.String())
	}
	if err := s.Trim(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantGaps(t, bringUp(t, s, table))
	checkRows(t, &f.model, table)
	if err := saver.Save(t.Context(), table.Freeze()); err != nil {
		t.Fatal(err)
	}
	if table, err = NewSaver(SaverOptions{Name: "a", Stream: s, State: state}).Load(t.Context(), Options{}); err != nil || table.Len() != 1 {
		t.Errorf("Load = %v", err)
	}
}

// brokenState fails to load or to save.
type brokenState struct {
	millrace.State
	err error
}

func (s brokenState) Load(context.Context, string) (io.ReadCloser, uint64, error) {
	return nil, 0, s.err
}

func (s brokenState) Save(context.Context, string, uint64, func(io.Writer) error) (uint64, error) {
	return 0, s.err
}

// TestBrokenState: what can be tried again is; what cannot ends Run.
func TestBrokenState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		unavailable := millrace.Errorf(millrace.Unavailable, "load state", "no connection")
		saver := NewSaver(SaverOptions{Name: "a", Stream: greedy(1), State: brokenState{err: unavailable}})
		if _, err := saver.Load(t.Context(), Options{}); !errors.Is(err, unavailable) {
			t.Errorf("Load = %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if err := saver.Run(ctx, New(Options{}).Freeze); err != nil || ctx.Err() == nil {
			t.Errorf("Run = %v, %v", err, ctx.Err())
		}
		denied := millrace.Errorf(millrace.Denied, "save state", "no permission")
		saver = NewSaver(SaverOptions{Name: "a", Stream: greedy(1), State: brokenState{err: denied}})
		if err := saver.Run(t.Context(), New(Options{}).Freeze); !errors.Is(err, denied) {
			t.Errorf("Run = %v", err)
		}
	})
}

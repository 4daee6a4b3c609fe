package table

import (
	"context"
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/stream/memory"
)

// bringUp brings a table to the end of a stream, and fails if that takes waiting.
func bringUp(t testing.TB, s millrace.Stream, table *Table) []Gap {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	gaps, err := CatchUp(ctx, s, table)
	if err != nil {
		t.Fatal(err)
	}
	return gaps
}

func wantGaps(t testing.TB, got []Gap, want ...Gap) {
	t.Helper()
	if len(got) != len(want) || len(want) > 0 && !reflect.DeepEqual(got, want) {
		t.Errorf("gaps %+v, want %+v", got, want)
	}
}

// TestCatchUp: a table comes to the end again and again, from where it stands, also in the middle of a block.
func TestCatchUp(t *testing.T) {
	s := memory.New("positions", memory.Options{Partitions: 3})
	f := newFeed(t, s)
	table := New(Options{})
	wantGaps(t, bringUp(t, s, table))
	f.model.check(t, table)
	r := rand.New(rand.NewPCG(1, 2))
	for n := range 200 {
		for range r.IntN(4) {
			partition := fmt.Sprint(r.IntN(3))
			var events []millrace.Event
			for range r.IntN(5) { // or none
				e := event(fmt.Sprintf("%s/%d", partition, r.IntN(20)), n)
				e.Deleted = r.IntN(5) == 0
				events = append(events, e)
			}
			f.send(partition, events...)
		}
		wantGaps(t, bringUp(t, s, table))
		checkContent(t, &f.model, table)
	}
	again := New(Options{})
	wantGaps(t, bringUp(t, s, again))
	checkContent(t, &f.model, again)

	half := New(Options{})
	at := f.send("1", event("1/before", 1), event("1/after", 1))
	half.Moved("1", millrace.Position{Block: at.Block, Event: 1})
	bringUp(t, s, half)
	if half.Get("1/before") != nil || half.Get("1/after") == nil {
		t.Error("from the middle of a block on, the wrong events were applied")
	}
}

// checkContent compares rows and places, but not the order of rows of different partitions.
func checkContent(t testing.TB, m *model, table *Table) {
	t.Helper()
	if table.Len() != len(m.rows) || !reflect.DeepEqual(table.Places(), m.places) {
		t.Fatalf("%d rows at %v, want %d at %v", table.Len(), table.Places(), len(m.rows), m.places)
	}
	for i := range m.rows {
		row := table.Get(m.rows[i].Event.Key)
		if row == nil {
			t.Fatalf("key %q is missing", m.rows[i].Event.Key)
		}
		sameRow(t, row, &m.rows[i])
	}
}

// TestCatchUpWant: only the keys that somebody wants, and the place all the same.
func TestCatchUpWant(t *testing.T) {
	s := memory.New("positions", memory.Options{})
	f := newFeed(t, s)
	f.model.want = func(key []byte) bool { return key[0] == 'a' }
	f.send("0", event("b", 1), event("b", 2))
	f.send("0", event("b", 3), event("a1", 1), event("b", 4))
	f.send("0", event("a2", 1), event("c", 2))
	f.send("0", event("b", 5))
	table := New(Options{Want: f.model.want})
	wantGaps(t, bringUp(t, s, table))
	f.model.check(t, table)
}

// TestEnds: what comes while it catches up is left for later.
func TestEnds(t *testing.T) {
	s := memory.New("positions", memory.Options{})
	f := newFeed(t, s)
	f.send("0", event("a", 1))
	end := f.send("0", event("a", 2))
	table := New(Options{Want: func([]byte) bool {
		f.send("0", event("a", 3))
		return true
	}})
	bringUp(t, s, table)
	if got := table.Place("0"); got != end {
		t.Errorf("the table stands at %q, want %q", got, end)
	}
}

// TestTrimmed: rows that are known stay, and the gap is told; who begins at the start is told of none.
func TestTrimmed(t *testing.T) {
	now := begin
	s := memory.New("positions", memory.Options{Retention: memory.Retention{Age: time.Hour}, Now: func() time.Time { return now }})
	f := newFeed(t, s)
	table := New(Options{})
	at := f.send("0", event("old", 1), event("a", 1))
	bringUp(t, s, table)
	f.send("0", event("a", 2))
	last := f.send("0", event("a", 3))
	now = now.Add(2 * time.Hour)
	if err := s.Trim(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.send("0", event("b", 4))
	wantGaps(t, bringUp(t, s, table), Gap{"0", millrace.Gap{After: at, First: last, Reason: millrace.Trimmed}})
	if table.Len() != 3 || string(table.Get("a").Event.Data) != `{"n":1}` || table.Get("old") == nil || table.Get("b") == nil {
		t.Errorf("%d rows", table.Len())
	}
	fresh := New(Options{})
	wantGaps(t, bringUp(t, s, fresh))
	if fresh.Len() != 1 {
		t.Errorf("%d rows", fresh.Len())
	}
}

// TestNewIncarnation: rows of the stream's earlier life go, also those of partitions that it has no more, and
// also where it is still empty.
func TestNewIncarnation(t *testing.T) {
	old := memory.New("positions", memory.Options{Partitions: 3, Incarnation: "aaaaaaaaa"})
	f := newFeed(t, old)
	table := New(Options{})
	var at []millrace.Position
	for _, partition := range []string{"0", "1", "2"} {
		f.send(partition, event(partition+"a", 1))
		at = append(at, f.send(partition, event(partition+"b", 1), event(partition+"c", 1)))
	}
	bringUp(t, old, table)

	s := memory.New("positions", memory.Options{Partitions: 2, Incarnation: "bbbbbbbbb"})
	f = newFeed(t, s)
	f.send("0", event("0b", 7))
	want := []Gap{
		{"0", millrace.Gap{After: at[0], First: millrace.Position{Block: millrace.BlockName("bbbbbbbbb", 1)}, Reason: millrace.NewIncarnation}},
		{"1", millrace.Gap{After: at[1], Reason: millrace.NewIncarnation}},
	}
	wantGaps(t, bringUp(t, s, table), want...)
	f.model.places["1"] = millrace.Position{}
	checkContent(t, &f.model, table)
	wantGaps(t, bringUp(t, s, table))
	f.send("1", event("1b", 7))
	wantGaps(t, bringUp(t, s, table))
	checkContent(t, &f.model, table)

	// One that stands where a new incarnation's gap ended, before its first event.
	table = New(Options{})
	table.Moved("0", want[0].First)
	empty := memory.New("positions", memory.Options{Incarnation: "bbbbbbbbb"})
	wantGaps(t, bringUp(t, empty, table))

	// An earlier name of an incarnation may sort after a later one.
	before := memory.New("positions", memory.Options{Incarnation: "000000000"})
	f = newFeed(t, before)
	f.send("0", event("z", 1))
	table = New(Options{})
	bringUp(t, s, table)
	if gaps := bringUp(t, before, table); len(gaps) != 1 || gaps[0].Reason != millrace.NewIncarnation {
		t.Errorf("gaps %v", gaps)
	}
	if table.Len() != 1 || table.Get("z") == nil {
		t.Errorf("%d rows", table.Len())
	}
}

// TestTruncated: a stream that has lost its tail is read from its start, and rows of lost events are gone.
func TestTruncated(t *testing.T) {
	for _, grown := range []bool{false, true} {
		s := memory.New("positions", memory.Options{})
		f := newFeed(t, s)
		table := New(Options{})
		f.send("0", event("a", 1), event("b", 1))
		kept := f.send("0", event("b", 2))
		f.send("0", event("b", 3), event("lost", 1))
		end := f.send("0", event("lost", 2), event("lost", 3))
		bringUp(t, s, table)

		s.Truncate("0", kept)
		want := millrace.Gap{After: end, First: kept, Reason: millrace.Truncated}
		rows := 2
		if grown { // up to where the table stands, but with fewer events there
			f.after["0"] = kept
			f.send("0", event("c", 1))
			want.First = f.send("0", event("c", 2))
			rows = 3
		}
		wantGaps(t, bringUp(t, s, table), Gap{"0", want})
		if table.Len() != rows || table.Get("lost") != nil || string(table.Get("b").Event.Data) != `{"n":2}` {
			t.Errorf("%d rows; b is %s", table.Len(), table.Get("b").Event.Data)
		}
		wantGaps(t, bringUp(t, s, table))
	}
	// Before the next block is where the newest one ends.
	s := memory.New("positions", memory.Options{Incarnation: "aaaaaaaaa"})
	newFeed(t, s).send("0", event("a", 1))
	table := New(Options{})
	table.Moved("0", millrace.Position{Block: millrace.BlockName("aaaaaaaaa", 2)})
	wantGaps(t, bringUp(t, s, table))
}

// TestUnreadable: a damaged block is a gap.
func TestUnreadable(t *testing.T) {
	s := memory.New("positions", memory.Options{})
	f := newFeed(t, s)
	before := f.send("0", event("a", 1))
	b := encode(t, event("a", 2))
	b.Raw[len(b.Raw)-1] ^= 1
	at := f.append("0", b)
	f.send("0", event("b", 1))
	table := New(Options{})
	wantGaps(t, bringUp(t, s, table), Gap{"0", millrace.Gap{After: before, First: at, Reason: Unreadable}})
	checkContent(t, &f.model, table)
}

// TestCatchUpFails: what was applied stays, and the next call goes on.
func TestCatchUpFails(t *testing.T) {
	s := memory.New("positions", memory.Options{})
	f := newFeed(t, s)
	for n := range 10 {
		f.send("0", event("a", n), event("b", n))
	}
	for _, end := range []func(cancel func()){
		func(cancel func()) { cancel() },
		func(func()) { _ = s.Close() },
	} {
		ctx, cancel := context.WithCancel(t.Context())
		n := 0
		table := New(Options{Want: func([]byte) bool {
			if n++; n == 7 {
				end(cancel)
			}
			return true
		}})
		if _, err := CatchUp(ctx, s, table); millrace.CodeOf(err) != millrace.Unavailable {
			t.Errorf("CatchUp = %v", err)
		}
		cancel()
		if at := table.Place("0"); at.IsStart() || at == f.after["0"] {
			t.Errorf("it came to %q", at)
		}
		s = s.Reopen()
		bringUp(t, s, table)
		checkContent(t, &f.model, table)
	}
}

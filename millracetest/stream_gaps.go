package millracetest

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"sync"
	"testing"

	"github.com/millrace/millrace"
)

// The cases of Stream in which positions are gone.

func streamGapTruncated(t *testing.T, h *StreamHarness) {
	w := newStreamWriter("source/a")
	w.append(t, h.Stream, "0", 1)
	last := w.append(t, h.Stream, "0", 3)
	incarnation, n, err := millrace.ParseBlockName(last.At.Block)
	if err != nil {
		t.Skipf("the blocks are not numbered: %v", err)
	}
	for _, beyond := range []millrace.Position{{Block: "20"}, {Block: "20", Event: 2}, {Block: "1", Event: 1}, {Block: "0", Event: 4}} {
		ahead, _ := strconv.ParseUint(beyond.Block, 10, 64)
		after := millrace.Position{Block: millrace.BlockName(incarnation, n+ahead), Event: beyond.Event}
		ctx, cancel := context.WithCancel(streamContext(t))
		var got []any
		for b, err := range h.Stream.Read(ctx, "0", after) {
			var gap *millrace.Gap
			switch {
			case errors.As(err, &gap):
				got = append(got, *gap)
				// Then it goes on with what comes.
				defer func(after millrace.Position) {
					if len(got) != 2 || got[1] != after {
						t.Errorf("after %q: %v, want a gap, then %q", after, got, after)
					}
				}(w.append(t, h.Stream, "0", 3).At)
			case err == nil:
				got = append(got, b.At)
				cancel()
			}
		}
		cancel()
		want := millrace.Gap{After: after, First: last.At, Reason: millrace.Truncated}
		if len(got) == 0 || got[0] != want {
			t.Fatalf("reading after %q yields %v, want %v", after, got, want)
		}
		last.At = w.last["0"]
		_, n, _ = millrace.ParseBlockName(last.At.Block)
	}
	// The position before the next block's first event is where the newest block ends.
	_, n, _ = millrace.ParseBlockName(w.last["0"].Block)
	next := make(chan millrace.StoredBlock, 1)
	var reader sync.WaitGroup
	reader.Go(func() {
		for b, err := range h.Stream.Read(streamContext(t), "0", millrace.Position{Block: millrace.BlockName(incarnation, n+1)}) {
			if err != nil {
				t.Errorf("a false gap: %v", err)
			}
			next <- b
			return
		}
	})
	want := w.append(t, h.Stream, "0", 1).At
	if got := <-next; got.At != want {
		t.Errorf("got %q, want %q", got.At, want)
	}
	reader.Wait()
}

func streamTailLost(t *testing.T, h *StreamHarness) {
	if h.Truncate == nil {
		t.Skip("this stream's tail cannot be taken away from outside")
	}
	w := newStreamWriter("source/a")
	var at []millrace.Position
	for range 10 {
		at = append(at, w.append(t, h.Stream, "0", 2).At)
	}
	s := h.Truncate(t, "0", at[5])
	_, end, err := s.Bounds(t.Context(), "0")
	if err != nil || end.Compare(at[5]) > 0 || end.IsStart() {
		t.Fatalf("the end is %q, %v; at most %q is left", end, err, at[5])
	}
	_, err = s.Append(t.Context(), "0", w.last["0"], w.block(t, 1))
	wantCode(t, "Append after a block that is lost", err, millrace.Conflict)
	// The gap ends where the partition does, or behind the numbers of the lost blocks if they are not
	// used again. What comes next is read in both cases.
	var gap *millrace.Gap
	for b, err := range s.Read(streamContext(t), "0", at[9]) {
		if gap == nil {
			if !errors.As(err, &gap) || gap.After != at[9] || gap.Reason != millrace.Truncated || gap.First.Compare(end) < 0 {
				t.Fatalf("after %q comes %v; want a gap that ends at %q or later", at[9], err, end)
			}
			w.last["0"] = end
			w.append(t, s, "0", 1)
			continue
		}
		if err != nil || b.At != w.last["0"] {
			t.Errorf("after the gap comes %q, %v; want %q", b.At, err, w.last["0"])
		}
		break
	}
	got := readBlocks(t, s, "0", millrace.Position{}, slices.Index(at, end)+1)
	if last := got[len(got)-1].At; last != end {
		t.Errorf("the last block is at %q, the end %q", last, end)
	}
}

func streamForeignPosition(t *testing.T, h *StreamHarness) {
	w := newStreamWriter("source/a")
	first := w.append(t, h.Stream, "0", 2)
	for _, after := range []millrace.Position{
		{Block: millrace.BlockName("000000001", 3), Event: 1},
		{Block: millrace.BlockName("vvvvvvvvv", 1)},
		{Block: "no-number", Event: 2},
	} {
		n := 0
		for b, err := range h.Stream.Read(streamContext(t), "0", after) {
			if n++; n == 1 {
				var gap *millrace.Gap
				if !errors.As(err, &gap) || gap.After != after || gap.Reason != millrace.NewIncarnation || gap.First.Compare(first.Position(0)) >= 0 {
					t.Fatalf("reading after %q yields %v", after, err)
				}
				continue
			}
			if err != nil || b.At != first.At {
				t.Errorf("after the gap comes %q, %v; want %q", b.At, err, first.At)
			}
			break
		}
	}
}

func streamRecreated(t *testing.T, h *StreamHarness) {
	if h.Recreate == nil {
		t.Skip("this stream cannot be created again")
	}
	w := newStreamWriter("source/a")
	w.append(t, h.Stream, "0", 1)
	old := w.append(t, h.Stream, "0", 1)
	w.append(t, h.Stream, "1", 1)
	s := h.Recreate(t)

	_, err := s.Last(t.Context(), "0", "source/a")
	wantCode(t, "Last in the new incarnation", err, millrace.NotFound)
	_, err = s.Append(t.Context(), "0", old.At, w.block(t, 1))
	wantCode(t, "Append after a block of the old incarnation", err, millrace.Conflict)

	// While it is empty, and when as many blocks are there as there were.
	for _, partition := range []string{"0", "1"} {
		heir := newStreamWriter("source/a")
		var want []millrace.Position
		if partition == "1" {
			want = append(want, heir.append(t, s, partition, 1).At, heir.append(t, s, partition, 1).At)
		}
		var first millrace.Position
		n := -1
		for b, err := range s.Read(streamContext(t), partition, old.At) {
			if n++; n == 0 {
				var gap *millrace.Gap
				if !errors.As(err, &gap) || gap.After != old.At || gap.Reason != millrace.NewIncarnation || gap.First.Compare(old.At) <= 0 {
					t.Fatalf("reading after %q yields %v", old.At, err)
				}
				first = gap.First
				if len(want) == 0 {
					want = append(want, heir.append(t, s, partition, 1).At)
				}
				continue
			}
			if err != nil || b.At != want[n-1] {
				t.Fatalf("block %d is at %q, %v; want %q", n, b.At, err, want[n-1])
			}
			if n == len(want) {
				break
			}
		}
		// Where the gap ends is a position like any other.
		if got := readBlocks(t, s, partition, first, 1)[0].At; got != want[0] {
			t.Errorf("after %q comes %q, want %q", first, got, want[0])
		}
	}
}

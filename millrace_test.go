package millrace_test

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/millrace/millrace"
)

func TestPositionsSortAsText(t *testing.T) {
	ascending := []millrace.Position{
		{},
		{Block: millrace.BlockName("0abc", 1)},
		{Block: millrace.BlockName("0abc", 1), Event: 9},
		{Block: millrace.BlockName("0abc", 9), Event: 1},
		{Block: millrace.BlockName("0abc", 31), Event: 1},
		{Block: millrace.BlockName("0abc", 32), Event: 1},
		{Block: millrace.BlockName("0abc", 1<<60-1), Event: math.MaxUint32},
		{Block: millrace.BlockName("0abd", 1)},
	}
	if !slices.IsSortedFunc(ascending, millrace.Position.Compare) {
		t.Errorf("not sorted: %v", ascending)
	}
	for _, p := range ascending {
		text, _ := p.MarshalText()
		var back millrace.Position
		if err := back.UnmarshalText(text); err != nil || back != p {
			t.Errorf("%q read back as %+v, %v", text, back, err)
		}
	}
}

func FuzzParsePosition(f *testing.F) {
	for _, s := range []string{"", "0abc-000000000001.7", "a.0", "a.", ".1", "a.01", "A.1", "a.4294967296", "a.+1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := millrace.ParsePosition(s)
		if err != nil {
			if millrace.CodeOf(err) != millrace.Invalid {
				t.Errorf("code %s", millrace.CodeOf(err))
			}
			return
		}
		if p.String() != s {
			t.Errorf("%q was read as %q", s, p)
		}
	})
}

func FuzzParseBlockName(f *testing.F) {
	f.Add("0abc-000000000001")
	f.Add("a-b-00000000000v")
	f.Add("-000000000000")
	f.Fuzz(func(t *testing.T, s string) {
		incarnation, n, err := millrace.ParseBlockName(s)
		if err == nil && millrace.BlockName(incarnation, n) != s {
			t.Errorf("%q was read as %q, %d", s, incarnation, n)
		}
	})
}

func TestSplitHashSpace(t *testing.T) {
	for _, n := range []int{1, 2, 3, 7, 64} {
		partitions := millrace.SplitHashSpace(n)
		if partitions[0].First != (millrace.Hash{}) {
			t.Errorf("%d partitions begin at %x", n, partitions[0].First)
		}
		full := millrace.Hash{}
		for i := range full {
			full[i] = 0xff
		}
		if partitions[n-1].Last != full {
			t.Errorf("%d partitions end at %x", n, partitions[n-1].Last)
		}
		for i := range 1000 {
			h := millrace.HashKey(fmt.Sprint("vehicle ", i))
			owners := 0
			for _, p := range partitions {
				if p.Contains(h) {
					owners++
				}
			}
			if owners != 1 {
				t.Fatalf("%d partitions: key %d has %d owners", n, i, owners)
			}
		}
	}
}

func TestSkip(t *testing.T) {
	b := millrace.StoredBlock{
		Block: millrace.Block{Header: millrace.Header{Events: 10}},
		At:    millrace.Position{Block: "b", Event: 10},
	}
	for _, tt := range []struct {
		after millrace.Position
		skip  int
	}{
		{millrace.Position{}, 0},
		{millrace.Position{Block: "a", Event: 99}, 0},
		{millrace.Position{Block: "b"}, 0},
		{millrace.Position{Block: "b", Event: 3}, 3},
		{b.Position(9), 10},
		{millrace.Position{Block: "b", Event: 11}, 10},
		{millrace.Position{Block: "c"}, 10},
	} {
		if got := b.Skip(tt.after); got != tt.skip {
			t.Errorf("after %q: skip %d, want %d", tt.after, got, tt.skip)
		}
	}
}

// The names of incarnations sort in no particular way: of another one nothing has been seen.
func TestSkipOfAnotherLife(t *testing.T) {
	b := millrace.StoredBlock{
		Block: millrace.Block{Header: millrace.Header{Events: 10}},
		At:    millrace.Position{Block: millrace.BlockName("m", 5), Event: 10},
	}
	for _, other := range []string{"a", "z"} {
		if got := b.Skip(millrace.Position{Block: millrace.BlockName(other, 9), Event: 3}); got != 0 {
			t.Errorf("after a position of %q: skip %d", other, got)
		}
	}
	if got := b.Skip(millrace.Position{Block: millrace.BlockName("m", 9)}); got != 10 {
		t.Errorf("after a later position: skip %d", got)
	}
}

func TestCodeOf(t *testing.T) {
	conflict := millrace.Errorf(millrace.Conflict, "append", "another writer")
	for _, tt := range []struct {
		err  error
		want millrace.Code
	}{
		{nil, ""},
		{errors.New("plain"), millrace.Internal},
		{fmt.Errorf("append to %q: %w", "positions", conflict), millrace.Conflict},
		{fmt.Errorf("read: %w", &millrace.Gap{Reason: millrace.Trimmed}), millrace.CodeGap},
		{millrace.ErrExists, millrace.Conflict},
	} {
		if got := millrace.CodeOf(tt.err); got != tt.want {
			t.Errorf("%v: code %q, want %q", tt.err, got, tt.want)
		}
	}
}

package millracetest

import (
	"strconv"
	"testing"

	"github.com/millrace/millrace"
)

// CheckCrowd reads a stream of one partition into which the producers p0, p1 and so on have appended, and which
// nobody appends to any more: each producer's blocks are numbered from 1 without a gap or a repeat, and go as far
// at least as was acknowledged to it.
func CheckCrowd(t testing.TB, s millrace.Stream, acknowledged []uint64) {
	t.Helper()
	_, end, err := s.Bounds(t.Context(), "0")
	if err != nil {
		t.Fatal(err)
	}
	flushes := make([]uint64, len(acknowledged))
	for b, err := range s.Read(t.Context(), "0", millrace.Position{}) {
		if err != nil {
			t.Fatal(err)
		}
		i, err := strconv.Atoi(b.Header.Producer[1:])
		if err != nil || i >= len(acknowledged) {
			t.Fatalf("producer %q: %v", b.Header.Producer, err)
		}
		if b.Header.Flush != flushes[i]+1 {
			t.Errorf("p%d: flush %d comes after %d", i, b.Header.Flush, flushes[i])
		}
		flushes[i] = b.Header.Flush
		if b.At == end {
			break
		}
	}
	for i, flush := range flushes {
		if flush < acknowledged[i] {
			t.Errorf("p%d: the newest flush is %d; %d was acknowledged", i, flush, acknowledged[i])
		}
	}
}

package millracetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace"
)

// StreamOptions say what kind of stream a test needs.
type StreamOptions struct {
	Partitions int
	Age        time.Duration // retention; 0 = unlimited
	Bytes      int64         // retention of the whole stream; 0 = unlimited
}

// StreamHarness is a stream under test, open and empty, and what can be done to it from outside. What
// an implementation cannot do is nil, and the tests that need it are skipped.
type StreamHarness struct {
	Stream millrace.Stream
	// Reopen abandons the stream as a crash does and opens it again.
	Reopen func(t *testing.T) millrace.Stream
	// Recreate deletes the stream and creates it again, empty.
	Recreate func(t *testing.T) millrace.Stream
	// Truncate takes away the blocks after a position, as a disk that loses its tail does, and opens
	// the stream again.
	Truncate func(t *testing.T, partition string, after millrace.Position) millrace.Stream
	// SetClock sets the clock that trimming by age goes by; it stands still then.
	SetClock func(now time.Time)
}

// Stream is the conformance suite of millrace.Stream. open is called once in each subtest; what it
// opens it closes by t.Cleanup.
func Stream(t *testing.T, open func(t *testing.T, o StreamOptions) *StreamHarness) {
	for _, test := range []struct {
		name       string
		partitions int
		run        func(t *testing.T, h *StreamHarness)
	}{
		{"empty", 1, streamEmpty},
		{"kept as appended", 1, streamKept},
		{"last", 2, streamLast},
		{"producer names", 1, streamProducerNames},
		{"fence", 1, streamFence},
		{"fence race", 1, streamFenceRace},
		{"unknown outcome", 1, streamUnknownOutcome},
		{"read from any position", 1, streamReadFromAny},
		{"read on into live data", 1, streamReadLive},
		{"reader ends", 1, streamReaderEnds},
		{"close", 1, streamClose},
		{"gap: truncated", 1, streamGapTruncated},
		{"gap: tail lost", 1, streamTailLost},
		{"gap: another incarnation", 1, streamForeignPosition},
		{"gap: created again", 2, streamRecreated},
		{"bounds", 1, streamBounds},
		{"seek", 1, streamSeek},
		{"partitions", 4, streamPartitions},
		{"largest block", 1, streamLargestBlock},
		{"invalid block", 1, streamInvalid},
		{"appenders at once", 2, streamAppenders},
		{"reopen", 2, streamReopen},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.run(t, open(t, StreamOptions{Partitions: test.partitions}))
		})
	}
}

func streamEmpty(t *testing.T, h *StreamHarness) {
	s, ctx := h.Stream, t.Context()
	if s.Name() == "" || s.MaxBlock() < 256<<10 {
		t.Errorf("name %q, MaxBlock %d", s.Name(), s.MaxBlock())
	}
	first, end, err := s.Bounds(ctx, "0")
	if err != nil || !first.IsStart() || !end.IsStart() {
		t.Errorf("Bounds = %q, %q, %v; want the start twice", first, end, err)
	}
	if at, err := s.Seek(ctx, "0", time.Now()); err != nil || !at.IsStart() {
		t.Errorf("Seek = %q, %v; want the start", at, err)
	}
	_, err = s.Last(ctx, "0", "source/a")
	wantCode(t, "Last", err, millrace.NotFound)

	w := newStreamWriter("source/a")
	_, err = s.Append(ctx, "7", millrace.Position{}, w.block(t, 1))
	wantCode(t, "Append to a partition that is not there", err, millrace.NotFound)
	_, err = s.Last(ctx, "7", "source/a")
	wantCode(t, "Last in a partition that is not there", err, millrace.NotFound)
	_, _, err = s.Bounds(ctx, "7")
	wantCode(t, "Bounds of a partition that is not there", err, millrace.NotFound)
	_, err = s.Seek(ctx, "7", time.Now())
	wantCode(t, "Seek in a partition that is not there", err, millrace.NotFound)
	n := 0
	for _, err := range s.Read(streamContext(t), "7", millrace.Position{}) {
		wantCode(t, "Read of a partition that is not there", err, millrace.NotFound)
		n++
	}
	if n != 1 {
		t.Errorf("Read of a partition that is not there yielded %d times", n)
	}
}

func streamKept(t *testing.T, h *StreamHarness) {
	writers := []*streamWriter{newStreamWriter("source/a"), newStreamWriter("source/b"), newStreamWriter("query/c/0")}
	var want []millrace.StoredBlock
	for i := range 60 {
		want = append(want, writers[i%3].append(t, h.Stream, "0", i%5)) // some are empty
	}
	got := readBlocks(t, h.Stream, "0", millrace.Position{}, len(want))
	last := time.Time{}
	for i, b := range got {
		if b.At != want[i].At || !bytes.Equal(b.Raw, want[i].Raw) || !reflect.DeepEqual(b.Header, want[i].Header) {
			t.Fatalf("block %d differs:\n%+v\n%+v", i, b, want[i])
		}
		if i > 0 && got[i-1].At.Compare(b.At) >= 0 {
			t.Errorf("positions do not rise: %q, %q", got[i-1].At, b.At)
		}
		if b.Stored.Before(last) || time.Since(b.Stored) > time.Hour {
			t.Errorf("block %d was stored at %s after %s", i, b.Stored, last)
		}
		last = b.Stored
		if at, err := millrace.ParsePosition(b.At.String()); err != nil || at != b.At {
			t.Errorf("ParsePosition(%q) = %q, %v", b.At, at, err)
		}
	}
	again := readBlocks(t, h.Stream, "0", millrace.Position{}, len(want))
	if !reflect.DeepEqual(got, again) {
		t.Error("reading again yields something else")
	}
}

func streamLast(t *testing.T, h *StreamHarness) {
	a, b := newStreamWriter("source/a"), newStreamWriter("source/b")
	a.append(t, h.Stream, "0", 3)
	want := a.append(t, h.Stream, "0", 2)
	other := a.append(t, h.Stream, "1", 1)
	b.append(t, h.Stream, "0", 4)
	for partition, want := range map[string]millrace.StoredBlock{"0": want, "1": other} {
		got, err := h.Stream.Last(t.Context(), partition, "source/a")
		if err != nil {
			t.Fatal(err)
		}
		if got.At != want.At || !bytes.Equal(got.Raw, want.Raw) || !reflect.DeepEqual(got.Header, want.Header) {
			t.Errorf("Last in %s = %+v, want %+v", partition, got, want)
		}
	}
	_, err := h.Stream.Last(t.Context(), "1", "source/b")
	wantCode(t, "Last of a producer that never appended there", err, millrace.NotFound)
}

func streamProducerNames(t *testing.T, h *StreamHarness) {
	names := []string{"a.b", "a/b", "a*b", "a>b", "a>", "*", ">", ".", "..", "a=2eb", "A.B", "a%2Eb", "~!@#$^&()_+", strings.Repeat("x.", 100)}
	want := map[string]millrace.Position{}
	for _, name := range names {
		w := newStreamWriter(name)
		w.append(t, h.Stream, "0", 1)
		want[name] = w.append(t, h.Stream, "0", 1).At
	}
	for name, want := range want {
		got, err := h.Stream.Last(t.Context(), "0", name)
		if err != nil || got.At != want || got.Header.Producer != name {
			t.Errorf("Last of %q = %q of %q, %v; want %q", name, got.At, got.Header.Producer, err, want)
		}
	}
	_, err := h.Stream.Last(t.Context(), "0", "a")
	wantCode(t, `Last of "a"`, err, millrace.NotFound)
}

func streamFence(t *testing.T, h *StreamHarness) {
	s, ctx := h.Stream, t.Context()
	old, other := newStreamWriter("source/a"), newStreamWriter("source/b")
	first := old.append(t, s, "0", 1)
	second := old.append(t, s, "0", 1)
	foreign := other.append(t, s, "0", 1)

	for _, after := range []millrace.Position{
		{},
		first.At, foreign.At,
		{Block: first.At.Block},
		{Block: millrace.BlockName("zzz", 1), Event: 1},
		{Block: "elsewhere-7", Event: 1},
	} {
		_, err := s.Append(ctx, "0", after, old.block(t, 1))
		wantCode(t, fmt.Sprintf("Append after %q", after), err, millrace.Conflict)
	}
	_, err := s.Append(ctx, "0", second.At, newStreamWriter("source/new").block(t, 1))
	wantCode(t, "a producer's first Append after another's block", err, millrace.Conflict)

	// A new writer takes over with an empty block; the old one is refused from then on.
	heir := newStreamWriter("source/a")
	heir.flush, heir.last = old.flush, map[string]millrace.Position{"0": second.At}
	taken := heir.append(t, s, "0", 0)
	_, err = s.Append(ctx, "0", second.At, old.block(t, 1))
	wantCode(t, "the old writer's Append", err, millrace.Conflict)
	_, err = s.Append(ctx, "0", first.At, old.block(t, 1))
	wantCode(t, "the old writer's Append", err, millrace.Conflict)
	last := heir.append(t, s, "0", 1)
	_, err = s.Append(ctx, "0", taken.At, old.block(t, 1))
	wantCode(t, "the old writer's Append", err, millrace.Conflict)

	got := readBlocks(t, s, "0", millrace.Position{}, 5)
	if got[4].At != last.At {
		t.Errorf("a refused block was stored: the fifth is at %q, not %q", got[4].At, last.At)
	}
	if _, end, err := s.Bounds(ctx, "0"); err != nil || end != last.At {
		t.Errorf("the end is %q, %v; want %q", end, err, last.At)
	}
}

func streamFenceRace(t *testing.T, h *StreamHarness) {
	after := millrace.Position{}
	for range 20 {
		var wg sync.WaitGroup
		won := make(chan millrace.Position, 6)
		for range cap(won) {
			b := newStreamWriter("source/a").block(t, 1)
			wg.Go(func() {
				at, err := h.Stream.Append(t.Context(), "0", after, b)
				if err == nil {
					won <- at
				} else if millrace.CodeOf(err) != millrace.Conflict {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		close(won)
		if len(won) != 1 {
			t.Fatalf("%d appends after %q succeeded", len(won), after)
		}
		after = <-won
	}
}

// streamUnknownOutcome cancels appends at random moments. Whatever came of them, Last and the fence
// let the producer go on so that each flush is stored exactly once.
func streamUnknownOutcome(t *testing.T, h *StreamHarness) {
	s := h.Stream
	w := newStreamWriter("source/a")
	cancelled, cancel := context.WithCancel(streamContext(t))
	cancel()
	_, err := s.Append(cancelled, "0", millrace.Position{}, w.block(t, 1))
	wantCode(t, "Append with a context that has ended", err, millrace.Unavailable)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v does not wrap the context's cause", err)
	}

	const flushes = 60
	unknown := 0
	for range flushes {
		w.flush++
		b := w.encode(t, 2)
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(mrand.IntN(600))*time.Microsecond)
		at, err := s.Append(ctx, "0", w.last["0"], b)
		cancel()
		for err != nil {
			unknown++
			var stored millrace.StoredBlock
			stored, lastErr := s.Last(t.Context(), "0", "source/a")
			if lastErr != nil && millrace.CodeOf(lastErr) != millrace.NotFound {
				t.Fatal(lastErr)
			}
			if stored.Header.Writer == w.writer && stored.Header.Flush == w.flush {
				at = stored.At
				break
			}
			if stored.At != w.last["0"] {
				t.Fatalf("the newest block is at %q, want %q", stored.At, w.last["0"])
			}
			// It may still land while it is tried again: then Conflict, and Last shows it.
			at, err = s.Append(t.Context(), "0", w.last["0"], b)
			if code := millrace.CodeOf(err); err != nil && code != millrace.Conflict {
				t.Fatal(err)
			}
		}
		w.last["0"] = at
	}
	t.Logf("%d of %d outcomes were unknown", unknown, flushes)
	got := readBlocks(t, s, "0", millrace.Position{}, flushes)
	for i, b := range got {
		if b.Header.Flush != got[0].Header.Flush+uint64(i) {
			t.Fatalf("block %d is flush %d", i, b.Header.Flush)
		}
	}
	if _, end, err := s.Bounds(t.Context(), "0"); err != nil || end != got[flushes-1].At {
		t.Errorf("the end is %q, %v; want %q", end, err, got[flushes-1].At)
	}
}

func streamPartitions(t *testing.T, h *StreamHarness) {
	partitions, err := h.Stream.Partitions(t.Context())
	if err != nil || len(partitions) != 4 {
		t.Fatalf("%d partitions, %v", len(partitions), err)
	}
	for i := range 1000 {
		hash, in := millrace.HashKey(fmt.Sprint(i)), 0
		for _, p := range partitions {
			if p.Contains(hash) {
				in++
			}
		}
		if in != 1 {
			t.Fatalf("key %d lives in %d partitions", i, in)
		}
	}
	w := newStreamWriter("source/a")
	want := map[string][]millrace.Position{}
	for range 10 {
		w.flush++
		for _, p := range partitions { // one flush over all of them
			b := w.encode(t, 2)
			at, err := h.Stream.Append(t.Context(), p.Name, w.last[p.Name], b)
			if err != nil {
				t.Fatal(err)
			}
			w.last[p.Name] = at
			want[p.Name] = append(want[p.Name], at)
		}
	}
	for _, p := range partitions {
		for i, b := range readBlocks(t, h.Stream, p.Name, millrace.Position{}, 10) {
			if b.At != want[p.Name][i] || b.Header.Flush != uint64(i+1) {
				t.Errorf("block %d of partition %s is at %q, flush %d", i, p.Name, b.At, b.Header.Flush)
			}
		}
	}
}

func streamLargestBlock(t *testing.T, h *StreamHarness) {
	s := h.Stream
	w := newStreamWriter("source/a")
	w.append(t, s, "0", 1)
	w.flush++
	overhead := len(w.encodeData(t, streamNoise(1<<20)).Raw) - 1<<20
	data := streamNoise(s.MaxBlock() - overhead + 1)
	over, exact := w.encodeData(t, data), w.encodeData(t, data[1:])
	if len(exact.Raw) != s.MaxBlock() {
		t.Fatalf("the test's block has %d bytes, not %d", len(exact.Raw), s.MaxBlock())
	}
	_, err := s.Append(t.Context(), "0", w.last["0"], over)
	wantCode(t, "Append of MaxBlock+1 bytes", err, millrace.TooLarge)
	at, err := s.Append(t.Context(), "0", w.last["0"], exact)
	if err != nil {
		t.Fatalf("Append of MaxBlock bytes: %v", err)
	}
	w.last["0"] = at
	w.append(t, s, "0", 1)
	got := readBlocks(t, s, "0", millrace.Position{}, 3)
	if !bytes.Equal(got[1].Raw, exact.Raw) {
		t.Error("the largest block came back changed")
	}
	if last := got[2].Header.Flush; last != w.flush {
		t.Errorf("after the largest block comes flush %d, want %d", last, w.flush)
	}
}

func streamInvalid(t *testing.T, h *StreamHarness) {
	w := newStreamWriter("source/a")
	w.flush++
	whole := w.encode(t, 2)
	damaged := slices.Clone(whole.Raw)
	damaged[40] ^= 1
	other := whole.Header
	other.Producer = "source/b"
	for name, b := range map[string]millrace.Block{
		"no block":       {Header: whole.Header, Raw: []byte("no block")},
		"nothing":        {Header: whole.Header},
		"damaged":        {Header: whole.Header, Raw: damaged},
		"another header": {Header: other, Raw: whole.Raw},
		"no header":      {Raw: whole.Raw},
	} {
		_, err := h.Stream.Append(t.Context(), "0", millrace.Position{}, b)
		wantCode(t, "Append of "+name, err, millrace.Invalid)
	}
	if _, end, err := h.Stream.Bounds(t.Context(), "0"); err != nil || !end.IsStart() {
		t.Errorf("the end is %q, %v; nothing should have been stored", end, err)
	}
}

func streamAppenders(t *testing.T, h *StreamHarness) {
	const producers, flushes = 6, 40
	var all sync.WaitGroup
	for i := range producers {
		w := newStreamWriter(fmt.Sprintf("source/%d", i))
		all.Go(func() {
			for range flushes {
				w.append(t, h.Stream, fmt.Sprint(i%2), 3)
			}
		})
	}
	for _, partition := range []string{"0", "0", "1"} {
		all.Go(func() {
			flushed := map[string]uint64{}
			for _, b := range readBlocks(t, h.Stream, partition, millrace.Position{}, producers/2*flushes) {
				if flushed[b.Header.Producer]++; b.Header.Flush != flushed[b.Header.Producer] {
					t.Errorf("partition %s: flush %d of %s comes as number %d", partition, b.Header.Flush, b.Header.Producer, flushed[b.Header.Producer])
				}
			}
		})
	}
	all.Wait()
}

func streamReopen(t *testing.T, h *StreamHarness) {
	if h.Reopen == nil {
		t.Skip("this stream cannot be opened again")
	}
	s := h.Stream
	w := newStreamWriter("source/a")
	n := 0
	for range 3 {
		for range 20 {
			w.append(t, s, "0", 2)
			n++
		}
		one := w.append(t, s, "1", 1)
		before := readBlocks(t, s, "0", millrace.Position{}, n)
		s = h.Reopen(t)
		after := readBlocks(t, s, "0", millrace.Position{}, n)
		if !reflect.DeepEqual(before, after) {
			t.Fatal("the blocks differ after opening again")
		}
		last, err := s.Last(t.Context(), "0", "source/a")
		if err != nil || last.At != w.last["0"] {
			t.Fatalf("Last = %q, %v; want %q", last.At, err, w.last["0"])
		}
		if last, err := s.Last(t.Context(), "1", "source/a"); err != nil || !bytes.Equal(last.Raw, one.Raw) {
			t.Fatalf("Last in partition 1 = %q, %v; want %q", last.At, err, one.At)
		}
		if got := readBlocks(t, s, "0", before[7].At, 1)[0].At; got != before[8].At {
			t.Errorf("after %q comes %q", before[7].At, got)
		}
	}
}

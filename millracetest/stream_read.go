package millracetest

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace"
)

// The part of the suite for Stream that reads: from any position, into live data, to the end.

func streamReadFromAny(t *testing.T, h *StreamHarness) {
	w := newStreamWriter("source/a")
	var blocks []millrace.StoredBlock
	for i := range 12 {
		blocks = append(blocks, w.append(t, h.Stream, "0", []int{3, 0, 1, 0, 0, 2}[i%6]))
	}
	blocks = append(blocks, w.append(t, h.Stream, "0", 1))
	for i, b := range blocks[:len(blocks)-1] {
		for event := range b.Header.Events + 1 {
			after := millrace.Position{Block: b.At.Block, Event: event}
			want := b
			if event == b.Header.Events {
				want = blocks[i+1]
			}
			got := readBlocks(t, h.Stream, "0", after, 1)[0]
			if got.At != want.At {
				t.Errorf("after %q comes %q, want %q", after, got.At, want.At)
			}
			if skip := got.Skip(after); got.At.Block == after.Block && skip != int(event) || got.At.Block != after.Block && skip != 0 {
				t.Errorf("after %q, %d events of %q are skipped", after, skip, got.At)
			}
		}
	}
}

func streamReadLive(t *testing.T, h *StreamHarness) {
	w := newStreamWriter("source/a")
	var want []millrace.Position
	for range 30 {
		want = append(want, w.append(t, h.Stream, "0", 2).At)
	}
	starts := []millrace.Position{{}, want[10], {Block: want[20].Block, Event: 1}, want[29]}
	var readers sync.WaitGroup
	ready := make(chan struct{}, len(starts))
	results := make([][]millrace.Position, len(starts))
	for i, after := range starts {
		ready := sync.OnceFunc(func() { ready <- struct{}{} })
		if after == want[29] {
			ready() // it sees nothing before more is appended
		}
		readers.Go(func() {
			for b, err := range h.Stream.Read(streamContext(t), "0", after) {
				if err != nil {
					t.Errorf("reading after %q: %v", after, err)
					ready()
					return
				}
				ready()
				results[i] = append(results[i], b.At)
				if b.Header.Flush == 60 {
					return
				}
			}
		})
	}
	for range starts {
		<-ready
	}
	for range 30 {
		want = append(want, w.append(t, h.Stream, "0", 1).At)
	}
	readers.Wait()
	for i, first := range []int{0, 11, 20, 30} {
		if !slices.Equal(results[i], want[first:]) {
			t.Errorf("after %q: %d blocks, want %d", starts[i], len(results[i]), len(want)-first)
		}
	}
}

func streamReaderEnds(t *testing.T, h *StreamHarness) {
	w := newStreamWriter("source/a")
	for range 5 {
		w.append(t, h.Stream, "0", 1)
	}
	for range h.Stream.Read(streamContext(t), "0", millrace.Position{}) {
		break
	}
	cause := errors.New("enough")
	for _, when := range []int{2, 5} { // while it lags, while it waits
		ctx, cancel := context.WithCancelCause(streamContext(t))
		n := 0
		var last error
		for _, err := range h.Stream.Read(ctx, "0", millrace.Position{}) {
			if last = err; err != nil {
				continue
			}
			if n++; n == when {
				cancel(cause)
			}
		}
		if n != when || !errors.Is(last, cause) {
			t.Errorf("cancelled after %d blocks: %d blocks, then %v", when, n, last)
		}
		cancel(nil)
	}
}

func streamClose(t *testing.T, h *StreamHarness) {
	w := newStreamWriter("source/a")
	at := w.append(t, h.Stream, "0", 1).At
	w.append(t, h.Stream, "0", 1)
	var readers sync.WaitGroup
	var here sync.WaitGroup
	here.Add(2)
	release := make(chan struct{})
	readers.Go(func() { // lags
		for _, err := range h.Stream.Read(streamContext(t), "0", millrace.Position{}) {
			if err != nil {
				t.Error(err)
			}
			here.Done()
			<-release
		}
	})
	readers.Go(func() { // waits
		n := 0
		for _, err := range h.Stream.Read(streamContext(t), "0", at) {
			if err != nil {
				t.Error(err)
			}
			n++
			here.Done()
		}
		if n != 1 {
			t.Errorf("%d blocks after %q", n, at)
		}
	})
	here.Wait()
	if err := h.Stream.Close(); err != nil {
		t.Error(err)
	}
	close(release)
	readers.Wait()
	if err := h.Stream.Close(); err != nil {
		t.Errorf("closing twice: %v", err)
	}
	ctx := t.Context()
	_, err := h.Stream.Append(ctx, "0", w.last["0"], w.block(t, 1))
	wantCode(t, "Append after Close", err, millrace.Unavailable)
	_, err = h.Stream.Last(ctx, "0", "source/a")
	wantCode(t, "Last after Close", err, millrace.Unavailable)
	for _, err := range h.Stream.Read(ctx, "0", millrace.Position{}) {
		t.Errorf("Read after Close yields %v", err)
	}
}

func streamBounds(t *testing.T, h *StreamHarness) {
	w := newStreamWriter("source/a")
	one := w.append(t, h.Stream, "0", 2)
	for _, events := range []int{3, 0, 1} {
		last := w.append(t, h.Stream, "0", events)
		first, end, err := h.Stream.Bounds(t.Context(), "0")
		if err != nil || end != last.At {
			t.Errorf("the end is %q, %v; want %q", end, err, last.At)
		}
		if got := readBlocks(t, h.Stream, "0", first, 1)[0].At; got != one.At {
			t.Errorf("after the first position comes %q, want %q", got, one.At)
		}
	}
}

func streamSeek(t *testing.T, h *StreamHarness) {
	w := newStreamWriter("source/a")
	for i := range 40 {
		w.append(t, h.Stream, "0", i%3)
		if i%10 == 0 {
			for start := time.Now(); time.Since(start) < time.Millisecond; { //nolint:revive // lets the clock move on, however coarse it is
			}
		}
	}
	blocks := readBlocks(t, h.Stream, "0", millrace.Position{}, 40)
	check := func(at time.Time, want int) {
		t.Helper()
		after, err := h.Stream.Seek(t.Context(), "0", at)
		if err != nil {
			t.Fatal(err)
		}
		if got := readBlocks(t, h.Stream, "0", after, 1)[0]; got.At.Compare(blocks[want].At) > 0 {
			t.Errorf("Seek(%s) = %q: block %d, stored then or later, is left out", at, after, want)
		}
	}
	for i, b := range blocks {
		i = slices.IndexFunc(blocks, func(other millrace.StoredBlock) bool { return !other.Stored.Before(blocks[i].Stored) })
		check(b.Stored, i)
		check(b.Stored.Add(-time.Nanosecond), slices.IndexFunc(blocks, func(other millrace.StoredBlock) bool {
			return !other.Stored.Before(b.Stored.Add(-time.Nanosecond))
		}))
	}
	check(time.Time{}, 0)
	_, end, err := h.Stream.Bounds(t.Context(), "0")
	if err != nil {
		t.Fatal(err)
	}
	if at, err := h.Stream.Seek(t.Context(), "0", blocks[39].Stored.Add(time.Hour)); err != nil || at != end {
		t.Errorf("Seek of the future = %q, %v; want the end %q", at, err, end)
	}
}

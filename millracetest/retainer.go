package millracetest

import (
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace"
)

// Retainer is the conformance suite of millrace.Retainer, for streams that pass Stream. The harness
// must be able to move the clock.
func Retainer(t *testing.T, open func(t *testing.T, o StreamOptions) *StreamHarness) {
	for _, test := range []struct {
		name string
		o    StreamOptions
		run  func(t *testing.T, h *StreamHarness, s retained)
	}{
		{"by age", StreamOptions{Age: time.Hour}, retainAge},
		{"by size", StreamOptions{Bytes: 400_000, Partitions: 2}, retainSize},
		{"nothing to trim", StreamOptions{Age: time.Hour, Bytes: 1 << 20}, retainNothing},
		{"everything is old", StreamOptions{Age: time.Hour}, retainAllOld},
		{"cursors", StreamOptions{Age: time.Hour, Partitions: 2}, retainCursors},
		{"zombies", StreamOptions{Age: time.Hour}, retainZombies},
		{"holds", StreamOptions{Age: time.Hour}, retainHolds},
		{"hard bound", StreamOptions{Bytes: 100_000}, retainBound},
		{"no holds, no bound", StreamOptions{Bytes: 100_000}, retainNoBound},
		{"overtaken reader", StreamOptions{Age: time.Hour}, retainOvertaken},
		{"producers at work", StreamOptions{Bytes: 60_000}, retainRace},
		{"reopen", StreamOptions{Age: time.Hour}, retainReopen},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.o.Partitions = max(1, test.o.Partitions)
			h := open(t, test.o)
			s, ok := h.Stream.(retained)
			if !ok {
				t.Fatalf("%T is no millrace.Retainer", h.Stream)
			}
			test.run(t, h, s)
		})
	}
}

type retained interface {
	millrace.Stream
	millrace.Retainer
}

func trim(t *testing.T, s retained) {
	t.Helper()
	if err := s.Trim(t.Context()); err != nil {
		t.Fatalf("Trim: %v", err)
	}
}

// readGap reads the gap that comes first after a position, and the block that comes then.
func readGap(t *testing.T, s millrace.Stream, partition string, after millrace.Position) (millrace.Gap, millrace.StoredBlock) {
	t.Helper()
	ctx := streamContext(t)
	var gap *millrace.Gap
	for b, err := range s.Read(ctx, partition, after) {
		switch {
		case gap == nil && !errors.As(err, &gap):
			t.Errorf("after %q comes %q, %v; want a gap", after, b.At, err)
			return millrace.Gap{}, b
		case gap != nil && err == nil:
			return *gap, b
		case err != nil && !errors.As(err, new(*millrace.Gap)):
			t.Errorf("after %q: %v", after, err)
		}
	}
	t.Errorf("nothing after %q", after)
	return millrace.Gap{}, millrace.StoredBlock{}
}

// expire sets the clock so that the blocks up to one are just older than the retention of an hour.
func expire(t *testing.T, h *StreamHarness, s retained, partition string, at millrace.Position) {
	t.Helper()
	for b, err := range s.Read(streamContext(t), partition, millrace.Position{}) {
		if err != nil && !errors.As(err, new(*millrace.Gap)) {
			t.Fatal(err)
		}
		if err == nil && b.At == at {
			h.SetClock(b.Stored.Add(time.Hour + 1))
			return
		}
	}
}

func retainAge(t *testing.T, h *StreamHarness, s retained) {
	a := newStreamWriter("source/a")
	var old []millrace.StoredBlock
	for _, events := range []int{2, 1, 0, 3, 0} { // it ends with a block without events
		old = append(old, a.append(t, s, "0", events))
	}
	fresh := []millrace.StoredBlock{a.append(t, s, "0", 2), a.append(t, s, "0", 1)}
	expire(t, h, s, "0", old[4].At)
	trim(t, s)

	point := old[3].At // of the last event that is gone
	first, end, err := s.Bounds(t.Context(), "0")
	if err != nil || first != point || end != fresh[1].At {
		t.Errorf("Bounds = %q, %q, %v; want %q, %q", first, end, err, point, fresh[1].At)
	}
	for _, after := range []millrace.Position{{}, old[0].At, {Block: old[3].At.Block, Event: 2}, old[2].At} {
		gap, b := readGap(t, s, "0", after)
		if want := (millrace.Gap{After: after, First: point, Reason: millrace.Trimmed}); gap != want {
			t.Errorf("got %v, want %v", &gap, &want)
		}
		if b.At != fresh[0].At {
			t.Errorf("after the gap comes %q, want %q", b.At, fresh[0].At)
		}
	}
	// Who has seen every event misses nothing, whether he noted the blocks without events or not.
	for _, after := range []millrace.Position{point, old[4].At, first} {
		if b := readBlocks(t, s, "0", after, 1)[0]; b.At != fresh[0].At {
			t.Errorf("after %q comes %q, want %q", after, b.At, fresh[0].At)
		}
	}
	if at, err := s.Seek(t.Context(), "0", time.Time{}); err != nil || at != point {
		t.Errorf("Seek of the beginning = %q, %v; want %q", at, err, point)
	}
	a.append(t, s, "0", 1) // its newest block was kept as it is
}

func retainSize(t *testing.T, _ *StreamHarness, s retained) {
	a := newStreamWriter("source/a")
	var appended []millrace.StoredBlock
	for i := range 60 {
		a.flush++
		b := a.encodeData(t, streamNoise(2_000+i%3*3_000)) // 5,000 on average
		appended = append(appended, a.put(t, s, "0", b))
	}
	a.append(t, s, "1", 1) // the other partition does not use its share
	trim(t, s)
	first, _, err := s.Bounds(t.Context(), "0")
	if err != nil || first.IsStart() {
		t.Fatalf("the first position is %q, %v", first, err)
	}
	bytes, kept := 0, 0
	for _, b := range appended {
		if b.At.Compare(first) > 0 {
			kept++
			bytes += len(b.Raw)
		}
	}
	if bytes > 200_000 || bytes < 150_000 {
		t.Errorf("%d bytes are kept; a partition's share is 200,000", bytes)
	}
	got := readBlocks(t, s, "0", first, kept)
	if want := appended[len(appended)-1].At; got[kept-1].At != want {
		t.Errorf("the newest block is %q, want %q", got[kept-1].At, want)
	}
	if first, _, err := s.Bounds(t.Context(), "1"); err != nil || !first.IsStart() {
		t.Errorf("the other partition was trimmed up to %q, %v", first, err)
	}
}

func retainNothing(t *testing.T, _ *StreamHarness, s retained) {
	trim(t, s)
	a := newStreamWriter("source/a")
	var want []millrace.Position
	for range 5 {
		want = append(want, a.append(t, s, "0", 1).At)
		trim(t, s)
	}
	for i, b := range readBlocks(t, s, "0", millrace.Position{}, 5) {
		if b.At != want[i] {
			t.Errorf("block %d is at %q, want %q", i, b.At, want[i])
		}
	}
	if first, end, err := s.Bounds(t.Context(), "0"); err != nil || !first.IsStart() || end != want[4] {
		t.Errorf("Bounds = %q, %q, %v", first, end, err)
	}
}

func retainAllOld(t *testing.T, h *StreamHarness, s retained) {
	a := newStreamWriter("source/a")
	a.append(t, s, "0", 1)
	last := a.append(t, s, "0", 2)
	h.SetClock(time.Now().Add(48 * time.Hour))
	for range 3 {
		trim(t, s)
		first, end, err := s.Bounds(t.Context(), "0")
		if err != nil || first != last.At || end.Compare(first) < 0 {
			t.Fatalf("Bounds = %q, %q, %v; want %q and no less", first, end, err, last.At)
		}
		if b := readBlocks(t, s, "0", last.At, 1)[0]; b.Header.Events != 0 {
			t.Errorf("after the last event comes %+v", b.Header)
		}
	}
	b, err := s.Last(t.Context(), "0", "source/a")
	if err != nil {
		t.Fatal(err)
	}
	a.last["0"] = b.At
	want := a.append(t, s, "0", 1)
	for b, err := range s.Read(streamContext(t), "0", last.At) {
		if err != nil {
			t.Fatal(err)
		}
		if b.Header.Events > 0 {
			if b.At != want.At {
				t.Errorf("the next event is at %q, want %q", b.At, want.At)
			}
			break
		}
	}
}

// retainCursors checks that trimming keeps what Last says of every producer, but for the events.
func retainCursors(t *testing.T, h *StreamHarness, s retained) {
	want := map[string]millrace.StoredBlock{}
	for i := range 5 {
		quiet := newStreamWriter(fmt.Sprintf("quiet/%d", i))
		for range i + 1 {
			want[quiet.name] = quiet.append(t, s, "0", i) // the first one's is empty anyway
		}
	}
	live := newStreamWriter("source/live")
	mark := live.append(t, s, "0", 1)
	wantLive := live.append(t, s, "0", 1)
	expire(t, h, s, "0", mark.At)
	for range 3 {
		trim(t, s)
		for name, want := range want {
			got, err := s.Last(t.Context(), "0", name)
			if err != nil {
				t.Fatalf("Last of %s: %v", name, err)
			}
			header := want.Header
			header.Events = 0
			if !reflect.DeepEqual(got.Header, header) {
				t.Errorf("Last of %s = %+v, want %+v", name, got.Header, header)
			}
			if got.At.Compare(want.At) <= 0 {
				t.Errorf("Last of %s is at %q, not after %q", name, got.At, want.At)
			}
		}
		if got, err := s.Last(t.Context(), "0", live.name); err != nil || got.At != wantLive.At {
			t.Errorf("Last of the live producer = %q, %v; want %q", got.At, err, wantLive.At)
		}
	}
	if _, err := s.Last(t.Context(), "1", live.name); millrace.CodeOf(err) != millrace.NotFound {
		t.Errorf("Last in the other partition: %v", err)
	}
}

func retainZombies(t *testing.T, h *StreamHarness, s retained) {
	w := newStreamWriter("source/a")
	first := w.append(t, s, "0", 1)
	second := w.append(t, s, "0", 1)
	h.SetClock(time.Now().Add(48 * time.Hour))
	trim(t, s)
	zombie := newStreamWriter("source/a")
	for _, after := range []millrace.Position{{}, first.At, second.At} {
		_, err := s.Append(t.Context(), "0", after, zombie.block(t, 1))
		wantCode(t, fmt.Sprintf("a stale Append after %q", after), err, millrace.Conflict)
	}
	// The living producer is refused as well, sees its own writer and no later flush, and goes on.
	_, err := s.Append(t.Context(), "0", second.At, w.block(t, 1))
	wantCode(t, "the first Append after the trim", err, millrace.Conflict)
	last, err := s.Last(t.Context(), "0", "source/a")
	if err != nil || last.Header.Writer != w.writer || last.Header.Flush >= w.flush {
		t.Fatalf("Last = %+v, %v", last.Header, err)
	}
	at, err := s.Append(t.Context(), "0", last.At, w.encode(t, 1))
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Append(t.Context(), "0", last.At, zombie.block(t, 1))
	wantCode(t, "a stale Append", err, millrace.Conflict)
	if last, err := s.Last(t.Context(), "0", "source/a"); err != nil || last.At != at {
		t.Errorf("Last = %q, %v; want %q", last.At, err, at)
	}
}

func retainHolds(t *testing.T, h *StreamHarness, s retained) {
	w := newStreamWriter("source/a")
	var blocks []millrace.StoredBlock
	for range 10 {
		blocks = append(blocks, w.append(t, s, "0", 3))
	}
	h.SetClock(time.Now().Add(48 * time.Hour))
	wantFirst := func(what string, want millrace.Position) {
		t.Helper()
		trim(t, s)
		if first, _, err := s.Bounds(t.Context(), "0"); err != nil || first != want {
			t.Errorf("%s: trimmed up to %q, %v; want %q", what, first, err, want)
		}
	}
	s.Hold("0", "archive/x", millrace.Position{})
	s.Hold("0", "query/y", blocks[5].At)
	s.Hold("7", "query/y", millrace.Position{}) // there is no such partition
	wantFirst("held from the start", millrace.Position{})
	s.Hold("0", "archive/x", millrace.Position{Block: blocks[2].At.Block, Event: 1})
	wantFirst("held in the middle of a block", blocks[1].At)
	s.Hold("0", "archive/x", blocks[2].At)
	wantFirst("held at the end of a block", blocks[2].At)
	s.Hold("0", "archive/x", millrace.Position{Block: blocks[4].At.Block})
	wantFirst("held before a block", blocks[3].At)
	s.Release("0", "archive/x")
	wantFirst("held by another", blocks[5].At)
	s.Release("0", "query/y")
	s.Release("0", "query/y")
	wantFirst("not held", blocks[9].At)
}

func retainBound(t *testing.T, _ *StreamHarness, s retained) {
	w := newStreamWriter("source/a")
	s.Hold("0", "archive/slow", millrace.Position{})
	s.Hold("0", "query/fast", millrace.Position{})
	var err error
	bytes := 0
	for bytes < 1_000_000 {
		w.flush++
		b := w.encodeData(t, streamNoise(5_000))
		var at millrace.Position
		if at, err = s.Append(t.Context(), "0", w.last["0"], b); err != nil {
			break
		}
		w.last["0"] = at
		bytes += len(b.Raw)
		s.Hold("0", "query/fast", at)
		trim(t, s)
	}
	wantCode(t, "Append at the hard bound", err, millrace.Unavailable)
	if err != nil && (!strings.Contains(err.Error(), "is full") || !strings.Contains(err.Error(), "archive/slow") || strings.Contains(err.Error(), "query/fast")) {
		t.Errorf("the error does not say who holds the stream: %v", err)
	}
	if bytes < 150_000 || bytes > 210_000 {
		t.Errorf("refused after %d bytes; twice the retention is 200,000", bytes)
	}
	if first, _, err := s.Bounds(t.Context(), "0"); err != nil || !first.IsStart() {
		t.Errorf("held blocks were trimmed up to %q, %v", first, err)
	}
	w.flush--
	s.Release("0", "archive/slow")
	last := w.last["0"]
	for { // appending makes room; it may take the producer's newest block along
		w.flush++
		at, err := s.Append(t.Context(), "0", w.last["0"], w.encode(t, 1))
		if err == nil {
			w.last["0"] = at
			break
		}
		wantCode(t, "Append after the release", err, millrace.Conflict)
		b, err := s.Last(t.Context(), "0", w.name)
		if err != nil || b.At.Compare(last) <= 0 {
			t.Fatalf("Last = %q, %v", b.At, err)
		}
		w.flush--
		w.last["0"], last = b.At, b.At
	}
	if first, _, err := s.Bounds(t.Context(), "0"); err != nil || first.IsStart() {
		t.Errorf("nothing was trimmed: %v", err)
	}
}

func retainNoBound(t *testing.T, _ *StreamHarness, s retained) {
	w := newStreamWriter("source/a")
	for range 120 {
		w.flush++
		w.put(t, s, "0", w.encodeData(t, streamNoise(5_000)))
	}
	if first, _, err := s.Bounds(t.Context(), "0"); err != nil || first.IsStart() {
		t.Errorf("600,000 bytes are kept and the retention is 100,000: %v", err)
	}
}

// retainOvertaken trims what a reader has not come to yet. What it had at hand it may still yield.
func retainOvertaken(t *testing.T, h *StreamHarness, s retained) {
	w := newStreamWriter("source/a")
	var blocks []millrace.StoredBlock
	for range 1200 {
		blocks = append(blocks, w.append(t, s, "0", 1))
	}
	after := millrace.Position{}
	gaps, n := 0, 0
	for b, err := range s.Read(streamContext(t), "0", after) {
		var gap *millrace.Gap
		switch {
		case errors.As(err, &gap):
			gaps++
			if gap.After != after || gap.First != blocks[1189].At || gap.Reason != millrace.Trimmed {
				t.Errorf("got %v after %q", gap, after)
			}
			after = gap.First
		case err != nil:
			t.Fatal(err)
		default:
			after = b.At
		}
		if n++; n == 1 {
			expire(t, h, s, "0", blocks[1189].At)
			trim(t, s)
		}
		if after == blocks[1199].At {
			break
		}
	}
	if gaps != 1 {
		t.Errorf("%d gaps", gaps)
	}
}

// retainRace trims all the time while producers append, each as the contract tells it to. Nobody loses
// a flush, no zombie gets in, and a reader sees each event or is told of the gap.
func retainRace(t *testing.T, _ *StreamHarness, s retained) {
	const producers = 3
	flushes := [producers]uint64{6, 150, 150} // the first one is slow: trimming comes to its newest block
	var appended, left atomic.Int64
	left.Store(producers - 1)
	stop := make(chan struct{})
	var trimmer, appenders, reader sync.WaitGroup
	conflicts := make([]int, producers)
	trimmer.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				trim(t, s)
			}
		}
	})
	reader.Go(func() {
		seen, done := map[string]uint64{}, 0
		missed := map[string]bool{}
		for b, err := range s.Read(streamContext(t), "0", millrace.Position{}) {
			if errors.As(err, new(*millrace.Gap)) {
				for i := range producers {
					missed[fmt.Sprintf("source/%d", i)] = true
				}
				continue
			}
			if err != nil {
				t.Error(err)
				return
			}
			h := b.Header
			if h.Events > 0 {
				if h.Flush <= seen[h.Producer] || h.Flush > seen[h.Producer]+1 && !missed[h.Producer] {
					t.Errorf("flush %d of %s comes after %d", h.Flush, h.Producer, seen[h.Producer])
				}
				seen[h.Producer], missed[h.Producer] = h.Flush, false
			}
			if h.Producer == "end" {
				if done++; done == 1 {
					return
				}
			}
		}
	})
	for i := range producers {
		w := newStreamWriter(fmt.Sprintf("source/%d", i))
		zombie := newStreamWriter(w.name)
		appenders.Go(func() {
			for n := range flushes[i] {
				for i == 0 && left.Load() > 0 && appended.Load() < int64(n*50) {
					runtime.Gosched()
				}
				w.flush++
				b := w.encodeData(t, streamNoise(400*(i+1)))
				stale := w.last["0"]
				for {
					at, err := s.Append(t.Context(), "0", w.last["0"], b)
					if err == nil {
						w.last["0"] = at
						appended.Add(1)
						break
					}
					if millrace.CodeOf(err) != millrace.Conflict {
						t.Error(err)
						return
					}
					conflicts[i]++
					last, err := s.Last(t.Context(), "0", w.name)
					if err != nil || last.Header.Writer != w.writer || last.Header.Flush != w.flush-1 {
						t.Errorf("Last = %+v, %v; the last flush was %d", last.Header, err, w.flush-1)
						return
					}
					w.last["0"] = last.At
				}
				if n%10 == 0 {
					_, err := s.Append(t.Context(), "0", stale, zombie.block(t, 1))
					wantCode(t, "a zombie's Append", err, millrace.Conflict)
				}
			}
			left.Add(-1)
		})
	}
	appenders.Wait()
	close(stop)
	trimmer.Wait()
	newStreamWriter("end").append(t, s, "0", 1)
	reader.Wait()
	for i := range producers {
		last, err := s.Last(t.Context(), "0", fmt.Sprintf("source/%d", i))
		if err != nil || last.Header.Flush != flushes[i] {
			t.Errorf("Last of source/%d is flush %d, %v", i, last.Header.Flush, err)
		}
	}
	if first, _, err := s.Bounds(t.Context(), "0"); err != nil || first.IsStart() {
		t.Errorf("nothing was trimmed: %v", err)
	}
	t.Logf("refused because of a trim: %v", conflicts)
}

func retainReopen(t *testing.T, h *StreamHarness, s retained) {
	if h.Reopen == nil {
		t.Skip("this stream cannot be opened again")
	}
	w := newStreamWriter("source/a")
	var blocks []millrace.StoredBlock
	for range 6 {
		blocks = append(blocks, w.append(t, s, "0", 3))
	}
	quiet := newStreamWriter("source/quiet")
	quiet.append(t, s, "0", 1)
	expire(t, h, s, "0", blocks[2].At)
	trim(t, s)
	again := h.Reopen(t)
	if first, _, err := again.Bounds(t.Context(), "0"); err != nil || first != blocks[2].At {
		t.Errorf("after opening again the first position is %q, %v; want %q", first, err, blocks[2].At)
	}
	if b := readBlocks(t, again, "0", blocks[2].At, 1)[0]; b.At != blocks[3].At {
		t.Errorf("after %q comes %q, want %q", blocks[2].At, b.At, blocks[3].At)
	}
	after := millrace.Position{Block: blocks[2].At.Block, Event: 2}
	gap, _ := readGap(t, again, "0", after)
	if want := (millrace.Gap{After: after, First: blocks[2].At, Reason: millrace.Trimmed}); gap != want {
		t.Errorf("got %v, want %v", &gap, &want)
	}
}

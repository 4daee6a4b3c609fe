package producer_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
	"github.com/millrace/millrace/millracetest"
	"github.com/millrace/millrace/producer"
	"github.com/millrace/millrace/stream/memory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// open opens and runs a producer; stop closes it and waits for its end.
func open(t testing.TB, config producer.Config) (p *producer.Producer, stop func()) {
	t.Helper()
	p, err := producer.Open(context.Background(), config)
	if err != nil {
		t.Fatal(err)
	}
	ran := make(chan error, 1)
	go func() { ran <- p.Run(context.Background()) }()
	return p, func() {
		t.Helper()
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		if err := <-ran; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
}

// config of a producer over fresh streams in memory.
func config(partitions int) producer.Config {
	return producer.Config{
		Name: "source/test",
		Into: memory.New("into", memory.Options{Partitions: partitions}),
		Dead: memory.New("dead", memory.Options{}),
	}
}

// event number i, of one of three keys.
func event(i int) millrace.Event {
	return millrace.Event{
		ID: "id-" + strconv.Itoa(i), Key: "key-" + strconv.Itoa(i%3), Type: "message",
		Time: time.Unix(1700000000, 0), Data: []byte(strconv.Itoa(i)),
	}
}

// events of a stream, partition after partition.
func events(t testing.TB, s millrace.Stream) []millrace.Event {
	t.Helper()
	var all []millrace.Event
	partitions, err := s.Partitions(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, partition := range partitions {
		if err := millracetest.ReadPartition(context.Background(), s, partition.Name, func(b millrace.StoredBlock) error {
			list, err := block.Events(b.Raw)
			all = append(all, list...)
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

func ids(list []millrace.Event) string {
	var text []string
	for _, e := range list {
		text = append(text, e.ID)
	}
	return strings.Join(text, " ")
}

func TestProducerIsAnEmitter(t *testing.T) {
	for _, partitions := range []int{1, 4} {
		t.Run(fmt.Sprintf("%d partitions", partitions), func(t *testing.T) {
			millracetest.Emitter(t, func(t *testing.T) millracetest.OpenEmitter {
				c := config(partitions)
				c.EventLimit = 1000
				p, stop := open(t, c)
				t.Cleanup(stop)
				return millracetest.OpenEmitter{
					Emitter: p,
					Durable: func() ([]millrace.Event, []string, millrace.Cursor) {
						var rejected []string
						for _, e := range events(t, c.Dead) {
							rejected = append(rejected, strings.TrimPrefix(e.ID, c.Name+"/"))
						}
						// What the next life would find.
						all := events(t, c.Into)
						return all, rejected, cursor(t, c)
					},
					End:        func() { _ = p.Close() },
					EventLimit: c.EventLimit,
				}
			})
		})
	}
}

// homeOf returns the producer's home partition.
func homeOf(t testing.TB, c producer.Config) millrace.Partition {
	t.Helper()
	partitions, err := c.Into.Partitions(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, partition := range partitions {
		if partition.Contains(millrace.HashKey(c.Name)) {
			return partition
		}
	}
	t.Fatal("there is no home partition")
	return millrace.Partition{}
}

// cursor of the newest commit.
func cursor(t testing.TB, c producer.Config) millrace.Cursor {
	t.Helper()
	last, err := c.Into.Last(context.Background(), homeOf(t, c).Name, c.Name)
	if err != nil {
		t.Fatal(err)
	}
	return last.Header.Cursor
}

func TestOpenChecksTheConfiguration(t *testing.T) {
	whole := config(1)
	for name, c := range map[string]producer.Config{
		"no name":      {Into: whole.Into, Dead: whole.Dead},
		"a bad name":   {Name: "no spaces", Into: whole.Into, Dead: whole.Dead},
		"a long name":  {Name: strings.Repeat("n", 201), Into: whole.Into, Dead: whole.Dead},
		"nothing into": {Name: "source/test", Dead: whole.Dead},
		"nothing dead": {Name: "source/test", Into: whole.Into},
	} {
		if _, err := producer.Open(t.Context(), c); millrace.CodeOf(err) != millrace.Invalid {
			t.Errorf("%s: %v, want invalid", name, err)
		}
	}
}

func TestResumeHasTheCursor(t *testing.T) {
	c := config(2)
	for i := range 3 {
		p, stop := open(t, c)
		want := millrace.Cursor("")
		if i > 0 {
			want = millrace.Cursor(strconv.Itoa(i - 1))
		}
		if got := p.Resume().Cursor; got != want {
			t.Errorf("life %d: the cursor is %q, want %q", i, got, want)
		}
		if err := p.Emit(t.Context(), []millrace.Event{event(i)}, millrace.Cursor(strconv.Itoa(i))); err != nil {
			t.Fatal(err)
		}
		if err := p.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		stop()
	}
}

func TestRunEnds(t *testing.T) {
	t.Run("when it was never begun", func(t *testing.T) {
		p, err := producer.Open(t.Context(), config(1))
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
		if err := p.Flush(t.Context()); millrace.CodeOf(err) != millrace.Unavailable {
			t.Errorf("Flush: %v, want unavailable", err)
		}
		if err := p.Run(t.Context()); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Run("twice", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p, stop := open(t, config(1))
			defer stop()
			synctest.Wait()
			if err := p.Run(t.Context()); millrace.CodeOf(err) != millrace.Internal {
				t.Errorf("a second Run: %v, want internal", err)
			}
		})
	})
	t.Run("in the middle of an outage", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := config(1)
			fault := millracetest.NoFault
			faults := millracetest.NewFaults(func(string, string, millrace.Header) millracetest.Fault { return fault })
			c.Into = faults.Stream(c.Into)
			p, stop := open(t, c)
			fault = millracetest.Refuse
			if err := p.Emit(t.Context(), []millrace.Event{event(0)}, "1"); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
			began := time.Now()
			stop()
			if took := time.Since(began); took > time.Second {
				t.Errorf("Close took %s", took)
			}
			if err := p.Flush(t.Context()); millrace.CodeOf(err) != millrace.Unavailable {
				t.Errorf("Flush: %v, want unavailable", err)
			}
		})
	})
	t.Run("after an append that hangs, within seconds", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := config(1)
			hangs := &hangingStream{Stream: c.Into}
			c.Into = hangs
			p, stop := open(t, c)
			hangs.hang = true
			if err := p.Emit(t.Context(), []millrace.Event{event(0)}, "1"); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			began := time.Now()
			stop()
			if took := time.Since(began); took != 5*time.Second {
				t.Errorf("Close took %s, want 5s", took)
			}
		})
	})
}

// hangingStream is one whose appends can hang until their context ends.
type hangingStream struct {
	millrace.Stream
	hang bool
}

func (s *hangingStream) Append(ctx context.Context, partition string, after millrace.Position, b millrace.Block) (millrace.Position, error) {
	if s.hang {
		<-ctx.Done()
		return millrace.Position{}, millrace.Errorf(millrace.Unavailable, "append", "%w", context.Cause(ctx))
	}
	return s.Stream.Append(ctx, partition, after, b)
}

func TestEmitWaitsWhenFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := config(1)
		c.BlockEvents = 10
		fault := millracetest.NoFault
		faults := millracetest.NewFaults(func(string, string, millrace.Header) millracetest.Fault { return fault })
		c.Into = faults.Stream(c.Into)
		p, stop := open(t, c)
		fault = millracetest.Hold
		emitted := 0
		emitting := make(chan error, 1)
		go func() {
			for i := range 1000 {
				if err := p.Emit(context.Background(), []millrace.Event{event(i)}, millrace.Cursor(strconv.Itoa(i))); err != nil {
					emitting <- err
					return
				}
				emitted++
			}
			emitting <- nil
		}()
		synctest.Wait()
		// One flush in flight, one encoded ahead, one gathered.
		if emitted == 0 || emitted > 3*10 {
			t.Errorf("Emit took %d events while nothing could be appended; BlockEvents is %d", emitted, c.BlockEvents)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if err := p.Emit(ctx, []millrace.Event{event(0)}, "x"); millrace.CodeOf(err) != millrace.Unavailable || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Emit: %v, want unavailable: %v", err, context.DeadlineExceeded)
		}
		if err := p.Flush(ctx); millrace.CodeOf(err) != millrace.Unavailable {
			t.Errorf("Flush: %v, want unavailable", err)
		}
		fault = millracetest.NoFault
		faults.Release()
		if err := <-emitting; err != nil {
			t.Fatal(err)
		}
		if err := p.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		stop()
		if n := len(events(t, c.Into)); n != 1000 {
			t.Errorf("%d events arrived, want 1000", n)
		}
	})
}

func TestRecentYieldsOwnBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := config(3)
		other := c
		other.Name = "source/other"
		o, stopOther := open(t, other)
		p, stop := open(t, c)
		began := time.Now()
		for i := range 60 {
			time.Sleep(time.Second)
			if err := o.Emit(t.Context(), []millrace.Event{event(1000 + i)}, "x"); err != nil {
				t.Fatal(err)
			}
			if err := p.Emit(t.Context(), []millrace.Event{event(i)}, millrace.Cursor(strconv.Itoa(i))); err != nil {
				t.Fatal(err)
			}
			if err := p.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		recent := func(since time.Time, limit int) string {
			var found []millrace.Event
			var last time.Time
			for b, err := range p.Resume().Recent(t.Context(), since) {
				if err != nil {
					t.Fatal(err)
				}
				if b.Stored.Before(last) || b.Header.Producer != c.Name {
					t.Errorf("block %s of %s, stored at %s, comes after one of %s", b.At, b.Header.Producer, b.Stored, last)
				}
				last = b.Stored
				list, err := block.Events(b.Raw)
				if err != nil {
					t.Fatal(err)
				}
				if found = append(found, list...); len(found) == limit {
					break
				}
			}
			return ids(found)
		}
		if got := recent(time.Time{}, 1000); strings.Count(got, "id-") != 60 {
			t.Errorf("the recent events are %s", got)
		}
		if got := recent(began.Add(57500*time.Millisecond), 1000); got != "id-57 id-58 id-59" {
			t.Errorf("the recent events are %s", got)
		}
		if got := recent(began.Add(57500*time.Millisecond), 2); got != "id-57 id-58" {
			t.Errorf("the recent events are %s", got)
		}
		if got := recent(time.Now().Add(time.Second), 1000); got != "" {
			t.Errorf("the recent events are %s", got)
		}
		stop()
		stopOther()
	})
}

func TestLimits(t *testing.T) {
	c := config(1)
	into := memory.New("into", memory.Options{MaxBlock: 16 << 10})
	c.Into = into
	p, stop := open(t, c)
	compressible, incompressible := event(0), event(1)
	compressible.Data = bytes.Repeat([]byte("long "), 20_000)
	incompressible.Data = noise(20_000)
	var many []millrace.Event // do not fit one block together
	for i := 2; i < 40; i++ {
		e := event(i)
		e.Data = noise(3000)
		many = append(many, e)
	}
	if err := p.Emit(t.Context(), append([]millrace.Event{compressible, incompressible}, many...), "1"); err != nil {
		t.Fatal(err)
	}
	if err := p.Emit(t.Context(), nil, millrace.Cursor(strings.Repeat("c", 16<<10))); millrace.CodeOf(err) != millrace.TooLarge {
		t.Errorf("a cursor as large as a block: %v, want too_large", err)
	}
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	stop()
	if n := len(events(t, into)); n != 39 {
		t.Errorf("%d events arrived, want 39", n)
	}
	if got := ids(events(t, c.Dead)); got != "source/test/id-1" {
		t.Errorf("the dead letters are %q", got)
	}
	if got := cursor(t, c); got != "1" {
		t.Errorf("the cursor is %q", got)
	}
}

// noise returns n bytes that cannot be compressed.
func noise(n int) []byte {
	b := make([]byte, n)
	x := uint32(1)
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	return b
}

var raceDetector bool

// TestEmitAllocatesNothing for an event.
func TestEmitAllocatesNothing(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector makes pools give things away at random")
	}
	synctest.Test(t, func(t *testing.T) {
		const calls, each = 100, 20
		c := config(4)
		c.BlockEvents = 2 * calls * each
		fault := millracetest.NoFault
		faults := millracetest.NewFaults(func(string, string, millrace.Header) millracetest.Fault { return fault })
		c.Into = faults.Stream(c.Into)
		p, stop := open(t, c)
		var list []millrace.Event
		for i := range each {
			list = append(list, event(i))
		}
		emit := func() {
			if err := p.Emit(t.Context(), list, "1"); err != nil {
				t.Fatal(err)
			}
		}
		var average float64
		for range 3 { // both gatherings grow to their size
			fault = millracetest.Hold
			emit() // now in flight, so that nothing else moves
			synctest.Wait()
			average = testing.AllocsPerRun(calls, emit)
			fault = millracetest.NoFault
			faults.Release()
			if err := p.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		stop()
		if average != 0 {
			t.Errorf("a call of Emit with %d events allocates %v times, want 0", each, average)
		}
	})
}

// TestBuildersAreUsedAgain also where a flush is spread over many partitions: each asks for what its own blocks
// take, not for what the whole flush does.
func TestBuildersAreUsedAgain(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector makes pools give things away at random")
	}
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // a collection empties pools
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))  // and each processor keeps something for itself
	const rounds, each, size = 16, 512, 4 << 10
	p, stop := open(t, config(8))
	defer stop()
	list := make([]millrace.Event, each)
	for i := range list {
		list[i] = millrace.Event{ID: strconv.Itoa(i), Key: strconv.Itoa(i), Data: make([]byte, size)}
	}
	var before, after runtime.MemStats
	for n := range 2 * rounds {
		if n == rounds { // all have their size
			runtime.ReadMemStats(&before)
		}
		if err := p.Emit(t.Context(), list, millrace.Cursor(strconv.Itoa(n))); err != nil {
			t.Fatal(err)
		}
		if err := p.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	runtime.ReadMemStats(&after)
	// The blocks are small: the data is all zeros.
	if got := (after.TotalAlloc - before.TotalAlloc) / rounds; got > each*size/4 {
		t.Errorf("a flush of %d bytes allocates %d", each*size, got)
	}
}

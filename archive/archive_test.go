package archive_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/archive"
	"github.com/millrace/millrace/block"
	"github.com/millrace/millrace/millracetest"
	"github.com/millrace/millrace/objectstore/disk"
	"github.com/millrace/millrace/stream/memory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bench is what an archive works with.
type bench struct {
	t      testing.TB
	stream *memory.Stream
	store  millrace.ObjectStore
	state  *memory.State
	config archive.Config
	change func(*archive.Options)
	after  map[string]millrace.Position // the newest block of each partition
}

func newBench(t testing.TB, o memory.Options) *bench {
	t.Helper()
	if o.Incarnation == "" {
		o.Incarnation = "life1"
	}
	store, err := disk.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	b := &bench{
		t: t, stream: memory.New("events", o), store: store, state: memory.NewState(),
		change: func(*archive.Options) {}, after: map[string]millrace.Position{},
	}
	b.config.SetDefaults()
	b.config.From, b.config.Prefix = "events", "data/"
	return b
}

// append appends one block to partition 0.
func (b *bench) append(data ...string) millrace.Position {
	b.t.Helper()
	var builder block.Builder
	for i, d := range data {
		e := millrace.Event{ID: fmt.Sprint(i), Key: "k", Type: "message", Time: time.Unix(1e9, 0), Data: []byte(d)}
		if d == "END" {
			e.Deleted, e.Data = true, nil
		}
		if err := builder.Add(&e); err != nil {
			b.t.Fatal(err)
		}
	}
	encoded, err := builder.Encode(nil, millrace.Header{Producer: "test", Flush: 1, Commit: true})
	if err != nil {
		b.t.Fatal(err)
	}
	return b.appendBlock("0", encoded)
}

func (b *bench) appendBlock(partition string, encoded millrace.Block) millrace.Position {
	b.t.Helper()
	at, err := b.stream.Append(b.t.Context(), partition, b.after[partition], encoded)
	if err != nil {
		b.t.Fatal(err)
	}
	b.after[partition] = at
	return at
}

func (b *bench) new() *archive.Archive {
	b.t.Helper()
	o := archive.Options{From: b.stream, To: b.store, State: b.state}
	b.change(&o)
	a, err := archive.New("test", b.config, o)
	if err != nil {
		b.t.Fatal(err)
	}
	return a
}

// run starts the archive and returns what stops it and returns Run's error.
func (b *bench) run() (stop func() error) {
	a := b.new()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	return func() error {
		cancel()
		return <-done
	}
}

// drain archives what is there.
func (b *bench) drain() {
	b.t.Helper()
	if err := b.run()(); err != nil {
		b.t.Fatal(err)
	}
}

// objects returns the lines of each object under a prefix, joined.
func (b *bench) objects(prefix string) []string {
	b.t.Helper()
	var all []string
	for _, o := range millracetest.ReadArchive(b.t, b.store, prefix) {
		all = append(all, strings.Join(o.Lines, " "))
	}
	return all
}

func (b *bench) want(prefix string, want ...string) {
	b.t.Helper()
	if got := b.objects(prefix); !slices.Equal(got, want) {
		b.t.Errorf("the archive has %q, want %q", got, want)
	}
}

func (b *bench) record() map[string]any {
	b.t.Helper()
	r, _, err := b.state.Load(b.t.Context(), "archive/test/0")
	if err != nil {
		b.t.Fatal(err)
	}
	text, err := io.ReadAll(r)
	if err != nil {
		b.t.Fatal(err)
	}
	var record map[string]any
	if err := json.Unmarshal(text, &record); err != nil {
		b.t.Fatal(err)
	}
	return record
}

func TestArchive(t *testing.T) {
	stored := time.Date(2026, time.March, 7, 21, 4, 5, 0, time.UTC)
	b := newBench(t, memory.Options{Now: func() time.Time { return stored }})
	b.append("1", `{"a": "b"}`, "plain", "END", "", "\xff")
	b.append() // a block without events
	b.append("[\n2\n]")
	b.drain()
	b.want("data/", `1 {"a": "b"} "plain" null "" "data:application/octet-stream;base64,/w==" [2]`)
	const key = "data/2026/03/07/21/events_0_life1-000000000001.0000001_life1-000000000003.0000001.ndjson.gz"
	if o, err := b.store.Stat(t.Context(), key); err != nil || o.Size == 0 {
		t.Errorf("Stat: %+v, %v", o, err)
	}

	b.drain() // nothing new: no object
	b.append("3")
	b.drain()
	b.append()
	b.drain()
	b.append("4", "5")
	b.drain()
	b.want("data/", `1 {"a": "b"} "plain" null "" "data:application/octet-stream;base64,/w==" [2]`, "3", "4 5")
}

func TestFormats(t *testing.T) {
	b := newBench(t, memory.Options{})
	b.config.Format, b.config.Compression = "raw", "none"
	b.append("a\nb", "", "c")
	b.drain()
	b.config.Compression = "gzip"
	b.append("d", "\xff")
	b.drain()
	b.config.Format, b.config.Compression = "ndjson", "none"
	b.append("e")
	b.drain()
	b.want("data/", "a\nbc", "d\xff", `"e"`)
	var names []string
	for _, o := range millracetest.ReadArchive(t, b.store, "data/") {
		names = append(names, o.Key[strings.LastIndex(o.Key, ".0000")+len(".0000000"):])
	}
	if want := []string{".raw", ".raw.gz", ".ndjson"}; !slices.Equal(names, want) {
		t.Errorf("%q, want %q", names, want)
	}
}

// TestSize cuts at the event that reaches the size, inside blocks and over several.
func TestSize(t *testing.T) {
	b := newBench(t, memory.Options{})
	b.config.Buffer.Size = 10
	b.append("1111", "2222", "3333", "444444444444444444", "5", "6") // a line is one byte longer
	b.append("7", "8")
	b.append("9", "1010")
	b.drain()
	b.want("data/", "1111 2222", "3333 444444444444444444", "5 6 7 8 9", "1010")
}

func TestIntervalOfQuietStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, memory.Options{})
		stop := b.run()
		time.Sleep(time.Hour)
		b.append("1")
		time.Sleep(59 * time.Second)
		b.append("2")
		synctest.Wait()
		b.want("data/")
		time.Sleep(time.Second)
		synctest.Wait()
		b.want("data/", "1 2")

		b.append("3")
		time.Sleep(59999 * time.Millisecond)
		b.append("4")
		synctest.Wait()
		b.want("data/", "1 2")
		time.Sleep(time.Millisecond)
		synctest.Wait()
		b.want("data/", "1 2", "3 4")

		// Blocks without events move the position, without an object.
		at := b.append()
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := b.record()["position"]; got != at.String() {
			t.Errorf("the position is %v, want %v", got, at)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
		b.want("data/", "1 2", "3 4")
	})
}

func TestNoInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, memory.Options{})
		b.config.Buffer.Interval = 0
		stop := b.run()
		for i := range 3 {
			b.append(fmt.Sprint(i))
			time.Sleep(time.Millisecond)
			synctest.Wait()
		}
		b.want("data/", "0", "1", "2")
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

// TestCatchingUp archives two hours after they went by. Objects are cut as they would have been, and lie
// under the hours in which their events were stored.
func TestCatchingUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // its clock begins at midnight
		b := newBench(t, memory.Options{})
		b.config.Prefix = "data/!{timestamp:HH}/"
		b.config.Buffer.Interval = 15 * time.Minute
		for minute := 0; minute < 120; minute += 5 {
			b.append(fmt.Sprint(minute))
			time.Sleep(5 * time.Minute)
		}
		stop := b.run()
		time.Sleep(time.Second)
		synctest.Wait()
		b.want("data/00/", "0 5 10", "15 20 25", "30 35 40", "45 50 55")
		b.want("data/01/", "60 65 70", "75 80 85", "90 95 100", "105 110 115")
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

// TestClockAhead stores events in the archive's future.
func TestClockAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, memory.Options{Now: func() time.Time { return time.Now().Add(time.Hour) }})
		stop := b.run()
		b.append("1")
		time.Sleep(61 * time.Second)
		synctest.Wait()
		b.want("data/", "1")
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

// TestDrain stops while a lot is still to be read.
func TestDrain(t *testing.T) {
	b := newBench(t, memory.Options{Partitions: 3})
	b.config.Buffer.Size = 1000
	var want []string
	for i := range 500 {
		var builder block.Builder
		line := fmt.Sprintf(`{"n":%d}`, i)
		if err := builder.Add(&millrace.Event{Data: []byte(line)}); err != nil {
			t.Fatal(err)
		}
		encoded, err := builder.Encode(nil, millrace.Header{Producer: "test"})
		if err != nil {
			t.Fatal(err)
		}
		b.appendBlock(fmt.Sprint(i%3), encoded)
		want = append(want, line)
	}
	b.drain()
	var got []string
	for _, o := range millracetest.ReadArchive(t, b.store, "data/") {
		got = append(got, o.Lines...)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%d events, want %d", len(got), len(want))
	}
}

func TestStreamCloses(t *testing.T) {
	b := newBench(t, memory.Options{})
	b.append("1")
	a := b.new()
	done := make(chan error, 1)
	go func() { done <- a.Run(t.Context()) }()
	for b.version("archive/test/0") == 0 { // it has begun to read, or is about to
		time.Sleep(time.Millisecond)
	}
	if err := b.stream.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	b.stream = b.stream.Reopen()
	b.drain()
	b.want("data/", "1")
}

// version returns a state's version.
func (b *bench) version(name string) uint64 {
	_, version, _ := b.state.Load(b.t.Context(), name)
	return version
}

func TestHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, memory.Options{Retention: memory.Retention{Age: time.Hour}})
		if err := b.new().Hold(t.Context()); err != nil {
			t.Fatal(err)
		}
		b.append("1")
		b.append("2")
		time.Sleep(2 * time.Hour)
		trim := func() {
			t.Helper()
			if err := b.stream.Trim(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		trim()
		if first, _, err := b.stream.Bounds(t.Context(), "0"); err != nil || !first.IsStart() {
			t.Errorf("Trim dropped what the archive has not seen: the stream begins at %q, %v", first, err)
		}
		b.drain()
		b.want("data/", "1 2")
		trim()
		if first, _, err := b.stream.Bounds(t.Context(), "0"); err != nil || first.IsStart() {
			t.Errorf("what is archived is still held: the stream begins at %q, %v", first, err)
		}
	})
}

func TestGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, memory.Options{Retention: memory.Retention{Age: time.Hour}})
		b.append("1")
		b.drain()
		from := b.append("lost")
		to := b.append("lost too")
		time.Sleep(2 * time.Hour)
		at := b.append("2")
		b.stream.Release("0", "archive/test")
		if err := b.stream.Trim(t.Context()); err != nil {
			t.Fatal(err)
		}
		b.after["0"] = at
		b.drain()
		b.want("data/", "1", "2")
		errors := millracetest.ReadArchive(t, b.store, "errors/gap/2000/01/01/events_0_")
		if len(errors) != 1 || len(errors[0].Lines) != 1 {
			t.Fatalf("the gap's objects are %q", errors)
		}
		var line map[string]string
		if err := json.Unmarshal([]byte(errors[0].Lines[0]), &line); err != nil {
			t.Fatal(err)
		}
		after, err := millrace.ParsePosition(line["after"])
		if err != nil || after.Compare(from) >= 0 || line["to"] != to.String() || line["type"] != "gap" ||
			line["reason"] != "trimmed" || line["stream"] != "events" || line["partition"] != "0" {
			t.Errorf("the gap's line is %q, %v", errors[0].Lines[0], err)
		}
		b.drain()
		b.want("data/", "1", "2")
		if n := len(b.objects("errors/")); n != 1 {
			t.Errorf("%d error objects, want 1", n)
		}
	})
}

// TestFirstStart begins with what is there: that earlier events are gone is no news.
func TestFirstStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, memory.Options{Retention: memory.Retention{Age: time.Hour}})
		b.append("old")
		time.Sleep(2 * time.Hour)
		b.append("new")
		if err := b.stream.Trim(t.Context()); err != nil {
			t.Fatal(err)
		}
		b.drain()
		b.want("data/", `"new"`)
		b.want("errors/")
	})
}

func TestNewIncarnation(t *testing.T) {
	b := newBench(t, memory.Options{Incarnation: "life1"})
	b.append("1")
	b.drain()
	b.append("never archived")
	b.stream = memory.New("events", memory.Options{Incarnation: "life2"})
	b.after = map[string]millrace.Position{}
	b.append("2")
	b.drain()
	b.want("data/", "1", "2")
	if got := b.objects("errors/gap/"); len(got) != 1 || !strings.Contains(got[0], `"reason":"new incarnation"`) {
		t.Errorf("the gap's objects are %q", got)
	}
}

func TestTruncated(t *testing.T) {
	b := newBench(t, memory.Options{})
	kept := b.append("1")
	b.append("2")
	b.drain()
	b.stream.Truncate("0", kept)
	err := b.new().Run(t.Context())
	if millrace.CodeOf(err) != millrace.Internal || !strings.Contains(err.Error(), "lost its tail") {
		t.Errorf("Run over a stream that lost its tail: %v, want internal", err)
	}
	b.want("data/", "1 2")
}

// damagedStream has lost a block in its midst.
type damagedStream struct {
	*memory.Stream
	lost string
}

func (s damagedStream) Read(ctx context.Context, partition string, after millrace.Position) iter.Seq2[millrace.StoredBlock, error] {
	return func(yield func(millrace.StoredBlock, error) bool) {
		for b, err := range s.Stream.Read(ctx, partition, after) {
			if err == nil && b.At.Block == s.lost {
				b, err = millrace.StoredBlock{}, &millrace.Gap{After: after, First: b.At, Reason: millrace.Truncated}
			} else {
				after = b.At
			}
			if !yield(b, err) {
				return
			}
		}
	}
}

func TestDamaged(t *testing.T) {
	b := newBench(t, memory.Options{})
	b.append("1")
	lost := b.append("2")
	b.append("3")
	b.change = func(o *archive.Options) { o.From = damagedStream{b.stream, lost.Block} }
	b.drain()
	b.want("data/", "1", "3")
	if got := b.objects("errors/gap/"); len(got) != 1 || !strings.Contains(got[0], `"reason":"truncated"`) || !strings.Contains(got[0], lost.String()) {
		t.Errorf("the gap's objects are %q", got)
	}
}

func TestUndecodable(t *testing.T) {
	for _, compression := range []string{"gzip", "none"} {
		b := newBench(t, memory.Options{})
		b.config.Compression = compression
		b.append("1")
		var builder block.Builder
		if err := builder.Add(&millrace.Event{Data: []byte("two")}); err != nil {
			t.Fatal(err)
		}
		broken, err := builder.Encode(nil, millrace.Header{Producer: "test"})
		if err != nil {
			t.Fatal(err)
		}
		broken.Raw[len(broken.Raw)-1] ^= 1
		at := b.appendBlock("0", broken)
		b.append("3")
		b.drain()
		b.want("data/", "1", "3")
		objects := millracetest.ReadArchive(t, b.store, "errors/undecodable/")
		if len(objects) != 1 || len(objects[0].Lines) != 1 {
			t.Fatalf("the error objects are %q", objects)
		}
		var line map[string]string
		if err := json.Unmarshal([]byte(objects[0].Lines[0]), &line); err != nil {
			t.Fatal(err)
		}
		if line["type"] != "undecodable" || line["to"] != at.String() || !strings.Contains(line["reason"], "checksum") ||
			line["stored"] == "" || line["raw"] != base64.StdEncoding.EncodeToString(broken.Raw) {
			t.Errorf("the error object is %q", objects[0].Lines[0])
		}
	}
}

// TestOtherObject finds another object under its key, and leaves it.
func TestOtherObject(t *testing.T) {
	for name, body := range map[string]string{"text": "something else", "empty": ""} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, memory.Options{Now: func() time.Time { return time.Unix(1e9, 0) }})
			b.append("1")
			const key = "data/2001/09/09/01/events_0_life1-000000000001.0000001_life1-000000000001.0000001.ndjson.gz"
			if err := b.store.Put(t.Context(), key, func() (io.ReadCloser, error) {
				return io.NopCloser(strings.NewReader(body)), nil
			}, millrace.PutOptions{}); err != nil {
				t.Fatal(err)
			}
			err := b.run()()
			if millrace.CodeOf(err) != millrace.Conflict || !strings.Contains(err.Error(), key) {
				t.Errorf("Run: %v, want conflict", err)
			}
			if o, err := b.store.Stat(t.Context(), key); err != nil || o.Size != int64(len(body)) {
				t.Errorf("the object was changed: %+v, %v", o, err)
			}
		})
	}
}

// TestStateLost archives again what is there already: the same cuts are the same objects.
func TestStateLost(t *testing.T) {
	b := newBench(t, memory.Options{})
	b.append("1", "2")
	b.drain()
	b.state = memory.NewState()
	b.drain()
	b.want("data/", "1 2")
}

// TestTwoArchives lets two run under one name: one of them finds out and ends.
func TestTwoArchives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, memory.Options{})
		first, second := b.new(), b.new()
		done := make(chan error, 2)
		ctx, cancel := context.WithCancel(t.Context())
		for _, a := range []*archive.Archive{first, second} {
			go func() { done <- a.Run(ctx) }()
		}
		synctest.Wait()
		b.append("1")
		time.Sleep(time.Minute)
		b.append("2")
		time.Sleep(time.Minute)
		synctest.Wait()
		if err := <-done; millrace.CodeOf(err) != millrace.Conflict || !strings.Contains(err.Error(), "another process") {
			t.Errorf("one of two: %v, want conflict", err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the other: %v", err)
		}
		b.want("data/", "1", "2")
	})
}

// outageStore fails while it is told to.
type outageStore struct {
	millrace.ObjectStore
	err  error
	over atomic.Bool
}

func (s *outageStore) Put(ctx context.Context, key string, body func() (io.ReadCloser, error), o millrace.PutOptions) error {
	if !s.over.Load() {
		return s.err
	}
	return s.ObjectStore.Put(ctx, key, body, o)
}

func TestStoreOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, memory.Options{})
		store := &outageStore{ObjectStore: b.store, err: millrace.Errorf(millrace.Unavailable, "put", "no route")}
		var log strings.Builder
		registry := prometheus.NewPedanticRegistry()
		metrics := archive.NewMetrics(registry)
		b.change = func(o *archive.Options) {
			o.To, o.Metrics = store, metrics
			o.Logger = slog.New(slog.NewTextHandler(&log, nil))
		}
		stop := b.run()
		b.append("1")
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		b.want("data/")
		if got := metric(t, registry, "millrace_archive_lag_seconds"); got != 600 {
			t.Errorf("the lag is %v s, want 600", got)
		}
		if got := metric(t, registry, "millrace_archive_errors_total"); got < 20 {
			t.Errorf("%v errors are counted in 9 minutes", got)
		}
		store.over.Store(true)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		b.want("data/", "1")
		for name, want := range map[string]float64{
			"lag_seconds": 0, "events_total": 1, "objects_total": 1, "gaps_total": 0, "undecodable_blocks_total": 0,
			"bytes_total": 2, // the first series, direction in
		} {
			if got := metric(t, registry, "millrace_archive_"+name); got != want {
				t.Errorf("%s is %v, want %v", name, got, want)
			}
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
		if waits, goesOn := strings.Count(log.String(), "the archive waits"), strings.Count(log.String(), "the archive goes on"); waits != 1 || goesOn != 1 {
			t.Errorf("an outage is logged %d and %d times, want once:\n%s", waits, goesOn, log.String())
		}
	})
}

func metric(t *testing.T, registry prometheus.Gatherer, name string) float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			m := f.GetMetric()[0]
			return m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	t.Fatalf("there is no metric %s", name)
	return 0
}

// TestDrainIsBounded stops while the store is out of reach.
func TestDrainIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, memory.Options{})
		store := &outageStore{ObjectStore: b.store, err: millrace.Errorf(millrace.Unavailable, "put", "no route")}
		b.change = func(o *archive.Options) { o.To, o.Drain = store, 5*time.Second }
		b.append("1")
		stop := b.run()
		synctest.Wait()
		start := time.Now()
		err := stop()
		if millrace.CodeOf(err) != millrace.Unavailable || !strings.Contains(err.Error(), "time for draining is over") {
			t.Errorf("Run: %v, want unavailable", err)
		}
		if took := time.Since(start); took != 5*time.Second {
			t.Errorf("draining took %s", took)
		}
		store.over.Store(true)
		b.drain()
		b.want("data/", "1")
	})
}

// TestDenied ends: waiting does not help.
func TestDenied(t *testing.T) {
	b := newBench(t, memory.Options{})
	store := &outageStore{ObjectStore: b.store, err: millrace.Errorf(millrace.Denied, "put", "read-only")}
	b.change = func(o *archive.Options) { o.To = store }
	b.append("1")
	if err := b.run()(); millrace.CodeOf(err) != millrace.Denied || !strings.Contains(err.Error(), `archive "test", partition 0`) {
		t.Errorf("Run: %v, want denied", err)
	}
}

func TestStateOfAnotherVersion(t *testing.T) {
	for text, want := range map[string]string{
		`{"layout":2}`: "run the version that wrote it",
		`no JSON`:      "no record of an archive",
	} {
		b := newBench(t, memory.Options{})
		if _, err := b.state.Save(t.Context(), "archive/test/0", 0, func(w io.Writer) error {
			_, err := io.WriteString(w, text)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if err := b.new().Run(t.Context()); millrace.CodeOf(err) != millrace.Internal || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want internal with %q", text, err, want)
		}
	}
}

func TestValidate(t *testing.T) {
	problems := func(change func(*archive.Config)) (all []string) {
		var c archive.Config
		c.SetDefaults()
		c.From = "events"
		change(&c)
		c.Validate(func(path, format string, args ...any) { all = append(all, path+": "+fmt.Sprintf(format, args...)) })
		return all
	}
	if got := problems(func(*archive.Config) {}); got != nil {
		t.Errorf("the defaults have problems: %q", got)
	}
	for _, test := range []struct {
		change func(*archive.Config)
		want   string
	}{
		{func(c *archive.Config) { c.From = "" }, "from: an archive needs the name of a stream"},
		{func(c *archive.Config) { c.Prefix = "!{timestamp:YYYY}/" }, "prefix: the letter Y"},
		{func(c *archive.Config) { c.ErrorPrefix = "!{x:y}/" }, "error_prefix: !{x:y} is unknown"},
		{func(c *archive.Config) { c.Buffer.Size = 0 }, "buffer.size: 0 bytes"},
		{func(c *archive.Config) { c.Buffer.Size = 1 << 30 }, "buffer.size: 1073741824 bytes must be between"},
		{func(c *archive.Config) { c.Buffer.Interval = -1 }, "buffer.interval: -1ns must be"},
		{func(c *archive.Config) { c.Buffer.Interval = 48 * time.Hour }, "buffer.interval: 48h0m0s must be"},
		{func(c *archive.Config) { c.Compression = "zstd" }, `compression: "zstd" must be none or gzip`},
		{func(c *archive.Config) { c.Format = "parquet" }, `format: "parquet" must be ndjson or raw`},
	} {
		if got := problems(test.change); len(got) != 1 || !strings.HasPrefix(got[0], test.want) {
			t.Errorf("problems %q, want %q", got, test.want)
		}
	}

	var c archive.Config
	_, err := archive.New("bad name", c, archive.Options{From: memory.New("ev ents", memory.Options{})})
	if millrace.CodeOf(err) != millrace.Invalid || !strings.Contains(err.Error(), `"bad name"`) || !strings.Contains(err.Error(), `"ev ents"`) {
		t.Errorf("New: %v", err)
	}
	if _, ok := errors.AsType[*millrace.Error](err); !ok {
		t.Errorf("New fails with %T", err)
	}
}

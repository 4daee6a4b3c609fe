package nats_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
	"github.com/millrace/millrace/millracetest"
	"github.com/millrace/millrace/stream/nats"
)

func wantError(t *testing.T, err error, code millrace.Code, parts ...string) {
	t.Helper()
	if millrace.CodeOf(err) != code {
		t.Errorf("got %v, want %s", err, code)
		return
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q does not contain %q", err, part)
		}
	}
}

func TestDataDirectoryInUse(t *testing.T) {
	dir := t.TempDir()
	e := openEngine(t, nats.Options{DataDir: dir})
	_, err := nats.Open(t.Context(), nats.Options{DataDir: dir})
	wantError(t, err, millrace.Conflict, dir, fmt.Sprintf("process %d", os.Getpid()))
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	openEngine(t, nats.Options{DataDir: dir})
}

func TestDataDirectoryUnusable(t *testing.T) {
	_, err := nats.Open(t.Context(), nats.Options{})
	wantError(t, err, millrace.Invalid, "data_dir")
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = nats.Open(t.Context(), nats.Options{DataDir: file})
	wantError(t, err, millrace.Unavailable, "data_dir", file)
}

func TestChangedPartitions(t *testing.T) {
	dir := t.TempDir()
	e := openEngine(t, nats.Options{DataDir: dir})
	for _, n := range []int{2, 1, 3} {
		s, err := e.Stream(t.Context(), "positions", nats.StreamConfig{Partitions: n})
		if n != 2 {
			wantError(t, err, millrace.Invalid, fmt.Sprintf("streams.positions.partitions is %d", n), "created with 2")
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		_ = s.Close()
	}
}

func TestStreamOpenTwice(t *testing.T) {
	e := openEngine(t, nats.Options{DataDir: t.TempDir()})
	s := openStream(t, e, millracetest.StreamOptions{Partitions: 1})
	_, err := e.Stream(t.Context(), "positions", nats.StreamConfig{Partitions: 1})
	wantError(t, err, millrace.Conflict, "positions")
	wantError(t, e.Delete(t.Context(), "positions"), millrace.Conflict)
	_ = s.Close()
	openStream(t, e, millracetest.StreamOptions{Partitions: 1})
	wantError(t, e.Delete(t.Context(), "another"), millrace.NotFound)
	_, err = e.Stream(t.Context(), "x", nats.StreamConfig{})
	wantError(t, err, millrace.Invalid, "partition")
	_ = e.Close()
	_, err = e.Stream(t.Context(), "x", nats.StreamConfig{Partitions: 1})
	wantError(t, err, millrace.Unavailable, "closed")
}

// TestStreamNames keeps streams apart whose names differ little.
func TestStreamNames(t *testing.T) {
	e := openEngine(t, nats.Options{DataDir: t.TempDir()})
	names := []string{"a", "A", "a-0", "a.b", "a_b", "a b", "a/b", "ä", "*", ">"}
	for _, name := range names {
		s, err := e.Stream(t.Context(), name, nats.StreamConfig{Partitions: 1})
		if err != nil {
			t.Fatalf("%q: %v", name, err)
		}
		if _, err := s.Append(t.Context(), "0", millrace.Position{}, encode(t, "p", 1, []byte(name))); err != nil {
			t.Fatalf("%q: %v", name, err)
		}
		for b, err := range s.Read(t.Context(), "0", millrace.Position{}) {
			if err != nil {
				t.Fatal(err)
			}
			if events, err := block.Events(b.Raw); err != nil || string(events[0].Data) != name {
				t.Errorf("%q holds %v, %v", name, events, err)
			}
			break
		}
	}
}

func TestExternalUnreachable(t *testing.T) {
	o := nats.Options{Config: nats.Config{NATS: &nats.External{URL: "nats://user:secret@127.0.0.1:1"}}}
	_, err := nats.Open(t.Context(), o)
	wantError(t, err, millrace.Unavailable, "127.0.0.1:1")
	if strings.Contains(err.Error(), "secret") {
		t.Errorf("the password is in %q", err)
	}
}

func TestCancelledOpen(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := nats.Open(ctx, nats.Options{DataDir: t.TempDir()})
	wantError(t, err, millrace.Unavailable, "canceled")
}

func TestConfig(t *testing.T) {
	problems := func(validate func(func(path, format string, args ...any))) []string {
		var list []string
		validate(func(path, format string, args ...any) { list = append(list, path+": "+fmt.Sprintf(format, args...)) })
		return list
	}
	for _, test := range []struct {
		c    nats.Config
		want string // "" if it is valid
	}{
		{nats.Config{}, ""},
		{nats.Config{Embedded: &nats.Embedded{}}, ""},
		{nats.Config{NATS: &nats.External{URL: "nats://a:4222,tls://b"}}, ""},
		{nats.Config{Embedded: &nats.Embedded{}, NATS: &nats.External{URL: "nats://a"}}, "nats: an engine is either"},
		{nats.Config{Embedded: &nats.Embedded{Reserve: -1}}, "embedded.reserve: -1"},
		{nats.Config{NATS: &nats.External{}}, "nats.url: it is missing"},
		{nats.Config{NATS: &nats.External{URL: "http://user:secret@a"}}, `nats.url: "http://user:xxxxx@a"`},
		{nats.Config{NATS: &nats.External{URL: "nats://a:b:c"}}, "nats.url: it is no URL"},
		{nats.Config{NATS: &nats.External{URL: "nats://a", Replicas: 7}}, "nats.replicas: 7"},
	} {
		test.c.SetDefaults()
		got := problems(test.c.Validate)
		if test.want == "" && len(got) > 0 || test.want != "" && (len(got) != 1 || !strings.HasPrefix(got[0], test.want)) {
			t.Errorf("%+v: %q, want %q", test.c, got, test.want)
		}
	}
	var c nats.StreamConfig
	c.SetDefaults()
	if got := problems(c.Validate); len(got) > 0 || c.Partitions != 1 || c.Retention != (nats.Retention{Age: 24 * time.Hour, Bytes: 10 << 30}) {
		t.Errorf("the defaults are %+v: %q", c, got)
	}
	c = nats.StreamConfig{Partitions: 1000, Retention: nats.Retention{Age: -1, Bytes: -1}}
	if got := problems(c.Validate); len(got) != 3 {
		t.Errorf("%+v: %q", c, got)
	}
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	e := openEngine(t, nats.Options{DataDir: t.TempDir(), Metrics: nats.NewMetrics(reg)})
	s := openStream(t, e, millracetest.StreamOptions{Partitions: 1})
	b := encode(t, "source/a", 1, noise(1000))
	if _, err := s.Append(t.Context(), "0", millrace.Position{}, b); err != nil {
		t.Fatal(err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		m := f.GetMetric()[0]
		got[f.GetName()] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
	}
	for name, least := range map[string]float64{
		"millrace_stream_append_seconds": 1, "millrace_stream_append_bytes_total": float64(len(b.Raw)), "millrace_stream_blocks_total": 1,
		"millrace_stream_events_total": 1, "millrace_stream_bytes": float64(len(b.Raw)), "millrace_stream_disk_free_bytes": 1,
		"millrace_stream_trimmed_blocks_total": 0, "millrace_stream_full_total": 0, "millrace_stream_lost_ranges_total": 0,
	} {
		if v, ok := got[name]; !ok || v < least {
			t.Errorf("%s is %v, want %v or more", name, v, least)
		}
	}
}

// TestRun trims without being asked to.
func TestRun(t *testing.T) {
	e := openEngine(t, nats.Options{DataDir: t.TempDir()})
	s, err := e.Stream(t.Context(), "positions", nats.StreamConfig{Partitions: 1, Retention: nats.Retention{Age: 20 * time.Millisecond}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var run sync.WaitGroup
	run.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	at, err := s.Append(t.Context(), "0", millrace.Position{}, encode(t, "source/a", 1, nil))
	if err != nil {
		t.Fatal(err)
	}
	for b, err := range s.Read(t.Context(), "0", at) {
		if err != nil || b.Header.Events != 0 || b.Header.Flush != 1 {
			t.Errorf("got %+v, %v; want the cursor again", b.Header, err)
		}
		break
	}
	cancel()
	run.Wait()
}

// TestStateLeftOver finds no trace of a large value after a smaller one was saved, nor of one whose
// Save did not come to its end.
func TestStateLeftOver(t *testing.T) {
	dir := t.TempDir()
	e := openEngine(t, nats.Options{DataDir: dir})
	s, err := e.State(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	large := bytes.Repeat(noise(1000), 10_000)
	saveLarge := func(version uint64, end error) (uint64, error) {
		return s.Save(t.Context(), "snapshot", version, func(w io.Writer) error {
			_, err := w.Write(large)
			if err != nil {
				return err
			}
			return end
		})
	}
	version, err := saveLarge(0, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = saveLarge(version, io.ErrUnexpectedEOF); err != io.ErrUnexpectedEOF { //nolint:errorlint // as it is
		t.Errorf("Save = %v", err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	e = openEngine(t, nats.Options{DataDir: dir})
	if s, err = e.State(t.Context()); err != nil { // removes what the second Save left
		t.Fatal(err)
	}
	if n := storeBytes(t, e); n > int64(len(large)+100_000) {
		t.Errorf("%d bytes are stored for a value of %d", n, len(large))
	}
	r, version, err := s.Load(t.Context(), "snapshot")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, large) {
		t.Errorf("the value has %d bytes, %v", len(got), err)
	}
	if _, err := s.Save(t.Context(), "snapshot", version, func(w io.Writer) error {
		_, err := io.WriteString(w, "small")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if n := storeBytes(t, e); n > 100_000 {
		t.Errorf("%d bytes are stored for a value of 5", n)
	}
}

func storeBytes(t *testing.T, e *nats.Engine) int64 {
	t.Helper()
	n, err := nats.StateBytes(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestClockBack appends after the clock has gone back by an hour, as far as the stream can tell.
func TestClockBack(t *testing.T) {
	x := newEmbedded(t, millracetest.StreamOptions{Partitions: 1})
	ahead := time.Now().Add(time.Hour).Truncate(time.Microsecond).UTC()
	var at []millrace.Position
	for i := range 6 {
		if i == 3 {
			nats.SetStored(x.s, ahead)
		}
		after := millrace.Position{}
		if i > 0 {
			after = at[i-1]
		}
		next, err := x.s.Append(t.Context(), "0", after, encode(t, "source/a", uint64(i+1), nil))
		if err != nil {
			t.Fatal(err)
		}
		at = append(at, next)
	}
	s := x.s
	var stored []time.Time
	for b, err := range s.Read(t.Context(), "0", millrace.Position{}) {
		if err != nil {
			t.Fatal(err)
		}
		stored = append(stored, b.Stored)
		if b.At == at[5] {
			break
		}
	}
	if !slices.IsSortedFunc(stored, time.Time.Compare) || !stored[3].Equal(ahead) || !stored[5].Equal(ahead) {
		t.Errorf("stored at %v", stored)
	}
	for i, want := range map[time.Duration]int{-time.Minute: 2, 0: 2, time.Minute: 5} {
		if got, err := s.Seek(t.Context(), "0", ahead.Add(i)); err != nil || got != at[want] {
			t.Errorf("Seek(%s) = %q, %v; want %q", i, got, err, at[want])
		}
	}
	if last, err := s.Last(t.Context(), "0", "source/a"); err != nil || !last.Stored.Equal(ahead) {
		t.Errorf("Last was stored at %s, %v", last.Stored, err)
	}
	// It is kept when the program starts again.
	x.close(t)
	s = x.open(t)
	if _, err := s.Append(t.Context(), "0", at[5], encode(t, "source/a", 7, nil)); err != nil {
		t.Fatal(err)
	}
	if last, err := s.Last(t.Context(), "0", "source/a"); err != nil || last.Stored.Before(ahead) {
		t.Errorf("after opening again, Last was stored at %s, %v", last.Stored, err)
	}
}

// TestAllocations bounds what a block costs, all of the server's work for it included.
func TestAllocations(t *testing.T) {
	x := newEmbedded(t, millracetest.StreamOptions{Partitions: 1})
	b := encode(t, "source/a", 1, noise(1000))
	at := millrace.Position{}
	n := testing.AllocsPerRun(300, func() {
		var err error
		if at, err = x.s.Append(t.Context(), "0", at, b); err != nil {
			t.Fatal(err)
		}
	})
	if t.Logf("%.0f allocations an append", n); n > 100 {
		t.Errorf("%.0f allocations an append", n)
	}
	blocks := 0
	n = testing.AllocsPerRun(5, func() {
		for b, err := range x.s.Read(t.Context(), "0", millrace.Position{}) {
			if err != nil {
				t.Fatal(err)
			}
			if blocks++; b.At == at {
				break
			}
		}
	}) / float64(blocks/6)
	if t.Logf("%.0f allocations a block read", n); n > 80 {
		t.Errorf("%.0f allocations a block read", n)
	}
}

func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "millrace")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = os.RemoveAll(dir) }()
	e, err := nats.Open(ctx, nats.Options{DataDir: dir, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = e.Close() }()
	s, err := e.Stream(ctx, "positions", nats.StreamConfig{Partitions: 1})
	if err != nil {
		fmt.Println(err)
		return
	}

	var builder block.Builder
	_ = builder.Add(&millrace.Event{ID: "1", Key: "y1", Data: []byte(`{"lat":42.36}`)})
	b, _ := builder.Encode(nil, millrace.Header{Producer: "source/buses", Flush: 1, Commit: true, Cursor: "1"})
	if _, err := s.Append(ctx, "0", millrace.Position{}, b); err != nil {
		fmt.Println(err)
		return
	}
	for b, err := range s.Read(ctx, "0", millrace.Position{}) {
		if err != nil {
			fmt.Println(err)
			return
		}
		events, _ := block.Events(b.Raw)
		fmt.Println(b.Header.Producer, b.Header.Cursor, events[0].Key, string(events[0].Data))
		break
	}
	// Output: source/buses 1 y1 {"lat":42.36}
}

// TestFromLeader looks up a block as in a cluster, where replicas may lag.
func TestFromLeader(t *testing.T) {
	x := newEmbedded(t, millracetest.StreamOptions{Partitions: 1})
	want := encode(t, "source/a", 1, noise(1000))
	at, err := x.s.Append(t.Context(), "0", millrace.Position{}, want)
	if err != nil {
		t.Fatal(err)
	}
	seq, data, err := nats.LastFromLeader(t.Context(), x.s, "0", "source/a")
	if _, n, _ := millrace.ParseBlockName(at.Block); err != nil || seq != n || !bytes.Equal(data, want.Raw) {
		t.Errorf("got message %d of %d bytes, %v", seq, len(data), err)
	}
	if _, _, err := nats.LastFromLeader(t.Context(), x.s, "0", "source/b"); err == nil || !strings.Contains(err.Error(), "no such message") {
		t.Errorf("a producer without blocks: %v", err)
	}
}

// TestRefusedByServer asks a single server for replicas.
func TestRefusedByServer(t *testing.T) {
	_, url := startServer(t, t.TempDir())
	o := externalOptions(t, url)
	o.Config.NATS.Replicas = 3
	_, err := openEngine(t, o).Stream(t.Context(), "positions", nats.StreamConfig{Partitions: 1})
	if millrace.CodeOf(err) == "" || !strings.Contains(err.Error(), "replicas") {
		t.Errorf("got %v", err)
	}
	o.Config.NATS.Credentials = filepath.Join(t.TempDir(), "missing.creds")
	_, err = nats.Open(t.Context(), o)
	wantError(t, err, millrace.Invalid, "missing.creds")
}

// FuzzEscape keeps distinct names distinct, and makes tokens of them.
func FuzzEscape(f *testing.F) {
	f.Add("source/buses", "source.buses")
	f.Add("a=2eb", "a.b")
	f.Add("*", ">")
	f.Add("A", "a")
	f.Fuzz(func(t *testing.T, a, b string) {
		for _, token := range []bool{true, false} {
			x, y := nats.Escape(a, token), nats.Escape(b, token)
			if (x == y) != (a == b) || !token && strings.EqualFold(x, y) != (a == b) {
				t.Errorf("%q and %q become %q and %q", a, b, x, y)
			}
			if strings.ContainsAny(x, ".*> \t\r\n\x00") || !token && strings.ContainsAny(x, "/\\:") {
				t.Errorf("%q becomes %q", a, x)
			}
		}
	})
}

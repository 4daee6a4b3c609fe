package archive_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/archive"
	"github.com/millrace/millrace/block"
	"github.com/millrace/millrace/millracetest"
	"github.com/millrace/millrace/objectstore/disk"
	"github.com/millrace/millrace/stream/memory"
)

var errCrashed = millrace.Errorf(millrace.Internal, "crash", "this life is over")

// life is one life of an archive. After its end nothing that it does has an effect.
type life struct {
	over  atomic.Bool
	steps atomic.Int32 // how many are left
	mu    sync.Mutex
	rand  *rand.Rand
}

func (l *life) step(string) {
	if l.steps.Add(-1) == 0 {
		l.over.Store(true)
	}
}

// chance is true once in n times.
func (l *life) chance(n int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rand.IntN(n) == 0
}

// act has an effect, unless life is over before, or ends right after without anyone being told. Now and
// then the outcome is not known.
func (l *life) act(effect func() error) error {
	switch {
	case l.over.Load():
		return errCrashed
	case l.chance(20):
		return millrace.Errorf(millrace.Unavailable, "act", "it was not done, which is not known")
	}
	err := effect()
	switch {
	case l.chance(20):
		l.over.Store(true)
		return errCrashed
	case err == nil && l.chance(20):
		return millrace.Errorf(millrace.Unavailable, "act", "it was done, which is not known")
	}
	return err
}

type mortalState struct {
	millrace.State
	*life
}

func (s mortalState) Save(ctx context.Context, name string, version uint64, write func(io.Writer) error) (saved uint64, err error) {
	err = s.act(func() error { saved, err = s.State.Save(ctx, name, version, write); return err })
	return saved, err
}

// mortalStore also sees that what is put under a key is the same each time, also over lives.
type mortalStore struct {
	millrace.ObjectStore
	*life
	t      *testing.T
	bodies *sync.Map
}

func (s mortalStore) Put(ctx context.Context, key string, body func() (io.ReadCloser, error), o millrace.PutOptions) error {
	r, err := body()
	if err != nil {
		return err
	}
	b, _ := io.ReadAll(r)
	if before, put := s.bodies.LoadOrStore(key, b); put && !bytes.Equal(before.([]byte), b) {
		s.t.Errorf("object %q is put again with other bytes", key)
	}
	return s.act(func() error { return s.ObjectStore.Put(ctx, key, body, o) })
}

// TestCrashes ends the archive's life at every step and between steps, over and over, while events come
// in, blocks are trimmed and the configuration changes. MILLRACE_CRASH_SEEDS=500 tries more.
func TestCrashes(t *testing.T) {
	seeds := 4
	if n, err := strconv.Atoi(os.Getenv("MILLRACE_CRASH_SEEDS")); err == nil {
		seeds = n
	}
	for seed := range seeds {
		t.Run(strconv.Itoa(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { crashes(t, rand.New(rand.NewPCG(uint64(seed), 1))) })
		})
	}
}

func crashes(t *testing.T, random *rand.Rand) {
	const partitions, lives = 2, 25
	b := newBench(t, memory.Options{Partitions: partitions, Retention: memory.Retention{Age: time.Minute}})
	b.config.Prefix = "data/!{timestamp:dd/HH/mm/ss}/"
	if random.IntN(2) == 0 {
		b.config.Prefix += "!{firehose:random-string}/"
	}
	sent := make([]int, partitions)
	var bodies sync.Map
	ended := map[string]int{}
	for n := range lives {
		last := n == lives-1
		now := &life{rand: rand.New(rand.NewPCG(random.Uint64(), 1))}
		if !last && random.IntN(3) > 0 {
			now.steps.Store(1 + random.Int32N(30))
		}
		b.config.Buffer = archive.Buffer{Size: 1 + random.Int64N(3000), Interval: time.Duration(random.IntN(20)) * time.Second}
		b.config.Compression = []string{"none", "gzip"}[random.IntN(2)]
		b.change = func(o *archive.Options) {
			o.Step = now.step
			o.State, o.To = mortalState{b.state, now}, mortalStore{b.store, now, t, &bodies}
			if last {
				o.State, o.To = b.state, b.store
			}
		}
		b.stream = b.stream.Reopen() // holds do not outlive the process
		a := b.new()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		if err := a.Hold(ctx); err != nil && !now.over.Load() {
			t.Fatal(err)
		}
		held := !now.over.Load()
		go func() { done <- a.Run(ctx) }()
		for range random.IntN(30) {
			if now.over.Load() {
				break
			}
			switch random.IntN(5) {
			case 0:
				time.Sleep(time.Duration(random.IntN(8000)) * time.Millisecond)
			case 1:
				if held {
					if err := b.stream.Trim(ctx); err != nil {
						t.Fatal(err)
					}
					b.newest(partitions)
				}
			default:
				p := random.IntN(partitions)
				sent[p] = b.appendNumbered(p, sent[p], random.IntN(40)-5, random)
			}
		}
		switch {
		case last: // is stopped properly
		case random.IntN(4) == 0:
			now.over.Store(true)
		}
		cancel()
		switch err := <-done; {
		case err == nil:
			ended["well"]++
		case errors.Is(err, errCrashed):
			ended["crashed"]++
		default:
			t.Errorf("life %d: %v", n, err)
		}
	}
	t.Logf("%d events in %d objects over lives that ended: %v", sent[0]+sent[1], len(b.objects("data/")), ended)
	b.ledger(sent)
	b.want("errors/")
}

// newest learns which empty blocks trimming has appended.
func (b *bench) newest(partitions int) {
	for p := range partitions {
		last, err := b.stream.Last(b.t.Context(), strconv.Itoa(p), "test")
		if err == nil {
			b.after[strconv.Itoa(p)] = last.At
		}
	}
}

// appendNumbered appends one block of n events, numbered from next on; none if n is not positive.
func (b *bench) appendNumbered(partition, next, n int, random *rand.Rand) int {
	b.t.Helper()
	var builder block.Builder
	for range max(n, 0) {
		line := fmt.Appendf(nil, `{"p":%d,"n":%d,"x":"%s"}`, partition, next, strings.Repeat("x", random.IntN(100)))
		if random.IntN(10) == 0 {
			line = bytes.ReplaceAll(line, []byte(","), []byte(",\n"))
		}
		if err := builder.Add(&millrace.Event{Data: line}); err != nil {
			b.t.Fatal(err)
		}
		next++
	}
	encoded, err := builder.Encode(nil, millrace.Header{Producer: "test"})
	if err != nil {
		b.t.Fatal(err)
	}
	b.appendBlock(strconv.Itoa(partition), encoded)
	return next
}

// ledger checks that the archive has each partition's events from 0 on, once and in order.
func (b *bench) ledger(sent []int) {
	b.t.Helper()
	next := make([]int, len(sent))
	objects := millracetest.ReadArchive(b.t, b.store, "data/")
	slices.SortFunc(objects, func(x, y millracetest.ArchivedObject) int { // prefixes may be random
		return cmp.Compare(path.Base(x.Key), path.Base(y.Key))
	})
	for _, o := range objects {
		for _, line := range o.Lines {
			var e struct{ P, N int }
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				b.t.Fatalf("%s: %q: %v", o.Key, line, err)
			}
			if e.N != next[e.P] {
				b.t.Fatalf("%s: event %d of partition %d comes where %d is due", o.Key, e.N, e.P, next[e.P])
			}
			next[e.P]++
		}
	}
	for p, n := range sent {
		if next[p] != n {
			b.t.Errorf("partition %d: %d events are archived, %d were sent", p, next[p], n)
		}
	}
}

// TestCutCannotBeRepeated crashes after a cut was recorded, and then its events are lost.
func TestCutCannotBeRepeated(t *testing.T) {
	crash := func(t *testing.T) *bench {
		b := newBench(t, memory.Options{Retention: memory.Retention{Age: time.Hour}})
		b.append("1")
		b.drain()
		b.append("2")
		now := &life{rand: rand.New(rand.NewPCG(1, 1))}
		b.change = func(o *archive.Options) {
			o.To = deadStore{o.To}
			o.Step = now.step
		}
		if err := b.run()(); !errors.Is(err, errCrashed) {
			t.Fatal(err)
		}
		if b.record()["cut"] == nil {
			t.Fatal("no cut is recorded")
		}
		b.change = func(*archive.Options) {}
		return b
	}
	t.Run("trimmed", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := crash(t)
			b.append("3")
			time.Sleep(2 * time.Hour)
			b.append("4")
			b.stream.Release("0", "archive/test")
			if err := b.stream.Trim(t.Context()); err != nil {
				t.Fatal(err)
			}
			b.drain()
			b.want("data/", "1", "4")
			if got := b.objects("errors/gap/"); len(got) != 1 {
				t.Errorf("the gap's objects are %q", got)
			}
		})
	})
	t.Run("truncated", func(t *testing.T) {
		b := crash(t)
		b.stream.Truncate("0", millrace.Position{Block: millrace.BlockName("life1", 1), Event: 1})
		if err := b.new().Run(t.Context()); millrace.CodeOf(err) != millrace.Internal || !strings.Contains(err.Error(), "lost its tail") {
			t.Errorf("Run: %v, want internal", err)
		}
	})
	t.Run("replaced", func(t *testing.T) {
		b := crash(t)
		b.stream.Truncate("0", millrace.Position{Block: millrace.BlockName("life1", 1), Event: 1})
		b.newest(1)
		b.append("other")
		if err := b.new().Run(t.Context()); millrace.CodeOf(err) != millrace.Internal || !strings.Contains(err.Error(), "is not what it was") {
			t.Errorf("Run: %v, want internal", err)
		}
		b.want("data/", "1")
	})
	t.Run("new incarnation", func(t *testing.T) {
		b := crash(t)
		b.stream = memory.New("events", memory.Options{Incarnation: "life2"})
		b.after = map[string]millrace.Position{}
		b.append("3")
		b.drain()
		b.want("data/", "1", "3")
		if got := b.objects("errors/gap/"); len(got) != 1 {
			t.Errorf("the gap's objects are %q", got)
		}
	})
	t.Run("only new incarnation", func(t *testing.T) { // the position is the start, where no gap is told
		b := newBench(t, memory.Options{})
		b.append("1")
		b.change = func(o *archive.Options) { o.To = deadStore{o.To} }
		if err := b.run()(); !errors.Is(err, errCrashed) {
			t.Fatal(err)
		}
		b.change = func(*archive.Options) {}
		b.stream = memory.New("events", memory.Options{Incarnation: "life2"})
		b.after = map[string]millrace.Position{}
		b.drain() // also while it is empty
		b.append("2")
		b.drain()
		b.want("data/", "2")
	})
}

type deadStore struct{ millrace.ObjectStore }

func (deadStore) Put(context.Context, string, func() (io.ReadCloser, error), millrace.PutOptions) error {
	return errCrashed
}

// TestKill kills a process again and again while it archives a stream.
func TestKill(t *testing.T) {
	if dir := os.Getenv("MILLRACE_ARCHIVE_KILLED"); dir != "" {
		killed(t, dir)
		return
	}
	if testing.Short() {
		t.Skip("takes seconds")
	}
	dir := t.TempDir()
	random := rand.New(rand.NewPCG(1, 1))
	kills, ends := 0, 0
	for ends == 0 {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKill$")
		cmd.Env = append(os.Environ(), "MILLRACE_ARCHIVE_KILLED="+dir)
		var output bytes.Buffer
		cmd.Stderr = &output
		ready, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := ready.Read(make([]byte, 1)); err != nil {
			t.Fatalf("the child says nothing: %v\n%s", err, &output)
		}
		if kills < 6 {
			time.AfterFunc(time.Duration(random.IntN(30_000))*time.Microsecond, func() { _ = cmd.Process.Kill() })
		}
		rest, _ := io.ReadAll(ready)
		switch err := cmd.Wait(); {
		case err == nil:
			ends++
		case cmd.ProcessState.ExitCode() == -1:
			kills++
		default:
			t.Fatalf("the child: %v\n%s%s", err, rest, &output)
		}
	}
	store, err := disk.Open(filepath.Join(dir, "archive"))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	b := &bench{t: t, store: store}
	t.Logf("%d kills, %d objects", kills, len(b.objects("data/")))
	b.ledger([]int{killedBlocks * 20})
}

const killedBlocks = 400

// killed is the process that is killed. Its stream comes out the same each time.
func killed(t *testing.T, dir string) {
	clock := millracetest.NewClock()
	b := &bench{t: t, after: map[string]millrace.Position{}, stream: memory.New("events", memory.Options{
		Incarnation: "life1", Now: func() time.Time { return clock.Advance(time.Second) },
	})}
	random := rand.New(rand.NewPCG(7, 7))
	for i := range killedBlocks {
		b.appendNumbered(0, i*20, 20, random)
	}
	store, err := disk.Open(filepath.Join(dir, "archive"))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	b.config.SetDefaults()
	b.config.From, b.config.Prefix = "events", "data/"
	b.config.Buffer = archive.Buffer{Size: 1000 + rand.Int64N(5000), Interval: time.Hour}
	a, err := archive.New("test", b.config, archive.Options{From: b.stream, To: store, State: fileState(filepath.Join(dir, "state")), Now: clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Print("!")
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // drains
	if err := a.Run(ctx); err != nil {
		t.Fatal(err)
	}
}

// fileState keeps one value, in a file whose first line is the version.
type fileState string

func (s fileState) Load(context.Context, string) (io.ReadCloser, uint64, error) {
	b, err := os.ReadFile(string(s))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, millrace.Errorf(millrace.NotFound, "load state", "%w", err)
	}
	if err != nil {
		return nil, 0, err
	}
	line, rest, _ := bytes.Cut(b, []byte("\n"))
	version, err := strconv.ParseUint(string(line), 10, 64)
	return io.NopCloser(bytes.NewReader(rest)), version, err
}

func (s fileState) Save(ctx context.Context, name string, version uint64, write func(io.Writer) error) (uint64, error) {
	if _, newest, _ := s.Load(ctx, name); newest != version {
		return 0, millrace.Errorf(millrace.Conflict, "save state", "version %d, not %d", newest, version)
	}
	var b bytes.Buffer
	fmt.Fprintln(&b, version+1)
	if err := write(&b); err != nil {
		return 0, err
	}
	if err := os.WriteFile(string(s)+".new", b.Bytes(), 0o600); err != nil {
		return 0, err
	}
	return version + 1, os.Rename(string(s)+".new", string(s))
}

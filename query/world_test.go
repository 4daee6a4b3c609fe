package query

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
	"github.com/millrace/millrace/millracetest"
	"github.com/millrace/millrace/query/fence"
	"github.com/millrace/millrace/stream/memory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is what outlives a process: the streams and the state, and what the test knows of them.
type world struct {
	t          testing.TB
	from       *memory.Stream
	into, dead *memory.Stream
	state      *memory.State
	config     Config
	options    Options // for every life
	after      map[string]millrace.Position
	flush      uint64
	sent       map[string][]millrace.Event // by partition
	sentAt     map[string][]millrace.Position
}

// rectangle is a fence of the tests.
type rectangle struct {
	id             string
	x0, y0, x1, y1 int
}

// overlapping fences on a field of 10 by 10.
var overlapping = []rectangle{{"west", 0, 0, 4, 10}, {"middle", 3, 2, 7, 8}, {"east", 6, 0, 10, 10}, {"hut", 8, 8, 9, 9}}

func (r rectangle) contains(x, y float64) bool {
	return x >= float64(r.x0) && x < float64(r.x1) && y >= float64(r.y0) && y < float64(r.y1)
}

func fencesFile(t testing.TB, fences []rectangle) string {
	var features []string
	for _, r := range fences {
		features = append(features, fmt.Sprintf(`{"type":"Feature","id":%q,"geometry":{"type":"Polygon","coordinates":[[[%d,%d],[%d,%d],[%d,%d],[%d,%d],[%d,%d]]]}}`,
			r.id, r.x0, r.y0, r.x1, r.y0, r.x1, r.y1, r.x0, r.y1, r.x0, r.y0))
	}
	path := filepath.Join(t.TempDir(), "fences.geojson")
	if err := os.WriteFile(path, []byte(`{"type":"FeatureCollection","features":[`+strings.Join(features, ",")+`]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// newWorld makes streams of so many partitions.
func newWorld(t testing.TB, in, out int) *world {
	return &world{
		t:     t,
		from:  memory.New("positions", memory.Options{Partitions: in}),
		into:  memory.New("crossings", memory.Options{Partitions: out}),
		dead:  memory.New("dead", memory.Options{}),
		state: memory.NewState(),
		config: Config{From: "positions", Into: "crossings", Fence: &fence.Config{
			Fences: fencesFile(t, overlapping), Lat: "p.y", Lon: "p.x", Detect: []string{"enter", "exit"},
		}},
		after:  map[string]millrace.Position{},
		sent:   map[string][]millrace.Event{},
		sentAt: map[string][]millrace.Position{},
	}
}

var begin = time.Date(2026, 11, 21, 8, 0, 0, 0, time.UTC)

// position is an event of a key at a place of the field, some seconds after begin.
func position(seconds float64, key string, x, y float64) millrace.Event {
	return millrace.Event{
		ID: fmt.Sprint(key, seconds), Key: key, Time: begin.Add(time.Duration(seconds * float64(time.Second))),
		Data: fmt.Appendf(nil, `{"p":{"x":%v,"y":%v}}`, x, y),
	}
}

// send appends events as one block for each partition that they belong to.
func (w *world) send(events ...millrace.Event) {
	w.t.Helper()
	partitions, err := w.from.Partitions(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	for _, p := range partitions {
		var b block.Builder
		var mine []millrace.Event
		for i := range events {
			if p.Contains(millrace.HashKey(events[i].Key)) {
				mine = append(mine, events[i])
				if err := b.Add(&events[i]); err != nil {
					w.t.Fatal(err)
				}
			}
		}
		if len(mine) > 0 || len(events) == 0 {
			w.append(p.Name, &b)
		}
		for i := range mine {
			w.sent[p.Name] = append(w.sent[p.Name], mine[i])
			w.sentAt[p.Name] = append(w.sentAt[p.Name], millrace.Position{Block: w.after[p.Name].Block, Event: uint32(i) + 1})
		}
	}
}

func (w *world) append(partition string, b *block.Builder) {
	w.t.Helper()
	w.flush++
	encoded, err := b.Encode(nil, millrace.Header{Producer: "test", Writer: [16]byte{1}, Flush: w.flush, Commit: true})
	if err == nil {
		var at millrace.Position
		if at, err = w.from.Append(context.Background(), partition, w.after[partition], encoded); err == nil {
			w.after[partition] = at
		}
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// expected are the results of all that was sent, by key, as a program finds them that knows no index, no
// partitions and no restarts: "id key transition fence time x y".
func (w *world) expected(fences []rectangle) map[string][]string {
	want := map[string][]string{}
	for partition, events := range w.sent {
		type known struct {
			time time.Time
			x, y float64
		}
		newest := map[string]known{}
		for i, e := range events {
			var data struct{ P struct{ X, Y *float64 } }
			_ = json.Unmarshal(e.Data, &data)
			before, seen := newest[e.Key]
			if seen && e.Time.Before(before.time) || !e.Deleted && (data.P.X == nil || data.P.Y == nil || *data.P.Y > 90) {
				continue
			}
			now := known{time: e.Time}
			if e.Deleted {
				now.x, now.y = before.x, before.y
			} else {
				now.x, now.y = *data.P.X, *data.P.Y
			}
			n := 0
			for _, transition := range []string{"exit", "enter"} {
				for _, f := range fences {
					was := seen && f.contains(before.x, before.y)
					is := !e.Deleted && f.contains(now.x, now.y)
					if was != is && is == (transition == "enter") {
						want[e.Key] = append(want[e.Key], fmt.Sprintf("%s/%s/%d %s %s %s %s %v %v", partition, w.sentAt[partition][i], n, e.Key,
							transition, f.id, e.Time.Format(time.RFC3339Nano), now.x, now.y))
						n++
					}
				}
			}
			newest[e.Key] = now
			if e.Deleted {
				delete(newest, e.Key)
			}
		}
	}
	return want
}

// found are the results in the output, by key, in its order.
func (w *world) found() map[string][]string {
	w.t.Helper()
	got := map[string][]string{}
	for _, e := range events(w.t, w.into) {
		var data struct {
			Key, Fence, Transition string
			Time                   string
			Lat, Lon               float64
		}
		if err := json.Unmarshal(e.Data, &data); err != nil || data.Key != e.Key || data.Transition != e.Type || data.Time != e.Time.Format(time.RFC3339Nano) {
			w.t.Fatalf("%+v: %v", e, err)
		}
		got[e.Key] = append(got[e.Key], fmt.Sprintf("%s %s %s %s %s %v %v", e.ID, data.Key, data.Transition, data.Fence, data.Time, data.Lon, data.Lat))
	}
	return got
}

// blocks returns what a stream holds, partition after partition.
func blocks(t testing.TB, s millrace.Stream) []millrace.StoredBlock {
	t.Helper()
	partitions, err := s.Partitions(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	var found []millrace.StoredBlock
	for _, p := range partitions {
		first, end, err := s.Bounds(context.Background(), p.Name)
		if err != nil {
			t.Fatal(err)
		}
		if end.IsStart() {
			continue
		}
		for b, err := range s.Read(context.Background(), p.Name, first) {
			if err != nil {
				t.Fatal(err)
			}
			found = append(found, b)
			if b.At.Compare(end) >= 0 {
				break
			}
		}
	}
	return found
}

func events(t testing.TB, s millrace.Stream) []millrace.Event {
	t.Helper()
	var found []millrace.Event
	for _, b := range blocks(t, s) {
		events, err := block.Events(b.Raw)
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, events...)
	}
	return found
}

// check compares the output with what brute force finds.
func (w *world) check(fences []rectangle) {
	w.t.Helper()
	want, got := w.expected(fences), w.found()
	for key := range got {
		if want[key] == nil {
			w.t.Errorf("%s: unexpected results %q", key, got[key])
		}
	}
	for key := range want {
		if !slices.Equal(got[key], want[key]) {
			w.t.Errorf("%s: got\n%s\nwant\n%s", key, strings.Join(got[key], "\n"), strings.Join(want[key], "\n"))
		}
	}
}

// life is one run of the query.
type life struct {
	w      *world
	faults *millracetest.Faults
	cancel context.CancelFunc
	done   chan error
}

// start runs the query; change may alter its options.
func (w *world) start(faults *millracetest.Faults, change func(*Options)) *life {
	w.t.Helper()
	if faults == nil {
		faults = millracetest.NewFaults(nil)
	}
	o := w.options
	o.From, o.Into, o.Dead, o.State = faults.Stream(w.from), faults.Stream(w.into), faults.Stream(w.dead), &faultyState{State: w.state, faults: faults}
	if change != nil {
		change(&o)
	}
	q, err := New("test", w.config, o)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	l := &life{w: w, faults: faults, cancel: cancel, done: make(chan error, 1)}
	go func() { l.done <- q.Run(ctx) }()
	return l
}

// stop ends the life cleanly, or waits for its end if it has crashed.
func (l *life) stop() error {
	l.cancel()
	return <-l.done
}

// settle waits until the query has done what there is to do.
func (l *life) settle() { synctest.Wait() }

// walk makes n positions of some keys that wander over the field, at times late, deleted or malformed.
func walk(r *rand.Rand, n int, keys int, clock *float64) []millrace.Event {
	var events []millrace.Event
	for range n {
		*clock += r.Float64()
		e := position(*clock, fmt.Sprint("v", r.IntN(keys)), float64(r.IntN(24))/2-1, float64(r.IntN(24))/2-1)
		switch r.IntN(30) {
		case 0:
			e.Time = e.Time.Add(-time.Duration(r.IntN(60)) * time.Second)
		case 1:
			e.Deleted, e.Data = true, nil
		case 2:
			e.Data = []byte(`{"p":{"x":1}}`)
		}
		events = append(events, e)
	}
	return events
}

// faultyState fails as it is told, and with the process.
type faultyState struct {
	millrace.State
	faults *millracetest.Faults
	next   func() millracetest.Fault
}

func (s *faultyState) dead() error {
	select {
	case <-s.faults.Crashed():
		return millrace.Errorf(millrace.Internal, "reach state", "the process has crashed")
	default:
		return nil
	}
}

func (s *faultyState) Load(ctx context.Context, name string) (io.ReadCloser, uint64, error) {
	if err := s.dead(); err != nil {
		return nil, 0, err
	}
	return s.State.Load(ctx, name)
}

func (s *faultyState) Save(ctx context.Context, name string, version uint64, write func(io.Writer) error) (uint64, error) {
	if err := s.dead(); err != nil {
		return 0, err
	}
	fault := millracetest.NoFault
	if s.next != nil {
		fault = s.next()
	}
	switch fault {
	case millracetest.Refuse:
		return 0, millrace.Errorf(millrace.Unavailable, "save", "refused by the test")
	case millracetest.Crash:
		s.faults.Crash()
		return 0, s.dead()
	}
	version, err := s.State.Save(ctx, name, version, write)
	switch fault {
	case millracetest.LoseReply:
		return 0, millrace.Errorf(millrace.Unavailable, "save", "the reply was lost")
	case millracetest.CrashAfter:
		s.faults.Crash()
		return 0, s.dead()
	}
	return version, err
}

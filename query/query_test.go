package query

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
	"github.com/millrace/millrace/millracetest"
	"github.com/millrace/millrace/query/fence"
	"github.com/millrace/millrace/stream/memory"
)

// TestRun: several partitions in, another number out; results as soon as their positions are there.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 4, 3)
		l := w.start(nil, nil)
		r := rand.New(rand.NewPCG(1, 2))
		clock := 0.0
		for range 30 {
			w.send(walk(r, 40, 20, &clock)...)
			l.settle()
			w.check(overlapping)
		}
		if err := l.stop(); err != nil {
			t.Fatal(err)
		}
		if got := w.found(); len(got) != 20 {
			t.Errorf("results for %d keys", len(got))
		}
	})
}

// TestRestart: after a clean end nothing is replayed, and after a crash no more than since the last snapshot.
func TestRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 1)
		w.options.SnapshotEvents = 40
		r := rand.New(rand.NewPCG(1, 3))
		clock := 0.0
		lives := func(end func(*life)) map[string]float64 {
			t.Helper()
			registry := prometheus.NewRegistry()
			l := w.start(nil, func(o *Options) { o.Metrics = NewMetrics(registry) })
			for range 10 {
				w.send(walk(r, 11, 5, &clock)...)
				l.settle()
			}
			end(l)
			return gather(t, registry)
		}
		clean := func(l *life) {
			if err := l.stop(); err != nil {
				t.Fatal(err)
			}
		}
		if m := lives(clean); m["millrace_query_replayed_events_total"] != 0 || m["millrace_query_events_total"] != 110 {
			t.Errorf("at first: %v", m)
		}
		crash := func(l *life) { l.faults.Crash(); _ = l.stop() }
		if m := lives(crash); m["millrace_query_replayed_events_total"] != 0 || m["millrace_query_events_total"] != 110 {
			t.Errorf("after a clean end: %v", m)
		}
		if m := lives(clean); m["millrace_query_replayed_events_total"] != 22 || m["millrace_query_late_total"] == 0 {
			t.Errorf("after a crash: %v", m)
		}
		w.check(overlapping)
	})
}

// TestQuietInput: positions that make no results move the cursor with each snapshot, and without positions
// nothing is written at all.
func TestQuietInput(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 1)
		l := w.start(nil, nil)
		l.settle()
		before := len(blocks(t, w.into))
		for i := range 100 {
			w.send(position(float64(i), "a", -1, -1))
			l.settle()
		}
		if n := len(blocks(t, w.into)); n != before {
			t.Errorf("%d blocks for positions without results", n-before)
		}
		time.Sleep(11 * time.Second)
		l.settle()
		found := blocks(t, w.into)
		last := found[len(found)-1]
		if len(found) != before+1 || last.Header.Cursor != millrace.Cursor(w.after["0"].String()) {
			t.Errorf("%d blocks after a snapshot; the cursor is %q, want %q", len(found)-before, last.Header.Cursor, w.after["0"])
		}
		w.send() // a block without events
		time.Sleep(time.Hour)
		l.settle()
		if n := len(blocks(t, w.into)); n != before+1 {
			t.Errorf("%d blocks while there was no input", n-before-1)
		}
		if _, version, _ := w.state.Load(t.Context(), "query/test/0"); version != 1 {
			t.Errorf("%d snapshots", version)
		}
		if err := l.stop(); err != nil {
			t.Fatal(err)
		}
	})
}

// TestHold: the input is kept from the newest snapshot on.
func TestHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 1)
		w.from = memory.New("positions", memory.Options{Retention: memory.Retention{Age: time.Minute}})
		first := func() millrace.Position {
			t.Helper()
			if err := w.from.Trim(t.Context()); err != nil {
				t.Fatal(err)
			}
			first, _, err := w.from.Bounds(t.Context(), "0")
			if err != nil {
				t.Fatal(err)
			}
			return first
		}
		w.send(position(0, "a", 1, 1))
		time.Sleep(time.Hour)
		l := w.start(nil, func(o *Options) { o.SnapshotEvery = 24 * time.Hour })
		l.settle()
		time.Sleep(time.Hour)
		if at := first(); !at.IsStart() {
			t.Errorf("trimmed to %q before the first snapshot", at)
		}
		time.Sleep(24 * time.Hour)
		l.settle()
		if at := first(); at != w.after["0"] {
			t.Errorf("trimmed to %q after the snapshot, want %q", at, w.after["0"])
		}
		saved := w.after["0"]
		w.after["0"] = lastBlock(t, w.from) // trimming appended the cursor again
		w.send(position(1, "a", 5, 5))
		l.settle()
		time.Sleep(time.Hour)
		if at := first(); at != saved {
			t.Errorf("trimmed to %q, beyond the snapshot", at)
		}
		if err := l.stop(); err != nil {
			t.Fatal(err)
		}
		w.check(overlapping)
	})
}

func lastBlock(t *testing.T, s millrace.Stream) millrace.Position {
	t.Helper()
	b, err := s.Last(t.Context(), "0", "test")
	if err != nil {
		t.Fatal(err)
	}
	return b.At
}

// prepared is a world in which a query has run and crashed, with a snapshot in the middle of what it has
// emitted.
func prepared(t *testing.T, clean bool) *world {
	w := newWorld(t, 1, 1)
	r := rand.New(rand.NewPCG(4, 4))
	clock := 0.0
	l := w.start(nil, nil)
	w.send(walk(r, 50, 5, &clock)...)
	l.settle()
	w.send(walk(r, 50, 5, &clock)...)
	l.settle()
	time.Sleep(11 * time.Second) // a snapshot
	for range 5 {
		w.send(walk(r, 20, 5, &clock)...)
	}
	l.settle()
	if !clean {
		l.faults.Crash()
	}
	_ = l.stop()
	w.send(walk(r, 50, 5, &clock)...)
	w.check2(t)
	return w
}

// check2 says that all but the newest 50 events have results.
func (w *world) check2(t *testing.T) {
	t.Helper()
	all := w.sent["0"]
	w.sent["0"] = all[:200]
	w.check(overlapping)
	w.sent["0"] = all
}

// TestRecovery starts a query again after something was done to its world.
func TestRecovery(t *testing.T) {
	for name, test := range map[string]struct {
		before func(*world)
		clean  bool   // the query ended cleanly before
		want   string // of the error, "" for success
		logged string
		check  func(*testing.T, *world)
	}{
		"nothing": {
			before: func(*world) {},
			check:  func(t *testing.T, w *world) { w.check(overlapping) },
		},
		"the snapshot is gone": {
			before: func(w *world) { w.state = memory.NewState() },
			logged: "there is no snapshot of the query; it reads its input from the start",
			check:  func(t *testing.T, w *world) { w.check(overlapping) },
		},
		"the snapshot is damaged": {
			before: func(w *world) { w.damageSnapshot(t) },
			logged: "the query's snapshot is damaged; it reads its input from the start",
			check:  func(t *testing.T, w *world) { w.check(overlapping) },
		},
		"the output is new": {
			before: func(w *world) { w.into = memory.New("crossings", memory.Options{Partitions: 2}) },
			logged: "has nothing of it; it computes all results anew",
			check:  func(t *testing.T, w *world) { w.check(overlapping) },
		},
		"the output has lost its tail": {
			before: func(w *world) {
				for _, b := range blocks(t, w.into) {
					if b.Header.Events > 0 {
						w.into.Truncate("0", b.At)
						break
					}
				}
			},
			want: `stream "crossings" has lost its tail: the snapshot of "query/test/0" is at `,
		},
		"the input has lost its tail": {
			before: func(w *world) { w.from.Truncate("0", w.sentAt["0"][150]) },
			want:   `stream "positions" has lost its tail: the query has emitted results up to `,
		},
		"the input has lost its tail, which the snapshot has": {
			before: func(w *world) {
				w.from.Truncate("0", w.sentAt["0"][0])
				w.from.Truncate("0", millrace.Position{})
			},
			want: `stream "positions" has lost its tail: the query has come to `,
		},
		"the input was trimmed behind the snapshot": {
			before: func(w *world) {
				w.state = memory.NewState()
				w.trim(t, 130)
			},
			logged: "events are gone from the input before the query has read them",
			check: func(t *testing.T, w *world) {
				// What was trimmed is not known any more, but nothing is repeated.
				seen := map[string]bool{}
				for _, e := range events(t, w.into) {
					if seen[e.ID] {
						t.Errorf("%s is there twice", e.ID)
					}
					seen[e.ID] = true
				}
			},
		},
		"the input is a new incarnation": {
			clean: true,
			before: func(w *world) {
				time.Sleep(time.Second)
				w.from = memory.New("positions", memory.Options{})
				clear(w.after)
				old, at := w.sent["0"], w.sentAt["0"]
				w.sent["0"], w.sentAt["0"] = old[:200:200], at[:200:200]
				for _, e := range old[200:] {
					w.send(e)
				}
			},
			logged: "new incarnation",
			check:  func(t *testing.T, w *world) { w.check(overlapping) },
		},
		"another input": {
			before: func(w *world) {
				w.from = memory.New("elsewhere", memory.Options{})
				clear(w.after)
				old := w.sent["0"][200:]
				w.sent["0"], w.sentAt["0"] = nil, nil
				w.send(old...)
				w.into = memory.New("crossings", memory.Options{})
			},
			logged: "the query read another stream before; it starts anew",
			check:  func(t *testing.T, w *world) { w.check(overlapping) },
		},
		"other paths": {
			before: func(w *world) {
				c := *w.config.Fence
				c.Lat, c.Lon = c.Lon, c.Lat
				w.config.Fence = &c
			},
			logged: "the query's snapshot does not fit its configuration; it reads its input from the start",
			check: func(t *testing.T, w *world) {
				if err := w.checkTail(mirror(overlapping)); err != nil {
					t.Error(err)
				}
			},
		},
		"other fences": {
			before: func(w *world) {
				w.config.Fence.Fences = fencesFile(w.t, []rectangle{{"north", 0, 5, 10, 10}, {"middle", 2, 2, 8, 8}})
			},
			check: func(t *testing.T, w *world) {
				if err := w.checkTail([]rectangle{{"north", 0, 5, 10, 10}, {"middle", 2, 2, 8, 8}}); err != nil {
					t.Error(err)
				}
			},
		},
		"a cursor of something else": {
			before: func(w *world) {
				last, err := w.into.Last(t.Context(), "0", "query/test/0")
				if err != nil {
					t.Fatal(err)
				}
				b, err := block.Empty(millrace.Header{Producer: "query/test/0", Flush: 1 << 30, Commit: true, Cursor: "what?"})
				if err != nil {
					t.Fatal(err)
				}
				if _, err := w.into.Append(t.Context(), "0", last.At, b); err != nil {
					t.Fatal(err)
				}
			},
			want: "bear a cursor that is no position",
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := prepared(t, test.clean)
				test.before(w)
				var log bytes.Buffer
				l := w.start(nil, func(o *Options) { o.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
				l.settle()
				err := l.stop()
				switch {
				case test.want == "" && err != nil:
					t.Fatal(err)
				case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want) || millrace.CodeOf(err) != millrace.Internal):
					t.Errorf("got  %v (%s)\nwant %s", err, millrace.CodeOf(err), test.want)
				}
				if !strings.Contains(log.String(), test.logged) {
					t.Errorf("not logged: %s\n%s", test.logged, log.String())
				}
				if test.check != nil {
					test.check(t, w)
					// And it can be started once more.
					again := w.start(nil, nil)
					again.settle()
					if err := again.stop(); err != nil {
						t.Error(err)
					}
					test.check(t, w)
				}
			})
		})
	}
}

func mirror(fences []rectangle) []rectangle {
	var mirrored []rectangle
	for _, f := range fences {
		mirrored = append(mirrored, rectangle{f.id, f.y0, f.x0, f.y1, f.x1})
	}
	return mirrored
}

// checkTail says that the results of the newest 50 events are those of the changed query, as if it had
// followed the keys all the time.
func (w *world) checkTail(fences []rectangle) error {
	tail := map[string]bool{}
	for _, at := range w.sentAt["0"][200:] {
		tail["0/"+at.String()] = true
	}
	in := func(result string) bool { return tail[result[:strings.LastIndex(strings.Fields(result)[0], "/")]] }
	all, got := w.expected(fences), w.found()
	n := 0
	for key := range all {
		want := slices.DeleteFunc(all[key], func(r string) bool { return !in(r) })
		have := slices.DeleteFunc(got[key], func(r string) bool { return !in(r) })
		for i, r := range have { // lat and lon may have changed places
			f := strings.Fields(r)
			have[i] = strings.Join(f[:5], " ")
		}
		for i, r := range want {
			f := strings.Fields(r)
			want[i] = strings.Join(f[:5], " ")
		}
		if !slices.Equal(have, want) {
			return fmt.Errorf("%s: got\n%s\nwant\n%s", key, strings.Join(have, "\n"), strings.Join(want, "\n"))
		}
		n += len(want)
	}
	if n == 0 {
		return fmt.Errorf("no results are expected at all")
	}
	return nil
}

func (w *world) damageSnapshot(t testing.TB) {
	r, version, err := w.state.Load(context.Background(), "query/test/0")
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	_, _ = b.ReadFrom(r)
	b.Bytes()[b.Len()/2] ^= 1
	if _, err := w.state.Save(context.Background(), "query/test/0", version, func(out io.Writer) error {
		_, err := out.Write(b.Bytes())
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// trim makes a stream that has lost the blocks up to the i-th event.
func (w *world) trim(t *testing.T, i int) {
	at := w.sentAt["0"][i]
	kept := memory.New("positions", memory.Options{Retention: memory.Retention{Age: time.Nanosecond}, Incarnation: at.Incarnation()})
	after := millrace.Position{}
	for _, b := range blocks(t, w.from) {
		var err error
		if after, err = kept.Append(t.Context(), "0", after, b.Block); err != nil {
			t.Fatal(err)
		}
		if b.At.Block == at.Block {
			time.Sleep(time.Second)
			kept.Hold("0", "test", at)
			if err := kept.Trim(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	w.from = kept
}

// TestTakenOver: a second process that runs the query takes it over, and the first one ends.
func TestTakenOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 1)
		first := w.start(nil, nil)
		w.send(position(0, "a", 1, 1))
		first.settle()
		second := w.start(nil, nil)
		second.settle()
		w.send(position(1, "a", 5, 5))
		second.settle()
		if err := <-first.done; millrace.CodeOf(err) != millrace.Conflict {
			t.Errorf("the first ended with %v", err)
		}
		if err := second.stop(); err != nil {
			t.Error(err)
		}
		w.check(overlapping)
	})
}

// TestSavingFails: a snapshot that can't be saved, or whose outcome is lost, stops nothing.
func TestSavingFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 1)
		next := []millracetest.Fault{millracetest.Refuse, millracetest.NoFault, millracetest.LoseReply, millracetest.NoFault, millracetest.NoFault, millracetest.Refuse, millracetest.NoFault}
		faults := millracetest.NewFaults(nil)
		l := w.start(faults, func(o *Options) {
			o.State = &faultyState{State: w.state, faults: faults, next: func() (f millracetest.Fault) {
				f, next = next[0], next[1:]
				return f
			}}
		})
		versions := []uint64{0, 1, 2, 3, 3}
		for i, want := range versions {
			w.send(position(float64(i), "a", 1, float64(i)))
			time.Sleep(10 * time.Second)
			l.settle()
			if _, version, _ := w.state.Load(t.Context(), "query/test/0"); version != want {
				t.Errorf("after %d: version %d, want %d", i, version, want)
			}
		}
		if err := l.stop(); err != nil {
			t.Error(err)
		}
		w.check(overlapping)
	})
}

// TestLargeResults: a block whose results are too many for one piece is emitted in pieces, each with the
// cursor it has come to; a crash between two repeats and loses none.
func TestLargeResults(t *testing.T) {
	for _, crashAt := range []int{1, 2, 9} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, 1, 2)
			file, err := os.ReadFile(w.config.Fence.Fences)
			if err != nil {
				t.Fatal(err)
			}
			file = bytes.ReplaceAll(file, []byte(`"geometry"`), fmt.Appendf(nil, `"properties":{"x":%q},"geometry"`, strings.Repeat("x", 100_000)))
			if err := os.WriteFile(w.config.Fence.Fences, file, 0o600); err != nil {
				t.Fatal(err)
			}
			var events []millrace.Event
			for i := range 20 {
				events = append(events, position(float64(i), fmt.Sprint("v", i%3), float64(i%7), 5))
			}
			emitted := 0
			faults := millracetest.NewFaults(nil)
			l := w.start(faults, func(o *Options) {
				o.Step = func(name string) {
					if name == "query.results-emitted" {
						if emitted++; emitted == crashAt {
							faults.Crash()
						}
					}
				}
			})
			w.send(events...)
			l.settle()
			_ = l.stop()
			if crashAt == 9 && emitted < 3 {
				t.Errorf("results were emitted in %d pieces", emitted)
			}
			again := w.start(nil, nil)
			again.settle()
			if err := again.stop(); err != nil {
				t.Fatal(err)
			}
			w.check(overlapping)
		})
	}
}

// TestDeadLetters: what can't be processed is in the dead letters, with the reason.
func TestDeadLetters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 1)
		registry := prometheus.NewRegistry()
		l := w.start(nil, func(o *Options) { o.Metrics = NewMetrics(registry) })
		bad := position(1, "a", 1, 1)
		bad.Data = []byte(`{"p":{"x":1,"y":91}}`)
		w.send(position(0, "a", 1, 1), bad, position(2, "a", 5, 5))
		l.settle()
		if err := l.stop(); err != nil {
			t.Fatal(err)
		}
		w.check(overlapping)
		letters := events(t, w.dead)
		if len(letters) != 1 || letters[0].ID != "query/test/0/0/"+w.sentAt["0"][1].String() || !letters[0].Time.Equal(bad.Time) ||
			!strings.Contains(string(letters[0].Data), `lat: \"p.y\" is 91, not between -90 and 90 degrees`) {
			t.Errorf("%+v", letters)
		}
		m := gather(t, registry)
		if m["millrace_query_rejected_total"] != 1 || m["millrace_query_events_total"] != 3 || m["millrace_query_results_total"] != 3 || m["millrace_query_keys"] != 1 {
			t.Errorf("%v", m)
		}
	})
}

// TestClosedInput: the query ends when its input does.
func TestClosedInput(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, 1)
		l := w.start(nil, nil)
		w.send(position(0, "a", 1, 1))
		l.settle()
		_ = w.from.Close()
		if err := <-l.done; err != nil {
			t.Error(err)
		}
		if _, version, _ := w.state.Load(t.Context(), "query/test/0"); version == 0 {
			t.Error("no snapshot was saved")
		}
	})
}

// TestStuckOutput: while the output takes nothing the query waits, and it ends in bounded time all the same.
func TestStuckOutput(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 1)
		stuck := false
		faults := millracetest.NewFaults(func(string, string, millrace.Header) millracetest.Fault {
			if stuck {
				return millracetest.Refuse
			}
			return millracetest.NoFault
		})
		l := w.start(faults, nil)
		l.settle()
		stuck = true
		w.send(position(0, "a", 1, 1))
		l.settle()
		began := time.Now()
		if err := l.stop(); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("it took %v to end", took)
		}
		again := w.start(nil, nil)
		again.settle()
		if err := again.stop(); err != nil {
			t.Fatal(err)
		}
		w.check(overlapping)
	})
}

func TestNewRefuses(t *testing.T) {
	w := newWorld(t, 2, 1)
	good := Options{From: w.from, Into: w.into, Dead: w.dead, State: w.state}
	broken := fencesFile(t, []rectangle{{"a", 0, 0, 1, 1}, {"a", 0, 0, 1, 1}})
	for name, test := range map[string]struct {
		change func(name *string, c *Config, o *Options)
		want   string
		code   millrace.Code
	}{
		"name":      {func(name *string, _ *Config, _ *Options) { *name = "a/b" }, `the name must be`, millrace.Invalid},
		"no kind":   {func(_ *string, c *Config, _ *Options) { c.Fence = nil }, `configure query "q": fence: is missing`, millrace.Invalid},
		"no stream": {func(_ *string, _ *Config, o *Options) { o.Dead = nil }, `it needs From, Into, Dead and State`, millrace.Invalid},
		"a loop":    {func(_ *string, _ *Config, o *Options) { o.Into = o.From }, `into: "positions" is the stream that the query reads`, millrace.Invalid},
		"config":    {func(_ *string, c *Config, _ *Options) { c.Fence.Lat = "" }, `fence.lat: is missing`, millrace.Invalid},
		"no file":   {func(_ *string, c *Config, _ *Options) { c.Fence.Fences += "x" }, `load fences "`, millrace.NotFound},
		"bad file":  {func(_ *string, c *Config, _ *Options) { c.Fence.Fences = broken }, `features 0 and 1 are both called "a"`, millrace.Invalid},
	} {
		q, c, o := "q", w.config, good
		f := *c.Fence
		c.Fence = &f
		test.change(&q, &c, &o)
		if _, err := New(q, c, o); err == nil || !strings.Contains(err.Error(), test.want) || millrace.CodeOf(err) != test.code {
			t.Errorf("%s: %v (%s)", name, err, millrace.CodeOf(err))
		}
	}
	c := w.config
	c.Fence.Key = "k"
	q, err := New("q", c, good)
	if err != nil {
		t.Fatal(err)
	}
	if err := q.Run(t.Context()); millrace.CodeOf(err) != millrace.Invalid || !strings.Contains(err.Error(), `stream "positions" has 2 partitions`) {
		t.Errorf("another key on two partitions: %v", err)
	}
}

func TestMetricsRegister(t *testing.T) {
	registry := prometheus.NewRegistry()
	NewMetrics(registry)
	if err := registry.Register(NewMetrics(nil).events); err == nil {
		t.Error("the metrics are not registered")
	}
}

// gather returns the sums of all metrics by name.
func gather(t *testing.T, registry *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sums := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			sums[f.GetName()] += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return sums
}

// Example counts the vehicles that arrive at a depot.
func Example() {
	dir, _ := os.MkdirTemp("", "query")
	defer os.RemoveAll(dir) //nolint:errcheck // an example
	depots := dir + "/depots.geojson"
	_ = os.WriteFile(depots, []byte(`{"type": "Feature", "id": "depot", "geometry":
		{"type": "Polygon", "coordinates": [[[8.5, 47.3], [8.6, 47.3], [8.6, 47.4], [8.5, 47.4], [8.5, 47.3]]]}}`), 0o600)

	positions, crossings := memory.New("positions", memory.Options{}), memory.New("crossings", memory.Options{})
	q, err := New("crossings", Config{From: "positions", Into: "crossings", Fence: &fence.Config{
		Fences: depots, Lat: "lat", Lon: "lon", Detect: []string{"enter"},
	}}, Options{From: positions, Into: crossings, Dead: memory.New("dead", memory.Options{}), State: memory.NewState()})
	if err != nil {
		panic(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- q.Run(ctx) }()

	var b block.Builder
	_ = b.Add(&millrace.Event{Key: "bus 7", Time: begin, Data: []byte(`{"lat": 47.35, "lon": 8.55}`)})
	encoded, _ := b.Encode(nil, millrace.Header{Producer: "source/buses"})
	if _, err := positions.Append(ctx, "0", millrace.Position{}, encoded); err != nil {
		panic(err)
	}
	for b, err := range crossings.Read(ctx, "0", millrace.Position{}) {
		if err != nil {
			panic(err)
		}
		if results, _ := block.Events(b.Raw); len(results) > 0 {
			fmt.Println(string(results[0].Data))
			break
		}
	}
	stop()
	<-ended
	// Output: {"key":"bus 7","fence":"depot","transition":"enter","time":"2026-11-21T08:00:00Z","lat":47.35,"lon":8.55,"properties":{}}
}

func TestSnapshotCodec(t *testing.T) {
	s := snapshot{kind: "fence", stream: "positions", partition: "0", at: millrace.Position{Block: "a-000000000001", Event: 3}, life: [16]byte{1, 2}}
	for _, n := range []int{0, 1, 127, 128, 300, 1 << 17} {
		state := bytes.Repeat([]byte("s"), n)
		data := encodeSnapshot(nil, s, func(dst []byte) []byte { return append(dst, state...) })
		got, err := decodeSnapshot(data)
		if err != nil || !bytes.Equal(got.state, state) {
			t.Fatalf("%d: %v", n, err)
		}
		got.state = nil
		if fmt.Sprint(got) != fmt.Sprint(s) {
			t.Errorf("%+v", got)
		}
		for _, bad := range [][]byte{data[:len(data)-1], append(slices.Clone(data), 0), data[4:], nil} {
			if _, err := decodeSnapshot(bad); millrace.CodeOf(err) != millrace.Invalid {
				t.Errorf("%v", err)
			}
		}
	}
}

func FuzzSnapshot(f *testing.F) {
	f.Add([]byte("MRQ1"))
	f.Add(encodeSnapshot(nil, snapshot{kind: "fence", stream: "s", partition: "0", at: millrace.Position{Block: "a-000000000001", Event: 3}}, func(dst []byte) []byte { return append(dst, "state"...) }))
	f.Fuzz(func(t *testing.T, data []byte) {
		check := func(data []byte) {
			s, err := decodeSnapshot(data)
			if err != nil {
				if millrace.CodeOf(err) != millrace.Invalid {
					t.Fatal(err)
				}
				return
			}
			again, err := decodeSnapshot(encodeSnapshot(nil, s, func(dst []byte) []byte { return append(dst, s.state...) }))
			if err != nil || !bytes.Equal(again.state, s.state) || again.at != s.at || again.stream != s.stream {
				t.Fatalf("%+v, %v", again, err)
			}
		}
		check(data)
		check(sealed(data))
	})
}

// sealed gives data the right beginning and checksum, so that what lies between is looked at.
func sealed(data []byte) []byte {
	data = append([]byte(snapshotMagic), data...)
	return binary.LittleEndian.AppendUint32(data, crc32.Checksum(data, castagnoli))
}

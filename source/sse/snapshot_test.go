package sse

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/mapping"
	"github.com/millrace/millrace/millracetest"
)

// table is what a reader of the stored events holds: the newest data of each key.
func table(t *testing.T, events []millrace.Event) map[string]string {
	t.Helper()
	now := make(map[string]string)
	for _, e := range events {
		if e.Deleted {
			if _, known := now[e.Key]; !known {
				t.Errorf("%s ends and had not begun", e.Key)
			}
			delete(now, e.Key)
			continue
		}
		if text, err := canonical(e.Data); err != nil {
			t.Error(err)
		} else if e.Type != typeUpdate && now[e.Key] != "" || e.Type == typeUpdate && now[e.Key] == "" {
			t.Errorf("%s of %s, which was %q", e.Type, e.Key, now[e.Key])
		} else {
			now[e.Key] = string(text)
		}
	}
	return now
}

// reach waits until the stored events make a table.
func (p *pipe) reach(ctx context.Context, t *testing.T, want map[string]string) []millrace.Event {
	t.Helper()
	for {
		events := p.events(t, p.into)
		got := table(t, events)
		if maps.Equal(got, want) {
			return events
		}
		select {
		case <-ctx.Done():
			t.Fatalf("got %v\nwant %v\n%.3000s", got, want, p.logs)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// during runs the pipe while work does something, then kills it.
func (p *pipe) during(ctx context.Context, t *testing.T, work func()) {
	t.Helper()
	running, kill := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- p.run(running, t) }()
	work()
	kill()
	if err := <-ended; err != nil && millrace.CodeOf(err) != millrace.Unavailable {
		t.Fatal(err)
	}
}

// TestMBTA: whatever was changed and removed while the source was away, or its connection broken, a
// reader's table becomes that of the feed, and nothing is told twice.
func TestMBTA(t *testing.T) {
	for _, path := range []string{"/vehicles", "/predictions"} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(7, 7))
			feed := millracetest.NewMBTA(t, millracetest.SimulatorOptions{CutEvery: 6000, Seed: 7})
			c := config(feed.URL + path + "?filter[route]=1")
			c.Resume.Snapshot = formatMBTA
			p := newPipe(c, mapping.Config{Key: "id", Time: "attributes.updated_at"})
			ctx, done := context.WithTimeout(t.Context(), 30*time.Second)
			defer done()
			want := map[string]string{}
			step := func() {
				id := fmt.Sprint("v", r.IntN(12))
				if r.IntN(3) == 0 {
					if want[id] != "" {
						feed.Remove(path, id)
						delete(want, id)
					}
					return
				}
				attributes := fmt.Sprintf(`{"speed":%d,"updated_at":"2026-01-02T03:04:05-05:00"}`, r.IntN(1e6))
				feed.Set(path, id, attributes)
				kind := map[string]string{"/vehicles": "vehicle", "/predictions": "prediction"}[path]
				want[id] = fmt.Sprintf(`{"attributes":%s,"id":%q,"links":{"self":%q},"relationships":{},"type":%q}`, attributes, id, path+"/"+id, kind)
			}
			steps := 0
			for round := range 10 {
				for range 20 { // while nobody listens
					step()
				}
				p.during(ctx, t, func() {
					for range 20 {
						step()
						steps++
					}
					if round%3 == 0 {
						feed.Reset(path)
					}
					if round%2 == 0 {
						p.reach(ctx, t, want)
					}
				})
			}
			var events []millrace.Event
			p.during(ctx, t, func() { events = p.reach(ctx, t, want) })
			for _, e := range events {
				if !e.Deleted && e.Time.UTC() != time.Date(2026, 1, 2, 8, 4, 5, 0, time.UTC) {
					t.Fatalf("the time is %s", e.Time)
				}
			}
			// Resets of what is known add nothing.
			before := len(events)
			p.during(ctx, t, func() {
				feed.Reset(path)
				feed.Set(path, "end", `{"updated_at":"2026-01-02T03:04:05-05:00"}`)
				events = p.wait(ctx, t, before+1)
			})
			if len(events) != before+1 {
				t.Errorf("%d events more", len(events)-before)
			}
			if dead := p.events(t, p.dead); len(dead) > 0 {
				t.Errorf("dead letters: %s", dead[0].Data)
			}
		})
	}
}

// TestFirebase: the same with puts and patches at any depth.
func TestFirebase(t *testing.T) {
	feed := millracetest.NewFirebase(t, millracetest.SimulatorOptions{Heartbeat: 10 * time.Millisecond, CutEvery: 4000, Seed: 3})
	c := config(feed.URL + "/rooms.json")
	c.Resume.Snapshot = formatFirebase
	p := newPipe(c, mapping.Config{})
	ctx, done := context.WithTimeout(t.Context(), 30*time.Second)
	defer done()
	p.during(ctx, t, func() {
		feed.Put("/a", `{"open":true,"n":1}`)
		feed.Put("/b", `{"n":2}`)
		p.reach(ctx, t, map[string]string{"a": `{"n":1,"open":true}`, "b": `{"n":2}`})
		feed.Put("/a/open", `false`)
		feed.Put("/a/in/deep", `"x"`)
		feed.Patch("/b", map[string]string{"n": "3", "m": `[1,2]`})
		feed.Patch("/", map[string]string{"c": "7", "d": `"d"`})
		p.reach(ctx, t, map[string]string{"a": `{"in":{"deep":"x"},"n":1,"open":false}`, "b": `{"m":[1,2],"n":3}`, "c": "7", "d": `"d"`})
	})
	feed.Put("/a", "null")
	feed.Put("/d", "null")
	feed.Put("/b/m", "null")
	feed.Put("/e", `{"new":1}`)
	want := map[string]string{"b": `{"n":3}`, "c": "7", "e": `{"new":1}`}
	p.during(ctx, t, func() {
		p.reach(ctx, t, want)
		feed.Put("/e/new", "null") // the last of its values
		delete(want, "e")
		p.reach(ctx, t, want)
		feed.Put("/", `{"z":1}`)
		p.reach(ctx, t, map[string]string{"z": "1"})
	})
	if dead := p.events(t, p.dead); len(dead) > 0 {
		t.Errorf("dead letters: %s", dead[0].Data)
	}
	if got := feed.Requests(); len(got) < 4 {
		t.Errorf("%d requests", len(got))
	}
}

// TestFirebaseRevoked: an alarm, and a slow retry.
func TestFirebaseRevoked(t *testing.T) {
	feed := millracetest.NewFirebase(t, millracetest.SimulatorOptions{})
	c := config(feed.URL + "/x.json")
	c.Resume.Snapshot = formatFirebase
	r := run(t, c, Options{}, "")
	feed.Put("/a", "1")
	r.data(t, 1)
	feed.Revoke()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for !strings.Contains(r.logs.String(), "someone must look") {
		select {
		case <-ctx.Done():
			t.Fatal(r.logs)
		case <-time.After(time.Millisecond):
		}
	}
}

func TestSnapshotChanges(t *testing.T) {
	for _, tt := range []struct {
		name, format, key string
		messages          []string // TYPE DATA
		want              []string // TYPE KEY DATA of the last one
	}{
		{"a nested key", formatMBTA, `v.id\.x`, []string{`reset [{"v":{"id.x":1}}]`, `reset []`}, []string{`remove 1 {"v":{"id.x":"1"}}`}},
		{"the same written otherwise", formatMBTA, "id", []string{`reset [{"id":"a","b":1}]`, `reset [ {"b":1 , "id":"\u0061"} ]`}, nil},
		{"an update without a change is told", formatMBTA, "id", []string{`add {"id":"a"}`, `update {"id":"a"}`}, []string{`update a {"id":"a"}`}},
		{"a scalar", formatFirebase, "", []string{`put {"path":"/","data":7}`, `put {"path":"/","data":8}`}, []string{"update  8"}},
		{"a scalar becomes an object", formatFirebase, "", []string{`put {"path":"/","data":7}`, `put {"path":"/a","data":8}`}, []string{"remove  null", "add a 8"}},
		{"an array", formatFirebase, "", []string{`put {"path":"/","data":[5,null,6]}`, `put {"path":"/2","data":7}`}, []string{"update 2 7"}},
		{"names that are paths", formatFirebase, "", []string{`put {"path":"/","data":{"a":{"b":1}}}`, `patch {"path":"/","data":{"a/c":2}}`}, []string{`update a {"b":1,"c":2}`}},
		{"heartbeats", formatFirebase, "", []string{"keep-alive null", "cancel null"}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, err := newSnapshot(t.Context(), &Resume{Snapshot: tt.format, Key: tt.key}, nil)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, m := range tt.messages {
				typ, data, _ := strings.Cut(m, " ")
				changes, err := s.take(typ, []byte(data))
				if err != nil {
					t.Fatal(err)
				}
				got = nil
				for _, c := range changes {
					got = append(got, fmt.Sprintf("%s %s %s", c.typ, c.key, c.data))
				}
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got %q", got)
			}
		})
	}
}

// A reset that is malformed anywhere changes nothing, and is told as what it is.
func TestMalformedReset(t *testing.T) {
	s, err := newSnapshot(t.Context(), &Resume{Snapshot: formatMBTA}, nil)
	if err != nil {
		t.Fatal(err)
	}
	good := `[{"id":"a","n":1},{"id":"b","n":1}]`
	if changes, err := s.take("reset", []byte(good)); err != nil || len(changes) != 2 {
		t.Fatalf("%d changes, %v", len(changes), err)
	}
	for _, bad := range []string{
		``, ` `, `null`, `{"id":"a"}`, `[`, `[{"id":"a","n":2}`, `[{"id":"a","n":2},]`, `[{"id":"a","n":2}]]`,
		`[{"id":"a","n":2},{"n":2}]`, `[{"id":"a","n":2},{"id":{}}]`, `[{"id":"a","n":2},7]`, `[{"id":"a","n":2},{"id":"c","n":01}]`,
	} {
		if changes, err := s.take("reset", []byte(bad)); millrace.CodeOf(err) != millrace.Invalid || len(changes) > 0 {
			t.Errorf("%s: %d changes, %v", bad, len(changes), err)
		}
	}
	if changes, err := s.take("reset", []byte(good)); err != nil || len(changes) > 0 {
		t.Errorf("%d changes, %v", len(changes), err)
	}
}

// FuzzSnapshot: no message makes it panic, and a snapshot that comes twice tells nothing the second time.
func FuzzSnapshot(f *testing.F) {
	f.Add(true, "reset", `[{"id":"a","n":1},{"id":2}]`)
	f.Add(true, "remove", `{"id":"a"}`)
	f.Add(false, "put", `{"path":"/a/b","data":{"c":[1,{"d":null}]}}`)
	f.Add(false, "patch", `{"path":"/","data":{"a/b":1,"":2}}`)
	f.Add(false, "put", `{"path":"/","data":[1,2]}`)
	f.Fuzz(func(t *testing.T, mbta bool, typ, data string) {
		r := Resume{Snapshot: formatFirebase, Key: "id"}
		if mbta {
			r.Snapshot = formatMBTA
		}
		s, err := newSnapshot(t.Context(), &r, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = s.take("put", []byte(`{"path":"/","data":{"a":{"b":1},"x":"y"}}`))
		_, err = s.take(typ, []byte(data))
		all := typ == "reset" && mbta || typ == "put" && !mbta && strings.Contains(data, `"path":"/","`)
		if err != nil || !all {
			return
		}
		if again, err := s.take(typ, []byte(data)); err != nil || len(again) > 0 && mbta && !repeats(again) {
			t.Errorf("the second time it tells %v, %v", again, err)
		}
	})
}

// repeats says whether a key is named twice: a reset may hold one with two values.
func repeats(changes []change) bool {
	for _, c := range changes {
		if c.typ == typeUpdate {
			return true
		}
	}
	return false
}

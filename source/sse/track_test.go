package sse

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/mapping"
	"github.com/millrace/millrace/millracetest"
)

// TestResumeByQuery: by a parameter that the event's id or a value inside it fills, over cuts and
// kills, every event is stored once.
func TestResumeByQuery(t *testing.T) {
	inside := func(e millracetest.FeedEvent) string {
		var v struct{ Meta struct{ At json.Number } }
		_ = json.Unmarshal([]byte(e.Data), &v)
		return v.Meta.At.String()
	}
	for name, tt := range map[string]struct {
		from   string
		resume millracetest.FeedResume
		event  func(i int) millracetest.FeedEvent
	}{
		"the id": {event: func(i int) millracetest.FeedEvent {
			return millracetest.FeedEvent{ID: fmt.Sprint("i ", i, "&="), Type: "m", Data: fmt.Sprint(i)}
		}},
		"a number inside": {from: "meta.at", event: func(i int) millracetest.FeedEvent {
			return millracetest.FeedEvent{Type: "m", Data: fmt.Sprintf(`{"n":%d,"meta":{"at":%d}}`, i, 1000+i)}
		}},
		"a number that several share": {from: "meta.at", event: func(i int) millracetest.FeedEvent {
			return millracetest.FeedEvent{Type: "m", Data: fmt.Sprintf(`{"n":%d,"meta":{"at":%d}}`, i, 1000+i/3)}
		}},
		"one that is sent again": {from: "meta.at", resume: millracetest.ResumeAt, event: func(i int) millracetest.FeedEvent {
			return millracetest.FeedEvent{Type: "m", Data: fmt.Sprintf(`{"n":%d,"meta":{"at":%d}}`, i, 1000+i)}
		}},
		"others between": {from: "meta.at", event: func(i int) millracetest.FeedEvent {
			if i%3 == 2 {
				return millracetest.FeedEvent{Type: "keepalive", Data: fmt.Sprintf(`{"meta":{"at":%d}}`, i)}
			}
			return millracetest.FeedEvent{Type: "m", Data: fmt.Sprintf(`{"n":%d,"meta":{"at":%d}}`, i, 1000+i)}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			value := inside
			if tt.from == "" {
				value = nil
			}
			feed := millracetest.NewFeed(t, millracetest.FeedOptions{
				CutEvery: 900, Seed: 5, Query: "since", Value: value, Resume: tt.resume,
				Preamble: "retry: 50\n\n",
			})
			c := config(feed.URL + "/x?token=s%20t&since=all")
			c.Resume.Query, c.Resume.From = "since", tt.from
			c.Types = []string{"m"}
			p := newPipe(c, mapping.Config{})
			ctx, done := context.WithTimeout(t.Context(), 30*time.Second)
			defer done()
			r := rand.New(rand.NewPCG(1, 1))
			want := map[string]int{}
			// The first events come whole, so that the feed has shown that they share their values.
			var head strings.Builder
			for i := range 6 {
				e := tt.event(i)
				if e.ID != "" {
					fmt.Fprintf(&head, "id: %s\n", e.ID)
				}
				fmt.Fprintf(&head, "event: %s\ndata: %s\n\n", e.Type, e.Data)
			}
			feed.Answer(millracetest.AnswerBody("text/event-stream", head.String()))
			for i := range 100 {
				e := tt.event(i)
				feed.Send(e)
				if e.Type == "m" {
					want[e.Data]++
				}
			}
			for range 6 {
				p.during(ctx, t, func() { p.wait(ctx, t, r.IntN(60)) })
			}
			p.during(ctx, t, func() { p.wait(ctx, t, len(want)) })
			got := map[string]int{}
			for _, e := range p.events(t, p.into) {
				got[string(e.Data)]++
			}
			for data, n := range want {
				if got[data] != n {
					t.Errorf("%s came %d times", data, got[data])
				}
			}
			requests := feed.Requests()
			if requests[0].Query.Get("since") != "all" {
				t.Errorf("the first request asks for %s", requests[0].Query)
			}
			for _, q := range requests {
				if q.LastEventID != "" || q.Query.Get("token") != "s t" || len(q.Query["since"]) != 1 {
					t.Fatalf("asked with Last-Event-ID %q and %v", q.LastEventID, q.Query)
				}
			}
		})
	}
}

func TestWithQuery(t *testing.T) {
	for _, tt := range []struct{ url, want string }{
		{"http://h/p", "http://h/p?since=a+%26%00"},
		{"http://h/p?b=2&a=1", "http://h/p?b=2&a=1&since=a+%26%00"},
		{"http://h/p?since=1&x&s%69nce=2&%zz=3", "http://h/p?x&%zz=3&since=a+%26%00"},
	} {
		u, err := url.Parse(tt.url)
		if err != nil {
			t.Fatal(err)
		}
		if got := withQuery(u, "since", "a &\x00").String(); got != tt.want || u.String() != tt.url {
			t.Errorf("%s became %s", tt.url, got)
		}
	}
}

// TestGaps: a feed that cannot resume tells when it was away, exactly, over reconnects and restarts.
func TestGaps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		feed := millracetest.NewFeedHandler(millracetest.FeedOptions{EventsEach: 2, Live: true, Resume: millracetest.ResumeNever})
		defer feed.Close()
		c := config("http://feed.invalid/")
		c.Resume.None = true
		transport := serve(t, feed)
		r := run(t, c, Options{Transport: transport}, "")
		send := func(n string) {
			synctest.Wait()
			feed.Send(millracetest.FeedEvent{Data: n})
			synctest.Wait()
		}
		send("1")
		time.Sleep(10 * time.Second)
		cut := time.Now()
		feed.Answer(millracetest.AnswerStatus(503, "Retry-After", "5"))
		send("2") // ends the connection
		time.Sleep(6 * time.Second)
		send("3")
		time.Sleep(time.Second)
		stopped := time.Now()
		send("4")
		_ = r.stop()
		time.Sleep(time.Hour)
		again := run(t, c, Options{Transport: transport}, r.Cursor())
		send("5")
		send("6")
		events := append(r.Events(), again.Events()...)
		_ = again.stop()
		if len(events) != 6 {
			t.Fatalf("%d events\n%s", len(events), r.logs)
		}
		ids := map[string]bool{}
		for i, e := range events {
			ids[e.ID] = true
			from, to := e.Attributes["gap_from"], e.Attributes["gap_to"]
			var want [2]time.Time
			switch i {
			case 2:
				want = [2]time.Time{cut, cut.Add(5 * time.Second)}
			case 4:
				want = [2]time.Time{stopped, stopped.Add(time.Hour)}
			default:
				if e.Attributes != nil {
					t.Errorf("event %d has %v", i, e.Attributes)
				}
				continue
			}
			for j, text := range []string{from, to} {
				at, err := time.Parse(time.RFC3339Nano, text)
				if err != nil || at.Sub(want[j]).Abs() > 50*time.Millisecond {
					t.Errorf("event %d has the gap %s to %s, want %v", i, from, to, want)
				}
			}
		}
		if len(ids) != 6 {
			t.Errorf("ids %v", ids)
		}
	})
}

// TestGapSurvivesACrash: a gap that no stored event tells of yet is not forgotten.
func TestGapSurvivesACrash(t *testing.T) {
	clock := time.Unix(1000, 0)
	s := New(config("http://h/"), Options{Now: func() time.Time { return clock }})
	u, err := parseUnplaced(s, "")
	if err != nil {
		t.Fatal(err)
	}
	u.connected()
	u.settle(nil)
	clock = clock.Add(time.Minute)
	u.connected() // nothing came
	u.settle(nil) // but heartbeats
	clock = clock.Add(time.Minute)
	if u, err = parseUnplaced(s, u.cursor()); err != nil {
		t.Fatal(err)
	}
	u.connected()
	if got := u.attributes()["gap_from"]; got != "1970-01-01T00:16:40Z" {
		t.Errorf("the gap begins at %s", got)
	}
	if u.attributes() != nil {
		t.Error("the gap is told twice")
	}
	if _, err := parseUnplaced(s, "{"); millrace.CodeOf(err) != millrace.Internal {
		t.Error(err)
	}
}

func TestMarks(t *testing.T) {
	for _, tt := range []struct{ id, want string }{ // rewound by 1500 ms
		{`1700000000`, `1699999998`},
		{`1700000000500`, `1699999999000`},
		{`1700000000500000`, `1699999999000000`},
		{`1700000000500000000`, `1699999999000000000`},
		{`2026-01-02T03:04:05.25Z`, `2026-01-02T03:04:03.75Z`},
		{`2026-01-02T03:04:05+02:00`, `2026-01-02T03:04:03.5+02:00`},
		{`[{"topic":"a","partition":0,"timestamp":1700000000500}]`, `[{"topic":"a","partition":0,"timestamp":1699999999000}]`},
		{
			`[ {"timestamp":1700000000500, "offset":1700000000500,"partition":0,"topic":"a"} ,{"topic":"b","partition":0,"offset":-1}]`,
			`[ {"timestamp":1699999999000, "offset":1700000000500,"partition":0,"topic":"a"} ,{"topic":"b","partition":0,"offset":-1}]`,
		},
		// A topic that is an hour behind is settled.
		{
			`[{"topic":"a","partition":0,"timestamp":1700003600500},{"topic":"a","partition":1,"timestamp":1700000000000}]`,
			`[{"topic":"a","partition":0,"timestamp":1700003599000},{"topic":"a","partition":1,"timestamp":1700000000000}]`,
		},
		{`abc`, `abc`},
		{`17`, `17`},
		{`[]`, `[]`},
		{`[{"topic":"a"}]`, `[{"topic":"a"}]`},
		{`[1]`, `[1]`},
		{``, ``},
	} {
		w := testWindow(t)
		w.merge([]byte(tt.id), 1)
		if got := w.resume(); got != tt.want {
			t.Errorf("%s resumes with %s", tt.id, got)
		}
	}
}

func testWindow(t testing.TB) *window {
	c := config("http://h/")
	c.Dedupe, c.Rewind = "id", 1500*time.Millisecond
	w, err := parseWindow(t.Context(), New(c, Options{}), millrace.Resume{})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// TestWindowNeverGoesBack: an id that is behind in some elements moves the others.
func TestWindowNeverGoesBack(t *testing.T) {
	w := testWindow(t)
	id := func(a, b int) []byte {
		return fmt.Appendf(nil, `[{"topic":"a","partition":0,"timestamp":%d},{"topic":"b","partition":0,"timestamp":%d}]`, 1700000000000+a, 1700000000000+b)
	}
	for _, tt := range []struct{ came, want []byte }{
		{id(5, 5), id(5, 5)},
		{id(7, 3), id(7, 5)},
		{id(1, 9), id(7, 9)},
		{id(8, 9), id(8, 9)},
		{
			[]byte(`[{"topic":"a","partition":0,"timestamp":1700000000009}]`),
			[]byte(`[{"topic":"a","partition":0,"timestamp":1700000000009},{"topic":"b","partition":0,"timestamp":1700000000009}]`),
		},
	} {
		w.merge(tt.came, 1)
		if !bytes.Equal(w.id, tt.want) {
			t.Errorf("after %s it stands at %s", tt.came, w.id)
		}
	}
}

// TestFeedsThatGoBack: what a server sends again from before the Last-Event-ID comes twice, and nothing is
// lost; with dedupe everything comes once.
func TestFeedsThatGoBack(t *testing.T) {
	for _, dedupe := range []string{"", "n"} {
		feed := millracetest.NewFeed(t, millracetest.FeedOptions{EventsEach: 10, Repeat: 3})
		const n = 40
		for i := range n {
			feed.Send(millracetest.FeedEvent{ID: fmt.Sprint("id", i), Data: fmt.Sprintf(`{"n":%d}`, i)})
		}
		feed.End()
		c := config(feed.URL)
		c.Dedupe = dedupe
		r := run(t, c, Options{}, "")
		if err := r.ended(); err != nil {
			t.Fatal(err)
		}
		came := map[string]int{}
		repeats := 0
		for _, e := range r.Events() {
			if came[string(e.Data)]++; came[string(e.Data)] > 1 {
				repeats++
			}
		}
		if len(came) != n || (repeats > 0) != (dedupe == "") {
			t.Errorf("dedupe %q: %d of %d events came, %d of them again", dedupe, len(came), n, repeats)
		}
	}
}

// TestDedupeOfArrays, as feeds whose arrays are split send them: each array is one event to dedupe, known by
// a value inside if the path leads there, else by all that it holds.
func TestDedupeOfArrays(t *testing.T) {
	for path, want := range map[string]string{
		"id":   "true false true true", // of no array
		"0.id": "true false true false",
	} {
		c := config("http://h/")
		c.Dedupe = path
		w, err := parseWindow(t.Context(), New(c, Options{}), millrace.Resume{})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, data := range []string{`[{"id":1},{"id":2}]`, `[{"id":1},{"id":2}]`, `[{"id":2}]`, `[{"id":1}]`} {
			_, isNew := w.take(nil, &Event{Data: []byte(data)}, "", "")
			got = append(got, fmt.Sprint(isNew))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: new are %v, want %s", path, got, want)
		}
	}
}

// TestWindowIsBounded: ids that cannot come again are forgotten.
func TestWindowIsBounded(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	c := config("http://h/")
	c.Dedupe, c.Rewind = "id", 5*time.Second
	for name, id := range map[string]func() string{
		"times":  func() string { return fmt.Sprint(now.UnixMilli()) },
		"opaque": func() string { return "x" + fmt.Sprint(now.UnixMilli()) },
		"none":   func() string { return "" },
	} {
		w, err := parseWindow(t.Context(), New(c, Options{Now: func() time.Time { return now }}), millrace.Resume{})
		if err != nil {
			t.Fatal(err)
		}
		for i := range 30_000 {
			now = now.Add(50 * time.Millisecond)
			e := Event{ID: []byte(id()), Data: fmt.Appendf(nil, `{"id":%d}`, i)}
			if _, isNew := w.take(nil, &e, "", ""); !isNew {
				t.Fatalf("%s: event %d is no repeat", name, i)
			}
			w.settle(nil)
		}
		// 20 events a second; a minute for the clocks, ten for ids without times.
		if most := 20 * 60 * 13; len(w.seen) > most || len(w.order)-w.head > most || len(w.seen) < 20*60 {
			t.Errorf("%s: %d ids are remembered", name, len(w.seen))
		}
	}
}

func TestTrackerOptions(t *testing.T) {
	for name, tt := range map[string]struct {
		set  func(c *Config)
		want string
	}{
		"two ways":           {func(c *Config) { c.Resume.None, c.Resume.Query = true, "since" }, "resume: takes only one of query, snapshot and none"},
		"no format":          {func(c *Config) { c.Resume.Snapshot = "mtba" }, `snapshot: "mtba" is no format; write mbta or firebase`},
		"from alone":         {func(c *Config) { c.Resume.From = "a" }, "from: \"a\" needs query"},
		"no path":            {func(c *Config) { c.Resume.Query, c.Resume.From = "q", "a..b" }, "from: "},
		"rewind alone":       {func(c *Config) { c.Rewind = time.Second }, "rewind: 1s brings events twice"},
		"negative rewind":    {func(c *Config) { c.Rewind = -time.Second }, "rewind: -1s is negative"},
		"dedupe is no path":  {func(c *Config) { c.Dedupe = "." }, "dedupe: "},
		"dedupe a snapshot":  {func(c *Config) { c.Dedupe, c.Resume.Snapshot = "id", "mbta" }, "dedupe: \"id\" is of no use"},
		"drop without value": {func(c *Config) { c.Drop = []string{"a"} }, "drop.0: \"a\" is no rule"},
	} {
		c := config("http://h/")
		tt.set(&c)
		var got []string
		problem := func(path, format string, args ...any) {
			if path == "" {
				path = "resume"
			}
			got = append(got, path+": "+fmt.Sprintf(format, args...))
		}
		c.Validate(problem)
		c.Resume.Validate(problem)
		if len(got) != 1 || !strings.HasPrefix(got[0], tt.want) {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func FuzzMarks(f *testing.F) {
	f.Add(`[{"topic":"a","partition":0,"timestamp":1700000000500}]`, "1700000000")
	f.Add(`2026-01-02T03:04:05.25Z`, `[{"topic":"\u0061","partition":"x","timestamp":1700000000500},{"topic":"b","offset":3}]`)
	f.Fuzz(func(t *testing.T, a, b string) {
		w := testWindow(t)
		for i, id := range []string{a, b, a} {
			before, vector := w.newest(), strings.HasPrefix(string(w.id), "[")
			w.merge([]byte(id), int64(i+1))
			if len(w.marks) > 0 && vector == strings.HasPrefix(id, "[") && before > w.newest() {
				t.Fatalf("%q went back", id)
			}
			w.resume()
			w.settle(nil)
			if len(w.id) > 2*maxID {
				t.Fatalf("the id has %d bytes", len(w.id))
			}
			if _, err := parseWindow(t.Context(), w.source, millrace.Resume{Cursor: w.cursor()}); err != nil {
				t.Fatal(err)
			}
		}
	})
}

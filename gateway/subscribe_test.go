package gateway_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/gateway"
	"github.com/millrace/millrace/millracetest"
	"github.com/millrace/millrace/stream/memory"
)

// say sends a message of the subprotocol.
func (c *client) say(format string, args ...any) {
	c.t.Helper()
	if err := c.WriteFrame(millracetest.Frame{Op: 1, Payload: fmt.Appendf(nil, format, args...)}); err != nil {
		c.t.Fatal(err)
	}
}

// frameV1 is any message of the subprotocol.
type frameV1 struct {
	Sub, ID, Key, Type  string
	Data                json.RawMessage
	Live, Left, Deleted bool
	Gap                 json.RawMessage
	Subscribed          *string
	Unsubscribed        *string
	Updated             *string
	Pong                json.RawMessage
	Error               *struct{ Code, Message string }
	Time                *string
}

func (c *client) any() frameV1 {
	c.t.Helper()
	text := c.next()
	var f frameV1
	if err := json.Unmarshal([]byte(text), &f); err != nil {
		c.t.Fatalf("%s: %v", text, err)
	}
	return f
}

// expect reads messages and compares what they say in short.
func (c *client) expect(want ...string) {
	c.t.Helper()
	for _, w := range want {
		if got := c.any().short(); got != w {
			c.t.Fatalf("got  %s\nwant %s", got, w)
		}
	}
}

func (f frameV1) short() string {
	name := f.Sub
	if name != "" {
		name += " "
	}
	switch {
	case f.Subscribed != nil:
		return "subscribed " + *f.Subscribed
	case f.Unsubscribed != nil:
		return "unsubscribed " + *f.Unsubscribed
	case f.Updated != nil:
		return "updated " + *f.Updated
	case f.Error != nil:
		return name + "error " + f.Error.Code
	case f.Pong != nil:
		return "pong " + string(f.Pong)
	case f.Gap != nil:
		return name + "gap"
	case f.Live:
		return name + "live"
	case f.Left:
		return name + f.Key + " left"
	case f.Deleted:
		return name + f.Key + " deleted"
	case f.Key != "":
		return name + f.Key + " " + string(f.Data)
	default:
		return name + "progress"
	}
}

// cars is a stream of positions with endpoints of all kinds.
func cars(t *testing.T, partitions int, change func(*gateway.Config, *gateway.Options)) (*memory.Stream, *writer, *server) {
	t.Helper()
	s := newStream(partitions)
	w := newWriter(t, s)
	server := serve(t, s, func(c *gateway.Config, o *gateway.Options) {
		other := memory.New("others", memory.Options{})
		o.Streams["others"] = other
		c.Endpoints["/cars/{id}"] = gateway.Endpoint{From: "crossings"}
		c.Endpoints["/map"] = gateway.Endpoint{From: "crossings", Location: &gateway.Location{Lat: "lat", Lon: "lon"}}
		c.Endpoints["/others"] = gateway.Endpoint{From: "others"}
		c.Endpoints["/live"] = gateway.Endpoint{Messages: true}
		if change != nil {
			change(c, o)
		}
	})
	return s, w, server
}

// unseekable is a stream that cannot say what it has stored when, for as long as it is told so.
type unseekable struct {
	millrace.Stream
	broken atomic.Bool
}

func (s *unseekable) Seek(ctx context.Context, partition string, t time.Time) (millrace.Position, error) {
	if s.broken.Load() {
		return millrace.Position{}, millrace.Errorf(millrace.Denied, "seek", "the bucket says: wrong key AKID")
	}
	return s.Stream.Seek(ctx, partition, t)
}

// A subscription that cannot begin does not count, however it was asked for, and the client does not hear why a stream
// fails, but the log does.
func TestStreamFailsWhileSubscribing(t *testing.T) {
	s := &unseekable{Stream: newStream(1)}
	w := newWriter(t, s.Stream)
	w.put("1", "1")
	var log bytes.Buffer
	var mu sync.Mutex
	server := serve(t, s, func(c *gateway.Config, o *gateway.Options) {
		c.Endpoints["/live"] = gateway.Endpoint{Messages: true}
		c.Endpoints["/mine"] = gateway.Endpoint{From: "crossings", Auth: guarded()}
		c.Limits.SubscriptionsPerConnection = 1
		o.Logger = slog.New(slog.NewTextHandler(writerFunc(func(b []byte) (int, error) {
			mu.Lock()
			defer mu.Unlock()
			return log.Write(b)
		}), nil))
	})
	s.broken.Store(true)
	refused := func(c *client) {
		t.Helper()
		if e := c.any().Error; e == nil || e.Code != "unavailable" || e.Message != "the stream cannot be read at the moment" {
			t.Errorf("got %+v", e)
		}
	}
	live := server.dial(t, "/live", v1)
	for range 2 {
		live.say(`{"subscribe":"a","to":"/vehicles","since":"0"}`)
		refused(live)
	}
	late := server.dial(t, "/mine?since=0", v1)
	late.say(`{"auth":"0123456789abcdef"}`)
	if text := late.next(); !strings.Contains(text, "authenticated") {
		t.Errorf("got %s", text)
	}
	refused(late)
	r := server.get(t, http.MethodGet, "/vehicles?since=0", nil, "text/event-stream")
	if text, _ := io.ReadAll(r.Body); r.StatusCode != 503 || string(text) != "the stream cannot be read at the moment\n" {
		t.Errorf("got %s %s", r.Status, text)
	}
	mu.Lock()
	if n := strings.Count(log.String(), "wrong key AKID"); n != 4 {
		t.Errorf("logged %d times: %s", n, log.String())
	}
	mu.Unlock()

	s.broken.Store(false)
	live.say(`{"subscribe":"a","to":"/vehicles","since":"0"}`)
	live.expect("subscribed a", "a 1 1", "a live")
	late.say(`{"subscribe":"b","since":"0"}`)
	late.expect("subscribed b", "b 1 1", "b live")
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

func TestKeyInPath(t *testing.T) {
	_, w, server := cars(t, 1, nil)
	c := server.dial(t, "/cars/a%2Fb", v1)
	c.live()
	w.put("a", "1")
	w.put("a/b", "2")
	c.expect("a/b 2")
	if _, err := server.tryDial("/cars/", ""); err == nil {
		t.Error("a path without a key is an endpoint")
	}
	if _, err := server.tryDial("/cars/a/b", ""); err == nil {
		t.Error("a longer path is an endpoint")
	}
}

func TestPrefixAndFilter(t *testing.T) {
	_, w, server := cars(t, 1, nil)
	prefix := server.dial(t, "/vehicles?prefix=bus-", v1)
	fast := server.dial(t, "/vehicles?filter=speed%20%3E%2080", v1)
	both := server.dial(t, "/vehicles?prefix=bus-&filter=speed%3E80", v1)
	keyed := server.dial(t, "/vehicles?VehicleID=bus-1&filter=speed%3E80", v1)
	all := server.dial(t, "/vehicles", v1)
	for _, c := range []*client{prefix, fast, both, keyed, all} {
		c.live()
	}
	var wantAll []string
	for i, e := range []struct{ key, data string }{
		{"bus-1", `{"speed":70}`}, {"car-1", `{"speed":90}`}, {"bus-2", `{"speed":81}`}, {"bus-1", `{"speed":100}`}, {"bus-1", `{}`},
	} {
		w.put(e.key, e.data)
		wantAll = append(wantAll, e.key+" "+e.data)
		_ = i
		all.expect(wantAll[i])
	}
	prefix.expect(wantAll[0], wantAll[2], wantAll[3], wantAll[4])
	fast.expect(wantAll[1], wantAll[2], wantAll[3])
	both.expect(wantAll[2], wantAll[3])
	keyed.expect(wantAll[3])

	// The same from the start of the stream, by replay.
	replayed := server.dial(t, "/vehicles?since=0&filter=speed%3E80&prefix=bus-", v1)
	var got []string
	for range 2 {
		got = append(got, replayed.any().short())
	}
	slices.Sort(got)
	want := []string{wantAll[2], wantAll[3]}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("replayed %q", got)
	}
	replayed.expect("live")

	for _, wrong := range []string{
		"filter=speed%20%3E", "prefix=a&VehicleID=1", "since=latest", "box=1,2,3,4", "prefix=" + strings.Repeat("x", 300), "filter=a&filter=b",
	} {
		if r := server.get(t, "GET", "/vehicles?"+wrong, nil, "text/event-stream"); r.StatusCode != 400 {
			t.Errorf("%s: %s", wrong, r.Status)
		}
	}
}

// What a filter says of one partition's events it says of no others.
func TestFilterOverPartitions(t *testing.T) {
	_, w, server := cars(t, 3, nil)
	c := server.dial(t, "/vehicles?filter=n%20%25%202%20%3D%3D%200", v1)
	c.live()
	const n = 500
	go func() {
		random := rand.New(rand.NewPCG(3, 3))
		for i := range n {
			w.put(fmt.Sprint("car ", random.IntN(20)), fmt.Sprintf(`{"n":%d}`, i))
		}
	}()
	seen := map[int]bool{}
	for len(seen) < n/2 {
		f := c.any()
		if f.Key == "" {
			continue
		}
		var data struct{ N int }
		if err := json.Unmarshal(f.Data, &data); err != nil || data.N%2 != 0 || seen[data.N] {
			t.Fatalf("got %s: %v", f.Data, err)
		}
		seen[data.N] = true
	}
}

func TestMessages(t *testing.T) {
	_, w, server := cars(t, 1, nil)
	w.put("1", "0")
	c := server.dial(t, "/live", v1)
	c.say(`{"ping":{"n":1.50}}`)
	c.expect(`pong {"n":1.50}`)
	c.say(`{"subscribe":"a","to":"/vehicles","keys":["1","2"]}`)
	c.expect("subscribed a", "a live")
	c.say(`{"subscribe":"b","to":"/vehicles","since":"0"}`)
	c.expect("subscribed b", "b 1 0", "b live")
	c.say(`{"subscribe":"c","to":"/others","filter":"x == 1"}`)
	c.expect("subscribed c", "c live")
	w.put("1", "1")
	got := []string{c.any().short(), c.any().short()}
	slices.Sort(got)
	if !slices.Equal(got, []string{"a 1 1", "b 1 1"}) {
		t.Errorf("got %q", got)
	}
	c.say(`{"unsubscribe":"b"}`)
	c.expect("unsubscribed b")
	w.put("2", "2")
	w.put("3", "3")
	c.expect("a 2 2")

	for _, wrong := range []struct{ message, answer string }{
		{`x`, "error invalid"},
		{`[]`, "error invalid"},
		{`{}`, "error invalid"},
		{`{"subscribe":"a","unsubscribe":"a"}`, "a error invalid"},
		{`{"subscribe":"a","to":"/vehicles"}`, "a error conflict"},
		{`{"subscribe":"","to":"/vehicles"}`, "error invalid"},
		{`{"subscribe":"x","to":"/nowhere"}`, "x error not_found"},
		{`{"subscribe":"x"}`, "x error not_found"},
		{`{"subscribe":"x","to":"/live"}`, "x error not_found"},
		{`{"subscribe":"x","to":"/vehicles","fitler":"a > 1"}`, "error invalid"},
		{`{"subscribe":"x","to":"/vehicles","filter":"a >"}`, "x error invalid"},
		{`{"subscribe":"x","to":"/vehicles","since":"never"}`, "x error invalid"},
		{`{"subscribe":"x","to":"/vehicles","since":"latest"}`, "x error invalid"},
		{`{"subscribe":"x","to":"/vehicles","area":{"box":[1,2,3,4]}}`, "x error invalid"},
		{`{"subscribe":"x","to":"/map","area":{"box":[1,2,3]}}`, "x error invalid"},
		{`{"subscribe":"x","to":"/map","area":{"box":[1,4,3,2]}}`, "x error invalid"},
		{`{"subscribe":"x","to":"/map","area":{"circle":{"lat":1,"radius":5}}}`, "x error invalid"},
		{`{"unsubscribe":"b"}`, "b error not_found"},
		{`{"update":"a","area":{"box":[1,2,3,4]}}`, "a error invalid"},
	} {
		c.say("%s", wrong.message)
		if got := c.any().short(); got != wrong.answer {
			t.Errorf("%s: got %q, want %q", wrong.message, got, wrong.answer)
		}
	}
	w.put("2", "still there")
	c.expect(`a 2 "still there"`)
	if _, err := server.tryDial("/live", ""); err == nil {
		t.Error("a plain client may connect where it cannot subscribe")
	}
}

// The newest event of each key comes first, then what happens, whatever happens in between.
func TestLatest(t *testing.T) {
	for _, partitions := range []int{1, 3} {
		_, w, server := cars(t, partitions, nil)
		const keys = 40
		newest := map[string]int{}
		random := rand.New(rand.NewPCG(1, uint64(partitions)))
		n := 0
		step := func() {
			n++
			key := fmt.Sprint("car ", random.IntN(keys))
			if random.IntN(20) == 0 {
				w.append(millrace.Event{Key: key, Deleted: true, Data: []byte("null")})
				delete(newest, key)
				return
			}
			w.put(key, fmt.Sprint(n))
			newest[key] = n
		}
		for range 500 {
			step()
		}
		writing := make(chan struct{})
		go func() {
			defer close(writing)
			for range 2000 {
				step()
			}
			w.put("end", "-1")
		}()
		c := server.dial(t, "/map?since=latest", v1)
		got := map[string]int{}
		rows := true
		for {
			f := c.any()
			if f.Key == "" {
				continue
			}
			if f.Key == "end" {
				break
			}
			if f.ID != "" {
				rows = false
			} else if !rows {
				t.Fatalf("a row of the table comes after live events: %+v", f)
			}
			if f.Deleted {
				delete(got, f.Key)
				continue
			}
			var number int
			if err := json.Unmarshal(f.Data, &number); err != nil {
				t.Fatal(err)
			}
			if number <= got[f.Key] {
				t.Fatalf("%s: %d comes after %d", f.Key, number, got[f.Key])
			}
			got[f.Key] = number
		}
		<-writing
		if partitions > 1 { // other partitions than the one of the end may have more to come
			continue
		}
		if fmt.Sprint(got) != fmt.Sprint(newest) {
			t.Errorf("the client has %v\nwant %v", got, newest)
		}
	}
}

// Clients that take nothing of the rows that they begin with keep nobody from theirs, and get them all when they do.
func TestLatestOfSlowClients(t *testing.T) {
	t.Parallel()
	s := newStream(1)
	w := newWriter(t, s)
	server := serveOn(t, listenNarrowly(t), s, func(c *gateway.Config, _ *gateway.Options) {
		c.Endpoints = map[string]gateway.Endpoint{"/map": {From: "crossings", Latest: true}}
	})
	const rows = 60
	row := func(n int) string {
		return fmt.Sprintf(`car %d {"n":%d,"pad":"%s"}`, n, n, strings.Repeat("x", 20<<10))
	}
	all := server.dial(t, "/map", v1)
	all.live()
	for n := range rows {
		key, data, _ := strings.Cut(row(n), "{")
		w.put(strings.TrimSpace(key), "{"+data)
		all.expect(row(n))
	}
	var slow []*client
	for range 20 { // more than there are slots
		slow = append(slow, server.dialNarrow(t, "/map?since=latest", v1))
	}
	for _, c := range append([]*client{server.dial(t, "/map?since=latest", v1)}, slow...) {
		for n := range rows {
			c.expect(row(n))
		}
		c.expect("live")
	}
}

// Whoever watches an area hears of all that comes into it, moves in it, and leaves it.
func TestArea(t *testing.T) {
	_, w, server := cars(t, 1, nil)
	put := func(key string, lat, lon float64) { w.put(key, fmt.Sprintf(`{"lat":%g,"lon":%g}`, lat, lon)) }
	watch := server.dial(t, "/vehicles", v1)
	watch.live()
	seen := func(key string) { // so the table has it
		for watch.any().Key != key {
		}
	}
	put("in", 1, 1)
	put("out", 5, 5)
	seen("out")
	c := server.dial(t, "/map?since=latest&box=0,0,2,2", v1)
	c.expect(`in {"lat":1,"lon":1}`, "live")
	put("out", 1, 2)   // comes in, to the border
	put("in", 1.5, 1)  // moves
	put("far", 50, 50) // is of no interest
	put("in", 3, 1)    // leaves
	put("in", 4, 1)
	put("in", 0, 0)            // comes back
	w.put("in", `{"speed":1}`) // is nowhere
	put("in", 1, 1)
	w.append(millrace.Event{Key: "in", Deleted: true, Data: []byte("{}")})
	c.expect(`out {"lat":1,"lon":2}`, `in {"lat":1.5,"lon":1}`, "in left", `in {"lat":0,"lon":0}`, "in left", `in {"lat":1,"lon":1}`, "in deleted")

	named := server.dial(t, "/live", v1)
	put("a", 10, 10)
	put("b", 10, 20)
	seen("b")
	named.say(`{"subscribe":"m","to":"/map","since":"latest","area":{"circle":{"lat":10,"lon":10,"radius":1000}}}`)
	named.expect("subscribed m", `m a {"lat":10,"lon":10}`, "m live")
	named.say(`{"update":"m","area":{"box":[15,5,25,15]}}`)
	named.expect("updated m")
	got := []string{named.any().short(), named.any().short()}
	slices.Sort(got)
	if !slices.Equal(got, []string{"m a left", `m b {"lat":10,"lon":20}`}) {
		t.Errorf("got %q", got)
	}
	named.expect("m live")
	put("a", 10, 19)
	put("b", 10, 10)
	named.expect(`m a {"lat":10,"lon":19}`, "m b left")

	// Across the 180th meridian, on an event stream.
	e := server.listen(t, "/map?box=170,-10,-170,10", nil)
	if _, ok := e.read(); !ok {
		t.Fatal("the event stream has ended")
	}
	put("ship", 0, 179)
	put("ship", 0, -179)
	put("ship", 0, -160)
	for _, want := range []string{`{"lat":0,"lon":179}`, `{"lat":0,"lon":-179}`, `{"key":"ship"}`} {
		if m := e.next(); m.data != want || (m.kind == "millrace.left") != (want == `{"key":"ship"}`) {
			t.Errorf("got %+v, want %s", m, want)
		}
	}
}

// An event that the filter leaves out does not say that its object has left: live, replayed, and after latest.
func TestAreaWithFilter(t *testing.T) {
	_, w, server := cars(t, 1, nil)
	put := func(key string, lat, speed int) { w.put(key, fmt.Sprintf(`{"lat":%d,"lon":1,"speed":%d}`, lat, speed)) }
	const path = "/map?box=0,0,2,2&filter=speed%20%3E%205"
	everything := server.dial(t, "/map", v1)
	live := server.dial(t, path, v1)
	everything.live()
	live.live()
	put("slow", 1, 1)
	put("fast", 1, 9)
	put("fast", 2, 1) // slower, and inside
	put("ended", 1, 9)
	for range 4 {
		everything.any()
	}
	latest := server.dial(t, path+"&since=latest", v1)
	latest.expect(`ended {"lat":1,"lon":1,"speed":9}`, "live") // the newest of fast is not
	put("fast", 1, 8)
	put("slow", 3, 1)
	put("fast", 3, 1)
	w.append(millrace.Event{Key: "ended", Deleted: true, Data: []byte("null")})
	put("last", 1, 7)
	after := []string{`fast {"lat":1,"lon":1,"speed":8}`, "fast left", "ended left", `last {"lat":1,"lon":1,"speed":7}`}
	shownFirst := []string{`fast {"lat":1,"lon":1,"speed":9}`, `ended {"lat":1,"lon":1,"speed":9}`}
	told := slices.Concat(shownFirst, after[:1], []string{"slow left"}, after[1:])
	live.expect(told...)
	latest.expect(told[2:]...)
	// A replay cannot know what the client has from before: it, too, says that slow has left.
	server.dial(t, path+"&since=0", v1).expect(append(told, "live")...)
}

// The message that says live after an update has been answered is that of the new area, also if the client was
// still being brought up to date when it asked.
func TestUpdateBeforeLive(t *testing.T) {
	_, w, server := cars(t, 1, nil)
	watch := server.dial(t, "/cars/east", v1)
	watch.live()
	for i := range 200 {
		w.put(fmt.Sprint("west ", i), `{"lat":1,"lon":1}`)
	}
	w.put("east", `{"lat":1,"lon":50}`)
	watch.expect(`east {"lat":1,"lon":50}`) // the gateway's table has it, too
	for range 30 {
		c := server.dial(t, "/live", v1)
		c.say(`{"subscribe":"m","to":"/map","since":"latest","area":{"box":[0,0,2,2]}}`)
		c.say(`{"update":"m","area":{"box":[49,0,51,2]}}`)
		for c.any().Updated == nil { //nolint:revive // what comes before is of the first area
		}
		east := false
		for f := c.any(); !f.Live; f = c.any() {
			east = east || f.Key == "east"
		}
		if !east {
			t.Fatal("live comes before what the new area holds")
		}
	}
}

// However the area is replaced, and whatever moves meanwhile, in the end the client sees what is inside.
func TestAreaConverges(t *testing.T) {
	for seed := range uint64(6) {
		_, w, server := cars(t, 1, nil)
		random := rand.New(rand.NewPCG(seed, 7))
		places := map[string][2]float64{}
		move := func() {
			key := fmt.Sprint(random.IntN(30))
			lat, lon := float64(random.IntN(20)), float64(random.IntN(20))
			places[key] = [2]float64{lat, lon}
			w.put(key, fmt.Sprintf(`{"lat":%g,"lon":%g}`, lat, lon))
		}
		for range 50 {
			move()
		}
		c := server.dial(t, "/live", v1)
		c.say(`{"subscribe":"m","to":"/map","since":"latest","area":{"box":[0,0,9,9]}}`)
		var west, south int
		for range 20 {
			for range random.IntN(20) {
				move()
			}
			west, south = random.IntN(15), random.IntN(15)
			c.say(`{"update":"m","area":{"box":[%d,%d,%d,%d]}}`, west, south, west+6, south+6)
		}
		c.say(`{"ping":"said"}`)
		seen := map[string][2]float64{}
		ended := ""
		for ended != "end" {
			f := c.any()
			switch {
			case f.Pong != nil:
				// All updates have been read. The last one is done when the live message follows; events after
				// it are live.
				for range 10 {
					move()
				}
				places["end"] = [2]float64{float64(south), float64(west)}
				w.put("end", fmt.Sprintf(`{"lat":%d,"lon":%d}`, south, west))
			case f.Error != nil:
				t.Fatalf("%+v", f)
			case f.Left:
				delete(seen, f.Key)
			case f.Key != "":
				var p struct{ Lat, Lon float64 }
				if err := json.Unmarshal(f.Data, &p); err != nil {
					t.Fatal(err)
				}
				seen[f.Key] = [2]float64{p.Lat, p.Lon}
				ended = f.Key
			}
		}
		for range 3 { // whatever is still on its way is there before the answer
			c.say(`{"update":"m","area":{"box":[%d,%d,%d,%d]}}`, west, south, west+6, south+6)
		}
		c.say(`{"unsubscribe":"m"}`)
		for f := c.any(); f.Unsubscribed == nil; f = c.any() {
			switch {
			case f.Left:
				delete(seen, f.Key)
			case f.Key != "":
				var p struct{ Lat, Lon float64 }
				_ = json.Unmarshal(f.Data, &p)
				seen[f.Key] = [2]float64{p.Lat, p.Lon}
			}
		}
		want := map[string][2]float64{}
		for key, p := range places {
			if p[0] >= float64(south) && p[0] <= float64(south+6) && p[1] >= float64(west) && p[1] <= float64(west+6) {
				want[key] = p
			}
		}
		if fmt.Sprint(seen) != fmt.Sprint(want) {
			t.Errorf("seed %d: the client sees %v\nwant %v", seed, seen, want)
		}
	}
}

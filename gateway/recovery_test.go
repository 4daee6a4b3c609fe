package gateway_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
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

// Clients of every kind are cut at random, and the gateway is ended and started again, while events
// keep coming. Each client resumes from the last id that it has got, and misses and repeats nothing.
func TestLedger(t *testing.T) {
	t.Parallel()
	const (
		keys, lives = 5, 4
		perLife     = 1500
	)
	s := newStream(2)
	w := newWriter(t, s)
	ledger := millracetest.NewLedger()
	var address atomic.Pointer[server]
	start := func() *server {
		running := serve(t, s, func(c *gateway.Config, _ *gateway.Options) {
			c.Queue = 8 << 10 // clients are cut for being slow, too
			c.Drain = 10 * time.Millisecond
		})
		address.Store(running)
		return running
	}
	running := start()

	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	var clients sync.WaitGroup
	var places []string
	cuts := atomic.Int64{}
	for n := range 8 {
		kind := []string{"sse", "v1"}[n%2]
		path := "/vehicles"
		if n >= 4 { // its own key's events are all that it may see
			path += fmt.Sprintf("?VehicleID=key%%20%d", n%keys)
		}
		place := fmt.Sprintf("client %d: %s %s", n, kind, path)
		places = append(places, place)
		clients.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(n)))
			last := ""
			for ctx.Err() == nil {
				since := path + map[bool]string{true: "?", false: "&"}[!strings.Contains(path, "?")] + "since="
				if last == "" {
					since += "0"
				} else {
					since += last
				}
				var err error
				if kind == "v1" {
					last, err = address.Load().followV1(since, last, random, ledger, place)
				} else {
					last, err = address.Load().followSSE(ctx, since, last, random, ledger, place)
				}
				if err != nil {
					time.Sleep(time.Millisecond) // the gateway is not back yet
				}
				cuts.Add(1)
				if ledger.NumberArrived(place) == wanted(n, keys, lives*perLife) {
					return
				}
			}
		})
	}

	sent := make([]int, keys)
	for life := range lives {
		for n := 0; n < perLife; {
			var batch []millrace.Event
			for range min(rand.IntN(40)+1, perLife-n) {
				k := (life*perLife + n) % keys
				key := fmt.Sprintf("key %d", k)
				id := millracetest.LedgerID(key, sent[k])
				ledger.Sent(key, sent[k], id)
				sent[k]++
				n++
				data, _ := json.Marshal(map[string]string{"id": id, "pad": strings.Repeat("x", rand.IntN(300))})
				batch = append(batch, millrace.Event{ID: id, Key: key, Type: "move", Data: data})
			}
			w.append(batch...)
			time.Sleep(time.Duration(rand.IntN(1000)) * time.Microsecond) // a feed's pace, not a wait
		}
		if life < lives-1 {
			if err := running.stop(); err != nil {
				t.Fatal(err)
			}
			running = start()
		}
	}
	clients.Wait()
	report := ledger.Report()
	for _, p := range report {
		n := 0
		for i, place := range places {
			if place == p.Place {
				n = i
			}
		}
		if want := wanted(n, keys, lives*perLife); p.Arrived != want || p.Repeated+p.Reordered+p.Unknown > 0 {
			t.Errorf("%s: %d events wanted\n%s", p.Place, want, millracetest.Report{p})
		}
	}
	if len(report) != len(places) {
		t.Errorf("%d of %d clients got anything", len(report), len(places))
	}
	t.Logf("%d events, %d clients, %d connections", lives*perLife, len(places), cuts.Load())
}

// wanted is how many events the n-th client is to get.
func wanted(n, keys, events int) int {
	if n >= 4 {
		return events / keys
	}
	return events
}

// followV1 enters what arrives until the connection ends, by the gateway or at random by the client,
// and returns the last id.
func (s *server) followV1(path, last string, random *rand.Rand, ledger *millracetest.Ledger, place string) (string, error) {
	c, err := s.tryDial(path, v1)
	if err != nil {
		return last, err
	}
	defer func() { _ = c.Close() }()
	for random.IntN(300) > 0 {
		_ = c.Conn.SetDeadline(time.Now().Add(time.Second))
		_, payload, err := c.Read()
		if err != nil {
			return last, nil //nolint:nilerr // it was connected: come back at once
		}
		var f v1Frame
		if err := json.Unmarshal(payload, &f); err != nil || f.Gap != nil {
			ledger.ArrivedID(place, string(payload)) // which it does not know
			return last, nil
		}
		if f.ID != "" {
			last = f.ID
		}
		if f.Data != nil {
			arrived(ledger, place, f.Data)
		}
	}
	return last, nil
}

// followSSE is followV1 for an event stream.
func (s *server) followSSE(ctx context.Context, path, last string, random *rand.Rand, ledger *millracetest.Ledger, place string) (string, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.address+path, nil)
	if err != nil {
		return last, err
	}
	request.Header.Set("Accept", "text/event-stream")
	request.Header.Set("Last-Event-ID", last)
	response, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(request)
	if err != nil {
		return last, err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return last, errors.New(response.Status)
	}
	idle := time.AfterFunc(time.Second, cancel)
	defer idle.Stop()
	e := &events{t: s.t, in: bufio.NewReader(response.Body), id: last}
	for random.IntN(300) > 0 {
		m, ok := e.read()
		if !ok {
			return e.id, nil
		}
		idle.Reset(time.Second)
		switch {
		case m.kind == "move":
			arrived(ledger, place, []byte(m.data))
		case m.data != "" && m.kind != "millrace.close":
			ledger.ArrivedID(place, m.data) // which it does not know
		}
	}
	return e.id, nil
}

// arrived enters an event by the ledger's id in its data.
func arrived(ledger *millracetest.Ledger, place string, data []byte) {
	var event struct{ ID string }
	_ = json.Unmarshal(data, &event) // an id that is not there is one that the ledger does not know
	ledger.ArrivedID(place, event.ID)
}

func TestGapInReplay(t *testing.T) {
	clock := millracetest.NewClock()
	s := memory.New("crossings", memory.Options{Now: clock.Now, Retention: memory.Retention{Age: time.Hour}})
	w := newWriter(t, s)
	server := serve(t, s, func(c *gateway.Config, _ *gateway.Options) { c.ReplayCache = 0 }) // or it would still have them
	c := server.dial(t, "/vehicles", v1)
	first := c.live().ID
	w.put("42", `"old"`)
	old := c.event().ID
	w.put("42", `"trimmed"`)
	trimmed := c.event().ID
	clock.Advance(2 * time.Hour)
	w.put("42", `"kept"`)
	kept := c.event().ID
	if err := s.Trim(t.Context()); err != nil {
		t.Fatal(err)
	}

	c = server.dial(t, "/vehicles?VehicleID=42&since="+old, v1)
	gap := c.frame()
	if gap.Gap == nil || gap.Gap.After != old || gap.Gap.First != trimmed || gap.Gap.Reason != "trimmed" || gap.ID != trimmed {
		t.Fatalf("got %+v, want the gap", gap)
	}
	if f := c.frame(); string(f.Data) != `"kept"` || f.ID != kept {
		t.Fatalf("got %+v", f)
	}
	c.live()

	for _, since := range []string{old, first, "0"} {
		e := server.listen(t, "/vehicles?since="+since, nil)
		m := e.next()
		var said struct{ After, First, Reason string }
		if err := json.Unmarshal([]byte(m.data), &said); err != nil || m.kind != "millrace.gap" || said.First != trimmed || said.Reason != "trimmed" || m.id != trimmed {
			t.Fatalf("since %s: got %+v, %v", since, m, err)
		}
		if m := e.next(); m.data != `"kept"` {
			t.Fatalf("got %+v", m)
		}
	}

	// From a position at the gap's end there is none, nor from a time that all that is kept comes after
	// and something older is kept, too.
	c = server.dial(t, "/vehicles?since="+trimmed, v1)
	if f := c.frame(); string(f.Data) != `"kept"` {
		t.Fatalf("got %+v", f)
	}
	c = server.dial(t, "/vehicles?since="+clock.Now().Add(time.Second).Format(time.RFC3339), v1)
	c.live()

	// A plain connection is told in the response's head.
	for since, want := range map[string]string{
		old: fmt.Sprintf(`after="%s", first="%s", reason="trimmed"`, old, trimmed),
		"0": fmt.Sprintf(`after="0_", first="%s", reason="trimmed"`, trimmed), trimmed: "",
	} {
		c = server.dial(t, "/vehicles?since="+since, "")
		if got := c.Response.Header.Get("Millrace-Gap"); got != want {
			t.Errorf("since %s: the head says %q, want %q", since, got, want)
		}
		c.want(`"kept"`)
	}
}

// Ids of a stream that was deleted and created again, or lost its tail, lead to a gap and on.
func TestGapOfAnotherLife(t *testing.T) {
	before := memory.New("crossings", memory.Options{Incarnation: "first"})
	w := newWriter(t, before)
	w.put("42", `"a"`)
	server1 := serve(t, before, nil)
	c := server1.dial(t, "/vehicles?since=0", v1)
	id := c.frame().ID

	// The names of incarnations sort in no particular way.
	for _, incarnation := range []string{"later", "another"} {
		s := memory.New("crossings", memory.Options{Incarnation: incarnation})
		server := serve(t, s, nil)
		empty := server.dial(t, "/vehicles?since="+id, v1)
		gap := empty.frame()
		if gap.Gap == nil || gap.Gap.Reason != "new incarnation" || gap.Gap.After != id {
			t.Fatalf("%s: got %+v", incarnation, gap)
		}
		again := server.dial(t, "/vehicles?since="+gap.ID, v1) // the id that the gap came with is good
		w := newWriter(t, s)
		w.put("42", `"b"`)
		for _, c := range []*client{empty, again, server.dial(t, "/vehicles?since="+gap.ID, v1)} {
			if f := c.event(); string(f.Data) != `"b"` {
				t.Errorf("%s: got %+v", incarnation, f)
			}
		}
		full := server.dial(t, "/vehicles?since="+id, v1)
		if gap := full.frame(); gap.Gap == nil {
			t.Errorf("%s: got %+v", incarnation, gap)
		}
		if f := full.event(); string(f.Data) != `"b"` {
			t.Errorf("%s: got %+v", incarnation, f)
		}
		full.live()
		w.put("42", `"c"`)
		if f := full.event(); string(f.Data) != `"c"` {
			t.Errorf("%s: got %+v", incarnation, f)
		}
	}
}

func TestGapTruncated(t *testing.T) {
	s := memory.New("crossings", memory.Options{})
	w := newWriter(t, s)
	w.put("42", `"a"`)
	server := serve(t, s, nil)
	plain := server.dial(t, "/vehicles", "")
	c := server.dial(t, "/vehicles?VehicleID=42&VehicleID=43", v1)
	e := server.listen(t, "/vehicles", nil)
	a := c.live().ID
	w.put("42", `"b"`)
	b := c.event().ID
	plain.want(`"b"`)
	e.next()

	// While they are connected: the tail is lost.
	at, err := parse(a)
	if err != nil {
		t.Fatal(err)
	}
	s.Truncate("0", at)
	if f := c.event(); f.Gap == nil || f.Gap.Reason != "truncated" || f.Gap.After != b || f.Gap.First != a || f.ID != a {
		t.Fatalf("got %+v", f)
	}
	if m := e.next(); m.kind != "millrace.gap" || m.id != a {
		t.Fatalf("got %+v", m)
	}
	if closed := plain.closed(); closed.Code != 4000 || !strings.Contains(closed.Reason, "truncated") {
		t.Errorf("got %v", closed)
	}
	// When they come back.
	c = server.dial(t, "/vehicles?since="+b, v1)
	if f := c.event(); f.Gap == nil || f.Gap.Reason != "truncated" {
		t.Fatalf("got %+v", f)
	}
	c.live()
}

func parse(id string) (millrace.Position, error) {
	_, at, _ := strings.Cut(id, "_")
	return millrace.ParsePosition(at)
}

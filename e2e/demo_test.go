package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace"
)

// launchDemo starts the demo as a new user does, but for its size.
func launchDemo(t *testing.T, dir, listen string, vehicles, rate int) *program {
	t.Helper()
	return launch(t, dir, nil, "demo", "--listen", listen, "--data", "city", "--vehicles", strconv.Itoa(vehicles), "--rate", strconv.Itoa(rate),
		"--log-level", "info", "--log-format", "json")
}

func startDemo(t *testing.T, dir, listen string, vehicles, rate int) *program {
	t.Helper()
	p := launchDemo(t, dir, listen, vehicles, rate)
	p.waitReady()
	return p
}

// checkReports checks that the feed's numbers, which follow a prefix, are without a gap.
func checkReports(t *testing.T, events []millrace.Event, prefix string) {
	t.Helper()
	last := int64(0)
	for i, e := range events {
		n, err := strconv.ParseInt(strings.TrimPrefix(e.ID, prefix), 10, 64)
		if err != nil || i > 0 && n != last+1 {
			t.Fatalf("report %s follows report %d: %v", e.ID, last, err)
		}
		last = n
	}
}

// The demo: the page and what it needs, crossings over WebSocket, counters that grow; it goes on after
// kill -9 without a gap in the city's feed, and ends cleanly with a summary.
func TestDemo(t *testing.T) {
	dir := t.TempDir()
	p := startDemo(t, dir, "127.0.0.1:0", 40, 400)
	if page := p.page("/"); !strings.HasPrefix(page, "<!doctype html>") {
		t.Errorf("the page is %.200s", page)
	}
	var setup struct {
		Positions, Crossings, Connect, Lat, Lon string
		Latest                                  bool
		Fences, Streets                         struct{ Features []any }
		Counters                                []struct{ Name string }
	}
	if err := json.Unmarshal([]byte(p.page("/map/setup.json")), &setup); err != nil {
		t.Fatal(err)
	}
	if setup.Positions != "/positions" || setup.Crossings != "/crossings" || setup.Connect != "/live" || !setup.Latest ||
		len(setup.Fences.Features) == 0 || len(setup.Streets.Features) == 0 || len(setup.Counters) != 5 {
		t.Errorf("the page's setup is %+v", setup)
	}

	demo := &pipeline{t: t, current: p, changed: make(chan struct{})}
	var crossings, followed atomic.Int64
	stops := []func(){
		follow(t, demo, &client{place: "crossings", path: "/crossings", take: func(m message) {
			var c struct{ Key, Fence, Transition string }
			if err := json.Unmarshal([]byte(m.data), &c); err != nil || c.Key != m.key || c.Fence == "" || c.Transition != m.kind {
				t.Errorf("a crossing of %q, a %q: %s: %v", m.key, m.kind, m.data, err)
			}
			crossings.Add(1)
		}}),
		follow(t, demo, &client{place: "vehicle 7", path: "/positions?VehicleID=7", take: func(m message) {
			if m.key != "7" {
				t.Errorf("the client of vehicle 7 gets %q", m.key)
			}
			followed.Add(1)
		}}),
	}
	live := func(what string, done func() bool) {
		t.Helper()
		for end := time.Now().Add(patience); !done(); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s: it does not come", what)
			}
		}
	}
	live("crossings and positions over WebSocket", func() bool { return crossings.Load() > 2 && followed.Load() > 2 })
	live("the counters", func() bool {
		var counters []float64
		if err := json.Unmarshal([]byte(p.page("/map/counters")), &counters); err != nil || len(counters) != 5 {
			t.Fatalf("counters %v: %v", counters, err)
		}
		in, stored, crossed, clients := counters[0], counters[1], counters[3], counters[4]
		return in > 0 && stored > 0 && crossed > 2 && clients == 2 // what is archived is counted after 10 s
	})

	p.kill()
	before := crossings.Load()
	p = startDemo(t, dir, "127.0.0.1:0", 40, 400)
	demo.mu.Lock()
	demo.current = p
	close(demo.changed)
	demo.changed = make(chan struct{})
	demo.mu.Unlock()
	live("crossings after kill -9", func() bool { return crossings.Load() > before })
	for _, stop := range stops {
		stop()
	}
	p.end(os.Interrupt)
	output := p.output()
	summary := regexp.MustCompile(`(?m)^In .*: (\d+) events in, (\d+) stored, (\d+) archived, (\d+) crossings, 2 clients\.$`).FindStringSubmatch(output)
	if summary == nil || summary[1] == "0" || summary[2] == "0" || summary[3] == "0" {
		t.Errorf("the demo ends with\n%s", output)
	}
	if !strings.Contains(output, "    sources:\n") || !strings.Contains(output, "is live at http://127.0.0.1:") {
		t.Errorf("the demo does not show its configuration and address:\n%s", output)
	}

	// The reports are numbered by the feed without a gap, over both lives.
	streams := readStreams(t, filepath.Join(dir, "city", "data"), map[string]int{"positions": 1, "crossings": 1, "dead": 1})
	checkReports(t, streams["positions"][0], "40x400-")
	if n := len(streams["dead"][0]); n > 0 {
		t.Errorf("%d dead letters, the first is %s", n, streams["dead"][0][0].Data)
	}
	for _, name := range []string{"positions", "crossings"} {
		lines := readArchive(t, filepath.Join(dir, "city", "archive"), name, name)["0"]
		compareArchive(t, name, 0, streams[name][0], lines)
		if len(lines) == 0 {
			t.Errorf("no %s were archived", name)
		}
	}
	t.Logf("%d reports without a gap, %d crossings", len(streams["positions"][0]), len(streams["crossings"][0]))

	// The configuration that it wrote is an ordinary one.
	check := launch(t, dir, nil, "check", filepath.Join("city", "millrace.yaml"))
	check.waitEnd()
	if check.wait != nil {
		t.Errorf("millrace check: %v\n%s", check.wait, check.tail(10))
	}
}

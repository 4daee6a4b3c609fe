package e2e

import (
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace"
)

// SIGTERM in the middle of the feed: whatever the program has taken in goes all the way, to the archive and
// to every client, before it ends with 0. The next life goes on from there, and a life without anything new
// delivers nothing.
func TestCleanStop(t *testing.T) {
	s := newTraffic(t, trafficOptions{vehicles: 100})
	arrived := map[*client]*[]message{}
	for _, c := range []*client{s.client(s.positions, "all keys", false), s.client(s.crossings, "all keys, SSE", true)} {
		take, list := c.take, &[]message{}
		c.take = func(m message) { *list = append(*list, m); take(m) }
		arrived[c] = list
	}
	p := s.pipeline.start()
	s.report(1000)
	stop := s.drive(20, 4*time.Millisecond)
	s.crossings.awaitCount(t, "all keys, SSE", 200)
	p.end(syscall.SIGTERM)
	stop()
	s.stopClients()
	if !strings.Contains(p.tail(100), `"msg":"drained"`) {
		t.Errorf("the program has not drained:\n%s", p.tail(100))
	}

	// What it has stored, by which everything else is measured.
	streams := s.readStreams()
	positions, crossings := newBooks("positions stored"), newBooks("crossings of them")
	stored := slices.Concat(streams["positions"]...)
	patrol := newPatrol(town())
	for _, e := range stored {
		positions.send(e.Key, e.ID, string(e.Data))
		lat, lon, at := whereabout(t, e)
		for _, c := range patrol.move(e.Key, lat, lon, at) {
			crossings.send(e.Key, "", c)
		}
	}
	for b, name := range map[*books]string{positions: "positions", crossings: "crossings"} {
		archived := readArchive(t, filepath.Join(s.pipeline.dir, "archive"), name, name)
		for i, events := range streams[name] {
			compareArchive(t, name, i, events, archived[strconv.Itoa(i)])
			for _, e := range events {
				b.arrive("stream", e.Key, e.ID, string(e.Data))
			}
		}
		for c, list := range arrived {
			if c.path == "/"+name {
				for _, m := range *list {
					b.arrive(c.place, "", "", m.data)
				}
			}
		}
		b.check(t)
	}
	t.Logf("%d of %d reports had come when the program was told to end", len(stored), s.positions.count())

	// Two more lives: one that goes on, and one without anything new.
	for _, c := range slices.Clone(s.clients) {
		s.follow(c)
	}
	p = s.pipeline.start()
	s.awaitClients()
	p.end(syscall.SIGTERM)
	s.pipeline.start().end(syscall.SIGTERM)
	s.settle()
}

// whereabout reads a position back.
func whereabout(t *testing.T, e millrace.Event) (lat, lon string, at time.Time) {
	t.Helper()
	_, rest, _ := strings.Cut(string(e.Data), `"lat":`)
	lat, rest, _ = strings.Cut(rest, `,"lon":`)
	lon, rest, _ = strings.Cut(rest, `},"at":"`)
	at, err := time.Parse(time.RFC3339Nano, strings.TrimSuffix(rest, `"}`))
	if err != nil || !at.Equal(e.Time) {
		t.Fatalf("event %s has the time %s: %v", e.Data, e.Time, err)
	}
	return lat, lon, at
}

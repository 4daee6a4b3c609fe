package e2e

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/millracetest"
)

// books hold what was sent on a stream and what arrived where: a ledger for all keys, and one for each
// place that takes only some. Events are told apart by their data.
type books struct {
	name string // of the stream

	mu      sync.Mutex
	entries map[string]entry // by data
	counts  map[string]int   // by key
	all     *millracetest.Ledger
	some    map[string]*partial // by place
	places  []string            // those that take every key
	changed chan struct{}       // closed and replaced when anything arrives
}

type entry struct {
	key    string
	number int // within its key
	id     string
}

type partial struct {
	keys   []string
	ledger *millracetest.Ledger
}

func newBooks(name string) *books {
	return &books{
		name: name, entries: map[string]entry{}, counts: map[string]int{},
		all: millracetest.NewLedger(), some: map[string]*partial{}, changed: make(chan struct{}),
	}
}

// expect opens the books for a place, before anything is sent. Without keys it takes all of them.
func (b *books) expect(place string, keys ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(keys) == 0 {
		b.all.Expect(place)
		b.places = append(b.places, place)
		return
	}
	l := millracetest.NewLedger()
	l.Expect(place)
	b.some[place] = &partial{keys, l}
}

// send enters an event; id is the feed's, or "" if the tests do not know it.
func (b *books) send(key, id, data string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.entries[data]; ok {
		panic(fmt.Sprintf("books of %s: the same data twice: %s", b.name, data)) // the test is wrong
	}
	n := b.counts[key]
	b.counts[key] = n + 1
	b.entries[data] = entry{key, n, id}
	b.all.Sent(key, n, data)
	for _, p := range b.some {
		if slices.Contains(p.keys, key) {
			p.ledger.Sent(key, n, data)
		}
	}
}

// arrive enters an event as arrived at a place. key and id are checked unless they are "".
func (b *books) arrive(place, key, id, data string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	l := b.all
	if p := b.some[place]; p != nil {
		l = p.ledger
	}
	e, known := b.entries[data]
	switch {
	case !known:
		l.Arrived(place, key, -1, data)
	case key != "" && key != e.key, id != "" && e.id != "" && id != e.id:
		l.Arrived(place, key, -1, fmt.Sprintf("%s with the id %s", data, id))
	default:
		l.Arrived(place, e.key, e.number, data)
	}
	close(b.changed)
	b.changed = make(chan struct{})
}

// clients are the places that are neither the stream nor the archive.
func (b *books) clients() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var clients []string
	for _, place := range b.places {
		if place != "stream" && place != "archive" {
			clients = append(clients, place)
		}
	}
	for place := range b.some {
		clients = append(clients, place)
	}
	return clients
}

// count is how many events were sent.
func (b *books) count() int { return b.all.NumberSent() }

// balanced says whether everything has come to all of the places.
func (b *books) balanced(places []string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, place := range places {
		l := b.all
		if p := b.some[place]; p != nil {
			l = p.ledger
		}
		if l.NumberArrived(place) < l.NumberSent() {
			return false
		}
	}
	return true
}

// await returns when everything that was sent has come to the places.
func (b *books) await(t *testing.T, places ...string) {
	t.Helper()
	if missing := b.wait(nil, places); missing != nil {
		t.Fatalf("not everything arrives:\n%s", missing)
	}
}

// wait is await, but returns the report if not everything has come, or early when stop is closed.
func (b *books) wait(stop <-chan struct{}, places []string) millracetest.Report {
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for {
		b.mu.Lock()
		changed := b.changed
		b.mu.Unlock()
		if b.balanced(places) {
			return nil
		}
		select {
		case <-changed:
		case <-stop:
			return b.report()
		case <-timeout.C:
			return b.report()
		}
	}
}

// awaitCount returns when a place has at least n events.
func (b *books) awaitCount(t *testing.T, place string, n int) {
	t.Helper()
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for {
		b.mu.Lock()
		changed := b.changed
		b.mu.Unlock()
		if b.all.NumberArrived(place) >= n {
			return
		}
		select {
		case <-changed:
		case <-timeout.C:
			t.Fatalf("%d events of %s are wanted at %s:\n%s", n, b.name, place, b.report())
		}
	}
}

func (b *books) report() millracetest.Report {
	b.mu.Lock()
	defer b.mu.Unlock()
	report := b.all.Report()
	for _, p := range b.some {
		report = append(report, p.ledger.Report()...)
	}
	for i := range report {
		report[i].Place = b.name + ": " + report[i].Place
	}
	slices.SortFunc(report, func(a, b millracetest.PlaceReport) int { return strings.Compare(a.Place, b.Place) })
	return report
}

// check fails the test if anything was lost, repeated, reordered or unknown, and logs the counts.
func (b *books) check(t *testing.T) {
	t.Helper()
	report := b.report()
	if !report.OK() {
		t.Errorf("the books do not balance:\n%s", report)
		return
	}
	t.Logf("the books balance:\n%s", report)
}

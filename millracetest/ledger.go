package millracetest

import (
	"context"
	"fmt"
	"hash/maphash"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
)

// Ledger proves promises end to end. Tests enter what was sent: each event with its key, its number
// within the key (from 0, without holes) and its id; and what arrived at named places: "stream",
// "archive", "client 7". The Ledger counts what was lost, repeated or out of order at each. All
// methods may be called concurrently. It needs some 10 bytes an event, and a bit an event and place.
type Ledger struct {
	mu     sync.Mutex
	seed   maphash.Seed
	keys   map[string]*sentKey
	sent   int
	places map[string]*place
}

// sentKey is what was sent for a key.
type sentKey struct{ ids []uint64 } // hashes, by number

type place struct {
	keys   map[string]*arrivedKey
	report PlaceReport
}

// arrivedKey is what arrived for a key at a place.
type arrivedKey struct {
	seen    []uint64 // a bit for each number
	count   int
	highest int
}

// Report says what a Ledger found, by place.
type Report []PlaceReport

// PlaceReport counts events at one place.
type PlaceReport struct {
	Place     string
	Sent      int // all that was sent, to compare with
	Arrived   int // different events
	Lost      int // sent and not arrived
	Repeated  int // arrivals of an event that had arrived before
	Reordered int // first arrivals after a later event of the same key
	Unknown   int // arrivals that were never sent, or with another id
	Examples  []string
}

// maxExamples of each place are kept.
const maxExamples = 10

// NewLedger returns an empty Ledger.
func NewLedger() *Ledger {
	return &Ledger{seed: maphash.MakeSeed(), keys: map[string]*sentKey{}, places: map[string]*place{}}
}

// LedgerID returns the id KEY#NUMBER that tells an event's key and number. ParseLedgerID reads it.
func LedgerID(key string, number int) string { return key + "#" + strconv.Itoa(number) }

// ParseLedgerID returns what LedgerID was given.
func ParseLedgerID(id string) (key string, number int, ok bool) {
	i := strings.LastIndexByte(id, '#')
	if i < 0 {
		return "", 0, false
	}
	number, err := strconv.Atoi(id[i+1:])
	return id[:i], number, err == nil && number >= 0
}

// Send enters the next event of a key as sent and returns its number and its LedgerID.
func (l *Ledger) Send(key string) (number int, id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if k := l.keys[key]; k != nil {
		number = len(k.ids)
	}
	id = LedgerID(key, number)
	l.enter(key, number, id)
	return number, id
}

// Sent enters an event as sent. Entering it again with the same id changes nothing, so that a feed
// that starts over may do so. It panics if numbers are left out or the id is another one: then the test is
// wrong.
func (l *Ledger) Sent(key string, number int, id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.enter(key, number, id)
}

func (l *Ledger) enter(key string, number int, id string) {
	k := l.keys[key]
	if k == nil {
		k = &sentKey{}
		l.keys[strings.Clone(key)] = k
	}
	hash := maphash.String(l.seed, id)
	switch {
	case number == len(k.ids):
		k.ids = append(k.ids, hash)
		l.sent++
	case number > len(k.ids):
		panic(fmt.Sprintf("ledger: event %d of key %q follows event %d", number, key, len(k.ids)-1))
	case k.ids[number] != hash:
		panic(fmt.Sprintf("ledger: event %d of key %q was sent before with another id than %q", number, key, id))
	}
}

// Arrived enters an event as arrived at a place.
func (l *Ledger) Arrived(at, key string, number int, id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.place(at)
	k := l.keys[key]
	if k == nil || number < 0 || number >= len(k.ids) || k.ids[number] != maphash.String(l.seed, id) {
		p.report.Unknown++
		p.example("event %d of key %q with id %q was never sent", number, key, id)
		return
	}
	a := p.keys[key]
	if a == nil {
		a = &arrivedKey{highest: -1}
		p.keys[strings.Clone(key)] = a
	}
	word, bit := number/64, uint64(1)<<(number%64)
	if word >= len(a.seen) {
		a.seen = append(a.seen, make([]uint64, word+1-len(a.seen))...)
	}
	switch {
	case a.seen[word]&bit != 0:
		p.report.Repeated++
		p.example("event %d of key %q (id %q) arrived again", number, key, id)
		return
	case number < a.highest:
		p.report.Reordered++
		p.example("event %d of key %q (id %q) arrived after event %d", number, key, id, a.highest)
	}
	a.seen[word] |= bit
	a.count++
	a.highest = max(a.highest, number)
	p.report.Arrived++
}

// ArrivedID enters an event as arrived that tells its key and number by its LedgerID.
func (l *Ledger) ArrivedID(at, id string) {
	key, number, ok := ParseLedgerID(id)
	if !ok {
		key, number = "", -1
	}
	l.Arrived(at, key, number, id)
}

// ArrivedInStream enters all events of a stream, from its start to where it ends now, by their
// LedgerIDs.
func (l *Ledger) ArrivedInStream(ctx context.Context, at string, s millrace.Stream) error {
	partitions, err := s.Partitions(ctx)
	if err != nil {
		return err
	}
	for _, partition := range partitions {
		if err := ReadPartition(ctx, s, partition.Name, func(b millrace.StoredBlock) error {
			var r block.Reader
			if err := r.Reset(b.Raw); err != nil {
				return err
			}
			if err := r.Load(block.IDs); err != nil {
				return err
			}
			for i := range r.Len() {
				l.ArrivedID(at, string(r.ID(i)))
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// ReadPartition calls each for every block of a partition, from the start to where it ends now. A gap
// ends it like any other error.
func ReadPartition(ctx context.Context, s millrace.Stream, partition string, each func(millrace.StoredBlock) error) error {
	_, end, err := s.Bounds(ctx, partition)
	if err != nil || end.IsStart() {
		return err
	}
	for b, err := range s.Read(ctx, partition, millrace.Position{}) {
		if err != nil {
			return err
		}
		if err := each(b); err != nil {
			return err
		}
		if b.At.Compare(end) >= 0 {
			return nil
		}
	}
	return nil
}

// Expect names places that the report is about even if nothing ever arrives there.
func (l *Ledger) Expect(places ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, at := range places {
		l.place(at)
	}
}

func (l *Ledger) place(at string) *place {
	p := l.places[at]
	if p == nil {
		p = &place{keys: map[string]*arrivedKey{}, report: PlaceReport{Place: at}}
		l.places[at] = p
	}
	return p
}

func (p *place) example(format string, args ...any) {
	if len(p.report.Examples) < maxExamples {
		p.report.Examples = append(p.report.Examples, fmt.Sprintf(format, args...))
	}
}

// NumberSent returns how many events were sent.
func (l *Ledger) NumberSent() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sent
}

// NumberArrived returns how many different events arrived at a place.
func (l *Ledger) NumberArrived(at string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p := l.places[at]; p != nil {
		return p.report.Arrived
	}
	return 0
}

// Report counts what was found so far, at all places, sorted by name. What is still on its way counts
// as lost.
func (l *Ledger) Report() Report {
	l.mu.Lock()
	defer l.mu.Unlock()
	var report Report
	for _, p := range l.places {
		r := p.report
		r.Sent, r.Lost = l.sent, l.sent-r.Arrived
		r.Examples = append(slices.Clone(r.Examples), l.lost(p, maxExamples-len(r.Examples))...)
		report = append(report, r)
	}
	slices.SortFunc(report, func(a, b PlaceReport) int { return strings.Compare(a.Place, b.Place) })
	return report
}

// lost returns up to n examples of lost events at a place.
func (l *Ledger) lost(p *place, n int) []string {
	var examples []string
	keys := make([]string, 0, len(l.keys))
	for key, k := range l.keys {
		if a := p.keys[key]; a == nil || a.count < len(k.ids) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	for _, key := range keys {
		a := p.keys[key]
		for number := range l.keys[key].ids {
			if len(examples) >= n {
				return examples
			}
			if a == nil || number/64 >= len(a.seen) || a.seen[number/64]&(1<<(number%64)) == 0 {
				examples = append(examples, fmt.Sprintf("event %d of key %q never arrived", number, key))
			}
		}
	}
	return examples
}

// OK says whether everything arrived everywhere, once and in order.
func (r Report) OK() bool {
	for _, p := range r {
		if p.Lost+p.Repeated+p.Reordered+p.Unknown > 0 {
			return false
		}
	}
	return true
}

// String returns a table with a line for each place, and examples below.
func (r Report) String() string {
	var b strings.Builder
	width := len("place")
	for _, p := range r {
		width = max(width, len(p.Place))
	}
	fmt.Fprintf(&b, "%-*s %9s %9s %9s %9s %9s %9s\n", width, "place", "sent", "arrived", "lost", "repeated", "reordered", "unknown")
	for _, p := range r {
		fmt.Fprintf(&b, "%-*s %9d %9d %9d %9d %9d %9d\n", width, p.Place, p.Sent, p.Arrived, p.Lost, p.Repeated, p.Reordered, p.Unknown)
	}
	for _, p := range r {
		for _, example := range p.Examples {
			fmt.Fprintf(&b, "%s: %s\n", p.Place, example)
		}
	}
	return b.String()
}

// Check fails the test if anything was lost, repeated, reordered or unknown anywhere; places are
// expected like by Expect.
func (l *Ledger) Check(t testing.TB, places ...string) {
	t.Helper()
	l.Expect(places...)
	if report := l.Report(); !report.OK() {
		t.Errorf("the ledger does not balance:\n%s", report)
	}
}

package table

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var begin = time.Date(2026, 11, 21, 8, 0, 0, 0, time.UTC)

// event is the n-th event of a key.
func event(key string, n int) millrace.Event {
	return millrace.Event{
		ID: fmt.Sprintf("%s#%d", key, n), Key: key, Type: "update", Time: begin.Add(time.Duration(n) * time.Millisecond),
		Data: fmt.Appendf(nil, `{"n":%d}`, n),
	}
}

func deleted(key string, n int) millrace.Event {
	e := event(key, n)
	e.Deleted = true
	return e
}

func encode(t testing.TB, events ...millrace.Event) millrace.Block {
	t.Helper()
	var builder block.Builder
	for i := range events {
		if err := builder.Add(&events[i]); err != nil {
			t.Fatal(err)
		}
	}
	b, err := builder.Encode(nil, millrace.Header{Producer: "test", Writer: [16]byte{1}, Commit: true})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// load points r at the events.
func load(t testing.TB, r *block.Reader, events ...millrace.Event) {
	t.Helper()
	if err := r.Reset(encode(t, events...).Raw); err != nil {
		t.Fatal(err)
	}
	if err := r.Load(block.All); err != nil {
		t.Fatal(err)
	}
}

// model is what a table should be, kept in the plainest way.
type model struct {
	maxKeys  int
	maxBytes int64
	want     func([]byte) bool
	rows     []Row // the one that was updated longest ago first
	places   map[string]millrace.Position
}

func (m *model) bytes() (n int64) {
	for i := range m.rows {
		n += size(&m.rows[i])
	}
	return n
}

func (m *model) get(key string) int {
	return slices.IndexFunc(m.rows, func(r Row) bool { return r.Event.Key == key })
}

func (m *model) apply(partition string, at millrace.Position, e millrace.Event) {
	m.places[partition] = at
	if m.want != nil && !m.want([]byte(e.Key)) {
		return
	}
	if i := m.get(e.Key); i >= 0 {
		m.rows = slices.Delete(m.rows, i, i+1)
	}
	if e.Deleted {
		return
	}
	m.rows = append(m.rows, Row{Event: e, Partition: partition, At: at})
	m.bound()
}

func (m *model) bound() {
	for m.maxKeys > 0 && len(m.rows) > m.maxKeys || m.maxBytes > 0 && m.bytes() > m.maxBytes {
		m.rows = slices.Delete(m.rows, 0, 1)
	}
}

func (m *model) clear(partition string) {
	m.rows = slices.DeleteFunc(m.rows, func(r Row) bool { return r.Partition == partition })
	delete(m.places, partition)
}

func (m *model) clone() *model {
	c := *m
	c.rows, c.places = slices.Clone(m.rows), maps.Clone(m.places)
	return &c
}

// fatal is what testing.TB and rapid.T have in common.
type fatal interface {
	Helper()
	Fatalf(format string, args ...any)
}

func (m *model) check(t fatal, table *Table) {
	t.Helper()
	if table.Len() != len(m.rows) || table.Bytes() != m.bytes() {
		t.Fatalf("%d rows of %d bytes; want %d of %d", table.Len(), table.Bytes(), len(m.rows), m.bytes())
	}
	if got := table.Places(); !maps.Equal(got, m.places) {
		t.Fatalf("places %v, want %v", got, m.places)
	}
	rows := table.AppendRows(nil)
	Sort(rows)
	if len(rows) != len(m.rows) {
		t.Fatalf("%d rows are there, and the length is %d", len(rows), len(m.rows))
	}
	for i, row := range rows {
		sameRow(t, row, &m.rows[i])
		if table.Get(row.Event.Key) != row {
			t.Fatalf("Get(%q) is another row", row.Event.Key)
		}
	}
}

func sameRow(t fatal, got, want *Row) {
	t.Helper()
	a, b := got.Event, want.Event
	if got.Partition != want.Partition || got.At != want.At || a.ID != b.ID || a.Key != b.Key || a.Type != b.Type ||
		!a.Time.Equal(b.Time) || a.Deleted || !maps.Equal(a.Attributes, b.Attributes) || !bytes.Equal(a.Data, b.Data) {
		t.Fatalf("got row\n%+v, want\n%+v", got, want)
	}
}

// feed appends blocks to a stream and keeps a model in step.
type feed struct {
	t      testing.TB
	stream millrace.Stream
	after  map[string]millrace.Position
	model  model
}

func newFeed(t testing.TB, s millrace.Stream) *feed {
	return &feed{
		t: t, stream: s, after: map[string]millrace.Position{}, model: model{places: map[string]millrace.Position{}},
	}
}

// send appends the events as one block of a partition.
func (f *feed) send(partition string, events ...millrace.Event) millrace.Position {
	f.t.Helper()
	at := f.append(partition, encode(f.t, events...))
	for i, e := range events {
		f.model.apply(partition, millrace.Position{Block: at.Block, Event: uint32(i) + 1}, e)
	}
	f.model.places[partition] = at
	return at
}

func (f *feed) append(partition string, b millrace.Block) millrace.Position {
	f.t.Helper()
	for {
		at, err := f.stream.Append(context.Background(), partition, f.after[partition], b)
		if millrace.CodeOf(err) == millrace.Conflict { // a trim has appended the cursor again
			last, err := f.stream.Last(context.Background(), partition, "test")
			if err != nil {
				f.t.Fatal(err)
			}
			f.after[partition] = last.At
			continue
		}
		if err != nil {
			f.t.Fatal(err)
		}
		f.after[partition] = at
		return at
	}
}

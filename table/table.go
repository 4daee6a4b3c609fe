package table

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"unsafe"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
)

// Row is the newest event of a key. It never changes once it is in a table: it may be read, and kept,
// without the owner's lock. Its strings and Data are its own; Attributes may be shared with other rows.
type Row struct {
	Event     millrace.Event
	Partition string
	At        millrace.Position // of Event

	number uint64 // counts the rows of the table: a newer row has a larger one
}

// Options of a table.
type Options struct {
	// Of says what the table holds: the stream, and what Want selects of it. It is kept in snapshots, and
	// one of something else is refused: its rows would be those of other keys.
	Of string
	// MaxKeys and MaxBytes bound the table; 0 = unlimited. When it is full the row that was updated
	// longest ago goes. MaxBytes is compared with Bytes.
	MaxKeys  int
	MaxBytes int64
	// Want says whether a key has a row; nil: every key. It must not keep the key.
	Want func(key []byte) bool
}

// Table holds the newest event of each key of a stream, newest in the order of the stream, and how far
// it has come in each partition. It is not safe for concurrent use: its owner locks. Rows are immutable,
// so that the lock is needed only to get at them.
type Table struct {
	o Options

	keys  map[string]int32 // to slots
	slots []slot           // slots[0] closes the ring
	free  int32            // the first unused slot, linked by newer; 0: none
	rows  uint64           // made so far

	places map[string]*place
	place  *place // the one that was used last

	bytes      int64
	attributes map[string]string // of the newest row that had any
}

// slot holds a key's row, in a ring by the time of the last update. Rows bear no links themselves: a row
// that somebody keeps would keep its neighbours.
type slot struct {
	row          *Row // nil in an unused slot
	newer, older int32
}

type place struct {
	partition string
	at        millrace.Position
}

// What a row takes beside its text and data: the Row (160 bytes), its slot (16), its entry in the map of keys
// (37), and what allocations are rounded up by; for a map of attributes (up to 8); and for an attribute.
const (
	rowBytes       = 240
	mapBytes       = 336
	attributeBytes = 16
)

// New returns an empty table, at the start of every partition.
func New(o Options) *Table {
	return &Table{
		o: o, keys: map[string]int32{}, slots: make([]slot, 1), places: map[string]*place{},
	}
}

// Apply takes the i-th event of a block, which is at position at of a partition. The events of a partition
// are applied in order; r has all sections loaded. The table copies what it keeps.
//
// previous is the key's row before, now the one from now on; nil where there is none. A deleted event drops
// the row: now is nil. A key that nobody wants has neither. Where a single row is over MaxBytes now is that
// row although it has been evicted already.
func (t *Table) Apply(partition string, at millrace.Position, r *block.Reader, i int) (previous, now *Row) {
	p := t.move(partition, at)
	key := r.Key(i)
	if t.o.Want != nil && !t.o.Want(key) {
		return nil, nil
	}
	s, known := t.keys[string(key)]
	if known {
		previous = t.slots[s].row
	}
	if r.Deleted(i) {
		if known {
			t.drop(s)
		}
		return previous, nil
	}
	name := ""
	if known {
		name = previous.Event.Key
	} else {
		name = string(key)
	}
	now = t.row(name, p, previous, r, i)
	t.put(s, now)
	return previous, now
}

// Moved says that the table has come to a position of a partition without an event for it: after a block
// without events, or over a gap.
func (t *Table) Moved(partition string, at millrace.Position) { t.move(partition, at) }

// Places returns the positions that the table has come to, by partition.
func (t *Table) Places() map[string]millrace.Position {
	places := make(map[string]millrace.Position, len(t.places))
	for name, p := range t.places {
		places[name] = p.at
	}
	return places
}

// Place is the position that the table has come to in a partition.
func (t *Table) Place(partition string) millrace.Position {
	if p := t.places[partition]; p != nil {
		return p.at
	}
	return millrace.Position{}
}

// Get returns a key's row, nil if there is none.
func (t *Table) Get(key string) *Row { return t.slots[t.keys[key]].row } // slots[0] has none

// AppendRows appends all rows to dst in no particular order. It touches no row, so that it takes little
// time under a lock; Sort puts them in order outside of it.
func (t *Table) AppendRows(dst []*Row) []*Row {
	dst = slices.Grow(dst, t.Len())
	for i := range t.slots {
		if row := t.slots[i].row; row != nil {
			dst = append(dst, row)
		}
	}
	return dst
}

// Sort puts rows of one table in the order in which they were updated. Within a partition that is the order
// of their positions: who has taken a row in this order has all that the table has up to the row's position.
func Sort(rows []*Row) {
	slices.SortFunc(rows, func(a, b *Row) int { return cmp.Compare(a.number, b.number) })
}

// Len returns the number of rows.
func (t *Table) Len() int { return len(t.keys) }

// Bytes returns about how much memory the rows take, the table's share included. Attributes count for each
// row although rows share equal ones, so that it may be less.
func (t *Table) Bytes() int64 { return t.bytes }

// Clear drops the rows of a partition and goes back to its start: the stream was created again, or has
// lost its tail, and what the rows say was never true of the stream as it is now. Where events were
// trimmed rows are still the newest that anybody knows; they stay.
func (t *Table) Clear(partition string) {
	for i := range t.slots {
		if row := t.slots[i].row; row != nil && row.Partition == partition {
			t.drop(int32(i))
		}
	}
	delete(t.places, partition)
	t.place = nil
}

// move notes a place. Names are copied, once per block, so that rows share them and nothing else is kept.
func (t *Table) move(partition string, at millrace.Position) *place {
	p := t.place
	if p == nil || p.partition != partition {
		if p = t.places[partition]; p == nil {
			p = &place{partition: strings.Clone(partition)}
			t.places[p.partition] = p
		}
		t.place = p
	}
	if p.at.Block != at.Block {
		p.at.Block = strings.Clone(at.Block)
	}
	p.at.Event = at.Event
	return p
}

// row makes a row of the i-th event of a block: two allocations, the row and its text, unless its attributes
// are new.
func (t *Table) row(key string, p *place, previous *Row, r *block.Reader, i int) *Row {
	id, kind, data := r.ID(i), r.Type(i), r.Data(i)
	text := make([]byte, 0, len(id)+len(kind)+len(data))
	text = append(append(append(text, id...), kind...), data...)
	t.rows++
	row := &Row{Partition: p.partition, At: p.at, number: t.rows}
	row.Event = millrace.Event{
		ID: view(text[:len(id)]), Key: key, Type: view(text[len(id) : len(id)+len(kind)]),
		Time: r.Time(i), Data: text[len(id)+len(kind):],
	}
	switch {
	case previous != nil && sameAttributes(previous.Event.Attributes, r, i):
		row.Event.Attributes = previous.Event.Attributes
	case sameAttributes(nil, r, i):
	case sameAttributes(t.attributes, r, i):
		row.Event.Attributes = t.attributes
	default:
		row.Event.Attributes = map[string]string{}
		for name, value := range r.Attributes(i) {
			row.Event.Attributes[strings.Clone(name)] = strings.Clone(value)
		}
		t.attributes = row.Event.Attributes
	}
	return row
}

func sameAttributes(known map[string]string, r *block.Reader, i int) bool {
	n := 0
	for name, value := range r.Attributes(i) {
		if have, ok := known[name]; !ok || have != value {
			return false
		}
		n++
	}
	return n == len(known)
}

// view returns b, which nobody changes, as a string.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// put makes row the newest of all, in its key's slot s, or in a new one if s is 0.
func (t *Table) put(s int32, row *Row) {
	switch {
	case s != 0:
		t.bytes -= size(t.slots[s].row)
		t.unlink(s)
	case t.free != 0:
		s = t.free
		t.free = t.slots[s].newer
		t.keys[row.Event.Key] = s
	default:
		s = int32(len(t.slots))
		t.slots = append(t.slots, slot{})
		t.keys[row.Event.Key] = s
	}
	newest := t.slots[0].older
	t.slots[s] = slot{row: row, older: newest}
	t.slots[newest].newer, t.slots[0].older = s, s
	t.bytes += size(row)
	for t.o.MaxKeys > 0 && len(t.keys) > t.o.MaxKeys || t.o.MaxBytes > 0 && t.bytes > t.o.MaxBytes {
		t.drop(t.slots[0].newer) // the one that was updated longest ago
	}
}

// drop empties a slot.
func (t *Table) drop(s int32) {
	row := t.slots[s].row
	t.unlink(s)
	delete(t.keys, row.Event.Key)
	t.bytes -= size(row)
	t.slots[s] = slot{newer: t.free}
	t.free = s
}

func (t *Table) unlink(s int32) {
	newer, older := t.slots[s].newer, t.slots[s].older
	t.slots[newer].older, t.slots[older].newer = older, newer
}

func size(row *Row) int64 {
	e := &row.Event
	n := rowBytes + len(e.Key) + len(e.ID) + len(e.Type) + len(e.Data)
	if len(e.Attributes) > 0 {
		n += mapBytes
	}
	for name, value := range e.Attributes {
		n += attributeBytes + len(name) + len(value)
	}
	return int64(n)
}

// sortedPlaces returns the places by partition.
func (t *Table) sortedPlaces() []place {
	places := make([]place, 0, len(t.places))
	for _, name := range slices.Sorted(maps.Keys(t.places)) {
		places = append(places, *t.places[name])
	}
	return places
}

package table

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
)

// maxRecord bounds the body of a record in bytes: a block of one row, as large as blocks may be.
const maxRecord = 5 * block.MaxSection

// Load reads the newest snapshot of a name, and returns its version. It fails with NotFound if none was saved,
// with Unavailable, and with Invalid if the snapshot is damaged, of a later version of this program, or of
// something else than o.Of: then the owner begins with an empty table, and saves over the version returned.
func Load(ctx context.Context, state millrace.State, name string, o Options) (*Table, uint64, error) {
	r, version, err := state.Load(ctx, name)
	if err != nil {
		return nil, 0, err
	}
	defer r.Close()
	t, err := Read(r, o)
	return t, version, err
}

// Read reads what Snapshot.WriteTo wrote, to the end of r. If the table is bounded more tightly than the one
// that was saved, what was updated longest ago is left out. It fails with Invalid as Load does, and with
// Unavailable where r fails.
func Read(r io.Reader, o Options) (*Table, error) {
	l := loader{r: bufio.NewReaderSize(r, 64<<10), t: New(o)}
	if err := l.load(); err != nil {
		return nil, err
	}
	return l.t, nil
}

// loader reads a snapshot into a table.
type loader struct {
	r   *bufio.Reader
	sum uint32       // of all but the checksums
	buf bytes.Buffer // the body of a record

	t      *Table
	places []*place
	reader block.Reader
	name   []byte // of a block
	rows   uint64 // read so far
}

func invalid(format string, args ...any) error {
	return millrace.Errorf(millrace.Invalid, "read snapshot", format, args...)
}

func (l *loader) load() error {
	var start [len(magic)]byte
	if err := l.read(start[:]); err != nil {
		return err
	}
	l.sum = crc32.Update(0, castagnoli, start[:])
	switch {
	case string(start[:3]) != magic[:3]:
		return invalid("it begins with %q and not with %q: it is no snapshot of a table", start[:], magic)
	case string(start[:]) != magic:
		return invalid("it is of version %q, and this program knows version %q: a later one has written it", start[3:], magic[3:])
	}
	for first := true; ; first = false {
		kind, body, err := l.record()
		switch {
		case err != nil:
		case first != (kind == kindHead):
			err = invalid("the head is not its first record, or not its only one")
		case kind == kindHead:
			err = l.head(body)
		case kind == kindRows:
			err = l.chunk(body)
		case kind == kindEnd:
			return l.end(body)
		default:
			err = invalid("it has a record of the unknown kind %d", kind)
		}
		if err != nil {
			return err
		}
	}
}

// record reads the next record. Memory grows with what is there, not with what a length claims.
func (l *loader) record() (kind byte, body []byte, err error) {
	var front [5]byte
	if err := l.read(front[:]); err != nil {
		return 0, nil, err
	}
	length := int64(binary.LittleEndian.Uint32(front[1:]))
	if length > maxRecord {
		return 0, nil, invalid("a record has %d bytes, the limit is %d", length, maxRecord)
	}
	l.buf.Reset()
	if _, err := io.CopyN(&l.buf, l.r, length); err != nil {
		return 0, nil, cutShort(err)
	}
	var sum [4]byte
	if err := l.read(sum[:]); err != nil {
		return 0, nil, err
	}
	l.sum = crc32.Update(crc32.Update(l.sum, castagnoli, front[:]), castagnoli, l.buf.Bytes())
	if l.sum != binary.LittleEndian.Uint32(sum[:]) {
		return 0, nil, invalid("a checksum is wrong")
	}
	return front[0], l.buf.Bytes(), nil
}

func (l *loader) read(b []byte) error {
	_, err := io.ReadFull(l.r, b)
	return cutShort(err)
}

func cutShort(err error) error {
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return invalid("it is cut short")
	case err != nil:
		return &millrace.Error{Code: millrace.Unavailable, Op: "read snapshot", Err: err}
	default:
		return nil
	}
}

func (l *loader) head(body []byte) error {
	f := fields{rest: body}
	if of := string(f.text()); !f.bad && of != l.t.o.Of {
		return invalid("it is of %.200q, and the table is of %.200q", of, l.t.o.Of)
	}
	before := ""
	for i := range f.uvarint() {
		name := string(f.text())
		at, err := millrace.ParsePosition(string(f.text()))
		if f.bad {
			break
		}
		if err != nil {
			return invalid("partition %.80q: %w", name, err)
		}
		if i > 0 && name <= before {
			return invalid("its partitions are out of order")
		}
		before = name
		l.places = append(l.places, l.t.move(name, at))
	}
	return f.end("the head")
}

// chunk takes a record of rows.
func (l *loader) chunk(body []byte) error {
	if len(body) < 4 || uint64(binary.LittleEndian.Uint32(body)) > uint64(len(body)-4) {
		return invalid("a record of rows is malformed")
	}
	length := 4 + int(binary.LittleEndian.Uint32(body))
	f, r := fields{rest: body[4:length]}, &l.reader
	if err := r.Reset(body[length:]); err != nil {
		return invalid("a record of rows: %w", err)
	}
	if r.Len() == 0 || r.Len() > recordRows {
		return invalid("a record has %d rows, and not 1 to %d", r.Len(), recordRows)
	}
	if err := r.Load(block.All); err != nil {
		return invalid("a record of rows: %w", err)
	}
	name := "" // of the block of the row before
	l.name = l.name[:0]
	for i := range r.Len() {
		partition, shared, rest, event := f.uvarint(), f.uvarint(), f.text(), f.uvarint()
		switch {
		case f.bad, shared > uint64(len(l.name)), event > 1<<32-1:
			return invalid("the position of a row is malformed")
		case partition >= uint64(len(l.places)):
			return invalid("a row is of partition %d, and there are %d", partition, len(l.places))
		case r.Deleted(i):
			return invalid("the row of key %.80q is deleted", r.Key(i))
		case !storable(r.Time(i)):
			return invalid("the row of key %.80q is of %s", r.Key(i), r.Time(i))
		}
		if int(shared) < len(l.name) || len(rest) > 0 {
			l.name = append(l.name[:shared], rest...)
			name = string(l.name) // shared by the rows of one block
		}
		if err := l.take(l.places[partition].partition, millrace.Position{Block: name, Event: uint32(event)}, i); err != nil {
			return err
		}
	}
	return f.end("the positions of a record of rows")
}

// storable says whether a block can be made with an event of this time: the rows are to be saved again.
func storable(t time.Time) bool { return t.IsZero() || t.Year() >= 1678 && t.Year() <= 2261 }

// take puts a row into the table.
func (l *loader) take(partition string, at millrace.Position, i int) error {
	key := l.reader.Key(i)
	if _, twice := l.t.keys[string(key)]; twice {
		return invalid("key %.80q has two rows", key)
	}
	l.rows++
	l.t.put(0, l.t.row(string(key), &place{partition, at}, nil, &l.reader, i))
	return nil
}

func (l *loader) end(body []byte) error {
	f := fields{rest: body}
	if rows := f.uvarint(); !f.bad && rows != l.rows {
		return invalid("it has %d rows, and %d should be there", l.rows, rows)
	}
	if err := f.end("the end"); err != nil {
		return err
	}
	switch _, err := l.r.ReadByte(); {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		return cutShort(err)
	default:
		return invalid("something follows its end")
	}
}

// fields takes fields off the front of a body. What comes after a malformed one is empty.
type fields struct {
	rest []byte
	bad  bool
}

func (f *fields) uvarint() uint64 {
	v, n := binary.Uvarint(f.rest)
	if n <= 0 {
		f.rest, f.bad = nil, true
		return 0
	}
	f.rest = f.rest[n:]
	return v
}

func (f *fields) text() []byte {
	n := f.uvarint()
	if n > uint64(len(f.rest)) {
		f.rest, f.bad = nil, true
		return nil
	}
	text := f.rest[:n]
	f.rest = f.rest[n:]
	return text
}

func (f *fields) end(what string) error {
	if f.bad || len(f.rest) > 0 {
		return invalid("%s is malformed", what)
	}
	return nil
}

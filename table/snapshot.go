package table

import (
	"bufio"
	"context"
	"encoding/binary"
	"hash/crc32"
	"io"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
)

const (
	magic = "MRT1"

	kindHead = 1
	kindRows = 2
	kindEnd  = 3

	// A record of rows is ended when it has so many rows or bytes before compression.
	recordRows  = 16384
	recordBytes = 1 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Snapshot is a table as it was at one moment. It is made under the owner's lock and written outside of it,
// by one goroutine at a time.
type Snapshot struct {
	of     string
	places []place // by partition
	rows   []*Row
}

// Freeze returns the table as it is now. It copies a pointer for each row and nothing else.
func (t *Table) Freeze() *Snapshot {
	return &Snapshot{of: t.o.Of, places: t.sortedPlaces(), rows: t.AppendRows(nil)}
}

// Len returns the number of rows.
func (s *Snapshot) Len() int { return len(s.rows) }

// Places returns the positions that the table had come to, by partition.
func (s *Snapshot) Places() map[string]millrace.Position {
	places := make(map[string]millrace.Position, len(s.places))
	for _, p := range s.places {
		places[p.partition] = p.at
	}
	return places
}

// Save writes the snapshot to state under a name if the newest version there is still version, and returns
// the new version. It fails as State.Save does.
func (s *Snapshot) Save(ctx context.Context, state millrace.State, name string, version uint64) (uint64, error) {
	return state.Save(ctx, name, version, func(w io.Writer) error {
		buffered := bufio.NewWriterSize(w, 64<<10)
		if _, err := s.WriteTo(buffered); err != nil {
			return err
		}
		return buffered.Flush()
	})
}

// WriteTo implements io.WriterTo: it writes the layout that the package's documentation describes.
func (s *Snapshot) WriteTo(w io.Writer) (int64, error) {
	Sort(s.rows)
	r := records{w: w}
	r.put([]byte(magic))

	head := appendText(nil, s.of)
	head = binary.AppendUvarint(head, uint64(len(s.places)))
	index := make(map[string]uint64, len(s.places))
	for i, p := range s.places {
		head = appendText(appendText(head, p.partition), p.at.String())
		index[p.partition] = uint64(i)
	}
	r.record(kindHead, head)

	var builder block.Builder
	var positions, raw []byte
	before, chunks := "", uint64(0) // the name of the block of the row before
	flush := func() {
		if builder.Len() == 0 || r.err != nil {
			return
		}
		chunks++
		b, err := builder.Encode(raw[:0], millrace.Header{Producer: "table", Flush: chunks})
		if err != nil {
			r.err = err
			return
		}
		raw = b.Raw
		r.record(kindRows, binary.LittleEndian.AppendUint32(nil, uint32(len(positions))), positions, raw)
		builder.Reset()
		positions, before = positions[:0], ""
	}
	for _, row := range s.rows {
		if builder.Len() == recordRows || builder.Size() >= recordBytes {
			flush()
		}
		err := builder.Add(&row.Event)
		if millrace.CodeOf(err) == millrace.TooLarge { // with what is there already
			flush()
			err = builder.Add(&row.Event)
		}
		if err != nil {
			r.err = err
		}
		if r.err != nil {
			break
		}
		name := row.At.Block
		shared := sharedPrefix(before, name)
		positions = binary.AppendUvarint(positions, index[row.Partition])
		positions = binary.AppendUvarint(positions, uint64(shared))
		positions = appendText(positions, name[shared:])
		positions = binary.AppendUvarint(positions, uint64(row.At.Event))
		before = name
	}
	flush()
	r.record(kindEnd, binary.AppendUvarint(nil, uint64(len(s.rows))))
	return r.n, r.err
}

func sharedPrefix(a, b string) int {
	n := 0
	for n < min(len(a), len(b)) && a[n] == b[n] {
		n++
	}
	return n
}

func appendText[T ~string | ~[]byte](dst []byte, s T) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

// records writes records until something fails.
type records struct {
	w   io.Writer
	n   int64
	sum uint32 // of all but the checksums
	err error
}

func (r *records) record(kind byte, parts ...[]byte) {
	length := 0
	for _, part := range parts {
		length += len(part)
	}
	r.put(binary.LittleEndian.AppendUint32([]byte{kind}, uint32(length)))
	for _, part := range parts {
		r.put(part)
	}
	r.write(binary.LittleEndian.AppendUint32(nil, r.sum))
}

func (r *records) put(b []byte) {
	r.sum = crc32.Update(r.sum, castagnoli, b)
	r.write(b)
}

func (r *records) write(b []byte) {
	if r.err == nil {
		var n int
		n, r.err = r.w.Write(b)
		r.n += int64(n)
	}
}

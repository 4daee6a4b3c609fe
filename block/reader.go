package block

import (
	"encoding/binary"
	"hash/crc32"
	"iter"
	"time"
	"unsafe"

	"github.com/klauspost/compress/s2"

	"github.com/millrace/millrace"
)

// Sections chooses columns.
type Sections uint8

// The sections of a block.
const (
	Keys       Sections = 1 << iota // Key, Time, Deleted
	IDs                             // ID, Type
	Attributes                      // Attributes
	Data                            // Data
	All        = Keys | IDs | Attributes | Data
)

// Reader gives a block's columns. The zero Reader is ready. What its methods return points into the
// block or into the Reader's own memory and is valid until the next Reset; whoever keeps it longer
// copies it. It is used by one goroutine at a time; but what only looks at sections that are loaded, any number
// may do at once, also while one of them loads others.
type Reader struct {
	raw    []byte // nil before the first Reset and after one that failed
	events int
	loaded Sections
	found  [kindData + 1]stored

	times, keyEnds, deleted, keys []byte
	idEnds, ids, typeEnds, types  []byte
	attributeEnds, attributes     []byte
	dataEnds, data                []byte

	memory [kindData + 1][]byte // decompressed sections, reused
}

// stored is a section as it lies in the block.
type stored struct {
	bytes  []byte
	codec  byte
	length int // after decompression
	sum    uint32
}

// Reset points the reader at a block and reads its head; no section is touched before Load. It fails
// with Invalid.
func (r *Reader) Reset(raw []byte) error {
	r.raw, r.events, r.loaded = nil, 0, 0
	r.found = [kindData + 1]stored{}
	head, err := parseHead(raw, nil)
	if err != nil {
		return err
	}
	rest := raw[head.length:]
	for table := head.sections; len(table) > 0; table = table[entrySize:] {
		kind, codec := table[0], table[1]
		flags := binary.LittleEndian.Uint16(table[2:])
		size := binary.LittleEndian.Uint32(table[4:])
		length := binary.LittleEndian.Uint32(table[8:])
		if uint64(size) > uint64(len(rest)) {
			return invalid("section %d has %d bytes, and %d are left", kind, size, len(rest))
		}
		s := stored{bytes: rest[:size:size], codec: codec, length: int(length), sum: binary.LittleEndian.Uint32(table[12:])}
		rest = rest[size:]
		switch {
		case kind < kindKeys || kind > kindData:
			if flags&flagRequired != 0 {
				return invalid("section %d is required and unknown to this version", kind)
			}
		case length > MaxSection:
			return invalid("section %d has %d bytes, the limit is %d", kind, length, MaxSection)
		default:
			r.found[kind] = s
		}
	}
	if len(rest) > 0 {
		return invalid("%d bytes follow the last section", len(rest))
	}
	r.raw, r.events = raw, head.events
	return nil
}

// Header returns the block's header. It decodes it anew each time, so that a reader that does not need
// it does not pay for it; it may be kept.
func (r *Reader) Header() millrace.Header {
	if r.raw == nil {
		return millrace.Header{}
	}
	h, _ := ParseHeader(r.raw) // Reset has checked it
	return h
}

// Len returns the number of events.
func (r *Reader) Len() int { return r.events }

// Load checks and decompresses the named sections, those that are not loaded already. It fails with
// Invalid. The accessors of a section may be called only after it was loaded.
func (r *Reader) Load(want Sections) error {
	want &^= r.loaded
	n := r.Len()
	if want&Keys != 0 {
		b, err := r.section(kindKeys, n*12+(n+7)/8)
		if err != nil {
			return err
		}
		r.times, b = cut(b, n*8)
		r.keyEnds, b = cut(b, n*4)
		r.deleted, r.keys = cut(b, (n+7)/8)
		if err := checkEnds(r.keyEnds, len(r.keys), "key"); err != nil {
			return err
		}
	}
	if want&IDs != 0 {
		b, err := r.section(kindIDs, n*8)
		if err != nil {
			return err
		}
		r.idEnds, b = cut(b, n*4)
		r.typeEnds, b = cut(b, n*4)
		ids := 0
		if n > 0 {
			ids = int(binary.LittleEndian.Uint32(r.idEnds[n*4-4:]))
		}
		if ids > len(b) {
			return invalid("the ids have %d bytes, and %d are there", ids, len(b))
		}
		r.ids, r.types = cut(b, ids)
		if err := checkEnds(r.idEnds, len(r.ids), "id"); err != nil {
			return err
		}
		if err := checkEnds(r.typeEnds, len(r.types), "type"); err != nil {
			return err
		}
	}
	if want&Attributes != 0 {
		r.attributeEnds, r.attributes = nil, nil
		if r.found[kindAttributes].bytes != nil {
			b, err := r.section(kindAttributes, n*4)
			if err != nil {
				return err
			}
			r.attributeEnds, r.attributes = cut(b, n*4)
			if err := checkEnds(r.attributeEnds, len(r.attributes), "attributes"); err != nil {
				return err
			}
			if err := r.checkAttributes(); err != nil {
				return err
			}
		}
	}
	if want&Data != 0 {
		b, err := r.section(kindData, n*4)
		if err != nil {
			return err
		}
		r.dataEnds, r.data = cut(b, n*4)
		if err := checkEnds(r.dataEnds, len(r.data), "data"); err != nil {
			return err
		}
	}
	r.loaded |= want
	return nil
}

// Memory returns how many bytes the reader holds of its own: sections that were decompressed.
func (r *Reader) Memory() int {
	n := 0
	for _, section := range r.memory {
		n += cap(section)
	}
	return n
}

// section returns a section checked and decompressed; it has at least least bytes.
func (r *Reader) section(kind, least int) ([]byte, error) {
	s := r.found[kind]
	if s.bytes == nil && least > 0 {
		return nil, invalid("section %d is missing", kind)
	}
	if s.length < least {
		return nil, invalid("section %d has %d bytes, %d events need %d", kind, s.length, r.Len(), least)
	}
	if crc32.Checksum(s.bytes, castagnoli) != s.sum {
		return nil, invalid("section %d: the checksum is wrong", kind)
	}
	switch s.codec {
	case codecNone:
		if len(s.bytes) != s.length {
			return nil, invalid("section %d has %d bytes and claims %d", kind, len(s.bytes), s.length)
		}
		return s.bytes, nil
	case codecS2:
		if n, err := s2.DecodedLen(s.bytes); err != nil || n != s.length {
			return nil, invalid("section %d does not decompress to %d bytes", kind, s.length)
		}
		b, err := s2.Decode(r.memory[kind][:cap(r.memory[kind])], s.bytes)
		if err != nil {
			return nil, invalid("section %d: %w", kind, err)
		}
		r.memory[kind] = b
		return b, nil
	default:
		return nil, invalid("section %d has the unknown codec %d", kind, s.codec)
	}
}

// checkEnds verifies that the ends do not decrease and that the last is the length of what they cut.
func checkEnds(ends []byte, length int, column string) error {
	last := uint32(0)
	for i := 0; i+4 <= len(ends); i += 4 {
		end := binary.LittleEndian.Uint32(ends[i:])
		if end < last {
			return invalid("the %s offsets decrease at event %d", column, i/4)
		}
		last = end
	}
	if int64(last) != int64(length) {
		return invalid("the %s column has %d bytes and its offsets end at %d", column, length, last)
	}
	return nil
}

func (r *Reader) checkAttributes() error {
	for i := range r.Len() {
		for b := span(r.attributes, r.attributeEnds, i); len(b) > 0; {
			_, rest, ok := cutText(b)
			if !ok {
				return invalid("the attributes of event %d are malformed", i)
			}
			if _, b, ok = cutText(rest); !ok {
				return invalid("the attributes of event %d are malformed", i)
			}
		}
	}
	return nil
}

func cut(b []byte, n int) (front, rest []byte) { return b[:n:n], b[n:] }

func span(column, ends []byte, i int) []byte {
	start := uint32(0)
	if i > 0 {
		start = binary.LittleEndian.Uint32(ends[i*4-4:])
	}
	end := binary.LittleEndian.Uint32(ends[i*4:])
	return column[start:end:end]
}

// Key of the i-th event.
func (r *Reader) Key(i int) []byte { return span(r.keys, r.keyEnds, i) }

// Time of the i-th event.
func (r *Reader) Time(i int) time.Time { return fromNanos(r.UnixNano(i)) }

// UnixNano is the i-th event's time in Unix nanoseconds; math.MinInt64 for the zero time.
func (r *Reader) UnixNano(i int) int64 { return int64(binary.LittleEndian.Uint64(r.times[i*8:])) }

// Deleted says whether the i-th event ends its key.
func (r *Reader) Deleted(i int) bool { return r.deleted[i/8]&(1<<(i%8)) != 0 }

// ID of the i-th event.
func (r *Reader) ID(i int) []byte { return span(r.ids, r.idEnds, i) }

// Type of the i-th event.
func (r *Reader) Type(i int) []byte { return span(r.types, r.typeEnds, i) }

// Data of the i-th event.
func (r *Reader) Data(i int) []byte { return span(r.data, r.dataEnds, i) }

// Attributes yields the i-th event's attributes, sorted by name.
func (r *Reader) Attributes(i int) iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		if r.attributeEnds == nil {
			return
		}
		for b := span(r.attributes, r.attributeEnds, i); len(b) > 0; {
			name, rest, _ := cutText(b) // checked by Load
			value, rest, _ := cutText(rest)
			if !yield(view(name), view(value)) {
				return
			}
			b = rest
		}
	}
}

// Event fills e with the i-th event, from the sections that are loaded. Its strings and bytes are
// valid until the next Reset; Attributes is a fresh map, or nil.
func (r *Reader) Event(i int, e *millrace.Event) {
	*e = millrace.Event{}
	if r.loaded&Keys != 0 {
		e.Key, e.Time, e.Deleted = view(r.Key(i)), r.Time(i), r.Deleted(i)
	}
	if r.loaded&IDs != 0 {
		e.ID, e.Type = view(r.ID(i)), view(r.Type(i))
	}
	if r.loaded&Attributes != 0 {
		for name, value := range r.Attributes(i) {
			if e.Attributes == nil {
				e.Attributes = map[string]string{}
			}
			e.Attributes[name] = value
		}
	}
	if r.loaded&Data != 0 {
		e.Data = r.Data(i)
	}
}

// view returns b as a string without copying it; b must not change while the string is in use.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// Events decodes a block into events of their own, which stay valid: for tests and tools, where
// speed matters less.
func Events(raw []byte) ([]millrace.Event, error) {
	var r Reader // fresh, so that nothing overwrites what the events point to
	if err := r.Reset(raw); err != nil {
		return nil, err
	}
	if err := r.Load(All); err != nil {
		return nil, err
	}
	events := make([]millrace.Event, r.Len())
	for i := range events {
		r.Event(i, &events[i])
	}
	return events, nil
}

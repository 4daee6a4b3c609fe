package block

import (
	"encoding/binary"
	"hash/crc32"
	"maps"
	"slices"
	"sync"

	"github.com/klauspost/compress/s2"

	"github.com/millrace/millrace"
)

// Builder gathers events column by column and encodes them as one block. The zero Builder is ready; it
// keeps its memory when it is Reset. It is used by one goroutine at a time.
type Builder struct {
	n int

	times   []byte // per event 8 bytes
	keyEnds []byte // per event 4 bytes, like the other ends
	deleted []byte // one bit an event
	keys    []byte

	idEnds, typeEnds []byte
	ids, types       []byte

	attributeEnds []byte
	attributes    []byte

	dataEnds []byte
	data     []byte // begins with gap bytes of room, so that the ends can be put before it without moving it
	gap      int

	names []string
}

// scratch is what Encode needs besides. It is shared by all builders, since of a thousand that gather only a
// few encode at the same time.
type scratch struct {
	head    []byte
	section []byte // a section as it is before compression
	packed  []byte // the sections as they are stored
}

var scratches = sync.Pool{New: func() any { return new(scratch) }}

// Len returns the number of events gathered.
func (b *Builder) Len() int { return b.n }

// Size returns the gathered bytes, before compression.
func (b *Builder) Size() int {
	return len(b.keys) + len(b.ids) + len(b.types) + len(b.attributes) + len(b.data) - b.gap + b.n*29
}

// Add copies an event into the columns. It changes nothing and fails with Invalid if the event's time
// is outside the years 1678 to 2261, and with TooLarge if a column would pass MaxSection or the block
// MaxEvents.
func (b *Builder) Add(e *millrace.Event) error {
	t, ok := nanos(e.Time)
	if !ok {
		return millrace.Errorf(millrace.Invalid, "add event to block",
			"time %s is outside the years 1678 to 2261", e.Time.Format("2006-01-02"))
	}
	attributes := 0
	for name, value := range e.Attributes {
		attributes += len(name) + len(value) + 2*binary.MaxVarintLen32
	}
	if b.n >= MaxEvents || b.Size()+len(e.Key)+len(e.ID)+len(e.Type)+attributes+len(e.Data)+29 > MaxSection {
		return millrace.Errorf(millrace.TooLarge, "add event to block",
			"the block holds %d events and %d bytes, and the event has %d bytes", b.n, b.Size(), len(e.Data))
	}

	b.times = binary.LittleEndian.AppendUint64(b.times, uint64(t))
	b.keys = append(b.keys, e.Key...)
	b.keyEnds = binary.LittleEndian.AppendUint32(b.keyEnds, uint32(len(b.keys)))
	if b.n%8 == 0 {
		b.deleted = append(b.deleted, 0)
	}
	if e.Deleted {
		b.deleted[b.n/8] |= 1 << (b.n % 8)
	}
	b.ids = append(b.ids, e.ID...)
	b.idEnds = binary.LittleEndian.AppendUint32(b.idEnds, uint32(len(b.ids)))
	b.types = append(b.types, e.Type...)
	b.typeEnds = binary.LittleEndian.AppendUint32(b.typeEnds, uint32(len(b.types)))
	if len(e.Attributes) > 0 {
		b.addAttributes(e.Attributes)
	}
	b.attributeEnds = binary.LittleEndian.AppendUint32(b.attributeEnds, uint32(len(b.attributes)))
	if b.gap < (b.n+1)*4 {
		b.widenGap()
	}
	b.data = append(b.data, e.Data...)
	b.dataEnds = binary.LittleEndian.AppendUint32(b.dataEnds, uint32(len(b.data)-b.gap))
	b.n++
	return nil
}

// widenGap doubles the room before the data.
func (b *Builder) widenGap() {
	old := b.gap
	b.gap = max(256, 2*old)
	b.data = slices.Grow(b.data, b.gap-old)[:len(b.data)+b.gap-old]
	copy(b.data[b.gap:], b.data[old:])
}

// addAttributes writes them sorted by name, so that equal events encode to equal bytes.
func (b *Builder) addAttributes(attributes map[string]string) {
	b.names = slices.AppendSeq(b.names[:0], maps.Keys(attributes))
	slices.Sort(b.names)
	for _, name := range b.names {
		b.attributes = appendText(b.attributes, name)
		b.attributes = appendText(b.attributes, attributes[name])
	}
}

// Held returns how many bytes of memory the builder holds, gathered or ready for more.
func (b *Builder) Held() (bytes int) {
	for _, column := range b.columns() {
		bytes += cap(*column)
	}
	return bytes + cap(b.data)
}

func (b *Builder) columns() [11]*[]byte {
	return [...]*[]byte{
		&b.times, &b.keyEnds, &b.deleted, &b.keys, &b.idEnds, &b.typeEnds, &b.ids, &b.types,
		&b.attributeEnds, &b.attributes, &b.dataEnds,
	}
}

// Reset drops the gathered events and keeps the memory.
func (b *Builder) Reset() {
	b.n = 0
	for _, column := range b.columns() {
		*column = (*column)[:0]
	}
	b.data = b.data[:b.gap]
}

// Encode appends the block to dst, with no more room than it needs, and returns it; h.Events is taken
// from the builder. The events stay gathered until Reset. It fails with Invalid if the header is out of
// its bounds.
func (b *Builder) Encode(dst []byte, h millrace.Header) (millrace.Block, error) {
	if err := checkHeader(h); err != nil {
		return millrace.Block{}, err
	}
	h.Events = uint32(b.n)
	s := scratches.Get().(*scratch) //nolint:forcetypeassert // nothing else is in it
	defer scratches.Put(s)
	s.packed = s.packed[:0]
	var table [kindData * entrySize]byte
	sections := 0
	if b.n > 0 {
		for kind := byte(kindKeys); kind <= kindData; kind++ {
			if kind == kindAttributes && len(b.attributes) == 0 {
				continue
			}
			s.pack(table[sections*entrySize:], kind, b.raw(s, kind))
			sections++
		}
	}

	s.head = appendHead(s.head[:0], h, table[:sections*entrySize])
	if len(s.head) > maxHead {
		return millrace.Block{}, millrace.Errorf(millrace.Invalid, "encode block",
			"the head has %d bytes with %d uncommitted blocks, the limit is %d", len(s.head), len(h.Uncommitted), maxHead)
	}
	start := len(dst)
	dst = slices.Grow(dst, len(s.head)+len(s.packed))
	dst = append(append(dst, s.head...), s.packed...)
	return millrace.Block{Header: h, Raw: dst[start:len(dst):len(dst)]}, nil
}

// raw returns a section before compression, valid until the next call.
func (b *Builder) raw(s *scratch, kind byte) []byte {
	var parts [4][]byte
	switch kind {
	case kindKeys:
		parts = [4][]byte{b.times, b.keyEnds, b.deleted, b.keys}
	case kindIDs:
		parts = [4][]byte{b.idEnds, b.typeEnds, b.ids, b.types}
	case kindAttributes:
		parts = [4][]byte{b.attributeEnds, b.attributes}
	case kindData: // the largest by far, and in place already
		section := b.data[b.gap-len(b.dataEnds):]
		copy(section, b.dataEnds)
		return section
	}
	s.section = s.section[:0]
	for _, part := range parts {
		s.section = append(s.section, part...)
	}
	return s.section
}

// pack appends a section to the packed ones, compressed if that saves anything, and fills its entry in
// the section table.
func (s *scratch) pack(entry []byte, kind byte, raw []byte) {
	start := len(s.packed)
	s.packed = slices.Grow(s.packed, s2.MaxEncodedLen(len(raw)))
	codec := byte(codecS2)
	compressed := s2.Encode(s.packed[start:cap(s.packed)], raw)
	if len(compressed) < len(raw) {
		s.packed = s.packed[:start+len(compressed)]
	} else {
		codec = codecNone
		s.packed = append(s.packed, raw...)
	}
	stored := s.packed[start:]
	entry[0], entry[1], entry[2], entry[3] = kind, codec, 0, 0
	binary.LittleEndian.PutUint32(entry[4:], uint32(len(stored)))
	binary.LittleEndian.PutUint32(entry[8:], uint32(len(raw)))
	binary.LittleEndian.PutUint32(entry[12:], crc32.Checksum(stored, castagnoli))
}

func appendText[T ~string | ~[]byte](dst []byte, s T) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

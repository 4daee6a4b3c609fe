package block

import (
	"encoding/binary"
	"hash/crc32"
	"maps"
	"slices"

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
	data     []byte

	section []byte // a section as it is before compression
	names   []string
}

// Len returns the number of events gathered.
func (b *Builder) Len() int { return b.n }

// Size returns the gathered bytes, before compression.
func (b *Builder) Size() int {
	return len(b.keys) + len(b.ids) + len(b.types) + len(b.attributes) + len(b.data) + b.n*29
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
	b.data = append(b.data, e.Data...)
	b.dataEnds = binary.LittleEndian.AppendUint32(b.dataEnds, uint32(len(b.data)))
	b.n++
	return nil
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

// Reset drops the gathered events and keeps the memory.
func (b *Builder) Reset() {
	b.n = 0
	for _, column := range []*[]byte{
		&b.times, &b.keyEnds, &b.deleted, &b.keys, &b.idEnds, &b.typeEnds, &b.ids, &b.types,
		&b.attributeEnds, &b.attributes, &b.dataEnds, &b.data,
	} {
		*column = (*column)[:0]
	}
}

// Encode appends the block to dst and returns it; h.Events is taken from the builder. The events stay
// gathered until Reset. It fails with Invalid if the header is out of its bounds.
func (b *Builder) Encode(dst []byte, h millrace.Header) (millrace.Block, error) {
	if err := checkHeader(h); err != nil {
		return millrace.Block{}, err
	}
	h.Events = uint32(b.n)
	sections := 0
	switch {
	case b.n > 0 && len(b.attributes) > 0:
		sections = 4
	case b.n > 0:
		sections = 3
	}
	start := len(dst)
	dst = appendHead(dst, h, sections)
	head := len(dst) - start
	table := start + fixedHead
	for _, s := range b.sections(sections) {
		b.section = b.section[:0]
		for _, part := range s.parts {
			b.section = append(b.section, part...)
		}
		dst = appendSection(dst, table, s.kind, b.section)
		table += entrySize
	}
	// The head's checksum covers the section table, which is known only now.
	binary.LittleEndian.PutUint32(dst[start+head-4:], crc32.Checksum(dst[start:start+head-4], castagnoli))
	return millrace.Block{Header: h, Raw: dst[start:len(dst):len(dst)]}, nil
}

type section struct {
	kind  byte
	parts [4][]byte
}

func (b *Builder) sections(n int) []section {
	if n == 0 {
		return nil
	}
	list := make([]section, 0, 4)
	list = append(list,
		section{kindKeys, [4][]byte{b.times, b.keyEnds, b.deleted, b.keys}},
		section{kindIDs, [4][]byte{b.idEnds, b.typeEnds, b.ids, b.types}})
	if n == 4 {
		list = append(list, section{kindAttributes, [4][]byte{b.attributeEnds, b.attributes}})
	}
	return append(list, section{kindData, [4][]byte{b.dataEnds, b.data}})
}

// appendSection appends the section's bytes, compressed if that saves anything, and fills its table
// entry at offset table.
func appendSection(dst []byte, table int, kind byte, raw []byte) []byte {
	start := len(dst)
	dst = slices.Grow(dst, s2.MaxEncodedLen(len(raw)))
	codec := byte(codecS2)
	packed := s2.Encode(dst[start:cap(dst)], raw)
	if len(packed) < len(raw) {
		dst = dst[:start+len(packed)]
	} else {
		codec = codecNone
		dst = append(dst, raw...)
	}
	stored := dst[start:]
	entry := dst[table : table+entrySize]
	entry[0], entry[1], entry[2], entry[3] = kind, codec, 0, 0
	binary.LittleEndian.PutUint32(entry[4:], uint32(len(stored)))
	binary.LittleEndian.PutUint32(entry[8:], uint32(len(raw)))
	binary.LittleEndian.PutUint32(entry[12:], crc32.Checksum(stored, castagnoli))
	return dst
}

func appendText(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

package block

import (
	"encoding/binary"
	"hash/crc32"

	"github.com/millrace/millrace"
)

// maxHead bounds a head: the cursor is the only field that grows with the input.
const maxHead = 16 << 20

// Empty returns a block without events.
func Empty(h millrace.Header) (millrace.Block, error) {
	var b Builder
	return b.Encode(nil, h)
}

// ParseHeader reads a block's header and checks the head's checksum, without looking at the sections.
// It fails with Invalid.
func ParseHeader(raw []byte) (millrace.Header, error) {
	var h millrace.Header
	if _, err := parseHead(raw, &h); err != nil {
		return millrace.Header{}, err
	}
	return h, nil
}

func checkHeader(h millrace.Header) error {
	fail := func(format string, args ...any) error {
		return millrace.Errorf(millrace.Invalid, "encode block", format, args...)
	}
	if !validProducer(h.Producer) {
		return fail("the producer's name %.210q must have 1 to 200 bytes of printable ASCII without spaces", h.Producer)
	}
	if len(h.Cursor) > maxHead/2 {
		return fail("the cursor has %d bytes, the limit is %d", len(h.Cursor), maxHead/2)
	}
	if _, ok := nanos(h.Watermark); !ok {
		return fail("the watermark %s is outside the years 1678 to 2261", h.Watermark)
	}
	return nil
}

func validProducer[T ~string | ~[]byte](name T) bool {
	if len(name) == 0 || len(name) > 200 {
		return false
	}
	for i := range len(name) {
		if c := name[i]; c <= ' ' || c > '~' {
			return false
		}
	}
	return true
}

// appendHead appends the head with the section table, whose entries are the sections'.
func appendHead(dst []byte, h millrace.Header, table []byte) []byte {
	start := len(dst)
	dst = append(dst, magic...)
	dst = append(dst, 0, 0, 0, 0)
	dst = binary.LittleEndian.AppendUint32(dst, h.Events)
	var flags uint16
	if h.Commit {
		flags |= flagCommit
	}
	dst = binary.LittleEndian.AppendUint16(dst, flags)
	dst = binary.LittleEndian.AppendUint16(dst, uint16(len(table)/entrySize))
	dst = append(dst, h.Writer[:]...)
	dst = append(dst, table...)

	var number [binary.MaxVarintLen64]byte
	dst = appendText(binary.AppendUvarint(dst, tagProducer), h.Producer)
	dst = appendText(binary.AppendUvarint(dst, tagFlush), binary.AppendUvarint(number[:0], h.Flush))
	dst = appendText(binary.AppendUvarint(dst, tagCursor), h.Cursor)
	if !h.Watermark.IsZero() {
		n, _ := nanos(h.Watermark)
		dst = appendText(binary.AppendUvarint(dst, tagWatermark), binary.AppendVarint(number[:0], n))
	}
	for _, ref := range h.Uncommitted {
		value := appendText(appendText(appendText([]byte(nil), ref.Stream), ref.Partition), ref.Block)
		dst = appendText(binary.AppendUvarint(dst, tagUncommitted), value)
	}
	binary.LittleEndian.PutUint32(dst[start+4:], uint32(len(dst)-start+4))
	return binary.LittleEndian.AppendUint32(dst, crc32.Checksum(dst[start:], castagnoli))
}

// head is what a reader needs of a head.
type head struct {
	length   int // in bytes
	events   int
	sections []byte // the section table
}

// parseHead reads and checks the head. If h is nil it builds no header, and allocates nothing.
func parseHead(raw []byte, h *millrace.Header) (head, error) {
	fail := func(err error) (head, error) { return head{}, err }
	if len(raw) < fixedHead+4 || string(raw[:3]) != magic[:3] {
		return fail(invalid("%d bytes that do not begin with %q are no block", len(raw), magic[:3]))
	}
	if raw[3] != magic[3] {
		return fail(invalid("a block of version %q can't be read by this program, which knows version %q", raw[3:4], magic[3:]))
	}
	length := int(binary.LittleEndian.Uint32(raw[4:]))
	events := binary.LittleEndian.Uint32(raw[8:])
	flags := binary.LittleEndian.Uint16(raw[12:])
	sections := int(binary.LittleEndian.Uint16(raw[14:]))
	fieldsAt := fixedHead + sections*entrySize
	if length > len(raw) || length > maxHead || length < fieldsAt+4 {
		return fail(invalid("a head of %d bytes with %d sections does not fit a block of %d bytes", length, sections, len(raw)))
	}
	if sum := crc32.Checksum(raw[:length-4], castagnoli); sum != binary.LittleEndian.Uint32(raw[length-4:]) {
		return fail(invalid("the head's checksum is wrong"))
	}
	if events > MaxEvents {
		return fail(invalid("%d events are over the limit of %d", events, MaxEvents))
	}
	if h != nil {
		h.Events = events
		h.Commit = flags&flagCommit != 0
		copy(h.Writer[:], raw[16:32])
	}

	named := false
	for fields := raw[fieldsAt : length-4]; len(fields) > 0; {
		tag, n := binary.Uvarint(fields)
		if n <= 0 {
			return fail(invalid("a field's tag is malformed"))
		}
		value, rest, ok := cutText(fields[n:])
		if !ok {
			return fail(invalid("field %d is malformed", tag))
		}
		fields = rest
		named = named || tag == tagProducer
		if err := parseField(h, tag, value); err != nil {
			return fail(err)
		}
	}
	if !named {
		return fail(invalid("the producer's name is missing"))
	}
	return head{length: length, events: int(events), sections: raw[fixedHead:fieldsAt]}, nil
}

// parseField checks a field and, unless h is nil, puts its value there.
func parseField(h *millrace.Header, tag uint64, value []byte) error {
	switch tag {
	case tagProducer:
		if !validProducer(value) {
			return invalid("the producer's name %.210q is malformed", value)
		}
		if h != nil {
			h.Producer = string(value)
		}
	case tagFlush:
		v, n := binary.Uvarint(value)
		if n <= 0 {
			return invalid("the flush number is malformed")
		}
		if h != nil {
			h.Flush = v
		}
	case tagCursor:
		if h != nil {
			h.Cursor = millrace.Cursor(value)
		}
	case tagWatermark:
		v, n := binary.Varint(value)
		if n <= 0 {
			return invalid("the watermark is malformed")
		}
		if h != nil {
			h.Watermark = fromNanos(v)
		}
	case tagUncommitted:
		stream, rest, ok1 := cutText(value)
		partition, rest, ok2 := cutText(rest)
		name, _, ok3 := cutText(rest)
		if !ok1 || !ok2 || !ok3 {
			return invalid("an uncommitted block's name is malformed")
		}
		if h != nil {
			h.Uncommitted = append(h.Uncommitted, millrace.BlockRef{
				Stream: string(stream), Partition: string(partition), Block: string(name),
			})
		}
	default:
		if tag&tagRequired != 0 {
			return invalid("field %d is required and unknown to this version", tag)
		}
	}
	return nil
}

// cutText takes a length and that many bytes off the front of b.
func cutText(b []byte) (text, rest []byte, ok bool) {
	length, n := binary.Uvarint(b)
	if n <= 0 || length > uint64(len(b)-n) {
		return nil, nil, false
	}
	b = b[n:]
	return b[:length:length], b[length:], true
}

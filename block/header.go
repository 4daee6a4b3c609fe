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
	h, _, err := parseHead(raw)
	return h, err
}

func checkHeader(h millrace.Header) error {
	fail := func(format string, args ...any) error {
		return millrace.Errorf(millrace.Invalid, "encode block", format, args...)
	}
	if len(h.Producer) == 0 || len(h.Producer) > 200 {
		return fail("the producer's name %.210q must have 1 to 200 bytes", h.Producer)
	}
	for i := range len(h.Producer) {
		if c := h.Producer[i]; c <= ' ' || c > '~' {
			return fail("the producer's name %q must be printable ASCII without spaces", h.Producer)
		}
	}
	if len(h.Cursor) > maxHead/2 {
		return fail("the cursor has %d bytes, the limit is %d", len(h.Cursor), maxHead/2)
	}
	if _, ok := nanos(h.Watermark); !ok {
		return fail("the watermark %s is outside the years 1678 to 2261", h.Watermark)
	}
	return nil
}

// appendHead appends the head with an empty section table; Encode fills that and the checksum.
func appendHead(dst []byte, h millrace.Header, sections int) []byte {
	start := len(dst)
	dst = append(dst, magic...)
	dst = append(dst, 0, 0, 0, 0)
	dst = binary.LittleEndian.AppendUint32(dst, h.Events)
	var flags uint16
	if h.Commit {
		flags |= flagCommit
	}
	dst = binary.LittleEndian.AppendUint16(dst, flags)
	dst = binary.LittleEndian.AppendUint16(dst, uint16(sections))
	dst = append(dst, h.Writer[:]...)
	for range sections {
		var empty [entrySize]byte
		dst = append(dst, empty[:]...)
	}

	field := func(tag uint64, value []byte) {
		dst = binary.AppendUvarint(dst, tag)
		dst = binary.AppendUvarint(dst, uint64(len(value)))
		dst = append(dst, value...)
	}
	field(tagProducer, []byte(h.Producer))
	field(tagFlush, binary.AppendUvarint(nil, h.Flush))
	field(tagCursor, []byte(h.Cursor))
	if !h.Watermark.IsZero() {
		n, _ := nanos(h.Watermark)
		field(tagWatermark, binary.AppendVarint(nil, n))
	}
	for _, ref := range h.Uncommitted {
		field(tagUncommitted, appendText(appendText(appendText(nil, ref.Stream), ref.Partition), ref.Block))
	}
	dst = append(dst, 0, 0, 0, 0)
	binary.LittleEndian.PutUint32(dst[start+4:], uint32(len(dst)-start))
	return dst
}

// parseHead reads the head; sections is what follows it, with the table still to be read from raw.
func parseHead(raw []byte) (h millrace.Header, head int, err error) {
	if len(raw) < fixedHead+4 || string(raw[:4]) != magic {
		return h, 0, invalid("%d bytes that do not begin with %q are no block", len(raw), magic)
	}
	head = int(binary.LittleEndian.Uint32(raw[4:]))
	h.Events = binary.LittleEndian.Uint32(raw[8:])
	flags := binary.LittleEndian.Uint16(raw[12:])
	sections := int(binary.LittleEndian.Uint16(raw[14:]))
	fieldsAt := fixedHead + sections*entrySize
	if head > len(raw) || head > maxHead || head < fieldsAt+4 {
		return h, 0, invalid("a head of %d bytes with %d sections does not fit a block of %d bytes", head, sections, len(raw))
	}
	if sum := crc32.Checksum(raw[:head-4], castagnoli); sum != binary.LittleEndian.Uint32(raw[head-4:]) {
		return h, 0, invalid("the head's checksum is wrong")
	}
	if h.Events > MaxEvents {
		return h, 0, invalid("%d events are over the limit of %d", h.Events, MaxEvents)
	}
	h.Commit = flags&flagCommit != 0
	copy(h.Writer[:], raw[16:32])

	fields := raw[fieldsAt : head-4]
	for len(fields) > 0 {
		tag, n := binary.Uvarint(fields)
		if n <= 0 {
			return h, 0, invalid("a field's tag is malformed")
		}
		value, rest, ok := cutText(fields[n:])
		if !ok {
			return h, 0, invalid("field %d is malformed", tag)
		}
		fields = rest
		if err := parseField(&h, tag, value); err != nil {
			return h, 0, err
		}
	}
	return h, head, nil
}

func parseField(h *millrace.Header, tag uint64, value []byte) error {
	switch tag {
	case tagProducer:
		h.Producer = string(value)
	case tagFlush:
		v, n := binary.Uvarint(value)
		if n <= 0 {
			return invalid("the flush number is malformed")
		}
		h.Flush = v
	case tagCursor:
		h.Cursor = millrace.Cursor(value)
	case tagWatermark:
		v, n := binary.Varint(value)
		if n <= 0 {
			return invalid("the watermark is malformed")
		}
		h.Watermark = fromNanos(v)
	case tagUncommitted:
		stream, rest, ok1 := cutText(value)
		partition, rest, ok2 := cutText(rest)
		name, _, ok3 := cutText(rest)
		if !ok1 || !ok2 || !ok3 {
			return invalid("an uncommitted block's name is malformed")
		}
		h.Uncommitted = append(h.Uncommitted, millrace.BlockRef{
			Stream: string(stream), Partition: string(partition), Block: string(name),
		})
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

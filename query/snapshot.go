package query

import (
	"encoding/binary"
	"hash/crc32"

	"github.com/millrace/millrace"
)

// A snapshot of a task, version 1, as it lies in State:
//
//	4       "MRQ1"
//	text    the kind of query, the name of the input stream, the partition
//	text    the input position up to which the state has come
//	16      the id of the life of the task that saved it
//	text    the operator's state
//	4       CRC-32C of all before it, little-endian
//
// A text is its length as uvarint and its bytes.
type snapshot struct {
	kind, stream, partition string
	at                      millrace.Position
	life                    [16]byte
	state                   []byte
}

const (
	snapshotMagic = "MRQ1"
	// maxSnapshot bounds what is read of a snapshot.
	maxSnapshot = 4 << 30
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// encodeSnapshot appends a snapshot to dst, which is empty. state appends the operator's state.
func encodeSnapshot(dst []byte, s snapshot, state func([]byte) []byte) []byte {
	dst = append(dst, snapshotMagic...)
	for _, text := range []string{s.kind, s.stream, s.partition, s.at.String()} {
		dst = append(binary.AppendUvarint(dst, uint64(len(text))), text...)
	}
	dst = append(dst, s.life[:]...)
	// The state's length is known only when it is there: room for it is kept, as a uvarint of 10 bytes.
	length := len(dst)
	dst = append(dst, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0)
	dst = state(dst)
	n := uint64(len(dst) - length - binary.MaxVarintLen64)
	for i := length; n > 0; i++ {
		dst[i] |= byte(n & 0x7f)
		n >>= 7
	}
	return binary.LittleEndian.AppendUint32(dst, crc32.Checksum(dst, castagnoli))
}

// decodeSnapshot reads what encodeSnapshot wrote; state points into data. It fails with Invalid.
func decodeSnapshot(data []byte) (snapshot, error) {
	fail := func(reason string) (snapshot, error) {
		return snapshot{}, millrace.Errorf(millrace.Invalid, "read snapshot", "%s", reason)
	}
	if len(data) < len(snapshotMagic)+4 || string(data[:len(snapshotMagic)]) != snapshotMagic {
		return fail("it does not begin with " + snapshotMagic)
	}
	body := data[:len(data)-4]
	if crc32.Checksum(body, castagnoli) != binary.LittleEndian.Uint32(data[len(body):]) {
		return fail("its checksum is wrong")
	}
	rest := body[len(snapshotMagic):]
	text := func() (s []byte, ok bool) {
		n, size := binary.Uvarint(rest)
		if size <= 0 || n > uint64(len(rest)-size) {
			return nil, false
		}
		s, rest = rest[size:size+int(n)], rest[size+int(n):]
		return s, true
	}
	var s snapshot
	var position string
	for _, field := range []*string{&s.kind, &s.stream, &s.partition, &position} {
		b, ok := text()
		if !ok {
			return fail("it is cut short")
		}
		*field = string(b)
	}
	var err error
	if s.at, err = millrace.ParsePosition(position); err != nil {
		return snapshot{}, millrace.Errorf(millrace.Invalid, "read snapshot", "%w", err)
	}
	if len(rest) < len(s.life) {
		return fail("it is cut short")
	}
	rest = rest[copy(s.life[:], rest):]
	var ok bool
	if s.state, ok = text(); !ok || len(rest) > 0 {
		return fail("its length is wrong")
	}
	return s, nil
}

package block_test

import (
	"encoding/binary"
	"hash/crc32"
)

// part is a section as a test writes it.
type part struct {
	kind, codec byte
	flags       uint16
	bytes       []byte
	length      int // after decompression; -1: as stored
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// assemble writes a block as the layout in doc.go says, independently of the Builder, so that tests
// can write what the Builder never would.
func assemble(events uint32, fields []byte, parts ...part) []byte {
	le := binary.LittleEndian
	raw := []byte("MRB1")
	raw = le.AppendUint32(raw, uint32(32+16*len(parts)+len(fields)+4))
	raw = le.AppendUint32(raw, events)
	raw = le.AppendUint16(raw, 0)
	raw = le.AppendUint16(raw, uint16(len(parts)))
	raw = append(raw, make([]byte, 16)...)
	for _, p := range parts {
		if p.length < 0 {
			p.length = len(p.bytes)
		}
		raw = append(raw, p.kind, p.codec)
		raw = le.AppendUint16(raw, p.flags)
		raw = le.AppendUint32(raw, uint32(len(p.bytes)))
		raw = le.AppendUint32(raw, uint32(p.length))
		raw = le.AppendUint32(raw, crc32.Checksum(p.bytes, castagnoli))
	}
	raw = append(raw, fields...)
	raw = le.AppendUint32(raw, crc32.Checksum(raw, castagnoli))
	for _, p := range parts {
		raw = append(raw, p.bytes...)
	}
	return raw
}

func field(dst []byte, tag uint64, value string) []byte {
	return append(binary.AppendUvarint(binary.AppendUvarint(dst, tag), uint64(len(value))), value...)
}

// named holds the one field that every block has.
var named = field(nil, 1, "p")

// numbers returns fixed-width integers followed by text.
func numbers(wide []int64, narrow []uint32, text string) []byte {
	var b []byte
	for _, n := range wide {
		b = binary.LittleEndian.AppendUint64(b, uint64(n))
	}
	for _, n := range narrow {
		b = binary.LittleEndian.AppendUint32(b, n)
	}
	return append(b, text...)
}

// plain are the sections of two events without a codec.
func plain() []part {
	return []part{
		{1, 0, 0, numbers([]int64{5, 6}, []uint32{1, 3}, "\x02kll"), -1}, // keys k, ll; the second deleted
		{2, 0, 0, numbers(nil, []uint32{1, 2, 1, 1}, "ijt"), -1},         // ids i, j; types t and none
		{4, 0, 0, numbers(nil, []uint32{0, 2}, "{}"), -1},
	}
}

// repair makes the checksums right, as far as raw has the shape of a block.
func repair(raw []byte) {
	le := binary.LittleEndian
	if len(raw) < 36 {
		return
	}
	head, sections := int(le.Uint32(raw[4:])), int(le.Uint16(raw[14:]))
	if head < 36+16*sections || head > len(raw) {
		return
	}
	rest := raw[head:]
	for i := range sections {
		entry := raw[32+16*i:]
		size := int(le.Uint32(entry[4:]))
		if size > len(rest) {
			break
		}
		le.PutUint32(entry[12:], crc32.Checksum(rest[:size], castagnoli))
		rest = rest[size:]
	}
	le.PutUint32(raw[head-4:], crc32.Checksum(raw[:head-4], castagnoli))
}

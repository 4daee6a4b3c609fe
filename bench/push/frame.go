//go:build linux

package main

import (
	"bytes"
	"encoding/binary"
)

// Opcodes (RFC 6455, section 5.2).
const (
	opText  = 1
	opBin   = 2
	opClose = 8
	opPing  = 9
	opPong  = 10
)

// splitFrame returns the frame that b begins with, and its size with the header; size 0 says that it is
// incomplete. Servers do not mask and, those that are compared here, do not fragment.
func splitFrame(b []byte) (op byte, payload []byte, size int) {
	if len(b) < 2 {
		return 0, nil, 0
	}
	head, length := 2, uint64(b[1]&0x7f)
	switch {
	case length == 126 && len(b) >= 4:
		head, length = 4, uint64(binary.BigEndian.Uint16(b[2:]))
	case length == 127 && len(b) >= 10:
		head, length = 10, binary.BigEndian.Uint64(b[2:])
	case length >= 126:
		return 0, nil, 0
	}
	if uint64(len(b)-head) < length {
		return 0, nil, 0
	}
	size = head + int(length)
	return b[0] & 0x0f, b[head:size], size
}

// appendMasked appends a short frame as clients send it. The mask is zeros: the bytes stay as they are.
func appendMasked(dst []byte, op byte, payload []byte) []byte {
	dst = append(dst, 0x80|op, 0x80|byte(min(len(payload), 125)), 0, 0, 0, 0)
	return append(dst, payload[:min(len(payload), 125)]...)
}

// eventMark is how the data of an event begins, whatever a protocol wraps it in.
var eventMark = []byte(`{"n":`)

// nextNumber returns the number of the first event in a payload and what follows it; ok is false if there
// is none.
func nextNumber(p []byte) (n int64, rest []byte, ok bool) {
	i := bytes.Index(p, eventMark)
	if i < 0 {
		return 0, nil, false
	}
	for p = p[i+len(eventMark):]; len(p) > 0 && p[0] >= '0' && p[0] <= '9'; p = p[1:] {
		n = 10*n + int64(p[0]-'0')
	}
	return n, p, true
}

var idMark = []byte(`{"id":"`)

// positionOf returns the id that a message of millrace.v1 begins with, nil if there is none.
func positionOf(p []byte) []byte {
	rest, found := bytes.CutPrefix(p, idMark)
	if !found {
		return nil
	}
	id, _, found := bytes.Cut(rest, []byte{'"'})
	if !found {
		return nil
	}
	return id
}

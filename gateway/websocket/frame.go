package websocket

import (
	"encoding/binary"
	"math"
	"unicode/utf8"

	"github.com/gobwas/ws"
)

// AppendHeader appends the header of an unfragmented, unmasked frame (RFC 6455, section 5.2).
func AppendHeader(dst []byte, op ws.OpCode, length int) []byte {
	dst = append(dst, 0x80|byte(op))
	switch {
	case length < 126:
		return append(dst, byte(length))
	case length <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(dst, 126), uint16(length))
	default:
		return binary.BigEndian.AppendUint64(append(dst, 127), uint64(length))
	}
}

// OpenText begins a text frame whose length is not known yet; guess is a lower bound. CloseText ends
// it.
func OpenText(dst []byte, guess int) (grown []byte, start int) {
	start = len(dst)
	return AppendHeader(dst, ws.OpText, max(guess, 126)), start
}

// CloseText ends a frame that OpenText began at start.
func CloseText(dst []byte, start int) []byte {
	room := 4 // what OpenText left for the header
	if dst[start+1] == 127 {
		room = 10
	}
	length := len(dst) - start - room
	var header [10]byte
	h := AppendHeader(header[:0], ws.OpText, length)
	if need := len(h); need != room { // seldom: move the payload
		if need > room {
			dst = append(dst, header[:need-room]...)
		}
		copy(dst[start+need:], dst[start+room:start+room+length])
		dst = dst[:start+need+length]
	}
	copy(dst[start:], h)
	return dst
}

// AppendClose appends a close frame; a reason that is too long is shortened. Code 0 stands for none.
func AppendClose(dst []byte, code ws.StatusCode, reason string) []byte {
	if code == 0 {
		return AppendHeader(dst, ws.OpClose, 0)
	}
	for len(reason) > ws.MaxControlFramePayloadSize-2 || !utf8.ValidString(reason) {
		reason = reason[:len(reason)-1]
	}
	dst = AppendHeader(dst, ws.OpClose, 2+len(reason))
	dst = binary.BigEndian.AppendUint16(dst, uint16(code))
	return append(dst, reason...)
}

// ClosingCodes are those with which whoever operates a server may have a connection closed, in words.
const ClosingCodes = "1000, 1001, 1008, 1011 to 1014, or 3000 to 4999"

// IsClosingCode says whether a code is one of ClosingCodes. The others of RFC 6455, section 7.4.1, and of its registry
// are for clients, for what a server notices by itself, or never sent.
func IsClosingCode(code int) bool {
	switch {
	case code == 1000, code == 1001, code == 1008, code >= 1011 && code <= 1014, code >= 3000 && code <= 4999:
		return true
	}
	return false
}

// FrameSize returns the length of the unmasked frame that b begins with; of an incomplete one, more than len(b).
func FrameSize(b []byte) int {
	switch {
	case len(b) < 2:
		return 2
	case b[1] < 126:
		return 2 + int(b[1])
	case b[1] == 126 && len(b) >= 4:
		return 4 + int(binary.BigEndian.Uint16(b[2:]))
	case b[1] == 127 && len(b) >= 10:
		return 10 + int(binary.BigEndian.Uint64(b[2:]))
	default:
		return 10
	}
}

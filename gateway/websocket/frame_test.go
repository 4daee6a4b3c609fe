package websocket

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/gobwas/ws"
)

// transcript is a receiver that writes down what it is told.
type transcript struct{ bytes.Buffer }

func (r *transcript) Message(kind ws.OpCode, p []byte) { fmt.Fprintf(r, "message %d %x\n", kind, p) }
func (r *transcript) Ping(p []byte)                    { fmt.Fprintf(r, "ping %x\n", p) }
func (r *transcript) Pong(p []byte)                    { fmt.Fprintf(r, "pong %x\n", p) }
func (r *transcript) CloseFrame(code ws.StatusCode)    { fmt.Fprintf(r, "close %d\n", code) }

// FuzzClientFrames feeds what a client might send, in pieces of one size, and compares that with all of
// it in one piece; with compression or without.
func FuzzClientFrames(f *testing.F) {
	mask := "\x80\x01\x02\x03\x04"
	f.Add([]byte("\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58"), 1, false) // RFC 6455, section 5.7
	f.Add([]byte("\x01"+mask+"\x89"+mask+"\x80"+mask+"\x88"+mask), 3, false)
	f.Add([]byte("\x82\xfe\x00\x7e\x00\x00\x00\x00"+strings.Repeat("x", 126)), 7, false)
	f.Add([]byte("\x82\xff\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00"), 2, false)
	f.Add([]byte("\x88\x82\x00\x00\x00\x00\x03\xe8rest"), 5, false)
	f.Add([]byte("\x41\x83\x00\x00\x00\x00\xf2\x48\xcd\x80\x84\x00\x00\x00\x00\xc9\xc9\x07\x00"), 2, true) // RFC 7692, section 7.2.3.1
	f.Add([]byte("\x01\x81\x00\x00\x00\x00a\x80\xff\x7f\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00rest"), 1, false)
	f.Fuzz(func(t *testing.T, sent []byte, piece int, Deflate bool) {
		whole, parts := Inbound{Deflate: Deflate}, Inbound{Deflate: Deflate}
		limit := MaxMessage
		if Deflate {
			limit = maxDeflated
		}
		var a, b transcript
		endedA, vA := whole.Feed(bytes.Clone(sent), &a)
		var endedB bool
		var vB *Violation
		for rest := range slices.Chunk(bytes.Clone(sent), max(1, piece)) {
			if endedB, vB = parts.Feed(rest, &b); endedB {
				break
			}
			if len(parts.message) > limit || len(parts.control) > ws.MaxControlFramePayloadSize {
				t.Fatalf("%d bytes of a message are kept, %d of a control frame", len(parts.message), len(parts.control))
			}
		}
		if endedA != endedB || a.String() != b.String() {
			t.Fatalf("in one piece: %t\n%sin pieces: %t\n%s", endedA, &a, endedB, &b)
		}
		if (vA == nil) != (vB == nil) || vA != nil && (*vA != *vB || !endedA) {
			t.Fatalf("in one piece: %v, in pieces: %v", vA, vB)
		}
	})
}

func splitFrame(t testing.TB, frame []byte) (ws.OpCode, []byte) {
	t.Helper()
	h, err := ws.ReadHeader(bytes.NewReader(frame))
	if err != nil || !h.Fin || h.Masked || h.Rsv != 0 {
		t.Fatalf("%+v, %v", h, err)
	}
	n := ws.HeaderSize(h)
	if int64(len(frame)-n) != h.Length {
		t.Fatalf("%d bytes for a payload of %d", len(frame), h.Length)
	}
	return h.OpCode, frame[n:]
}

func TestClosingCodes(t *testing.T) {
	for code, want := range map[int]bool{
		-1: false, 0: false, 999: false, 1000: true, 1001: true, 1002: false, 1003: false, 1005: false, 1006: false, 1007: false,
		1008: true, 1009: false, 1010: false, 1011: true, 1012: true, 1013: true, 1014: true, 1015: false, 2999: false,
		3000: true, 4999: true, 5000: false, 1<<16 + 1000: false,
	} {
		if got := IsClosingCode(code); got != want {
			t.Errorf("%d: %t", code, got)
		}
	}
}

func TestCloseFrame(t *testing.T) {
	for _, reason := range []string{"", "short", strings.Repeat("x", 200), strings.Repeat("é", 100), strings.Repeat("€", 41) + "xx"} {
		op, payload := splitFrame(t, AppendClose(nil, 1000, reason))
		if op != ws.OpClose || len(payload) > ws.MaxControlFramePayloadSize || binary.BigEndian.Uint16(payload) != 1000 ||
			!utf8.Valid(payload[2:]) || !strings.HasPrefix(reason, string(payload[2:])) {
			t.Errorf("%q became %q", reason, payload)
		}
	}
}

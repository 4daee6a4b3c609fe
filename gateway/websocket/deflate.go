package websocket

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"sync"

	"github.com/gobwas/ws"
	"github.com/klauspost/compress/flate"
)

// permessage-deflate (RFC 7692). An event is compressed once for all its subscribers, so no message
// refers to one before it: the server never takes its context over (section 7.1.1.1), and asks clients
// not to do so either (7.1.1.2), or every connection would need a window of 32 KiB. Whoever sends a
// message may send it uncompressed (section 6), which short ones are.
const (
	deflateName   = "permessage-deflate"
	deflateAnswer = deflateName + "; server_no_context_takeover; client_no_context_takeover"
)

// rsv1 marks the first frame of a compressed message (section 6), in the first byte of its header.
const rsv1 = 0x40

// NegotiateDeflate returns the value of the response's header Sec-WebSocket-Extensions, or "" if the
// client offers nothing that can be accepted. The first offer that can be wins (section 5).
func NegotiateDeflate(h http.Header) string {
	offers, ok := parseExtensions(h.Values(extensionsHeader))
	if !ok {
		return ""
	}
	for _, offer := range offers {
		if answer := acceptDeflate(offer); answer != "" {
			return answer
		}
	}
	return ""
}

// acceptDeflate answers one offer; "" declines it. One with a parameter that is unknown, there twice, or
// has a value that it may not have, is to be declined (section 7.1).
func acceptDeflate(offer extension) string {
	if offer.name != deflateName {
		return ""
	}
	window := ""
	for i, p := range offer.parameters {
		for _, before := range offer.parameters[:i] {
			if before.name == p.name {
				return ""
			}
		}
		switch p.name {
		case "server_no_context_takeover", "client_no_context_takeover":
			if p.hasValue {
				return ""
			}
		case "server_max_window_bits":
			// The writer's window is always 32 KiB, so a smaller one cannot be promised; a parameter that is
			// accepted is answered (section 7.1.2.1).
			if p.value != "15" {
				return ""
			}
			window = "; server_max_window_bits=15"
		case "client_max_window_bits":
			// A hint, which needs no answer: the reader's window is the largest (section 7.1.2.2).
			if p.hasValue && !windowBits(p.value) {
				return ""
			}
		default:
			return ""
		}
	}
	return deflateAnswer + window
}

// windowBits says whether s is a number from 8 to 15 without leading zeros (section 7.1.2).
func windowBits(s string) bool {
	return len(s) == 1 && (s[0] == '8' || s[0] == '9') || len(s) == 2 && s[0] == '1' && s[1] >= '0' && s[1] <= '5'
}

// leastDeflated is the size from which on compressing is tried, in bytes. Below it little or nothing
// is gained (docs/adr/0016-compression.md).
const leastDeflated = 512

// AppendDeflated appends payload as one compressed frame of a kind (section 7.2.1). ok is false, and out
// is dst, if it is too short for that, or would not become smaller.
func AppendDeflated(dst []byte, op ws.OpCode, payload []byte) (out []byte, ok bool) {
	if len(payload) < leastDeflated {
		return dst, false
	}
	d := deflaters.Get().(*deflated)
	defer deflaters.Put(d)
	d.b = d.b[:0]
	if flate.StatelessDeflate(d, payload, false, nil) != nil { // d takes everything
		return dst, false
	}
	small := bytes.TrimSuffix(d.b, deflateTail[:4])
	if len(small) >= len(payload) || len(small) == len(d.b) {
		return dst, false
	}
	start := len(dst)
	dst = AppendHeader(dst, op, len(small))
	dst[start] |= rsv1
	return append(dst, small...), true
}

// deflated takes what is compressed. The compressor's own tables are pooled where they are made.
type deflated struct{ b []byte }

func (d *deflated) Write(p []byte) (int, error) {
	d.b = append(d.b, p...)
	return len(p), nil
}

var deflaters = sync.Pool{New: func() any { return &deflated{} }}

// deflateTail follows a compressed message for the reader: the four bytes that its sender has taken
// away (section 7.2.2), and a last empty block, so that the stream has an end.
var deflateTail = [...]byte{0, 0, 0xff, 0xff, 1, 0, 0, 0xff, 0xff}

// maxDeflated bounds a client's compressed message. It is more than MaxMessage, since what cannot be
// compressed grows by up to a seventh in poor writers' hands.
const maxDeflated = MaxMessage + MaxMessage/4

// inflater reads compressed messages. It belongs to a connection only while that hands a whole
// message on, so that idle ones need none.
type inflater struct {
	in    bytes.Reader
	flate io.ReadCloser // also a flate.Resetter
	out   [MaxMessage + 1]byte
}

var inflaters = sync.Pool{New: func() any {
	f := &inflater{}
	f.flate = flate.NewReader(&f.in)
	return f
}}

// What can be wrong with a compressed message.
var (
	errInflated   = errors.New("a compressed message is damaged")
	errInflatedTo = errors.New("a compressed message is too large")
)

// inflate returns what a message, to which deflateTail has been appended, was before it was compressed;
// it is valid until the next call. It stops at more than MaxMessage bytes, whatever was to follow.
func (f *inflater) inflate(message []byte) ([]byte, error) {
	f.in.Reset(message)
	n := 0
	// A message may have final blocks of its own, and go on after them (section 7.2.3.4). One that ends with
	// a final block should have a zero byte more, and an empty one too; those that do not are understood.
	for left := len(message); left != 0 && left != len(deflateTail); left = f.in.Len() {
		if err := f.flate.(flate.Resetter).Reset(&f.in, nil); err != nil {
			return nil, errInflated
		}
		for {
			m, err := f.flate.Read(f.out[n:])
			if n += m; n > MaxMessage {
				return nil, errInflatedTo
			}
			if err == io.EOF { //nolint:errorlint // the end of a stream, and of nothing else
				break
			}
			if err != nil {
				return nil, errInflated
			}
		}
	}
	return f.out[:n], nil
}

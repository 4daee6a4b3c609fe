package gateway

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"math"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/gobwas/ws"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
)

// form is how a connection wants its events written. Events are written once per form and shared by
// all connections that want it.
type form uint8

const (
	plain      form = iota // a WebSocket frame with the data alone
	v1                     // millrace.v1, ids of one partition
	v1Vector               // millrace.v1, ids of all partitions of the stream
	sse                    // Server-Sent Events, ids of one partition
	sseVector              // Server-Sent Events, ids of all partitions of the stream
	formsCount             // how many there are
)

// over returns the form for a subscription that spans several partitions.
func (f form) over(partitions int) form {
	if partitions > 1 && (f == v1 || f == sse) {
		return f + 1
	}
	return f
}

func (f form) websocket() bool { return f <= v1Vector }

// protocol is the form as metrics and logs name it.
func (f form) protocol() string {
	switch f {
	case plain:
		return "plain"
	case v1, v1Vector:
		return subprotocol
	default:
		return "sse"
	}
}

// idText makes the position ids of one block: all that is the same for its events, and the number of
// the event in between.
type idText struct{ before, after []byte }

func (t *idText) append(dst []byte, event uint32) []byte {
	dst = append(dst, t.before...)
	dst = strconv.AppendUint(dst, uint64(event), 10)
	return append(dst, t.after...)
}

// single sets t to the ids of one partition.
func (t *idText) single(partition, block string) {
	t.before, _ = appendBlock(t.before[:0], "", partition, block)
	t.before, t.after = append(t.before, '.'), t.after[:0]
}

// appendEvent appends the i-th event of r as one frame; number is its number in the block, from 1.
func appendEvent(dst []byte, f form, r *block.Reader, i int, number uint32, ids *idText) []byte {
	switch f {
	case plain:
		data := r.Data(i)
		op := ws.OpText
		if !utf8.Valid(data) {
			op = ws.OpBinary // a text frame must hold valid UTF-8 (RFC 6455, section 5.6)
		}
		return append(appendHeader(dst, op, len(data)), data...)
	case v1, v1Vector:
		dst, start := openText(dst, len(r.Data(i)))
		return closeText(appendV1(dst, r, i, number, ids), start)
	default:
		return appendSSE(dst, r, i, number, ids)
	}
}

// appendV1 appends {"id","key","type","time","data"}, and "deleted":true where it applies.
func appendV1(dst []byte, r *block.Reader, i int, number uint32, ids *idText) []byte {
	dst = append(dst, `{"id":"`...)
	dst = ids.append(dst, number)
	dst = append(dst, `","key":`...)
	dst = appendJSONString(dst, r.Key(i))
	dst = append(dst, `,"type":`...)
	dst = appendJSONString(dst, r.Type(i))
	dst = append(dst, `,"time":`...)
	if ns := r.UnixNano(i); ns == math.MinInt64 {
		dst = append(dst, "null"...)
	} else {
		dst = append(dst, '"')
		dst = time.Unix(0, ns).UTC().AppendFormat(dst, time.RFC3339Nano)
		dst = append(dst, '"')
	}
	if r.Deleted(i) {
		dst = append(dst, `,"deleted":true`...)
	}
	switch data := r.Data(i); {
	case !utf8.Valid(data):
		dst = append(dst, `,"data_base64":"`...)
		dst = base64.StdEncoding.AppendEncode(dst, data)
		dst = append(dst, '"')
	case json.Valid(data):
		dst = append(dst, `,"data":`...)
		dst = append(dst, data...)
	default:
		dst = append(dst, `,"data":`...)
		dst = appendJSONString(dst, data)
	}
	return append(dst, '}')
}

// appendGap appends what a client that resumes by id is told of a gap; id is what it resumes from
// afterwards.
func appendGap(dst []byte, f form, id, partition string, gap *millrace.Gap) []byte {
	body := func(dst []byte) []byte {
		dst = append(dst, `{"after":"`...)
		dst, _ = appendPlace(dst, "", partition, gap.After)
		dst = append(dst, `","first":"`...)
		dst, _ = appendPlace(dst, "", partition, gap.First)
		dst = append(dst, `","reason":`...)
		dst = appendJSONString(dst, []byte(gap.Reason))
		return append(dst, '}')
	}
	if !f.websocket() {
		dst = append(dst, "id: "...)
		dst = append(dst, id...)
		dst = append(dst, "\nevent: "+gapEvent+"\ndata: "...)
		return append(body(dst), "\n\n"...)
	}
	dst, start := openText(dst, 0)
	dst = append(dst, `{"id":"`...)
	dst = append(dst, id...)
	dst = append(dst, `","gap":`...)
	dst = body(dst)
	return closeText(append(dst, '}'), start)
}

// appendProgress appends an id without an event: the client has been sent all that it asked for up to
// here. live says that it has come to the live edge just now.
func appendProgress(dst []byte, f form, id []byte, live bool) []byte {
	switch f {
	case plain:
		return dst
	case sse, sseVector:
		dst = append(dst, "id: "...)
		dst = append(dst, id...)
		return append(dst, "\n\n"...)
	}
	dst, start := openText(dst, 0)
	dst = append(dst, `{"id":"`...)
	dst = append(dst, id...)
	dst = append(dst, '"')
	if live {
		dst = append(dst, `,"live":true`...)
	}
	return closeText(append(dst, '}'), start)
}

// appendHeader appends the header of an unfragmented, unmasked frame (RFC 6455, section 5.2).
func appendHeader(dst []byte, op ws.OpCode, length int) []byte {
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

// openText begins a text frame whose length is not known yet; guess is a lower bound. closeText ends
// it.
func openText(dst []byte, guess int) (grown []byte, start int) {
	start = len(dst)
	return appendHeader(dst, ws.OpText, max(guess, 126)), start
}

func closeText(dst []byte, start int) []byte {
	room := 4 // what openText left for the header
	if dst[start+1] == 127 {
		room = 10
	}
	length := len(dst) - start - room
	var header [10]byte
	h := appendHeader(header[:0], ws.OpText, length)
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

// frameSize returns the length of the frame that b begins with; of an incomplete one, more than len(b).
func (f form) frameSize(b []byte) int {
	if !f.websocket() {
		return sseSize(b)
	}
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

const hexDigits = "0123456789abcdef"

// appendJSONString appends s as a JSON string; what is not UTF-8 becomes U+FFFD.
func appendJSONString(dst, s []byte) []byte {
	dst = append(dst, '"')
	begin := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRune(s[i:])
			if r == utf8.RuneError && n == 1 {
				dst = append(append(dst, s[begin:i]...), "\ufffd"...)
				begin = i + 1
			}
			i += n
			continue
		}
		i++
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		dst = append(dst, s[begin:i-1]...)
		begin = i
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\r':
			dst = append(dst, '\\', 'r')
		case '\t':
			dst = append(dst, '\\', 't')
		default:
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
	}
	return append(append(dst, s[begin:]...), '"')
}

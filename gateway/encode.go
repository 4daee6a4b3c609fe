package gateway

import (
	"encoding/base64"
	"math"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/gateway/websocket"
	"github.com/millrace/millrace/jsonpath"
)

// form is how events are framed.
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

// vector says whether positions are over all partitions.
func (f form) vector() bool { return f == v1Vector || f == sseVector }

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

// among sets t to the ids of a block of the i-th partition, among the places of several; at says where the others are.
func (t *idText) among(parts []*part, several []int, i int, block string, at func(i int) millrace.Position) {
	n := slices.Index(several, i)
	dst, incarnation := appendPlaces(t.before[:0], "", parts, several[:n], at)
	if n > 0 {
		dst = append(dst, '~')
	}
	dst, incarnation = appendBlock(dst, incarnation, parts[i].Name, block)
	t.before, t.after = append(dst, '.'), t.after[:0]
	if rest := several[n+1:]; len(rest) > 0 {
		t.after, _ = appendPlaces(append(t.after, '~'), incarnation, parts, rest, at)
	}
}

// appendV1 appends {"sub","id","key","type","time","data"}, and "deleted":true where it applies. Without a
// name there is no sub, without ids no id.
func appendV1(dst []byte, name string, e item, number uint32, ids *idText) []byte {
	dst = appendHeadV1(dst, name, e, number, ids)
	if e.deleted {
		dst = append(dst, `,"deleted":true`...)
	}
	switch {
	case !utf8.Valid(e.data):
		dst = append(dst, `,"data_base64":"`...)
		dst = base64.StdEncoding.AppendEncode(dst, e.data)
		dst = append(dst, '"')
	case jsonpath.Valid(e.data) == nil:
		dst = append(dst, `,"data":`...)
		dst = append(dst, e.data...)
	default:
		dst = append(dst, `,"data":`...)
		dst = appendJSONString(dst, e.data)
	}
	return append(dst, '}')
}

// appendHeadV1 appends what the messages about an event begin with.
func appendHeadV1(dst []byte, name string, e item, number uint32, ids *idText) []byte {
	dst = append(dst, '{')
	dst = appendSub(dst, name)
	if ids != nil {
		dst = append(dst, `"id":"`...)
		dst = ids.append(dst, number)
		dst = append(dst, `",`...)
	}
	dst = append(dst, `"key":`...)
	dst = appendJSONString(dst, e.key)
	dst = append(dst, `,"type":`...)
	dst = appendJSONString(dst, e.kind)
	dst = append(dst, `,"time":`...)
	if e.nanos == math.MinInt64 {
		return append(dst, "null"...)
	}
	dst = append(dst, '"')
	dst = time.Unix(0, e.nanos).UTC().AppendFormat(dst, time.RFC3339Nano)
	return append(dst, '"')
}

// appendSub appends the member that names a subscription, which the one of the URL does not have.
func appendSub(dst []byte, name string) []byte {
	if name == "" {
		return dst
	}
	dst = append(dst, `"sub":`...)
	return append(appendJSONString(dst, []byte(name)), ',')
}

// appendLeft appends that the object that an event is about is no longer inside the area.
func (d *dialect) appendLeft(dst []byte, e item, number uint32, ids *idText) []byte {
	if !d.form.websocket() {
		if ids != nil {
			dst = append(dst, "id: "...)
			dst = append(ids.append(dst, number), '\n')
		}
		return appendLeftSSE(dst, e)
	}
	dst, start := websocket.OpenText(dst, 0)
	dst = appendHeadV1(dst, d.name, e, number, ids)
	return websocket.CloseText(append(dst, `,"left":true}`...), start)
}

// appendGap appends what a client that resumes by id is told of a gap; id is what it resumes from
// afterwards.
func (d *dialect) appendGap(dst []byte, id, partition string, gap *millrace.Gap) []byte {
	body := func(dst []byte) []byte {
		dst = append(dst, `{"after":"`...)
		dst, _ = appendPlace(dst, "", partition, gap.After)
		dst = append(dst, `","first":"`...)
		dst, _ = appendPlace(dst, "", partition, gap.First)
		dst = append(dst, `","reason":`...)
		dst = appendJSONString(dst, []byte(gap.Reason))
		return append(dst, '}')
	}
	if !d.form.websocket() {
		dst = append(dst, "id: "...)
		dst = append(dst, id...)
		dst = append(dst, "\nevent: "+gapEvent+"\ndata: "...)
		return append(body(dst), "\n\n"...)
	}
	dst, start := websocket.OpenText(dst, 0)
	dst = append(appendSub(append(dst, '{'), d.name), `"id":"`...)
	dst = append(dst, id...)
	dst = append(dst, `","gap":`...)
	dst = body(dst)
	return websocket.CloseText(append(dst, '}'), start)
}

// appendProgress appends an id without an event: the client has been sent all that it asked for up to
// here. live says that it has come to the live edge just now.
func (d *dialect) appendProgress(dst []byte, id []byte, live bool) []byte {
	switch d.form {
	case plain:
		return dst
	case sse, sseVector:
		dst = append(dst, "id: "...)
		dst = append(dst, id...)
		return append(dst, "\n\n"...)
	}
	dst, start := websocket.OpenText(dst, 0)
	dst = append(appendSub(append(dst, '{'), d.name), `"id":"`...)
	dst = append(dst, id...)
	dst = append(dst, '"')
	if live {
		dst = append(dst, `,"live":true`...)
	}
	return websocket.CloseText(append(dst, '}'), start)
}

// frameSize returns the length of the frame that b begins with; of an incomplete one, more than len(b).
func (f form) frameSize(b []byte) int {
	if !f.websocket() {
		return sseSize(b)
	}
	return websocket.FrameSize(b)
}

func appendInt(dst []byte, n int64) []byte { return strconv.AppendInt(dst, n, 10) }

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

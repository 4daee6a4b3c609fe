package gateway

import (
	"bytes"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
)

// Names of SSE events that are no events of the stream. A stream's event whose type begins with
// ownEvents gets a dot in front of its type, so that neither can be taken for the other.
const (
	ownEvents  = "millrace."
	gapEvent   = ownEvents + "gap"
	leftEvent  = ownEvents + "left"
	closeEvent = ownEvents + "close"

	droppedEvent = ownEvents + "dropped"
)

// comment keeps a quiet connection open.
const comment = ":\n\n"

// appendSSE appends one event of the WHATWG's event stream format. Data is split at CR, LF and CRLF, as
// the format demands, so a receiver gets LF for each of them. Type "message" is the format's own
// default and is left out.
func appendSSE(dst []byte, e item, number uint32, ids *idText) []byte {
	if ids != nil {
		dst = append(dst, "id: "...)
		dst = ids.append(dst, number)
		dst = append(dst, '\n')
	}
	if kind := e.kind; len(kind) > 0 && string(kind) != "message" {
		dst = append(dst, "event: "...)
		if bytes.HasPrefix(kind, []byte(ownEvents)) {
			dst = append(dst, '.')
		}
		for _, c := range kind {
			if c == '\n' || c == '\r' {
				c = ' ' // a field cannot hold a line break
			}
			dst = append(dst, c)
		}
		dst = append(dst, '\n')
	}
	data := e.data
	for {
		dst = append(dst, "data: "...)
		end := bytes.IndexByte(data, '\n')
		if end < 0 {
			end = len(data)
		}
		if cr := bytes.IndexByte(data[:end], '\r'); cr >= 0 {
			end = cr
		}
		if end == len(data) {
			dst = append(dst, data...)
			return append(dst, "\n\n"...)
		}
		dst = append(dst, data[:end]...)
		dst = append(dst, '\n')
		if data[end] == '\r' && end+1 < len(data) && data[end+1] == '\n' {
			end++
		}
		data = data[end+1:]
	}
}

// appendLeftSSE appends that an object has left an area.
func appendLeftSSE(dst []byte, e item) []byte {
	dst = append(dst, "event: "+leftEvent+"\ndata: {\"key\":"...)
	return append(appendJSONString(dst, e.key), "}\n\n"...)
}

// sseSize is frameSize for the event stream format: everything in it ends with an empty line, and none
// has one before.
func sseSize(b []byte) int {
	if end := bytes.Index(b, []byte("\n\n")); end >= 0 {
		return end + 2
	}
	return len(b) + 1
}

// acceptsSSE says whether the request asks for an event stream.
func acceptsSSE(r *http.Request) bool {
	for _, accept := range r.Header.Values("Accept") {
		for part := range strings.SplitSeq(accept, ",") {
			kind, parameters, _ := strings.Cut(part, ";")
			if strings.EqualFold(strings.TrimSpace(kind), "text/event-stream") &&
				strings.ReplaceAll(parameters, " ", "") != "q=0" {
				return true
			}
		}
	}
	return false
}

// sseHead returns the response's head and the first lines of its body: how long to wait before coming
// back, different for each client so that they do not come all at once. The body has no length and
// is not chunked: it ends with the connection.
func sseHead(h http.Header) []byte {
	h.Set("Content-Type", "text/event-stream; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // nginx: pass each event on at once
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Connection", "close")
	var head bytes.Buffer
	head.WriteString("HTTP/1.1 200 OK\r\n")
	_ = h.Write(&head) // a bytes.Buffer takes everything
	head.WriteString("\r\n")
	return appendRetry(head.Bytes())
}

// After how many ms a client is to come back: a random time for each, so that not all come at once.
const (
	retryLeast  = 1000
	retrySpread = 2000
)

func appendRetry(dst []byte) []byte {
	dst = append(dst, "retry: "...)
	dst = strconv.AppendInt(dst, retryLeast+rand.Int64N(retrySpread), 10) //nolint:gosec // spread, not secrecy
	return append(dst, "\n\n"...)
}

// appendSSEClose appends the event that says why the gateway ends an SSE connection.
func appendSSEClose(dst []byte, code int, reason string) []byte {
	dst = appendRetry(dst)
	dst = append(dst, "event: "+closeEvent+"\ndata: {\"code\":"...)
	dst = strconv.AppendInt(dst, int64(code), 10)
	dst = append(dst, `,"reason":`...)
	dst = appendJSONString(dst, []byte(reason))
	return append(dst, "}\n\n"...)
}

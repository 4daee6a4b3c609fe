package sse

import (
	"strconv"
	"time"
	"unsafe"

	"github.com/millrace/millrace/jsonpath"
)

// mark is a point in a feed's own time, as an id names it. An id holds several if it is a vector: one
// for each partition of each topic.
type mark struct {
	name  string // topic and partition; empty for an id that is one mark
	at    int64  // Unix nanoseconds; noMark if the element names no time
	start int    // the element is id[start:end]
	end   int
	from  int // and the text of its time id[from:to]
	to    int
}

const noMark = -1

var markPaths = jsonpath.MustCompile("topic", "partition", "timestamp")

// maxMarks bounds the marks of one id.
const maxMarks = 256

// parseMarks appends the marks of an id to dst. The id is a time (RFC 3339, or Unix seconds to
// nanoseconds by magnitude), or a JSON array of objects with a topic, a partition and a timestamp, as
// Wikimedia sends it. It returns false if it is neither.
func parseMarks(dst []mark, id []byte) ([]mark, bool) {
	if len(id) == 0 || len(id) > maxID {
		return dst, false
	}
	if id[0] != '[' {
		at, ok := parseMark(id)
		return append(dst, mark{at: at, end: len(id), to: len(id)}), ok
	}
	before, timed := len(dst), false
	var values [3]jsonpath.Value
	for element, err := range jsonpath.Elements(id) {
		if err != nil || len(dst)-before == maxMarks || jsonpath.KindOf(element) != jsonpath.Object ||
			markPaths.Find(element, values[:]) != nil || values[0].Kind != jsonpath.String {
			return dst[:before], false
		}
		m := mark{name: values[0].String() + "/" + values[1].String(), at: noMark}
		m.start = offset(id, element)
		m.end = m.start + len(element)
		if values[2].Kind == jsonpath.Number {
			if at, ok := parseMark(values[2].Raw); ok {
				m.at, m.from = at, offset(id, values[2].Raw)
				m.to = m.from + len(values[2].Raw)
				timed = true
			}
		}
		dst = append(dst, m)
	}
	if !timed {
		return dst[:before], false
	}
	return dst, true
}

// offset returns where a part of the text begins in it. Neither is empty.
func offset(text, part []byte) int {
	return int(uintptr(unsafe.Pointer(&part[0])) - uintptr(unsafe.Pointer(&text[0])))
}

// unit returns the nanoseconds of one step of a Unix time, by its digits; 0 if it is none.
func unit(digits int) int64 {
	switch digits {
	case 9, 10:
		return 1e9
	case 12, 13:
		return 1e6
	case 15, 16:
		return 1e3
	case 18, 19:
		return 1
	default:
		return 0
	}
}

func parseMark(text []byte) (nanos int64, ok bool) {
	if n, err := strconv.ParseInt(string(text), 10, 64); err == nil {
		step := unit(len(text))
		return n * step, step > 0 && n > 0
	}
	t, err := time.Parse(time.RFC3339Nano, string(text))
	if err != nil || t.Year() < 1970 || t.Year() > 2261 {
		return noMark, false
	}
	return t.UnixNano(), true
}

// appendRewound appends the text of a time that is earlier by d, in the notation that it has.
func appendRewound(dst, text []byte, d time.Duration) []byte {
	if n, err := strconv.ParseInt(string(text), 10, 64); err == nil {
		step := max(unit(len(text)), 1)
		return strconv.AppendInt(dst, max(n-(int64(d)+step-1)/step, 0), 10)
	}
	t, err := time.Parse(time.RFC3339Nano, string(text))
	if err != nil {
		return append(dst, text...)
	}
	return t.Add(-d).AppendFormat(dst, time.RFC3339Nano)
}

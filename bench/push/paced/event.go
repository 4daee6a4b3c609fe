package paced

import (
	"strconv"
	"strings"
	"time"
)

// Event is one event to be pushed.
type Event struct {
	Number int64  // from 0, over all keys
	Key    string // a decimal; events take turns over the keys
	Data   []byte // valid until the batch was pushed
}

// Load is what is to be pushed.
type Load struct {
	Rate  float64       // events a second, over all keys
	Burst int           // events that come at a time; 1 at least
	Tick  time.Duration // what is due within it comes at a time, too
	Keys  int           // events have the keys 0 to Keys-1, in turn
	Size  int           // of an event's data in bytes
}

// AppendData appends the data of event n, {"n":N,"k":"KEY","pad":"xx"}, size bytes long unless what it has
// to say is longer.
func AppendData(dst []byte, n int64, key string, size int) []byte {
	start := len(dst)
	dst = append(dst, `{"n":`...)
	dst = strconv.AppendInt(dst, n, 10)
	dst = append(dst, `,"k":"`...)
	dst = append(dst, key...)
	dst = append(dst, `","pad":"`...)
	if missing := size - 2 - (len(dst) - start); missing > 0 {
		dst = append(dst, padding(missing)...)
	}
	return append(dst, `"}`...)
}

var pad = strings.Repeat("the quick brown fox jumps over the lazy dog 0123456789 ", 20)

func padding(n int) string {
	if n <= len(pad) {
		return pad[:n]
	}
	return strings.Repeat(pad, n/len(pad)+1)[:n]
}

// Batch renders events; its memory is used again for the next batch.
type Batch struct {
	Load
	keys   []string
	events []Event
	buf    []byte
}

// NewBatch returns an empty batch.
func NewBatch(l Load) *Batch {
	b := &Batch{Load: l}
	for i := range l.Keys {
		b.keys = append(b.keys, strconv.Itoa(i))
	}
	return b
}

// Render returns the events [from, to).
func (b *Batch) Render(from, to int64) []Event {
	b.events, b.buf = b.events[:0], b.buf[:0]
	if need := int(to-from) * (b.Size + 64); cap(b.buf) < need {
		b.buf = make([]byte, 0, need) // so that the events' data stay where they are
	}
	for n := from; n < to; n++ {
		key, start := b.keys[n%int64(b.Keys)], len(b.buf)
		b.buf = AppendData(b.buf, n, key, b.Size)
		b.events = append(b.events, Event{Number: n, Key: key, Data: b.buf[start:len(b.buf):len(b.buf)]})
	}
	return b.events
}

package gateway

import (
	"github.com/millrace/millrace/block"
)

// batch is a run of a block's events that is handed out in one go. Each event is written at most once
// per form, when the first connection wants it.
type batch struct {
	r          *block.Reader
	begin, end int       // indexes of events in the block
	ids        [2]idText // of one partition; of all
	written    [formsCount]written
	given      bool // the frames are given away: they may be shared and never change again
}

// written are a batch's frames in one form.
type written struct {
	buf   []byte
	spans []span // by event; size 0: not written yet
}

type span struct{ start, size int }

// eventOverhead is about what the frame of a small event has beyond its data.
const eventOverhead = 150

// cut begins a batch with the event at begin: as many as have about size bytes, at least one.
func (b *batch) cut(r *block.Reader, begin, n, size int) {
	bytes, end := 0, begin
	for end < n {
		more := len(r.Data(end)) + len(r.Key(end)) + len(r.Type(end)) + eventOverhead
		if end > begin && bytes+more > size {
			break
		}
		bytes, end = bytes+more, end+1
	}
	b.r, b.begin, b.end = r, begin, end
	// A single large event is not copied for each connection that cannot take it at once.
	b.given = bytes > size
	for i := range b.written {
		w := &b.written[i]
		w.spans = append(w.spans[:0], make([]span, end-begin)...)
		if w.buf = w.buf[:0]; b.given {
			w.buf = nil
		}
	}
}

// writeAll writes all events in a form, one after the other.
func (b *batch) writeAll(f form) {
	for i := b.begin; i < b.end; i++ {
		b.write(f, i)
	}
}

// write writes one event in a form, unless it is written.
func (b *batch) write(f form, i int) {
	w := &b.written[f]
	at := &w.spans[i-b.begin]
	if at.size > 0 {
		return
	}
	ids := &b.ids[0]
	if f == v1Vector || f == sseVector {
		ids = &b.ids[1]
	}
	at.start = len(w.buf)
	w.buf = appendEvent(w.buf, f, b.r, i, uint32(i)+1, ids)
	at.size = len(w.buf) - at.start
}

// frame returns an event that is written.
func (b *batch) frame(f form, i int) []byte {
	at := b.written[f].spans[i-b.begin]
	return b.written[f].buf[at.start : at.start+at.size]
}

// done ends the batch: frames that were given away belong to others now.
func (b *batch) done() {
	if b.given {
		for i := range b.written {
			b.written[i].buf = nil
		}
	}
}

package gateway

import (
	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
)

// batch is what one pass hands out: events of one partition, of as many blocks as are at hand. Each
// event is written at most once per form, when the first connection wants it.
type batch struct {
	events  int
	size    int   // about how many bytes the events have in one form
	runs    []run // the events by block
	ids     [2]idText
	written [formsCount]written
	given   bool // a single large event, whose frames are given away: they never change again
}

// run is where the events of a block begin in a batch.
type run struct {
	block string
	first int    // index in the batch
	event uint32 // number of that event in the block, from 1
}

// written are a batch's frames in one form, in the order in which they were written.
type written struct {
	buf   []byte
	spans []span // by event; size 0: not written
}

type span struct{ start, size int }

// eventOverhead is about what the frame of a small event has beyond its data.
const eventOverhead = 150

// reset empties the batch. Frames that were given away belong to others now.
func (b *batch) reset() {
	for i := range b.written {
		w := &b.written[i]
		if b.given {
			w.buf = nil
		}
		w.buf, w.spans = w.buf[:0], w.spans[:0]
	}
	clear(b.runs) // of the blocks' names
	b.events, b.size, b.runs, b.given = 0, 0, b.runs[:0], false
}

// room returns the end of the events from i on that still go into a batch of about limit bytes. A
// single event always goes into an empty one.
func (b *batch) room(r *block.Reader, i, n, limit int) int {
	for ; i < n; i++ {
		more := len(r.Data(i)) + len(r.Key(i)) + len(r.Type(i)) + eventOverhead
		if b.given || b.size > 0 && b.size+more > limit {
			break
		}
		b.size += more
		b.given = b.size > limit
	}
	return i
}

// take counts the events [i, end) of a block in; the index of the first in the batch is returned.
func (b *batch) take(name string, i, end int) (first int) {
	first = b.events
	b.runs = append(b.runs, run{block: name, first: first, event: uint32(i) + 1})
	b.events += end - i
	for form := range b.written {
		w := &b.written[form]
		w.spans = append(w.spans, make([]span, end-i)...)
	}
	return first
}

// write writes the i-th event of r in a form, unless that is done; at is its index in the batch.
func (b *batch) write(f form, at int, r *block.Reader, i int) {
	w := &b.written[f]
	s := &w.spans[at]
	if s.size > 0 {
		return
	}
	ids := &b.ids[0]
	if f == v1Vector || f == sseVector {
		ids = &b.ids[1]
	}
	s.start = len(w.buf)
	w.buf = appendEvent(w.buf, f, r, i, uint32(i)+1, ids)
	s.size = len(w.buf) - s.start
}

// frame returns an event that is written.
func (b *batch) frame(f form, at int) []byte {
	s := b.written[f].spans[at]
	return b.written[f].buf[s.start : s.start+s.size]
}

// position returns where an event stands.
func (b *batch) position(at int) millrace.Position {
	i := len(b.runs) - 1
	for b.runs[i].first > at {
		i--
	}
	return millrace.Position{Block: b.runs[i].block, Event: b.runs[i].event + uint32(at-b.runs[i].first)}
}

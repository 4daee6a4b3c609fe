package gateway

import (
	"unicode/utf8"

	"github.com/gobwas/ws"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
	"github.com/millrace/millrace/gateway/websocket"
)

// dialect is how a subscription wants its events written. All subscriptions of a feed that have the same
// dialect share the same bytes.
type dialect struct {
	form     form
	name     string // the subscription's, which each of its messages carries; "" for the one of the URL
	deflated bool   // permessage-deflate (RFC 7692)
}

// rendering is the events of one pass, written in one dialect: each at most once, when the first
// subscription wants it.
type rendering struct {
	dialect
	members int // subscriptions that have joined with this dialect
	broad   int // those of them that want every event, whatever its key

	buf   []byte // frames, in the order in which they were written; nil: not in use in this pass
	spans []span // by event; size 0: not written
	left  []span // by event: that the object has left an area
}

type span struct{ start, size int }

// batch is what one pass hands out: events of one partition, of as many blocks as are at hand.
type batch struct {
	pass   uint64
	events int
	size   int          // about how many bytes the events have in one dialect
	runs   []run        // the events by block
	ids    [2]idText    // of one partition, and over all where somebody wants these
	given  bool         // a single large event, whose frames are given away: they never change again
	used   []*rendering // in this pass
	spare  [][]byte     // buffers of renderings that are not in use
	text   []byte       // scratch: a message before it is compressed
	keyring
}

// run is where the events of a block begin in a batch.
type run struct {
	block string
	first int    // index in the batch
	event uint32 // number of that event in the block, from 1
}

// eventOverhead is about what the frame of a small event has beyond its data.
const eventOverhead = 150

// maxSpare bounds the buffers that a batch keeps for later.
const maxSpare = 8

// reset empties the batch. Frames that were given away belong to others now.
func (b *batch) reset() {
	for i, rd := range b.used {
		if !b.given && len(b.spare) < maxSpare {
			b.spare = append(b.spare, rd.buf[:0])
		}
		rd.buf, b.used[i] = nil, nil
	}
	clear(b.runs) // of the blocks' names
	b.used, b.runs = b.used[:0], b.runs[:0]
	b.events, b.size, b.given = 0, 0, false
	b.keyring.reset()
	b.pass++
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
	return first
}

// use readies a rendering for this pass.
func (b *batch) use(rd *rendering) {
	if rd.buf == nil {
		rd.spans, rd.left = rd.spans[:0], rd.left[:0]
		if last := len(b.spare) - 1; last >= 0 {
			rd.buf, b.spare = b.spare[last], b.spare[:last]
		} else {
			rd.buf = make([]byte, 0, 1<<10)
		}
		b.used = append(b.used, rd)
	}
	for len(rd.spans) < b.events {
		rd.spans = append(rd.spans, span{})
	}
}

// write writes the i-th event of r, unless that is done; at is its index in the batch.
func (b *batch) write(rd *rendering, at int, r *block.Reader, i int) {
	b.use(rd)
	if s := &rd.spans[at]; s.size == 0 {
		s.start = len(rd.buf)
		rd.buf, b.text = rd.appendEvent(rd.buf, b.text, itemOf(r, i), uint32(i)+1, b.idsFor(rd))
		s.size = len(rd.buf) - s.start
	}
}

// writeLeft writes that the object of an event has left an area.
func (b *batch) writeLeft(rd *rendering, at int, r *block.Reader, i int) {
	b.use(rd)
	for len(rd.left) < b.events {
		rd.left = append(rd.left, span{})
	}
	if s := &rd.left[at]; s.size == 0 {
		s.start = len(rd.buf)
		rd.buf = rd.appendLeft(rd.buf, itemOf(r, i), uint32(i)+1, b.idsFor(rd))
		s.size = len(rd.buf) - s.start
	}
}

func (b *batch) idsFor(rd *rendering) *idText {
	if rd.form.vector() {
		return &b.ids[1]
	}
	return &b.ids[0]
}

// frame returns what is written of a pending event.
func (rd *rendering) frame(event int32) []byte {
	if event < 0 {
		s := rd.left[^event]
		return rd.buf[s.start : s.start+s.size]
	}
	s := rd.spans[event]
	return rd.buf[s.start : s.start+s.size]
}

// position returns where an event stands.
func (b *batch) position(at int) millrace.Position {
	i := len(b.runs) - 1
	for b.runs[i].first > at {
		i--
	}
	return millrace.Position{Block: b.runs[i].block, Event: b.runs[i].event + uint32(at-b.runs[i].first)}
}

// item is an event as it is written. It points into a block, or into a row of a table.
type item struct {
	key, kind, data []byte
	nanos           int64 // event time; math.MinInt64: none
	deleted         bool
}

func itemOf(r *block.Reader, i int) item {
	return item{key: r.Key(i), kind: r.Type(i), data: r.Data(i), nanos: r.UnixNano(i), deleted: r.Deleted(i)}
}

// appendEvent appends an event as one frame; number is its number in the block, from 1. ids nil says that
// it carries no position. text is scratch, which is returned.
func (d *dialect) appendEvent(dst, text []byte, e item, number uint32, ids *idText) (frame, scratch []byte) {
	if !d.form.websocket() {
		return appendSSE(dst, e, number, ids), text
	}
	if !d.deflated {
		if d.form == plain {
			return append(websocket.AppendHeader(dst, plainOp(e.data), len(e.data)), e.data...), text
		}
		dst, start := websocket.OpenText(dst, len(e.data))
		return websocket.CloseText(appendV1(dst, d.name, e, number, ids), start), text
	}
	op, payload := plainOp(e.data), e.data
	if d.form != plain {
		text = appendV1(text[:0], d.name, e, number, ids)
		op, payload = ws.OpText, text
	}
	if out, ok := websocket.AppendDeflated(dst, op, payload); ok {
		return out, text
	}
	return append(websocket.AppendHeader(dst, op, len(payload)), payload...), text
}

// plainOp returns the kind of frame for data: a text frame must hold valid UTF-8 (RFC 6455, section 5.6).
func plainOp(data []byte) ws.OpCode {
	if utf8.Valid(data) {
		return ws.OpText
	}
	return ws.OpBinary
}

package sse

import (
	"bytes"
	"crypto/sha256"
	"hash"
	"io"
	"sync/atomic"
	"time"
)

// Event is one event of a stream, as the standard dispatches it.
type Event struct {
	// ID is the last event ID as it stands after this event: its own, or that of an earlier one.
	// Valid until the next call of Next.
	ID []byte
	// OwnID says that the event's own lines set ID.
	OwnID bool
	// Type is the event type, "message" where the event names none. Valid until the next call of Next.
	Type []byte
	// Data is the payload in valid UTF-8. It points into the decoder's buffers and is valid until the
	// next call of Read. Of an event over the limit it is a prefix of at most 64 KiB.
	Data []byte
	// TooLarge says that the data is over the limit. Length is the whole data's length in bytes and
	// SHA256 its hash, both of the bytes as they came (lines joined by LF, before malformed UTF-8 is
	// replaced).
	TooLarge bool
	Length   int64
	SHA256   [sha256.Size]byte
}

// sum is the data's SHA-256.
func (e *Event) sum() [sha256.Size]byte {
	if e.TooLarge {
		return e.SHA256
	}
	return sha256.Sum256(e.Data)
}

// The decoder's sizes in bytes.
const (
	smallBuffer = 4 << 10   // a quiet feed's read buffer
	largeBuffer = 256 << 10 // a busy feed's
	growAfter   = 8         // so many reads in a row that fill the buffer double it
	shrinkAfter = 256       // so many that would fit a quarter of it halve it
	fieldLimit  = 64 << 10  // an id or type over it is ignored, a comment over it is cut
	prefixLimit = 64 << 10  // what is kept of an event over the limit
	carryKept   = 1 << 20   // a carry buffer over it is given back when it lies idle
)

// Decoder splits a stream of bytes into events as the WHATWG HTML standard says ("9.2.6 Interpreting
// an event stream"). It works in turns: Read reads once, Next yields the events that are complete in
// what has been read.
//
//	for {
//		err := d.Read()
//		for d.Next(&e) {
//			...
//		}
//		if err != nil {
//			break
//		}
//	}
//
// What one event needs beyond the read buffer is bounded by the limit, and each byte is looked at a
// fixed number of times however the stream is cut. An event that lies whole in one read costs no
// copy: its data is a part of the read buffer (where its data has several lines, they are moved
// together in place). An event that spans reads is gathered in a buffer of its own, the carry.
type Decoder struct {
	// Comment, if set, is called by Next with the text of each comment, in the stream's order: the line
	// without the colon and without one leading space. The text is valid until Comment returns.
	Comment func(text []byte)

	r     io.Reader
	limit int64
	err   error // of the reader, to be returned by the next Read

	// buf[pos:end] has been read and not been parsed. lf and cr are the indexes of the next LF and CR
	// at or after pos, end if there is none, and stale if less than pos: looking once for each keeps
	// any mix of line ends linear.
	buf      []byte
	pos, end int
	lf, cr   int
	bom      int8 // how many bytes of the leading BOM have come; bomDone when the question is settled
	skipLF   bool // the last line ended with CR: an LF that follows belongs to it

	// The event that is being gathered.
	hasData bool
	from    int    // its data is buf[from:to],
	to      int    //
	carried bool   // or, if it began in an earlier read, carry
	carry   []byte // at most limit bytes
	length  int64  // of the carried data, also beyond the limit
	digest  hash.Hash
	over    bool // carried data is over the limit: carry is the prefix, digest has seen all
	typ     []byte
	id      []byte
	hasID   bool

	// The line that is being gathered, if it began in an earlier read.
	field   field
	space   bool // the next byte of the value, if it is a space, is not part of it
	name    [5]byte
	nameLen int
	value   []byte // of any field but data; at most fieldLimit bytes
	long    bool   // value is over fieldLimit: it is a prefix

	last  []byte // the last event ID
	retry time.Duration
	fixed []byte // data whose malformed UTF-8 was replaced, until the next Read
	idle  int    // how many reads in a row needed little of a large carry

	small, large int   // how many reads in a row brought little, or filled the buffer
	room         *room // where the buffer's growth is taken from; nil: it may grow
}

const bomDone = 3

var (
	byteOrderMark = []byte("\xef\xbb\xbf")
	messageType   = []byte("message")
	lineFeed      = []byte("\n")
)

// NewDecoder returns a decoder of r's bytes. limit bounds the data of one event in bytes.
func NewDecoder(r io.Reader, limit int64) *Decoder {
	d := &Decoder{limit: limit, buf: make([]byte, smallBuffer)}
	d.Reset(r, "")
	return d
}

// Reset makes the decoder read a new stream and keeps its buffers. lastEventID is the last event ID
// to begin with: it outlives connections.
func (d *Decoder) Reset(r io.Reader, lastEventID string) {
	d.r, d.err = r, nil
	d.pos, d.end, d.lf, d.cr = 0, 0, -1, -1
	d.bom, d.skipLF = 0, false
	d.dropEvent()
	d.carried, d.over = false, false
	d.field = lineStart
	d.last = append(d.last[:0], lastEventID...)
	d.retry = -1
}

// LastEventID is the last event ID so far: that of the newest blank line, also where no event came
// with it. Valid until the next call of Next.
func (d *Decoder) LastEventID() []byte { return d.last }

// Retry is the newest reconnection time that the stream has asked for; false if it has not.
func (d *Decoder) Retry() (time.Duration, bool) { return d.retry, d.retry >= 0 }

// Read reads once from the reader. It returns the reader's error when the bytes before it have been
// handed over; after io.EOF what is left of an incomplete event is dropped, as the standard asks.
// Call it when Next has returned false. It ends the life of the events that Next has returned.
func (d *Decoder) Read() error {
	d.spill()
	if d.err != nil {
		return d.err
	}
	for range 100 {
		n, err := d.r.Read(d.buf)
		if n > 0 {
			d.end, d.err = n, err
			return nil
		}
		if err != nil {
			d.err = err
			return err
		}
	}
	d.err = io.ErrNoProgress
	return d.err
}

// spill moves what is left of the read buffer into the carry, the line's state and the value, so that
// the buffer is free.
func (d *Decoder) spill() {
	d.shrink()
	d.fixed = d.fixed[:0]
	if d.hasData && !d.carried {
		d.startCarry()
		d.addCarry(d.buf[d.from:d.to])
	}
	if d.pos < d.end {
		d.part(d.buf[d.pos:d.end])
	}
	switch {
	case d.end == len(d.buf):
		d.small = 0
		if d.large++; d.large >= growAfter && len(d.buf) < largeBuffer && d.room.take(len(d.buf)) {
			d.large, d.buf = 0, make([]byte, 2*len(d.buf))
		}
	case d.end <= len(d.buf)/4:
		d.large = 0
		if d.small++; d.small == shrinkAfter && len(d.buf) > smallBuffer {
			d.room.take(-len(d.buf) / 2)
			d.small, d.buf = 0, make([]byte, len(d.buf)/2)
		}
	default:
		d.small, d.large = 0, 0
	}
	d.pos, d.end, d.lf, d.cr = 0, 0, -1, -1
}

// release gives back what the read buffer has grown by. The decoder is of no use afterwards.
func (d *Decoder) release() {
	d.room.take(smallBuffer - len(d.buf))
	d.buf = nil
}

// room is what the read buffers of several decoders may grow by together: when all feeds have much to say at the same
// time, as after an interruption, they get by with small ones.
type room struct {
	limit int64 // in bytes
	taken atomic.Int64
}

// take takes bytes, or gives them back if they are negative. It returns false if there are not so many.
func (r *room) take(bytes int) bool {
	if r == nil {
		return true
	}
	if n := int64(bytes); r.taken.Add(n) > r.limit && n > 0 {
		r.taken.Add(-n)
		return false
	}
	return true
}

// shrink gives back a carry that a single large event has left behind.
func (d *Decoder) shrink() {
	if cap(d.carry) > carryKept {
		if d.idle++; len(d.carry) > cap(d.carry)/4 {
			d.idle = 0
		}
		if d.idle > 64 && !d.carried {
			d.carry = nil
		}
	}
	if !d.carried {
		d.carry = d.carry[:0]
	}
}

// Next sets e to the next event that is complete in what has been read. If there is none it returns
// false: Read.
func (d *Decoder) Next(e *Event) bool {
	if d.bom < bomDone && !d.mark() {
		return false
	}
	for d.pos < d.end {
		if d.skipLF {
			d.skipLF = false
			if d.buf[d.pos] == '\n' {
				d.pos++
				continue
			}
		}
		if d.lf < d.pos {
			d.lf = d.index('\n')
		}
		if d.cr < d.pos {
			d.cr = d.index('\r')
		}
		start, end := d.pos, min(d.lf, d.cr)
		if end == d.end {
			return false
		}
		d.pos = end + 1
		// A CR ends its line at once, even if it is the last byte that has come: waiting for an LF would
		// hold the event back until the next one.
		d.skipLF = end == d.cr

		switch {
		case d.field != lineStart:
			d.part(d.buf[start:end])
			d.endLine()
		case start < end:
			d.line(start, end)
		case d.dispatch(e):
			return true
		}
	}
	return false
}

// index returns the index of c at or after pos, or end.
func (d *Decoder) index(c byte) int {
	if i := bytes.IndexByte(d.buf[d.pos:d.end], c); i >= 0 {
		return d.pos + i
	}
	return d.end
}

// mark skips the byte order mark at the beginning of the stream; false if it needs more bytes.
func (d *Decoder) mark() bool {
	for d.bom < bomDone && d.pos < d.end {
		if d.buf[d.pos] != byteOrderMark[d.bom] {
			if d.bom > 0 { // half a mark begins a line whose name nobody knows
				d.field = unknown
			}
			d.bom = bomDone
			return true
		}
		d.bom++
		d.pos++
	}
	return d.bom == bomDone
}

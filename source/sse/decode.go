package sse

import (
	"bytes"
	"crypto/sha256"
	"hash"
	"io"
	"math"
	"time"
	"unicode/utf8"
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

	small, large int // how many reads in a row brought little, or filled the buffer
}

// field is what the current line is.
type field int8

const (
	lineStart field = iota // nothing of the line has been seen
	inName                 // some of the name has been seen, and no colon
	comment
	dataField
	eventField
	idField
	retryField
	unknown
)

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
		if d.large++; d.large == growAfter && len(d.buf) < largeBuffer {
			d.large, d.buf = 0, make([]byte, 2*len(d.buf))
		}
	case d.end <= len(d.buf)/4:
		d.large = 0
		if d.small++; d.small == shrinkAfter && len(d.buf) > smallBuffer {
			d.small, d.buf = 0, make([]byte, len(d.buf)/2)
		}
	default:
		d.small, d.large = 0, 0
	}
	d.pos, d.end, d.lf, d.cr = 0, 0, -1, -1
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

// line takes the line buf[start:end], which is not empty and lies whole in the buffer.
func (d *Decoder) line(start, end int) {
	line := d.buf[start:end]
	if len(line) >= 5 && string(line[:5]) == "data:" {
		start += 5
		if start < end && d.buf[start] == ' ' {
			start++
		}
		d.addLine(start, end)
		return
	}
	name, value, _ := bytes.Cut(line, []byte(":"))
	if len(value) > 0 && value[0] == ' ' {
		value = value[1:]
	}
	f := fieldOf(name)
	if f == dataField { // without a colon
		d.addLine(end, end)
		return
	}
	long := len(value) > fieldLimit
	if long {
		value = value[:fieldLimit]
	}
	d.set(f, value, long)
}

// addLine appends the value buf[start:end] of a data line.
func (d *Decoder) addLine(start, end int) {
	switch {
	case !d.hasData:
		d.hasData, d.carried = true, false
		d.from, d.to = start, end
	case d.carried:
		d.addCarry(lineFeed)
		d.addCarry(d.buf[start:end])
	default:
		// The lines are moved together where they are: the end of the line before made room for the LF.
		d.buf[d.to] = '\n'
		d.to += 1 + copy(d.buf[d.to+1:], d.buf[start:end])
	}
}

func (d *Decoder) startCarry() {
	d.hasData, d.carried = true, true
	d.carry, d.length, d.over = d.carry[:0], 0, false
}

// addCarry appends to the carried data. Beyond the limit it counts and hashes.
func (d *Decoder) addCarry(b []byte) {
	d.length += int64(len(b))
	switch {
	case d.over:
		d.digest.Write(b)
	case d.length > d.limit:
		d.over = true
		if d.digest == nil {
			d.digest = sha256.New()
		}
		d.digest.Reset()
		d.digest.Write(d.carry)
		d.digest.Write(b)
		keep := int(min(d.limit, prefixLimit))
		if len(d.carry) < keep {
			d.carry = append(d.carry, b[:keep-len(d.carry)]...)
		}
		d.carry = d.carry[:keep]
	default:
		d.carry = append(d.carry, b...)
	}
}

// part takes a part of a line, without its end.
func (d *Decoder) part(b []byte) {
	if len(b) == 0 {
		return
	}
	if d.field == lineStart {
		d.field, d.nameLen = inName, 0
	}
	for d.field == inName {
		if len(b) == 0 {
			return
		}
		c := b[0]
		b = b[1:]
		switch {
		case c == ':':
			d.startValue(fieldOf(d.name[:d.nameLen]))
		case d.nameLen == len(d.name):
			d.field = unknown // longer than any name
		default:
			d.name[d.nameLen] = c
			d.nameLen++
		}
	}
	if d.space && len(b) > 0 {
		d.space = false
		if b[0] == ' ' {
			b = b[1:]
		}
	}
	switch d.field {
	case dataField:
		d.addCarry(b)
	case unknown:
	default:
		room := fieldLimit - len(d.value)
		if len(b) > room {
			b, d.long = b[:room], true
		}
		d.value = append(d.value, b...)
	}
}

// startValue begins the value of a line that is taken in parts.
func (d *Decoder) startValue(f field) {
	d.field, d.space, d.long, d.value = f, true, false, d.value[:0]
	if f != dataField {
		return
	}
	if d.hasData {
		d.addCarry(lineFeed)
	} else {
		d.startCarry()
	}
}

// endLine ends a line that was taken in parts.
func (d *Decoder) endLine() {
	if d.field == inName {
		d.startValue(fieldOf(d.name[:d.nameLen]))
	}
	d.space = false
	f := d.field
	d.field = lineStart
	d.set(f, d.value, d.long)
}

func fieldOf(name []byte) field {
	switch string(name) {
	case "":
		return comment
	case "data":
		return dataField
	case "event":
		return eventField
	case "id":
		return idField
	case "retry":
		return retryField
	default:
		return unknown
	}
}

// set takes the value of a line other than data. long says that it is over fieldLimit.
func (d *Decoder) set(f field, value []byte, long bool) {
	switch f {
	case comment:
		if d.Comment != nil {
			d.Comment(d.valid(value))
		}
	case eventField:
		if !long {
			d.typ = append(d.typ[:0], value...)
		}
	case idField:
		if !long && bytes.IndexByte(value, 0) < 0 {
			d.id, d.hasID = append(d.id[:0], value...), true
		}
	case retryField:
		if !long {
			d.setRetry(value)
		}
	}
}

// maxRetry in milliseconds stands for whatever is more: it fits a duration, and ten times it an int64.
const maxRetry = int64(math.MaxInt64/time.Millisecond)/10 - 1

// setRetry takes ASCII digits, in milliseconds.
func (d *Decoder) setRetry(value []byte) {
	if len(value) == 0 {
		return
	}
	var ms int64
	for _, c := range value {
		if c < '0' || c > '9' {
			return
		}
		ms = min(ms*10+int64(c-'0'), maxRetry)
	}
	d.retry = time.Duration(ms) * time.Millisecond
}

// dispatch ends an event at its blank line. It returns false where there is none to dispatch.
func (d *Decoder) dispatch(e *Event) bool {
	e.OwnID = d.hasID
	if d.hasID {
		d.hasID = false
		if !utf8.Valid(d.id) {
			d.id = appendValid(nil, d.id)
		}
		d.last, d.id = d.id, d.last
	}
	if !d.hasData {
		d.typ = d.typ[:0]
		return false
	}
	e.ID = d.last
	e.Type = messageType
	if len(d.typ) > 0 {
		e.Type = d.valid(d.typ)
	}
	if d.carried {
		e.Data, e.Length, e.TooLarge = d.carry, d.length, d.over
		if d.over {
			d.digest.Sum(e.SHA256[:0])
		}
	} else {
		e.Data, e.TooLarge = d.buf[d.from:d.to], false
		e.Length = int64(len(e.Data))
		if e.Length > d.limit {
			e.TooLarge, e.SHA256 = true, sha256.Sum256(e.Data)
			e.Data = e.Data[:min(d.limit, prefixLimit)]
		}
	}
	if e.TooLarge {
		e.Data = wholeRunes(e.Data)
	}
	e.Data = d.valid(e.Data)
	d.dropEvent()
	return true
}

// dropEvent forgets the event that was being gathered. typ keeps its bytes, which e.Type may be,
// until the next event's are written over them.
func (d *Decoder) dropEvent() {
	d.hasData, d.hasID, d.carried = false, false, false
	d.typ = d.typ[:0]
}

// valid returns b with malformed UTF-8 replaced. The result is b itself if there is nothing to
// replace, and lives until the next Read.
//
// Of text that is not ASCII this is four fifths of the work, character by character in utf8.Valid. Tried and
// not kept: four characters at once (twice as fast in pure Hebrew, slower in Russian and German with their
// spaces and quotes) and a table of states (a third faster in Russian, a quarter slower in German).
func (d *Decoder) valid(b []byte) []byte {
	if utf8.Valid(b) {
		return b
	}
	start := len(d.fixed)
	d.fixed = appendValid(d.fixed, b)
	return d.fixed[start:]
}

package sse

import (
	"bytes"
	"crypto/sha256"
	"math"
	"time"
	"unicode/utf8"
)

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

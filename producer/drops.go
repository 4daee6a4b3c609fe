package producer

import "github.com/millrace/millrace"

// quietLimit is the number of events that a partition takes without a match before its drop set is
// given up.
const quietLimit = 10_000

// drops is a partition's drop set: the ids of events that are already there, in blocks that an older
// writer left behind.
type drops struct {
	ids   map[string]drop // nil when there are none
	quiet int             // events written since the last match
}

// drop counts an id's events; more than one if the input gives the same id twice.
type drop struct {
	of *leftover
	n  int
}

// leftover is a block that an older writer appended for a flush that it never committed.
type leftover struct {
	ref  millrace.BlockRef
	left int // its events that the input has not yielded again
}

// expect adds an event of a left-over block.
func (d *drops) expect(id string, of *leftover) {
	if id == "" {
		return
	}
	if d.ids == nil {
		d.ids = map[string]drop{}
	}
	known := d.ids[id]
	if known.of == nil {
		known.of = of
	}
	known.n++
	known.of.left++
	d.ids[id] = known
}

// match says whether the event is already there, and takes it off the set.
func (d *drops) match(id string) bool {
	known, ok := d.ids[id]
	if !ok {
		return false
	}
	d.quiet = 0
	known.of.left--
	if known.n--; known.n > 0 {
		d.ids[id] = known
	} else if delete(d.ids, id); len(d.ids) == 0 {
		d.ids = nil
	}
	return true
}

// miss counts an event that was not there, and gives the set up when there were too many in a row.
func (d *drops) miss() {
	if d.quiet++; d.quiet < quietLimit {
		return
	}
	for _, known := range d.ids {
		known.of.left = 0
	}
	*d = drops{}
}

package sse

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"hash/crc32"
	"strconv"

	"github.com/millrace/millrace"
)

// place is where a source stands in its feed, and the rule by which it goes on exactly there.
//
// # Groups
//
// The events under one last event ID are a group: mostly one event with an id of its own, but a feed
// may also send several events with the same id, or send an id only now and then. The cursor holds
// the current group: its id, how many of its events have been seen, and fingerprints of the first of
// them.
//
// # Going on
//
// A connection resumes with Last-Event-ID: the current group's id. What the server then sends under
// that same id may be the rest of the group from its second event on, only the part of it that is
// new, or the whole group, depending on the server. So an event under the id is dropped if it is the
// same (by fingerprint of type and data) as one of the group that has been seen and has not come
// again yet; each one seen drops at most one. Where a group is longer than its fingerprints, the rest
// is dropped by count, provided that everything that has a fingerprint came again. The first event
// under another id ends this.
//
// So a server that replays the events without ids does not make them come twice, and one that does
// not replay them does not make new ones be lost, unless they are byte for byte the same as those
// that were seen.
//
// # Shared ids
//
// A server that resumes after the last event of an id loses the rest of a group that was cut in two.
// Therefore, once a feed has sent the same id with two events in a row, connections resume with the
// id before the current one: its group is known to be complete. Everything that comes with that id of
// its own is dropped, and the current group, which now comes again from its first event, as above.
//
// # Ids that cannot be sent back
//
// An id with control characters cannot stand in a header, and one over maxID makes servers refuse the
// request. Such an id counts as none: its event belongs to the group before, and connections resume
// with the last id that can be sent.
type place struct {
	cur, prev group
	shared    bool   // the feed has sent one id with several events
	blank     uint64 // how many events came under no id at all, ever; makes their ids unique

	// Of the connection only, not of the cursor.
	at        []byte // the last event ID that counts
	replaying bool   // what comes may be a repeat
}

// group is what is known of the events under one id.
type group struct {
	id     []byte
	seen   uint64 // how many events, also those that were filtered out or rejected
	own    bool   // the first one brought the id itself, so that a replay may begin after it
	prints []uint32

	fresh []raw // events of this read whose fingerprints have not been taken: mostly nobody needs them

	// While replaying.
	before  uint64 // seen when the connection began
	again   uint64 // how many of them have come again
	matched [maxPrints]bool
}

type raw struct {
	typ  string
	data []byte
}

const (
	maxPrints = 16      // fingerprints kept of a group; 4 bytes each in every cursor
	maxID     = 4 << 10 // bytes; the longest id that is sent back
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// resume returns the id that a connection resumes with as of now; empty: none.
func (p *place) resume() string {
	if p.shared && len(p.cur.id) > 0 && len(p.prev.id) > 0 {
		return string(p.prev.id)
	}
	return string(p.cur.id)
}

// begin prepares for a new connection and returns the id that it resumes with; empty: none.
func (p *place) begin() string {
	anchor := p.resume()
	p.at = append(p.at[:0], anchor...)
	p.replaying = len(anchor) > 0
	for _, g := range []*group{&p.cur, &p.prev} {
		g.before, g.again = g.seen, 0
		g.matched = [maxPrints]bool{}
	}
	return anchor
}

// take moves past one event, whose type is typ. It appends the event's id to dst, or returns false if
// the event is a repeat. e's data must stay valid until settle. connection makes the ids of events without
// one unique.
func (p *place) take(dst []byte, e *Event, typ, connection string) ([]byte, bool) {
	p.move(e.ID)
	g := &p.cur
	if p.replaying {
		complete := false
		if !bytes.Equal(p.at, p.cur.id) && bytes.Equal(p.at, p.prev.id) {
			g, complete = &p.prev, true
		}
		if !bytes.Equal(p.at, g.id) {
			p.replaying = false
		} else if complete && e.OwnID || g.repeats(typ, e) {
			return dst, false
		}
	}
	if !bytes.Equal(p.at, g.id) {
		p.next()
	}
	own := e.OwnID && bytes.Equal(e.ID, g.id)
	switch {
	case len(g.id) == 0:
		dst = append(dst, connection...)
		dst = append(dst, '#')
		dst = strconv.AppendUint(dst, p.blank, 10)
		p.blank++
	case g.seen == 0:
		dst = append(dst, g.id...)
		g.own = own
	default:
		dst = append(dst, g.id...)
		dst = append(dst, '#')
		dst = strconv.AppendUint(dst, g.seen, 10)
		p.shared = p.shared || own
	}
	g.add(typ, e)
	return dst, true
}

// move takes note of the last event ID as of now, also where no event came with it.
func (p *place) move(id []byte) {
	if !bytes.Equal(id, p.at) && sendable(id) {
		p.at = append(p.at[:0], id...)
	}
}

// settle is called at the end of a read, before the decoder's buffers change: an id that came without
// an event begins a group too.
func (p *place) settle(id []byte) {
	p.move(id)
	if !bytes.Equal(p.at, p.cur.id) && (!p.replaying || !bytes.Equal(p.at, p.prev.id)) {
		p.replaying = false
		p.next()
	}
	p.cur.print()
	p.prev.print()
}

// next begins the group of p.at.
func (p *place) next() {
	if p.shared || p.cur.seen > 1 || !p.cur.own {
		p.cur.print()
	}
	p.cur, p.prev = p.prev, p.cur
	g := &p.cur
	*g = group{id: append(g.id[:0], p.at...), prints: g.prints[:0], fresh: g.fresh[:0]}
	p.prev.fresh = p.prev.fresh[:0]
}

func (g *group) add(typ string, e *Event) {
	g.seen++
	if len(g.prints)+len(g.fresh) < maxPrints && len(g.id) > 0 {
		g.fresh = append(g.fresh, raw{typ, e.evidence()})
	}
}

// print takes the fingerprints of the events that have none yet.
func (g *group) print() {
	for _, r := range g.fresh {
		g.prints = append(g.prints, r.print())
	}
	g.fresh = g.fresh[:0]
}

// repeats says whether an event under the group's id is one that was seen on an earlier connection.
func (g *group) repeats(typ string, e *Event) bool {
	came := raw{typ, e.evidence()}.print()
	n := int(min(g.before, uint64(len(g.prints))))
	missing := 0
	for i, p := range g.prints[:n] {
		if g.matched[i] {
			continue
		}
		if p == came {
			g.matched[i] = true
			g.again++
			return true
		}
		missing++
	}
	expected := g.before
	if n > 0 && g.own && !g.matched[0] { // the server began after it
		missing--
		expected--
	}
	if missing > 0 || g.again >= expected {
		return false
	}
	g.again++
	return true
}

// evidence is what tells an event from others: its data, or the hash of data that was not kept whole.
func (e *Event) evidence() []byte {
	if e.TooLarge {
		return append([]byte(nil), e.SHA256[:]...)
	}
	return e.Data
}

func (r raw) print() uint32 {
	return crc32.Update(crc32.Checksum([]byte(r.typ), castagnoli), castagnoli, r.data)
}

// sendable says whether an id can be sent back in a header.
func sendable(id []byte) bool {
	for _, c := range id {
		if c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return len(id) <= maxID
}

// storedPlace is a place as the cursor holds it, in JSON.
type storedPlace struct {
	storedGroup
	Shared bool         `json:"shared,omitempty"`
	Prev   *storedGroup `json:"prev,omitempty"`
	Blank  uint64       `json:"blank,omitempty"`
}

type storedGroup struct {
	ID     string `json:"id"`
	Seen   uint64 `json:"n,omitempty"`
	Own    bool   `json:"own,omitempty"`
	Prints string `json:"p,omitempty"` // 4 bytes each, little-endian, in base64
}

// cursor returns the place after all that was taken and settled.
func (p *place) cursor() millrace.Cursor {
	stored := storedPlace{storedGroup: p.cur.stored(), Shared: p.shared, Blank: p.blank}
	if p.shared {
		prev := p.prev.stored()
		stored.Prev = &prev
	}
	text, err := json.Marshal(stored)
	if err != nil { // strings, numbers and flags can always be written
		panic(err)
	}
	return millrace.Cursor(text)
}

func (g *group) stored() storedGroup {
	var prints []byte
	for _, print := range g.prints {
		prints = binary.LittleEndian.AppendUint32(prints, print)
	}
	return storedGroup{string(g.id), g.seen, g.own, base64.RawStdEncoding.EncodeToString(prints)}
}

// parseCursor reads what cursor wrote; the empty cursor is the beginning. It fails with Internal.
func parseCursor(c millrace.Cursor) (*place, error) {
	p := new(place)
	if c == "" {
		return p, nil
	}
	var stored storedPlace
	err := json.Unmarshal([]byte(c), &stored)
	if err == nil {
		p.shared, p.blank = stored.Shared, stored.Blank
		p.cur, err = stored.group()
	}
	if err == nil && stored.Prev != nil {
		p.prev, err = stored.Prev.group()
	}
	if err != nil {
		return nil, errCursor(c, err)
	}
	return p, nil
}

func (g storedGroup) group() (group, error) {
	prints, err := base64.RawStdEncoding.DecodeString(g.Prints)
	if err != nil || len(prints)%4 != 0 || len(prints) > 4*maxPrints {
		return group{}, millrace.Errorf(millrace.Invalid, "read fingerprints", "%.100q", g.Prints)
	}
	group := group{id: []byte(g.ID), seen: g.Seen, own: g.Own}
	for ; len(prints) > 0; prints = prints[4:] {
		group.prints = append(group.prints, binary.LittleEndian.Uint32(prints))
	}
	return group, nil
}

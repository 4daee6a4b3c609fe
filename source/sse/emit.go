package sse

import (
	"context"
	"encoding/hex"
	"strconv"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/jsonpath"
)

const (
	maxBatch    = 4096             // events of one Emit
	cursorEvery = 10 * time.Second // how often the cursor alone may be emitted
	maxTypes    = 256              // names of types that are kept; a feed with more costs an allocation each
)

// batch gathers the events of one read and emits them together.
type batch struct {
	source   *Source
	place    tracker
	snapshot *snapshot // nil: events are what they are
	unplaced *unplaced // the place, if it is one
	value    []byte    // where the feed stands by a value of its events (resume.from)
	out      millrace.Emitter

	connection string // makes ids unique where the feed gives none
	events     []millrace.Event
	ids        []byte // the events' ids, one after the other
	ends       []int  // where each one ends
	types      map[string]string
	arrived    time.Time // of the events of this read; zero before the first

	emitted millrace.Cursor // the newest
	when    time.Time       // it was emitted
}

func newBatch(s *Source, p tracker, from millrace.Cursor, out millrace.Emitter) *batch {
	b := &batch{source: s, place: p, out: out, types: make(map[string]string), emitted: from, when: time.Now()}
	b.unplaced, _ = p.(*unplaced)
	return b
}

func (b *batch) resume() string { return b.place.resume() }

func (b *batch) begin() string {
	// Two connections never begin in the same nanosecond. Nothing derived from the feed would do: a feed
	// without ids sends other events the next time.
	b.connection = strconv.FormatInt(b.source.o.Now().UnixNano(), 36)
	resumed := b.place.begin()
	b.value = append(b.value[:0], resumed...)
	return resumed
}

func (b *batch) connected() {
	if b.unplaced != nil {
		b.unplaced.connected()
	}
}

func (b *batch) comment([]byte) {}

func (b *batch) take(ctx context.Context, e *Event) error {
	if e.TooLarge || len(b.events) == maxBatch {
		if err := b.emit(ctx); err != nil { // before the place moves past e
			return err
		}
	}
	typ := b.typeName(e.Type)
	wanted := b.snapshot != nil || b.source.types == nil || b.source.types[typ]
	if b.source.from != nil {
		b.locate(e, wanted)
	}
	ids, isNew := b.place.take(b.ids, e, typ, b.connection)
	switch {
	case !isNew:
		b.source.instruments.repeats.Inc()
		return nil
	case !wanted:
		b.source.instruments.wrongType.Inc()
		return nil
	case b.source.drops(e):
		b.source.instruments.canaries.Inc()
		return nil
	}
	if b.arrived.IsZero() {
		b.arrived = b.source.o.Now()
	}
	if e.TooLarge {
		return b.reject(ctx, e, string(ids[len(b.ids):]), millrace.Errorf(millrace.TooLarge, "read the feed",
			"the event's data has %d bytes, more than event_limit %d: raise event_limit to take such events",
			e.Length, b.source.config.EventLimit))
	}
	if b.snapshot != nil {
		return b.takeSnapshot(ctx, e, typ, string(ids[len(b.ids):]))
	}
	b.ids = ids
	b.add(millrace.Event{Type: typ, Time: b.arrived, Data: e.Data})
	return nil
}

// add adds an event whose id ends b.ids.
func (b *batch) add(e millrace.Event) {
	if b.unplaced != nil {
		e.Attributes = b.unplaced.attributes()
	}
	b.ends = append(b.ends, len(b.ids))
	b.events = append(b.events, e)
}

// locate makes the value by which the feed resumes the event's id. Events that are not wanted, or that
// hold none, have the value of those before.
func (b *batch) locate(e *Event, wanted bool) {
	var v [1]jsonpath.Value
	e.OwnID = false
	if wanted && !e.TooLarge && b.source.from.Find(e.Data, v[:]) == nil && (v[0].Kind == jsonpath.String || v[0].Kind == jsonpath.Number) {
		b.value = v[0].Append(b.value[:0])
		e.OwnID = true
	}
	e.ID = b.value
}

// takeSnapshot adds the changes that the event stands for.
func (b *batch) takeSnapshot(ctx context.Context, e *Event, typ, id string) error {
	changes, err := b.snapshot.take(typ, e.Data)
	if err != nil {
		if err := b.emit(ctx); err != nil {
			return err
		}
		return b.reject(ctx, e, id, err)
	}
	switch typ {
	case "cancel", "auth_revoked": // of Firebase: the connection is of no use any more
		b.source.log.Warn("the feed ends the connection", "type", typ, "says", string(e.Data[:min(len(e.Data), 200)]))
		if typ == "auth_revoked" {
			return errRevoked
		}
	}
	for i, c := range changes {
		if b.source.types != nil && !b.source.types[c.typ] {
			b.source.instruments.wrongType.Inc()
			continue
		}
		if len(b.events) == maxBatch {
			if err := b.emit(ctx); err != nil {
				return err
			}
		}
		b.ids = append(b.ids, id...)
		if len(changes) > 1 {
			b.ids = strconv.AppendInt(append(b.ids, '#'), int64(i), 10)
		}
		b.add(millrace.Event{Type: c.typ, Key: c.key, Deleted: c.deleted, Time: b.arrived, Data: c.data})
	}
	return nil
}

// typeName returns a type's name without allocating for those that have been seen.
func (b *batch) typeName(t []byte) string {
	if name, ok := b.types[string(t)]; ok {
		return name
	}
	name := string(t)
	if len(b.types) < maxTypes {
		b.types[name] = name
	}
	return name
}

// reject hands on an event that is too large, of which there is a prefix, or none of the feed's format.
func (b *batch) reject(ctx context.Context, e *Event, id string, reason error) error {
	b.place.settle(e.ID)
	at := b.place.cursor()
	r := millrace.Rejection{ID: id, Input: e.Data, Time: b.arrived, Reason: reason}
	if e.TooLarge {
		r.Length, r.SHA256 = e.Length, hex.EncodeToString(e.SHA256[:])
	}
	if err := b.out.Reject(ctx, r, at); err != nil {
		return err
	}
	b.noteEmitted(at, 1)
	return nil
}

// emit hands on the events so far.
func (b *batch) emit(ctx context.Context) error {
	if len(b.events) == 0 {
		return nil
	}
	if p, ok := b.place.(*place); ok {
		p.settle(p.at)
	} else {
		b.place.settle(nil)
	}
	at := b.place.cursor()
	ids, start := string(b.ids), 0 // one allocation for the ids of all
	for i, end := range b.ends {
		b.events[i].ID = ids[start:end]
		start = end
	}
	if err := b.out.Emit(ctx, b.events, at); err != nil {
		return err
	}
	b.noteEmitted(at, len(b.events))
	clear(b.events)
	b.events, b.ids, b.ends = b.events[:0], b.ids[:0], b.ends[:0]
	return nil
}

func (b *batch) flush(ctx context.Context, lastEventID []byte) error {
	if b.source.from != nil {
		lastEventID = b.value
	}
	b.place.settle(lastEventID)
	b.arrived = time.Time{}
	if len(b.events) > 0 {
		return b.emit(ctx)
	}
	// The cursor of events that were dropped goes with the next ones; if none come for long it goes alone.
	if time.Since(b.when) < cursorEvery {
		return nil
	}
	at := b.place.cursor()
	if at != b.emitted {
		if err := b.out.Emit(ctx, nil, at); err != nil {
			return err
		}
	}
	b.noteEmitted(at, 0)
	return nil
}

func (b *batch) noteEmitted(at millrace.Cursor, events int) {
	b.emitted, b.when = at, time.Now()
	b.source.instruments.events.Add(float64(events))
}

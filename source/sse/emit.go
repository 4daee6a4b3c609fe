package sse

import (
	"context"
	"encoding/hex"
	"strconv"
	"time"

	"github.com/millrace/millrace"
)

const (
	maxBatch    = 4096             // events of one Emit
	cursorEvery = 10 * time.Second // how often the cursor alone may be emitted
	maxTypes    = 256              // names of types that are kept; a feed with more costs an allocation each
)

// batch gathers the events of one read and emits them together.
type batch struct {
	source *Source
	place  *place
	out    millrace.Emitter

	connection string // makes ids unique where the feed gives none
	events     []millrace.Event
	ids        []byte // the events' ids, one after the other
	ends       []int  // where each one ends
	types      map[string]string
	arrived    time.Time // of the events of this read; zero before the first

	emitted millrace.Cursor // the newest
	when    time.Time       // it was emitted
}

func newBatch(s *Source, p *place, from millrace.Cursor, out millrace.Emitter) *batch {
	return &batch{source: s, place: p, out: out, types: make(map[string]string), emitted: from, when: time.Now()}
}

func (b *batch) begin() string {
	// Two connections never begin in the same nanosecond. Nothing derived from the feed would do: a feed
	// without ids sends other events the next time.
	b.connection = strconv.FormatInt(b.source.o.Now().UnixNano(), 36)
	return b.place.begin()
}

func (b *batch) comment([]byte) {}

func (b *batch) take(ctx context.Context, e *Event) error {
	if e.TooLarge || len(b.events) == maxBatch {
		if err := b.emit(ctx); err != nil { // before the place moves past e
			return err
		}
	}
	typ := b.typeName(e.Type)
	ids, isNew := b.place.take(b.ids, e, typ, b.connection)
	if !isNew {
		b.source.instruments.repeats.Inc()
		return nil
	}
	if b.source.types != nil && !b.source.types[typ] {
		b.source.instruments.wrongType.Inc()
		return nil
	}
	if b.arrived.IsZero() {
		b.arrived = b.source.o.Now()
	}
	if e.TooLarge {
		return b.reject(ctx, e, string(ids[len(b.ids):]))
	}
	b.ids = ids
	b.ends = append(b.ends, len(ids))
	b.events = append(b.events, millrace.Event{Type: typ, Time: b.arrived, Data: e.Data})
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

// reject hands on the prefix of an event that is too large.
func (b *batch) reject(ctx context.Context, e *Event, id string) error {
	b.place.settle(e.ID)
	at := b.place.cursor()
	err := b.out.Reject(ctx, millrace.Rejection{
		ID: id, Input: e.Data, Length: e.Length, SHA256: hex.EncodeToString(e.SHA256[:]), Time: b.arrived,
		Reason: millrace.Errorf(millrace.TooLarge, "read the feed",
			"the event's data has %d bytes, more than event_limit %d: raise event_limit to take such events",
			e.Length, b.source.config.EventLimit),
	}, at)
	if err != nil {
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
	b.place.settle(b.place.at)
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

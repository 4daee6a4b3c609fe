package producer

import (
	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
)

// gathering is what the next flush will write. Each target has builders once there are events for it; more
// than one when they do not fit a block.
type gathering struct {
	parts   [][]*block.Builder
	events  int // dead letters among them
	letters int // dead letters
	bytes   int
	cursor  []byte
	calls   uint64 // Producer.emitted after the newest call; 0 while nothing has gathered
}

func newGathering(targets int) *gathering {
	return &gathering{parts: make([][]*block.Builder, targets)}
}

// reset makes the gathering empty; its builders have gone to the flush.
func (g *gathering) reset() {
	for i, parts := range g.parts {
		clear(parts)
		g.parts[i] = parts[:0]
	}
	*g = gathering{parts: g.parts, cursor: g.cursor[:0]}
}

// gather puts an event into its partition, or makes it a dead letter if it can't be stored.
func (p *Producer) gather(e *millrace.Event, at millrace.Cursor) {
	if len(e.Data) > p.config.EventLimit {
		p.gatherUnstorable(e, at, millrace.Errorf(millrace.TooLarge, "store event",
			"its data has %d bytes, the limit is %d", len(e.Data), p.config.EventLimit))
		return
	}
	i := p.router.place(e.Key)
	t := p.targets[i]
	if t.drops.ids != nil && t.drops.match(e.ID) {
		p.metrics.recovered.Inc()
		return
	}
	if err := p.add(i, e); err != nil {
		p.gatherUnstorable(e, at, err)
	}
}

func (p *Producer) gatherUnstorable(e *millrace.Event, at millrace.Cursor, reason error) {
	p.gatherRejection(&millrace.Rejection{ID: e.ID, Key: e.Key, Input: e.Data, Reason: reason}, at)
}

// add copies an event into a target's newest part, or a new one if it is full. It changes nothing if it
// fails: Invalid (the time) or TooLarge.
func (p *Producer) add(i int, e *millrace.Event) error {
	t, parts := p.targets[i], p.gathering.parts[i]
	size := sizeOf(e)
	if size > t.room && !p.fitsAlone(t, e) {
		return millrace.Errorf(millrace.TooLarge, "store event",
			"it has %d bytes, and blocks of stream %q have at most %d", size, t.stream.Name(), t.stream.MaxBlock())
	}
	var b *block.Builder
	if len(parts) > 0 {
		b = parts[len(parts)-1]
	}
	isNew := b == nil || b.Len() > 0 && (b.Size()+size > t.room || b.Len() >= block.MaxEvents)
	if isNew {
		b = takeBuilder(t.usual)
	}
	if err := b.Add(e); err != nil {
		if isNew {
			giveBuilder(b)
		}
		return err
	}
	if isNew {
		p.gathering.parts[i] = append(parts, b)
	}
	p.gathering.events++
	p.gathering.bytes += size
	if t.drops.ids != nil {
		t.drops.miss()
	}
	return nil
}

// fitsAlone says whether an event that is larger than a block becomes small enough by compression.
func (p *Producer) fitsAlone(t *target, e *millrace.Event) bool {
	var b block.Builder // rare, and too large to be kept
	if b.Add(e) != nil {
		return true // add will tell the reason
	}
	encoded, err := b.Encode(nil, millrace.Header{Producer: p.config.Name})
	return err == nil && len(encoded.Raw)+p.headroom <= t.stream.MaxBlock()
}

// sizeOf returns what the event adds to block.Builder.Size, at most.
func sizeOf(e *millrace.Event) int {
	const fixed, perAttribute = 29, 10 // as block.Builder counts: columns' entries; two uvarint lengths
	n := len(e.ID) + len(e.Key) + len(e.Type) + len(e.Data) + fixed
	for name, value := range e.Attributes {
		n += len(name) + len(value) + perAttribute
	}
	return n
}

package gateway

import (
	"bytes"
	"slices"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
)

// pending is an event for one subscription, and the next one. The event is its index in the batch, or the
// complement of that: its object has left an area.
type pending struct{ event, next int32 }

// pass hands out as much of d as goes into one pass, and what else is at hand. It returns what is left
// of what it took, if more is true. Joining never waits for more than a pass.
func (f *feed) pass(p *part, d delivery, ahead *lookahead) (rest delivery, more bool) {
	var err error
	if d.gap != nil {
		f.logger.Warn("gateway: events are gone before they could be pushed", "stream", f.stream.Name(), "partition", p.Name,
			"after", d.gap.After, "first", d.gap.First, "reason", string(d.gap.Reason), "error", d.why)
	} else {
		err = f.decode(p, &d) // here, where nobody waits for the lock
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if d.gap != nil {
		f.skip(p, d.gap)
		return delivery{}, false
	}
	defer f.flush(p, d.block.Stored)
	for {
		if err == nil {
			d.next, err = f.take(p, d.block, d.next)
		}
		switch {
		case err != nil:
			return delivery{gap: &millrace.Gap{After: p.at, First: d.block.At, Reason: unreadable}, why: err}, true
		case d.next < int(d.block.Header.Events):
			return d, true
		}
		if d, more = ahead.next(); !more || d.gap != nil {
			return d, more
		}
		err = f.decode(p, &d)
	}
}

// decode sets the partition's reader to a block, and decompresses what will most likely be wanted.
func (f *feed) decode(p *part, d *delivery) error {
	if d.decoded {
		return nil
	}
	if err := p.reader.Reset(d.block.Raw); err != nil {
		return err
	}
	d.decoded, d.next = true, d.block.Skip(p.at)
	switch {
	case d.block.Header.Events == 0:
		return nil
	case f.table != nil || f.unkeyed.Load() > 0:
		return p.reader.Load(f.sections())
	case f.interested.Load() > 0:
		return p.reader.Load(block.Keys)
	default:
		return nil
	}
}

// take takes events of a block from the i-th on into the batch, as many as go into it, and returns the
// index of the one after them. mu is held.
func (f *feed) take(p *part, sb millrace.StoredBlock, i int) (int, error) {
	r, b, n := &p.reader, &p.batch, int(sb.Header.Events)
	i, err := f.seek(r, i, n)
	if err != nil {
		return i, err
	}
	if i < n {
		if err := r.Load(f.sections()); err != nil {
			return i, err
		}
	}
	end := b.room(r, i, n, f.chunk)
	if end > i {
		f.setIDs(p, sb.At.Block)
		first := b.take(sb.At.Block, i, end)
		if f.keepKeys {
			b.note(r, i, end)
		}
		for _, rd := range f.broad {
			for k := i; k < end; k++ {
				b.write(rd, first+k-i, r, k)
			}
		}
		for _, a := range f.audiences {
			if a.selective() {
				f.choose(p, a, first, i, end)
			}
		}
		for k := i; k < end && len(f.keys) > 0; k++ {
			if g := f.keys[string(r.Key(k))]; g != nil {
				f.noteAll(p, g, first+k-i, k)
			}
		}
		if f.table != nil {
			f.update(p, sb, first, i, end)
		}
	}
	switch {
	case end == n:
		p.at = sb.At
	case end > 0:
		p.at = sb.Position(end - 1)
	}
	if f.table != nil {
		f.table.Moved(p.Name, p.at)
	}
	return end, nil
}

// sections returns what is looked at in a block.
func (f *feed) sections() block.Sections {
	if f.table != nil || f.attributed.Load() > 0 {
		return block.All
	}
	return block.Keys | block.IDs | block.Data
}

// seek returns the index of the first event from i on that somebody wants, n if there is none; mu is
// held.
func (f *feed) seek(r *block.Reader, i, n int) (int, error) {
	if f.table != nil || len(f.audiences) > 0 {
		return i, nil
	}
	if len(f.keys) == 0 || i == n {
		return n, nil
	}
	if err := r.Load(block.Keys); err != nil {
		return i, err
	}
	for ; i < n; i++ {
		if f.keys[string(r.Key(i))] != nil {
			break
		}
	}
	return i, nil
}

// update enters events into the table, and tells those who watch areas. mu is held.
func (f *feed) update(p *part, sb millrace.StoredBlock, first, i, end int) {
	for k := i; k < end; k++ {
		previous, _ := f.table.Apply(p.Name, sb.Position(k), &p.reader, k)
		for _, as := range f.watched {
			if as.count > 0 {
				f.move(p, as, previous, &p.reader, first+k-i, k)
			}
		}
	}
}

// choose notes the events that an audience wants; mu is held.
func (f *feed) choose(p *part, a *audience, first, i, end int) {
	r, b := &p.reader, &p.batch
	for k := i; k < end; k++ {
		if a.prefix != "" && !bytes.HasPrefix(r.Key(k), []byte(a.prefix)) {
			continue
		}
		if at := first + k - i; b.passes(a.filter, at, r, k) {
			b.write(a.rendering, at, r, k)
			a.pending = append(a.pending, int32(at))
		}
	}
}

// setIDs prepares the ids of the block's events; mu is held.
func (f *feed) setIDs(p *part, name string) {
	p.batch.ids[0].single(p.Name, name)
	if f.vectors > 0 {
		p.batch.ids[1].among(f.parts, f.every, p.index, name, f.place)
	}
}

// flush hands the batch out; mu is held.
func (f *feed) flush(p *part, oldest time.Time) {
	p.passes++
	if p.batch.events == 0 {
		return
	}
	f.handPending(p)
	for _, a := range f.audiences {
		f.handAudience(p, a)
	}
	f.count(oldest)
	p.batch.reset()
}

// noteAll notes an event for all who want its key; at is its index in the batch, i in the block.
func (f *feed) noteAll(p *part, g *group, at, i int) {
	for _, m := range g.members {
		s := m.s
		if (s.ahead == nil || s.passed(p.index, p.batch.position(at))) && p.batch.passes(s.filtered, at, &p.reader, i) {
			p.batch.write(s.rendering, at, &p.reader, i)
			f.note(s, int32(at))
		}
	}
}

// note adds an event to what is pending for s.
func (f *feed) note(s *subscription, event int32) {
	f.pend = append(f.pend, pending{event: event})
	at := int32(len(f.pend))
	if s.first == 0 {
		s.first = at
		f.dirty = append(f.dirty, s)
	} else {
		f.pend[s.last-1].next = at
	}
	s.last = at
}

// skip moves a partition's place over events that are gone, and says so to everyone concerned; mu is
// held.
func (f *feed) skip(p *part, gap *millrace.Gap) {
	p.at = gap.First
	p.passes++
	f.loseRows(p, gap)
	for _, s := range f.joined {
		if !slices.Contains(s.parts, p.index) {
			continue
		}
		if s.ahead != nil {
			if gap.Reason == millrace.Trimmed && s.ahead[p.index].Compare(gap.First) >= 0 {
				continue // it has what is gone
			}
			s.ahead[p.index] = millrace.Position{} // what comes now may lie before it
		}
		s.tellGap(f.appendID(nil, s), p.Name, gap, s.put)
	}
}

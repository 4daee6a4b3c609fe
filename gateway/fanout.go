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
	f.cargo.batch = &p.batch
	for _, s := range f.dirty {
		frames, events := f.gather(s)
		f.hand(s, frames, events, p.batch.given && events == 1)
	}
	clear(f.dirty)
	f.dirty, f.pend = f.dirty[:0], f.pend[:0]
	for _, a := range f.audiences {
		f.handAll(p, a)
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

// gather returns the frames that are pending for s, one after the other, and how many they are.
func (f *feed) gather(s *subscription) (frames []byte, events int) {
	at := s.first
	if s.endpoint.drops() {
		f.cargo.events = f.cargo.events[:0]
		for i := at; i != 0; i = f.pend[i-1].next {
			f.cargo.events = append(f.cargo.events, f.pend[i-1].event)
		}
	}
	if at == s.last {
		frames, events = s.rendering.frame(f.pend[at-1].event), 1
	} else {
		f.joint = f.joint[:0]
		for ; at != 0; at = f.pend[at-1].next {
			f.joint = append(f.joint, s.rendering.frame(f.pend[at-1].event)...)
			events++
		}
		frames = f.joint
	}
	s.first, s.last = 0, 0
	return frames, events
}

// handAll hands an audience what it wants of the batch, the same bytes to all its members.
func (f *feed) handAll(p *part, a *audience) {
	b, rd := &p.batch, a.rendering
	frames, events := rd.buf, b.events
	if a.selective() {
		if events = len(a.pending); events == 0 {
			return
		}
		if events == 1 {
			frames = rd.frame(a.pending[0])
		} else {
			f.joint = f.joint[:0]
			for _, at := range a.pending {
				f.joint = append(f.joint, rd.frame(at)...)
			}
			frames = f.joint
		}
	}
	drops := a.endpoint.drops()
	if drops {
		f.cargo.take(a, events)
	}
	for _, m := range a.members {
		s := m.s
		if s.ahead == nil {
			f.hand(s, frames, events, b.given)
			continue
		}
		for i := range events {
			at := i
			if a.selective() {
				at = int(a.pending[i])
			}
			if s.ahead == nil || s.passed(p.index, b.position(at)) {
				f.cargo.events = append(f.cargo.events[:0], int32(at))
				f.hand(s, rd.frame(int32(at)), 1, b.given)
			}
		}
		if drops {
			f.cargo.take(a, events)
		}
	}
	a.pending = a.pending[:0]
}

// hand hands frames to one connection; one that cannot take them is cut, unless its endpoint lets events be
// dropped, of which f.cargo has those that the frames are. mu is held.
func (f *feed) hand(s *subscription, frames []byte, events int, shared bool) {
	var c *cargo
	if s.endpoint.drops() {
		c, f.cargo.s = &f.cargo, s
	}
	switch s.putEvents(frames, shared, c) {
	case sent, queued:
		if s.holding { // they count when they follow: if too much is held, the replay sends them, and counts them
			s.heldEvents += events
			s.heldBytes += len(frames)
			return
		}
		t := &s.endpoint.traffic[s.form]
		t.eventsNow += events
		t.bytesNow += len(frames)
	case refused:
		s.c.cutSlow()
	case gone:
	}
}

// count passes on what the endpoints have handed out in this pass.
func (f *feed) count(oldest time.Time) {
	lag := f.now().Sub(oldest)
	for _, e := range f.endpoints {
		busy := false
		for form := range e.traffic {
			if t := &e.traffic[form]; t.eventsNow > 0 {
				t.events.Add(float64(t.eventsNow))
				t.bytes.Add(float64(t.bytesNow))
				t.eventsNow, t.bytesNow, busy = 0, 0, true
			}
		}
		if busy {
			e.lag.Observe(max(0, lag.Seconds()))
		}
	}
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

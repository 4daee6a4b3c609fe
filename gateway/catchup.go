package gateway

import (
	"bytes"
	"sync"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
)

// pass sends the events of a window that lie beyond r.at and not beyond place. full says that the
// client's socket does not take more for now; r.at is where to go on.
func (r *replay) pass(i int, w *window, place millrace.Position) (full bool, err error) {
	n, end, last := w.events(r.at[i]), w.events(place), w.end()
	if last.Compare(place) > 0 {
		last = place
	}
	for b := w.block(n); n < end && w.blocks[b].Stored.Before(r.notBefore); b++ {
		n = w.starts[b+1]
	}
	if n >= end {
		r.at[i] = last
		return false, nil
	}
	if x := r.written(w); x != nil {
		return r.share(i, w, x, n, end, last)
	}
	return r.write(i, w, n, end, last)
}

// written returns the window's events as they are written for all, if the client wants them all.
func (r *replay) written(w *window) *written {
	if len(r.s.keys) > 0 || r.s.prefix != "" || r.match != nil || r.s.area != nil {
		return nil
	}
	return w.writtenIn(r.s.dialect)
}

// share sends the events from n up to end, which is at last.
func (r *replay) share(i int, w *window, x *written, n, end int, last millrace.Position) (full bool, err error) {
	for n < end {
		m := x.until(n, end, r.c.out.limit/2)
		frames := x.frames[x.starts[n]:x.starts[m]]
		if len(frames) > r.c.out.limit {
			frames = bytes.Clone(frames) // given away, and no more than that is held by a slow client
		}
		if full, err = r.give(frames, m-n); err != nil {
			return false, err
		}
		if r.at[i], n = w.position(m-1), m; full {
			return true, nil
		}
	}
	r.at[i] = last
	return false, nil
}

// write writes the events from n up to end, which is at last, that are for the client, and sends them.
func (r *replay) write(i int, w *window, n, end int, last millrace.Position) (full bool, err error) {
	sections := block.IDs | block.Data
	if r.match != nil {
		sections |= r.s.filter.Needs()
	}
	var only []int32
	if len(r.s.keys) > 0 {
		if x := w.indexed(); x != nil {
			only = x.find(r.only[:0], w, r.s.keys, n, end)
			if r.only = only; len(only) == 0 {
				r.at[i] = last
				return false, nil
			}
		}
	}
	b, entered := w.block(n), false
	for j := 0; n < end; j++ {
		if only != nil {
			if j == len(only) {
				break
			}
			n = int(only[j])
		}
		for ; n >= w.starts[b+1]; b++ {
			entered = false
		}
		p, k := w.blocks[b], n-w.starts[b]
		if err = p.load(w.stretch, block.Keys); err == nil && r.s.wantsKey(p.reader.Key(k)) {
			err = p.load(w.stretch, sections)
		} else if err == nil {
			n++
			continue
		}
		if err != nil { // before anything was made of the block
			return r.skip(i, w, b, last, err)
		}
		if !entered {
			entered = true
			r.setIDs(i, p.At.Block)
		}
		if what := r.judge(p.reader, k); what != nothing {
			if more := len(p.reader.Data(k)) + eventOverhead; len(r.buf) > 0 && len(r.buf)+more > r.c.out.limit/2 {
				if full, err = r.flush(i, w.position(n-1)); full || err != nil {
					return full, err
				}
			}
			r.add(p.reader, k, what)
		}
		n++
	}
	return r.flush(i, last)
}

// skip leaves out the b-th block, up to last, because it cannot be read.
func (r *replay) skip(i int, w *window, b int, last millrace.Position, why error) (full bool, err error) {
	at := r.at[i]
	if b > 0 && w.blocks[b-1].At.Compare(at) > 0 {
		at = w.blocks[b-1].At
	}
	if full, err = r.flush(i, at); full || err != nil {
		return full, err
	}
	if end := w.blocks[b].At; end.Compare(last) < 0 {
		last = end
	}
	r.c.gateway.logger.Error("gateway: a block is left out", "stream", r.feed.stream.Name(),
		"partition", r.feed.parts[i].Name, "block", last.Block, "error", why)
	r.gap(i, &millrace.Gap{After: at, First: last, Reason: unreadable})
	return false, nil
}

// add writes an event.
func (r *replay) add(b *block.Reader, k int, what put) {
	if what == whole {
		r.buf, r.text = r.s.appendEvent(r.buf, r.text, itemOf(b, k), uint32(k)+1, &r.ids)
	} else {
		r.buf = r.s.appendLeft(r.buf, itemOf(b, k), uint32(k)+1, &r.ids)
	}
	r.events++
}

// flush hands over what is written so far, which reaches up to at.
func (r *replay) flush(i int, at millrace.Position) (full bool, err error) {
	r.at[i] = at
	return r.hand()
}

// hand hands over what is written so far.
func (r *replay) hand() (full bool, err error) {
	full, err = r.give(r.buf, r.events)
	if len(r.buf) > r.c.out.limit {
		r.buf = nil // given away
	}
	r.buf, r.events = r.buf[:0], 0
	return full, err
}

// give hands over frames. If they are more than a queue may have, they are given away. Where the queue has no room, for
// pongs or for what another subscription sends, the client's socket is full, and await sends them.
func (r *replay) give(frames []byte, events int) (full bool, err error) {
	if len(frames) == 0 {
		return false, nil
	}
	given := len(frames) > r.c.out.limit
	v := r.c.out.send(frames, given)
	switch v {
	case gone:
		return false, errGone
	case refused:
		if !given {
			frames = bytes.Clone(frames)
		}
		r.unsent, r.unsentEvents = frames, events
		return true, nil
	}
	t := &r.s.endpoint.traffic[r.s.form]
	t.events.Add(float64(events))
	t.bytes.Add(float64(len(frames)))
	return v == queued, nil
}

// scratch is what a replay needs while it works, and not while it waits.
type scratch struct {
	buf  []byte // frames that are not handed over yet
	text []byte
	only []int32
	ids  idText
}

var scratches = sync.Pool{New: func() any { return new(scratch) }}

// begin takes a scratch, and rest gives it back.
func (r *replay) begin() { r.scratch = scratches.Get().(*scratch) }

func (r *replay) rest() {
	if cap(r.buf) <= maxScratch {
		r.buf = r.buf[:0]
		scratches.Put(r.scratch)
	}
	r.scratch = nil
}

// maxScratch bounds the buffers that are kept for others.
const maxScratch = 256 << 10

// gap tells the client that events are gone, and goes on after them.
func (r *replay) gap(i int, gap *millrace.Gap) {
	r.at[i], r.confirmed[i] = gap.First, true
	r.s.tellGap(r.appendID(nil), r.feed.parts[i].Name, gap, r.c.out.send)
}

// appendID appends the id of where the replay is.
func (r *replay) appendID(dst []byte) []byte {
	dst, _ = appendPlaces(dst, "", r.feed.parts, r.s.parts, r.place)
	return dst
}

// setIDs prepares the ids of a block's events.
func (r *replay) setIDs(i int, name string) { r.ids.among(r.feed.parts, r.s.parts, i, name, r.place) }

// place returns where the replay is in a partition.
func (r *replay) place(i int) millrace.Position { return r.at[i] }

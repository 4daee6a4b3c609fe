package gateway

import (
	"github.com/millrace/millrace/block"
	"github.com/millrace/millrace/table"
)

// What a client that watches an area is told. Where an object is decides what the client sees, and the filter
// only which events are sent:
//
//   - An event inside the area is sent if the filter lets it through. Otherwise nothing is said: the object stays
//     in view, as the client has it.
//   - An event outside, or without a position, is not sent. If the client has been shown the object since it came
//     in, it is told that it has left, whatever the filter says of the event.
//   - An end (deleted) happens where the object was. If that is inside, it is sent if the filter lets it
//     through; otherwise a client that has been shown the object is told that it has left.
//
// So whatever a client has is inside. The feed (move) knows where an object was, and not who has been shown it: it
// says of all that were inside that they have left. A replay knows, of what it has gone through itself.

// put is what a client is told of an event.
type put uint8

const (
	nothing put = iota
	whole
	left // only that its object has left the area
)

// sight is how an object stands to an area, and to the client that watches it.
type sight uint8

const (
	outside sight = iota // or nowhere
	hidden               // it is inside, and no event of it was let through since it came in
	shown                // it is inside, and the client has it
)

// maxSeen bounds what a replay remembers of objects. Beyond it a client may be told that objects have left that it
// does not know.
const maxSeen = 100_000

// judge returns what the client is told of the k-th event of a block.
func (r *replay) judge(b *block.Reader, k int) put {
	matches := r.match == nil || r.match.Match(b, k)
	if r.s.area == nil {
		if matches {
			return whole
		}
		return nothing
	}
	key := b.Key(k)
	before := r.sight(key)
	inside := !b.Deleted(k)
	if inside {
		p, located := r.s.endpoint.areas.locateSafely(b.Data(k))
		inside = located && r.s.area.contains(p)
	}
	switch {
	case inside && matches:
		r.see(key, shown)
		return whole
	case inside:
		r.see(key, max(before, hidden))
		return nothing
	}
	r.see(key, outside)
	switch {
	case b.Deleted(k) && before != outside && matches:
		return whole
	case before == shown:
		return left
	default:
		return nothing
	}
}

// judgeRow returns what the client is told of an object by its row in the table.
func (r *replay) judgeRow(row *table.Row) put {
	if !r.s.wantsKey([]byte(row.Event.Key)) {
		return nothing
	}
	matches := r.match == nil || r.match.MatchEvent(&row.Event)
	if r.s.area == nil {
		if matches {
			return whole
		}
		return nothing
	}
	key := []byte(row.Event.Key)
	p, located := r.s.endpoint.areas.locateSafely(row.Event.Data)
	inside := located && r.s.area.contains(p)
	had := located && r.before != nil && r.before.contains(p) // and so the client may have been shown it
	switch {
	case inside && had:
		r.see(key, shown)
		return nothing
	case inside && matches:
		r.see(key, shown)
		return whole
	case inside:
		r.see(key, hidden)
		return nothing
	case had:
		return left
	default:
		return nothing
	}
}

// sight returns how an object stands.
func (r *replay) sight(key []byte) sight {
	if s, known := r.seen[string(key)]; known {
		return s
	}
	return r.unknown
}

// see remembers how an object stands now.
func (r *replay) see(key []byte, now sight) {
	if now == r.unknown {
		delete(r.seen, string(key))
		return
	}
	if _, known := r.seen[string(key)]; !known && len(r.seen) >= maxSeen {
		r.unknown = shown // rather that too much is said to have left than too little
		return
	}
	if r.seen == nil {
		r.seen = map[string]sight{}
	}
	r.seen[string(key)] = now
}

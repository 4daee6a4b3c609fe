package gateway

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/millrace/millrace"
)

// resumeTimeout bounds looking up where a client wants to begin.
const resumeTimeout = 5 * time.Second

// resume finds the positions from which a subscription is to be brought to the live edge. For a plain
// connection, which has no frame to say a gap, further is a header line that says it.
func (g *Gateway) resume(ctx context.Context, s *subscription) (r *replay, further string, err error) {
	ctx, cancel := context.WithTimeout(ctx, resumeTimeout)
	defer cancel()
	f, from := s.feed, s.since
	r = newReplay(s)
	r.notBefore = from.stored
	s.since = since{} // it holds much memory, and is not needed any more
	if from.latest {
		r.newest, r.unknown = true, outside
		return r, "", nil
	}
	for _, i := range s.parts {
		name := f.parts[i].Name
		if from.places != nil {
			r.at[i] = from.places[name] // none: a partition that the client knows nothing of, from its start
		} else if r.at[i], err = seek(ctx, f.stream, name, from.stored); err != nil {
			return nil, "", err
		}
		if s.form != plain {
			continue
		}
		gap, err := r.firstGap(ctx, i)
		if err != nil {
			return nil, "", err
		}
		if gap != nil {
			r.at[i], r.confirmed[i] = gap.First, true
			s.endpoint.gaps.Inc()
			further += fmt.Sprintf("Millrace-Gap: after=%q, first=%q, reason=%q\r\n",
				positionID(name, gap.After), positionID(name, gap.First), gap.Reason)
		}
	}
	return r, further, nil
}

// seek returns the position after which the blocks stored at t or later come. If none is kept that is
// older than t, that is the very start of the partition: what came after t may have been trimmed,
// and reading from the start says so.
func seek(ctx context.Context, s millrace.Stream, partition string, t time.Time) (millrace.Position, error) {
	at, err := s.Seek(ctx, partition, t)
	if err != nil {
		return at, err
	}
	first, _, err := s.Bounds(ctx, partition)
	if err != nil || at.Compare(first) <= 0 {
		return millrace.Position{}, err
	}
	return at, nil
}

// firstGap returns the gap with which reading from the replay's place begins, nil if it begins with none.
func (r *replay) firstGap(ctx context.Context, i int) (*millrace.Gap, error) {
	at, p, place := r.at[i], r.feed.parts[i], r.edges()[i]
	if _, found := p.shelf.find(at); found || at == place {
		r.confirmed[i] = true
		return nil, nil //nolint:nilnil // no gap is no mistake
	}
	if at.Compare(place) > 0 {
		gap, err := r.beyond(ctx, i)
		r.confirmed[i] = err == nil
		return gap, err
	}
	err := r.takeSlot(ctx)
	if err == nil {
		defer r.freeSlot()
		var got fetched
		if got, err = p.shelf.fetch(ctx, at, place); err == nil {
			return got.gap, got.err
		}
	}
	// The connection is not closing, as a replay would take it: looking has taken too long, or the client is gone.
	return nil, millrace.Errorf(millrace.Unavailable, "look for a gap", "%w", context.Cause(ctx))
}

// beyond returns the gap after the replay's place, which the feed has not come to yet. It may have to wait for the
// next block, and so takes no slot.
func (r *replay) beyond(ctx context.Context, i int) (*millrace.Gap, error) {
	at, name := r.at[i], r.feed.parts[i].Name
	_, end, err := r.feed.stream.Bounds(ctx, name)
	if err != nil || at.Compare(end) <= 0 || beginsAfter(at, end) {
		return nil, err
	}
	for _, err := range r.feed.stream.Read(ctx, name, at) {
		if gap, ok := errors.AsType[*millrace.Gap](err); ok {
			return gap, nil
		}
		return nil, err
	}
	return nil, nil //nolint:nilnil // no gap is no mistake
}

// beginsAfter says whether p is the beginning of the block that comes after the one where end is.
func beginsAfter(p, end millrace.Position) bool {
	incarnation, n, err := millrace.ParseBlockName(p.Block)
	if err != nil || p.Event > 0 || n == 0 {
		return false
	}
	return !end.IsStart() && millrace.BlockName(incarnation, n-1) == end.Block
}

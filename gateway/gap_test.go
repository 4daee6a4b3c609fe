package gateway

import (
	"context"
	"errors"
	"testing"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/stream/memory"
)

// Looking for a gap that is given up says why, and not that the connection is closing: nobody has closed it.
func TestLookingForAGapIsGivenUp(t *testing.T) {
	p := newPushing(t, 1, plain, func(int) string { return "" }, broadcast(1))
	defer p.g.history.end()
	p.part.at = millrace.Position{Block: blockNames[0], Event: 1}
	why := errors.New("it took too long")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	for range 20 { // with a slot, and without
		r := newReplay(p.feed.joined[0])
		gap, err := r.firstGap(ctx, 0)
		if gap != nil || millrace.CodeOf(err) != millrace.Unavailable || !errors.Is(err, why) || errors.Is(err, errGone) {
			t.Fatalf("got %v, %v", gap, err)
		}
	}
	if len(p.g.slots) > 0 {
		t.Error("a slot is lost")
	}
}

// counting is a stream that counts how often it is asked where it ends.
type counting struct {
	millrace.Stream
	bounds int
}

func (c *counting) Bounds(ctx context.Context, partition string) (first, end millrace.Position, err error) {
	c.bounds++
	return c.Stream.Bounds(ctx, partition)
}

// What was looked up for the response's head is not looked up again.
func TestGapIsLookedForOnce(t *testing.T) {
	p := newPushing(t, 1, plain, func(int) string { return "" }, broadcast(1))
	st := &stored{t: t, stream: memory.New("s", memory.Options{})}
	stored := st.append(broadcast(1)...)
	stream := &counting{Stream: st.stream}
	p.feed.stream = stream // which the feed has yet to read
	r := newReplay(p.feed.joined[0])
	r.at[0] = stored.At
	if gap, err := r.firstGap(t.Context(), 0); gap != nil || err != nil || stream.bounds != 1 {
		t.Fatalf("got %v, %v after %d look-ups", gap, err, stream.bounds)
	}
	if err := r.confirm(t.Context(), 0, p.part.at); err != nil || stream.bounds != 1 {
		t.Errorf("%d look-ups, %v", stream.bounds, err)
	}
}

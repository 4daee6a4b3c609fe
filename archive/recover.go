package archive

import (
	"context"
	"errors"
	"log/slog"

	"github.com/millrace/millrace"
)

// recover brings a cut to its end that an earlier life had recorded.
func (t *task) recover(ctx context.Context) error {
	c := t.record.Cut
	if c == nil {
		return nil
	}
	var there bool
	err := t.retry(ctx, "look for an object", func() (err error) {
		there, err = t.present(ctx, c)
		return err
	})
	switch {
	case err != nil:
		return err
	case there:
		return t.moveOn(ctx, c)
	case c.Failure:
		return nil // reading comes to the same gap or block again
	case c.Layout != objectLayout:
		return millrace.Errorf(millrace.Internal, "repeat a cut",
			"the layout of its object is %d, and this version of millrace knows %d: run the version that recorded it", c.Layout, objectLayout)
	}

	e := newEncoder(c.Format, c.Compression)
	var gone error
	if err := t.retry(ctx, "read the stream", func() (err error) {
		e.reset()
		gone, err = t.encodeAgain(ctx, c, e)
		return err
	}); err != nil {
		return err
	}
	if gone != nil {
		// There is no such object and none can be made. Reading from the same position finds what is left,
		// and what is not.
		t.log.LogAttrs(ctx, slog.LevelError, "an object whose cut was recorded can't be made, its events are gone",
			slog.String("key", c.Key), slog.Int64("events", c.Events), slog.Any("error", gone))
		t.a.o.Metrics.errors.WithLabelValues(t.a.name).Inc()
		return nil
	}
	object, sum := e.finish()
	if sum != c.SHA256 || e.events != c.Events {
		return millrace.Errorf(millrace.Internal, "repeat a cut",
			"the %d events up to %q have the SHA-256 %s, and %d with %s were recorded: stream %q is not what it was",
			e.events, c.To, sum, c.Events, c.SHA256, t.a.o.From.Name())
	}
	return t.complete(ctx, c, object)
}

// encodeAgain gathers a cut's events from the stream once more. gone is why they are not all there.
func (t *task) encodeAgain(ctx context.Context, c *cut, e *encoder) (gone, err error) {
	_, end, err := t.a.o.From.Bounds(ctx, t.partition)
	if err != nil {
		return nil, err
	}
	at := t.record.Position
	if end.IsStart() && at.IsStart() {
		return errors.New("the stream is empty"), nil
	}
	if at == end { // there is nothing that reading could wait for
		return nil, t.truncated(end, c.To)
	}
	for b, err := range t.a.o.From.Read(ctx, t.partition, at) {
		var gap *millrace.Gap
		switch {
		case errors.As(err, &gap) && lostTail(gap):
			return nil, t.truncated(gap.First, c.To)
		case errors.As(err, &gap):
			return gap, nil
		case err != nil:
			return nil, err
		case b.At.Block > c.To.Block:
			return millrace.Errorf(millrace.NotFound, "repeat a cut", "the block %q follows %q, and %q is not there", b.At.Block, at, c.To), nil
		}
		skip, n := b.Skip(at), int(b.Header.Events)
		if b.At.Block == c.To.Block {
			n = min(n, int(c.To.Event))
		}
		if skip < n {
			if err := load(&t.reader, b); err != nil {
				return err, nil
			}
			for i := skip; i < n; i++ {
				data := t.reader.Data(i)
				e.add(data, len(data) == 0 && t.reader.Deleted(i))
			}
		}
		switch at = b.At; {
		case b.At.Block == c.To.Block:
			return nil, nil
		case at.Compare(end) >= 0:
			return nil, t.truncated(end, c.To)
		}
	}
	return nil, millrace.Errorf(millrace.Unavailable, "read the stream", "it ended")
}

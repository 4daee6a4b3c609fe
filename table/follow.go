package table

import (
	"context"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
)

// Gap is a range of positions of a partition that are gone, or cannot be read.
type Gap struct {
	Partition string
	millrace.Gap
}

// Unreadable is the reason of a gap that stands for a damaged block.
const Unreadable millrace.GapReason = "unreadable"

// CatchUp applies what a stream has after the table's places, up to the stream's ends as they are at the
// beginning, and returns; it never waits for events. Partitions are read one after the other, parents first.
//
// Where events are gone it goes on behind them, and returns the gaps. If they were trimmed the rows stay:
// they are the newest that is known. If the stream was created again, or has lost its tail, the rows of the
// partition are dropped and it is read from its start (Clear). A table that stands at the start of a partition
// misses nothing of what was trimmed before.
//
// It fails with what the stream fails with, Unavailable above all. What was applied until then stays: calling
// it again goes on.
func CatchUp(ctx context.Context, s millrace.Stream, t *Table) (gaps []Gap, err error) {
	partitions, err := s.Partitions(ctx)
	if err != nil {
		return nil, err
	}
	c := catchUp{stream: s, t: t}
	for _, p := range partitions {
		if err := c.partition(ctx, p.Name); err != nil {
			return c.gaps, err
		}
	}
	c.forget(partitions)
	return c.gaps, nil
}

type catchUp struct {
	stream millrace.Stream
	t      *Table
	reader block.Reader
	gaps   []Gap
}

func (c *catchUp) partition(ctx context.Context, name string) error {
	first, end, err := c.stream.Bounds(ctx, name)
	if err != nil {
		return err
	}
	if gap := lost(c.t.Place(name), end); gap != nil {
		c.gap(name, gap)
	}
	for c.behind(name, end) {
		if c.t.Place(name).IsStart() {
			c.t.Moved(name, first) // what was trimmed before is nothing that the table misses
		}
		if err := c.read(ctx, name, end); err != nil {
			return err
		}
	}
	return nil
}

// behind says whether the partition has something up to end that the table has not. Positions of different
// incarnations do not compare: then it has.
func (c *catchUp) behind(name string, end millrace.Position) bool {
	at := c.t.Place(name)
	return !end.IsStart() && (at.IsStart() || at.Incarnation() != end.Incarnation() || at.Compare(end) < 0)
}

// read reads a partition to end, or to where it must be read anew from its start.
func (c *catchUp) read(ctx context.Context, name string, end millrace.Position) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for b, err := range c.stream.Read(ctx, name, c.t.Place(name)) {
		gap, gone := err.(*millrace.Gap) //nolint:errorlint // Read yields it as it is
		switch {
		case gone:
			c.gap(name, gap)
			if gap.Reason == millrace.Truncated {
				return nil
			}
		case err != nil:
			return err
		default:
			c.apply(name, b)
		}
		if !c.behind(name, end) {
			return nil
		}
	}
	return millrace.Errorf(millrace.Unavailable, "catch up", "stream %q was closed at %q, before its end at %q",
		c.stream.Name(), c.t.Place(name), end)
}

// apply takes a block. No data is decompressed where no key is wanted.
func (c *catchUp) apply(name string, b millrace.StoredBlock) {
	r, i := &c.reader, b.Skip(c.t.Place(name))
	err := r.Reset(b.Raw)
	if err == nil {
		err = r.Load(block.Keys)
	}
	if want := c.t.o.Want; err == nil && want != nil {
		for i < r.Len() && !want(r.Key(i)) {
			i++
		}
	}
	if err == nil && i < r.Len() {
		err = r.Load(block.All)
	}
	if err != nil {
		c.gap(name, &millrace.Gap{After: c.t.Place(name), First: b.At, Reason: Unreadable})
		return
	}
	for ; i < r.Len(); i++ {
		c.t.Apply(name, b.Position(i), r, i)
	}
	c.t.Moved(name, b.At)
}

func (c *catchUp) gap(name string, gap *millrace.Gap) {
	c.gaps = append(c.gaps, Gap{name, *gap})
	switch gap.Reason {
	case millrace.NewIncarnation:
		c.t.Clear(name)
		c.t.Moved(name, gap.First)
	case millrace.Truncated:
		c.t.Clear(name)
	default:
		c.t.Moved(name, gap.First)
	}
}

// forget drops the rows of partitions that the stream no longer has, if it is another stream by now: where
// only the partition is gone, split or merged, its rows are still the newest of their keys.
func (c *catchUp) forget(partitions []millrace.Partition) {
	recreated := false
	for _, gap := range c.gaps {
		recreated = recreated || gap.Reason == millrace.NewIncarnation
	}
	if !recreated {
		return
	}
	left := c.t.Places()
	for _, p := range partitions {
		delete(left, p.Name)
	}
	for name := range left {
		c.t.Clear(name)
	}
}

// lost returns the gap that a table finds whose place the stream cannot have, going by where it ends. Read
// would say the same, but only where there is something to read.
func lost(at, end millrace.Position) *millrace.Gap {
	if at.IsStart() {
		return nil
	}
	was, n, err := millrace.ParseBlockName(at.Block)
	if end.IsStart() {
		if err == nil && n <= 1 && at.Event == 0 {
			return nil // before the first event that there may be
		}
		return &millrace.Gap{After: at, Reason: millrace.NewIncarnation}
	}
	is, last, endErr := millrace.ParseBlockName(end.Block)
	switch {
	case err != nil || endErr != nil || was != is || at.Compare(end) <= 0:
		return nil
	case n == last+1 && at.Event == 0: // before the next block: where the newest one ends
		return nil
	default:
		return &millrace.Gap{After: at, First: end, Reason: millrace.Truncated}
	}
}

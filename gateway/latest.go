package gateway

import (
	"context"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/table"
)

// openTable reads the table's newest snapshot, and what the stream has after it.
func (f *feed) openTable(ctx context.Context) (err error) {
	o := table.Options{Of: f.stream.Name(), MaxKeys: f.tableKeys}
	if f.state == nil {
		f.table = table.New(o)
	} else {
		f.saver = table.NewSaver(table.SaverOptions{
			Name: f.stream.Name(), Stream: f.stream, State: f.state, Logger: f.logger,
		})
		if f.table, err = f.saver.Load(ctx, o); err != nil {
			return err
		}
	}
	gaps, err := table.CatchUp(ctx, f.stream, f.table)
	for _, gap := range gaps {
		f.logger.Warn("gateway: events are gone that the newest of each key may have been among",
			"stream", f.stream.Name(), "partition", gap.Partition, "after", gap.After, "first", gap.First, "reason", string(gap.Reason))
	}
	return err
}

// saveTable saves the table from time to time, until ctx ends.
func (f *feed) saveTable(ctx context.Context) {
	if f.saver == nil {
		return
	}
	err := f.saver.Run(ctx, func() *table.Snapshot {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.table.Freeze()
	})
	if err != nil {
		f.logger.Error("gateway: the table is not saved any more; the next start reads more of the stream",
			"stream", f.stream.Name(), "error", err)
	}
}

// loseRows takes note of a gap in the table; mu is held. Of trimmed events the rows stay: they are the newest
// that is known.
func (f *feed) loseRows(p *part, gap *millrace.Gap) {
	if f.table == nil {
		return
	}
	if gap.Reason == millrace.NewIncarnation || gap.Reason == millrace.Truncated {
		f.table.Clear(p.Name)
	}
	f.table.Moved(p.Name, gap.First)
}

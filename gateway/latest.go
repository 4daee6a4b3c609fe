package gateway

import (
	"context"
	"time"

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

// rowsFor returns the rows of the table from which a subscription chooses; mu is held.
func (f *feed) rowsFor(s *subscription) (rows []*table.Row) {
	if len(s.keys) == 0 {
		return f.table.AppendRows(nil)
	}
	for _, key := range s.keys {
		if row := f.table.Get(key); row != nil {
			rows = append(rows, row)
		}
	}
	return rows
}

// begins lets the replay begin with rows, and go on from places, which are of the same moment.
func (r *replay) begins(rows []*table.Row, places []millrace.Position) {
	r.rows, r.at = rows, places
	for i := range r.confirmed {
		r.confirmed[i] = true
	}
}

// latest sends the rows with which the subscription begins, if it does, in turns like those of catchUp.
func (r *replay) latest(ctx context.Context) error {
	for r.newest || r.rows != nil || r.chosen != nil {
		if err := r.showRows(ctx); err != nil {
			return err
		}
		if err := r.await(ctx); err != nil {
			return err
		}
	}
	return nil
}

// showRows takes, chooses and sends rows, until the client's socket is full or the time is over. Rows are let go
// of as soon as they are done with: the table may have others by then.
func (r *replay) showRows(ctx context.Context) error {
	if err := r.takeSlot(ctx); err != nil {
		return err
	}
	defer r.freeSlot()
	r.begin()
	defer r.rest()
	until := time.Now().Add(turnTime)
	if r.newest {
		r.feed.mu.Lock()
		r.begins(r.feed.rowsFor(r.s), r.feed.places())
		r.feed.mu.Unlock()
		r.newest = false
	}
	for i, row := range r.rows {
		if i%256 == 255 && time.Now().After(until) {
			r.rows = r.rows[i:]
			return nil
		}
		if r.rows[i] = nil; r.judgeRow(row) != nothing {
			r.chosen = append(r.chosen, row)
		}
	}
	if r.rows != nil {
		r.rows = nil
		table.Sort(r.chosen)
	}
	for i, row := range r.chosen {
		r.chosen[i] = nil
		if r.addRow(row); len(r.buf) < r.c.out.limit/2 {
			continue
		}
		if full, err := r.hand(); err != nil || full || time.Now().After(until) {
			r.chosen = r.chosen[i+1:]
			return err
		}
	}
	r.chosen = nil
	_, err := r.hand()
	return err
}

// addRow writes a row that was chosen: the client sees its object, or does not see it any more.
func (r *replay) addRow(row *table.Row) {
	gone := false
	if r.before != nil {
		p, located := r.s.endpoint.areas.locateSafely(row.Event.Data)
		gone = !located || !r.s.area.contains(p)
	}
	if gone {
		r.buf = r.s.appendLeft(r.buf, itemOfRow(row), 0, nil)
	} else {
		r.buf, r.text = r.s.appendEvent(r.buf, r.text, itemOfRow(row), 0, nil)
	}
	r.events++
}

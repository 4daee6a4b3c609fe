package query

import (
	"bytes"
	"context"
	"errors"
	"io"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/producer"
)

// snapshots is the task's saving of its state: at most one save is under way, beside the evaluation, which
// goes on meanwhile.
type snapshots struct {
	life    [16]byte
	version uint64            // in State
	saved   millrace.Position // of the newest snapshot
	events  int               // processed since the last one was begun

	saving bool
	at     millrace.Position // of the one that is being saved
	bytes  []byte            // it; the memory is used again
	done   chan error        // the outcome of saving, taken by the evaluating goroutine
	begin  func(func())      // starts a goroutine that run waits for
}

// open takes over the producer, restores the newest snapshot, and says from where the input is needed.
func (t *task) open(ctx context.Context) error {
	var err error
	if t.op, err = t.q.newOperator(t.partition); err != nil {
		return err
	}
	// Until the snapshot is read nobody knows how far back the input is needed.
	t.hold(millrace.Position{})
	// The producer first: then no other task of this name commits results or saves snapshots that we
	// would not know of.
	t.producer, err = producer.Open(ctx, producer.Config{
		Name: t.name, Into: t.q.o.Into, Dead: t.q.o.Dead, EventLimit: t.q.o.EventLimit,
		Now: t.q.o.Now, Step: t.q.o.Step, Metrics: t.q.o.ProducerMetrics, Logger: t.log,
	})
	if err != nil {
		return err
	}
	t.q.o.Step("query.producer-opened")
	cursor := t.producer.Resume().Cursor
	if t.cursor, err = millrace.ParsePosition(string(cursor)); err != nil {
		return millrace.Errorf(millrace.Internal, "recover", "the newest results of %q in stream %q bear a cursor that is no position: %w", t.name, t.q.o.Into.Name(), err)
	}
	if err := t.restore(ctx); err != nil {
		return err
	}
	t.hold(t.at)
	t.q.o.Step("query.snapshot-loaded")
	_, end, err := t.q.o.From.Bounds(ctx, t.partition)
	if err != nil {
		return err
	}
	if end.Incarnation() == t.cursor.Incarnation() && t.cursor.Compare(end) > 0 && !end.IsStart() {
		return millrace.Errorf(millrace.Internal, "recover", "stream %q has lost its tail: the query has emitted results up to %q, and the stream ends at %q; restore the stream, or create it again",
			t.q.o.From.Name(), t.cursor, end)
	}
	t.log.Info("the query starts", "snapshot", t.at.String(), "cursor", t.cursor.String(), "end", end.String(), "keys", t.op.Keys())
	return nil
}

// restore sets state and position from the newest snapshot, if there is one that fits.
func (t *task) restore(ctx context.Context) error {
	s, size, err := t.load(ctx)
	switch {
	case millrace.CodeOf(err) == millrace.NotFound:
		if !t.cursor.IsStart() {
			t.log.Warn("there is no snapshot of the query; it reads its input from the start", "cursor", t.cursor.String())
		}
		return nil
	case millrace.CodeOf(err) == millrace.Invalid:
		t.log.Error("the query's snapshot is damaged; it reads its input from the start", "error", err)
		return nil
	case err != nil:
		return err
	case s.stream != t.q.o.From.Name() || s.partition != t.partition:
		// The cursor is one of that stream, too.
		t.log.Warn("the query read another stream before; it starts anew", "before", s.stream, "cursor", t.cursor.String())
		t.cursor = millrace.Position{}
		return nil
	case s.kind != t.q.kind():
		t.log.Warn("the query was of another kind before; it reads its input from the start", "before", s.kind)
		return nil
	case t.cursor.IsStart():
		t.log.Warn("the stream that the query writes has nothing of it; it computes all results anew", "into", t.q.o.Into.Name(), "snapshot", s.at.String())
		return nil
	case t.cursor.Compare(s.at) < 0:
		return millrace.Errorf(millrace.Internal, "recover", "stream %q has lost its tail: the snapshot of %q is at %q, and its newest results are of %q; restore the stream, or create it again to compute all results anew",
			t.q.o.Into.Name(), t.name, s.at, t.cursor)
	}
	if err := t.op.Restore(s.state); err != nil {
		t.log.Warn("the query's snapshot does not fit its configuration; it reads its input from the start", "error", err)
		return nil
	}
	t.at, t.snapshots.saved = s.at, s.at
	t.metrics.keys.Set(float64(t.op.Keys()))
	t.metrics.snapshotBytes.Set(float64(size))
	return nil
}

// load reads the newest snapshot and its version.
func (t *task) load(ctx context.Context) (s snapshot, size int, err error) {
	r, version, err := t.q.o.State.Load(ctx, t.name)
	if err != nil {
		return s, 0, err
	}
	data, err := io.ReadAll(io.LimitReader(r, maxSnapshot))
	if err = errors.Join(err, r.Close()); err != nil {
		return s, 0, &millrace.Error{Code: millrace.Unavailable, Op: "load snapshot", Err: err}
	}
	t.snapshots.version = version
	s, err = decodeSnapshot(data)
	return s, len(data), err
}

// hold keeps what comes after a position in the input until the next snapshot.
func (t *task) hold(at millrace.Position) {
	if r, ok := t.q.o.From.(millrace.Retainer); ok {
		r.Hold(t.partition, "query/"+t.q.name, at)
	}
}

// snapshot begins to save the state, if it has changed and nothing is being saved. When it returns the
// output is durable up to where the state has come: a snapshot is never ahead of it.
func (t *task) snapshot(work context.Context) error {
	s := &t.snapshots
	if s.saving || t.at == s.saved {
		return nil
	}
	// While the task still replays the output is ahead anyway, and its cursor must not go back.
	if !t.behind() {
		if err := t.producer.Emit(work, nil, millrace.Cursor(t.at.String())); err != nil {
			return err
		}
		if err := t.producer.Flush(work); err != nil {
			return err
		}
		t.q.o.Step("query.flushed")
	}
	s.saving, s.at, s.events = true, t.at, 0
	s.bytes = encodeSnapshot(s.bytes[:0], snapshot{
		kind: t.q.kind(), stream: t.q.o.From.Name(), partition: t.partition, at: t.at, life: s.life,
	}, t.op.AppendSnapshot)
	s.begin(func() { s.done <- t.save(work) }) // done has room: it ends also if nobody looks
	return nil
}

// save writes the snapshot. An outcome that got lost shows as a conflict with ourselves.
func (t *task) save(ctx context.Context) error {
	write := func(w io.Writer) error {
		_, err := io.Copy(w, bytes.NewReader(t.snapshots.bytes))
		return err
	}
	version, err := t.q.o.State.Save(ctx, t.name, t.snapshots.version, write)
	if millrace.CodeOf(err) == millrace.Conflict {
		newest, _, loadErr := t.load(ctx)
		if loadErr != nil || newest.life != t.snapshots.life {
			return err
		}
		version, err = t.q.o.State.Save(ctx, t.name, t.snapshots.version, write)
	}
	if err != nil {
		return err
	}
	t.snapshots.version = version
	t.q.o.Step("query.snapshot-saved")
	return nil
}

// snapshotDone takes the outcome of saving.
func (t *task) snapshotDone(err error) error {
	s := &t.snapshots
	s.saving = false
	switch {
	case millrace.CodeOf(err) == millrace.Unavailable:
		t.log.Warn("the query's snapshot could not be saved; it will be tried again", "error", err)
		return nil
	case err != nil:
		return err
	}
	s.saved = s.at
	t.metrics.snapshots.Inc()
	t.metrics.snapshotBytes.Set(float64(len(s.bytes)))
	t.hold(s.saved)
	t.q.o.Step("query.held")
	return nil
}

// snapshotWait waits for the snapshot that is being saved, if any.
func (t *task) snapshotWait(work context.Context) error {
	if !t.snapshots.saving {
		return nil
	}
	select {
	case err := <-t.snapshots.done:
		return t.snapshotDone(err)
	case <-work.Done():
		return millrace.Errorf(millrace.Unavailable, "save snapshot", "%w", context.Cause(work))
	}
}

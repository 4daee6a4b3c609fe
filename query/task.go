package query

import (
	"context"
	"crypto/rand"
	"iter"
	"log/slog"
	"sync"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
	"github.com/millrace/millrace/producer"
)

// task evaluates a query over one partition of its input.
type task struct {
	q         *Query
	partition string
	name      string // of its producer and its snapshot: query/NAME/PARTITION
	log       *slog.Logger
	metrics   instruments

	op       operator
	producer *producer.Producer

	at     millrace.Position // all events up to here are in the state, and their results emitted
	cursor millrace.Position // of the output when the task started: no results up to here

	reader     block.Reader
	results    []millrace.Event
	rejections []millrace.Rejection
	late       uint64 // as counted so far
	replayed   int
	caughtUp   bool

	snapshots snapshots
}

// ahead is how many blocks are read ahead of the evaluation. When there are so many, reading waits.
const ahead = 4

// input is what the reading goroutine hands over.
type input struct {
	block millrace.StoredBlock
	err   error
}

func newTask(q *Query, partition string) *task {
	t := &task{
		q:         q,
		partition: partition,
		name:      "query/" + q.name + "/" + partition,
		log:       q.log.With("partition", partition),
		metrics:   q.o.Metrics.of(q.name, partition),
	}
	_, _ = rand.Read(t.snapshots.life[:]) // never fails
	return t
}

// run recovers, then evaluates until ctx ends, the input ends, or it fails.
func (t *task) run(ctx context.Context) error {
	// Work goes on for a bounded time when ctx ends: cut off in the middle it would only have to be done
	// again.
	work, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	defer context.AfterFunc(ctx, func() {
		select {
		case <-time.After(t.q.o.Drain):
			cut()
		case <-work.Done():
		}
	})()

	var goroutines sync.WaitGroup
	defer goroutines.Wait()
	defer cut()

	err := t.open(ctx)
	if t.producer != nil {
		defer t.producer.Close() //nolint:errcheck // returns nil
	}
	if err != nil {
		return unlessOver(ctx, err)
	}
	committer := make(chan error, 1)
	goroutines.Go(func() { committer <- t.producer.Run(work) })

	reading, stopReading := context.WithCancel(ctx)
	inputs := make(chan input, ahead)
	blocks := t.q.o.From.Read(reading, t.partition, t.at)
	goroutines.Go(func() {
		defer close(inputs)
		read(reading, blocks, inputs)
	})
	defer stopReading()

	t.snapshots.done = make(chan error, 1)
	t.snapshots.begin = goroutines.Go
	err = t.evaluate(ctx, work, inputs, committer)
	stopReading()
	if err == nil {
		err = t.drain(work)
	}
	if err != nil && ctx.Err() != nil {
		t.log.Warn("the query did not end cleanly; it will replay more when it starts again", "error", err)
		return nil
	}
	return err
}

// unlessOver returns err, or nil if ctx has ended: whatever failed then failed because of it.
func unlessOver(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// read hands over what the input yields. It waits while there are enough blocks ahead.
func read(ctx context.Context, blocks iter.Seq2[millrace.StoredBlock, error], inputs chan<- input) {
	for b, err := range blocks {
		select {
		case inputs <- input{b, err}:
		case <-ctx.Done():
			return
		}
	}
}

// evaluate takes block after block until ctx ends or the input does.
func (t *task) evaluate(ctx, work context.Context, inputs <-chan input, committer <-chan error) error {
	ticker := time.NewTicker(t.q.o.SnapshotEvery)
	defer ticker.Stop()
	t.caughtUp = !t.behind()
	for {
		select {
		case in, more := <-inputs:
			if !more || ctx.Err() != nil {
				return nil
			}
			if err := t.take(work, in); err != nil {
				return err
			}
			if t.snapshots.events >= t.q.o.SnapshotEvents {
				if err := t.snapshot(work); err != nil {
					return err
				}
			}
		case <-ticker.C:
			if err := t.snapshot(work); err != nil {
				return err
			}
		case err := <-t.snapshots.done:
			if err := t.snapshotDone(err); err != nil {
				return err
			}
		case err := <-committer:
			if err == nil { // only if work was cut
				err = millrace.Errorf(millrace.Unavailable, "emit results", "the producer has ended")
			}
			return err
		case <-ctx.Done():
			return nil
		}
	}
}

func (t *task) take(work context.Context, in input) error {
	if gap, ok := in.err.(*millrace.Gap); ok { //nolint:errorlint // Read yields it as it is
		return t.gap(gap)
	}
	if in.err != nil {
		return in.err
	}
	return t.process(work, in.block)
}

// gap goes on behind a gap if that is sound.
func (t *task) gap(gap *millrace.Gap) error {
	t.metrics.gaps.WithLabelValues(string(gap.Reason)).Inc()
	if gap.Reason == millrace.Truncated {
		return millrace.Errorf(millrace.Internal, "read the input",
			"stream %q has lost its tail: the query has come to %q, and the stream ends at %q; restore the stream, or create it again", t.q.o.From.Name(), gap.After, gap.First)
	}
	t.log.Warn("events are gone from the input before the query has read them",
		"reason", string(gap.Reason), "after", gap.After.String(), "upto", gap.First.String(), "replaying", !t.caughtUp)
	if gap.Reason == millrace.Trimmed && gap.First.Compare(t.at) > 0 {
		t.at = gap.First
	}
	return nil
}

// process evaluates a block and emits its results at once. Of what the output has already the results are
// not emitted.
func (t *task) process(work context.Context, b millrace.StoredBlock) error {
	n := int(b.Header.Events)
	i, old := b.Skip(t.at), b.Skip(t.cursor)
	if i >= n {
		return nil
	}
	if err := t.reader.Reset(b.Raw); err != nil {
		return damaged(b, err)
	}
	if err := t.reader.Load(t.op.Needs()); err != nil {
		return damaged(b, err)
	}
	first := i
	for i < n {
		to := n
		if i < old {
			to = old
		}
		t.rejections = t.rejections[:0]
		from := i
		t.results, i = t.op.Process(&t.reader, b, from, to, t.results[:0], func(i int, reason error) { t.reject(b, i, reason) })
		at := millrace.Position{Block: b.At.Block, Event: uint32(i)}
		late := t.op.Late() - t.late
		t.late += late
		if from < old {
			t.at = at
			t.replayed += i - from
			t.metrics.replayed.Add(float64(i - from))
			continue
		}
		if len(t.results)+len(t.rejections) > 0 {
			if err := t.producer.EmitAll(work, t.results, t.rejections, millrace.Cursor(at.String())); err != nil {
				return err
			}
			t.q.o.Step("query.results-emitted")
		}
		t.at = at
		t.metrics.events.Add(float64(i - from))
		t.metrics.results.Add(float64(len(t.results)))
		t.metrics.rejected.Add(float64(len(t.rejections)))
		t.metrics.late.Add(float64(late))
	}
	if !t.caughtUp && !t.behind() {
		t.catchUp()
	}
	t.snapshots.events += n - first
	t.metrics.keys.Set(float64(t.op.Keys()))
	t.metrics.lag.Set(t.q.o.Now().Sub(b.Stored).Seconds())
	t.q.o.Step("query.block-processed")
	return nil
}

func (t *task) reject(b millrace.StoredBlock, i int, reason error) {
	t.rejections = append(t.rejections, millrace.Rejection{
		ID:     t.partition + "/" + b.Position(i).String(),
		Input:  t.reader.Data(i),
		Key:    string(t.reader.Key(i)),
		Time:   t.reader.Time(i),
		Reason: reason,
	})
}

// behind says whether the state has not yet come to where the output ended when the task started.
func (t *task) behind() bool {
	switch {
	case t.cursor.IsStart():
		return false
	case t.at.IsStart():
		return true
	default:
		return t.at.Incarnation() == t.cursor.Incarnation() && t.at.Compare(t.cursor) < 0
	}
}

// catchUp notes that the state has come to where the output ended.
func (t *task) catchUp() {
	t.caughtUp = true
	t.log.Info("the query has replayed its input and goes on", "replayed", t.replayed, "cursor", t.cursor.String())
	t.q.o.Step("query.replayed")
}

// drain makes everything durable and saves it, after reading has ended.
func (t *task) drain(work context.Context) error {
	if err := t.snapshotWait(work); err != nil {
		return err
	}
	if err := t.snapshot(work); err != nil {
		return err
	}
	return t.snapshotWait(work)
}

func damaged(b millrace.StoredBlock, err error) error {
	return millrace.Errorf(millrace.Internal, "read the input", "block %s is damaged: %w", b.At.Block, err)
}

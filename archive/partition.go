package archive

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
)

// task archives one partition.
type task struct {
	a         *Archive
	partition string
	writer    string // random, so that records of two tasks never are equal
	log       *slog.Logger

	record  record // as saved
	version uint64 // of the record in State

	at      millrace.Position // how far the stream was gathered
	first   millrace.Position // of the first event gathered
	oldest  time.Time         // when that was stored
	encoder *encoder
	reader  block.Reader
	timer   *time.Timer // when what is gathered is cut; stopped while nothing is
	armed   bool
}

func newTask(a *Archive, partition string) *task {
	return &task{a: a, partition: partition, writer: rand.Text(), log: a.log.With("partition", partition)}
}

// item is what the reading goroutine hands over.
type item struct {
	block millrace.StoredBlock
	err   error // a *millrace.Gap, after which more comes, or what ended the reading
}

// run archives until ctx ends and the rest is delivered, or the stream ends. work ends later than ctx,
// to cut that short.
func (t *task) run(ctx, work context.Context) error {
	work, cancel := context.WithCancel(work)
	defer cancel()
	if err := t.retry(work, "open the archive", func() error { return t.open(work) }); err != nil {
		return err
	}
	if err := t.recover(work); err != nil {
		return err
	}
	t.at = t.record.Position
	t.encoder = newEncoder(t.a.c.Format, t.a.c.Compression)
	t.timer = time.NewTimer(time.Hour)
	defer t.timer.Stop()
	t.disarm()

	// At most three blocks are in memory: one being read, one waiting, one being encoded.
	items := make(chan item, 1)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer close(items)
		t.read(work, t.at, items)
	}()
	defer func() { cancel(); <-ended }()

	stop := ctx.Done()
	var last *millrace.Position // where the stream ended when ctx did
	for last == nil || t.at.Compare(*last) < 0 {
		select {
		case it, ok := <-items:
			if !ok {
				return t.flush(work)
			}
			if err := t.take(work, it); err != nil {
				return err
			}
		case <-t.timer.C:
			t.armed = false
			if err := t.flush(work); err != nil {
				return err
			}
		case <-stop:
			stop = nil
			if err := t.retry(work, "look up the end of the stream", func() error {
				_, end, err := t.a.o.From.Bounds(work, t.partition)
				last = &end
				return err
			}); err != nil {
				return err
			}
		}
	}
	return t.flush(work)
}

// read hands the partition's blocks over until work ends, or the stream does.
func (t *task) read(work context.Context, at millrace.Position, items chan<- item) {
	hand := func(it item) bool {
		select {
		case items <- it:
			return true
		case <-work.Done():
			return false
		}
	}
	out := outage{t: t, what: "read the stream"}
	for {
		var failed error
		for b, err := range t.a.o.From.Read(work, t.partition, at) {
			var gap *millrace.Gap
			switch {
			case errors.As(err, &gap):
				at = gap.First
			case err != nil:
				failed = err
			default:
				at = b.At
			}
			if failed != nil {
				break
			}
			out.over()
			if !hand(item{b, err}) {
				return
			}
		}
		if failed == nil {
			return
		}
		if !out.wait(work, failed) {
			hand(item{err: failed})
			return
		}
	}
}

func (t *task) take(work context.Context, it item) error {
	var gap *millrace.Gap
	switch {
	case errors.As(it.err, &gap):
		return t.takeGap(work, gap)
	case it.err != nil:
		return it.err
	default:
		return t.takeBlock(work, it.block)
	}
}

// takeBlock gathers a block's events and cuts where the object has reached its size.
func (t *task) takeBlock(work context.Context, b millrace.StoredBlock) error {
	n := int(b.Header.Events)
	skip := b.Skip(t.at)
	if skip >= n {
		t.at = b.At
		t.arm(b.Stored)
		return nil
	}
	if err := load(&t.reader, b); err != nil {
		return t.takeUndecodable(work, b, err)
	}
	// While catching up, what was stored long after the oldest event belongs into the next object, as
	// if the archive had been there in time. Without this, a quiet day would end up under its first hour.
	if t.encoder.events > 0 && b.Stored.Sub(t.oldest) >= max(t.a.c.Buffer.Interval, time.Second) {
		if err := t.flush(work); err != nil {
			return err
		}
	}
	for i := skip; i < n; i++ {
		if t.encoder.events == 0 {
			t.first, t.oldest = b.Position(i), b.Stored
			t.disarm()
			t.a.o.Metrics.lag.set(t.a.name, t.partition, b.Stored)
		}
		data := t.reader.Data(i)
		t.encoder.add(data, len(data) == 0 && t.reader.Deleted(i))
		t.at = b.Position(i)
		if t.encoder.size() >= t.a.c.Buffer.Size {
			if err := t.flush(work); err != nil {
				return err
			}
		}
	}
	if t.encoder.events > 0 {
		t.arm(t.oldest)
	}
	return nil
}

// load decompresses what the archive looks at: the data, and whether events end their keys, which
// makes a difference for those without data only.
func load(r *block.Reader, b millrace.StoredBlock) error {
	err := r.Reset(b.Raw)
	if err == nil && r.Len() != int(b.Header.Events) {
		err = millrace.Errorf(millrace.Invalid, "decode block", "it has %d events, and its header says %d", r.Len(), b.Header.Events)
	}
	if err == nil {
		err = r.Load(block.Data)
	}
	if err != nil {
		return err
	}
	for i := range r.Len() {
		if len(r.Data(i)) == 0 {
			return r.Load(block.Keys)
		}
	}
	return nil
}

// arm sets the timer to when what was stored at a time is due, if it is not set. Catching up, that has
// passed already, and the time is that in which the next blocks will have been read.
func (t *task) arm(stored time.Time) {
	if t.armed {
		return
	}
	interval := t.a.c.Buffer.Interval
	wait := stored.Add(interval).Sub(t.a.o.Now())
	t.timer.Reset(min(max(wait, min(interval, time.Second)), interval))
	t.armed = true
}

func (t *task) disarm() {
	t.timer.Stop()
	t.armed = false
}

// takeGap records positions that are gone.
func (t *task) takeGap(work context.Context, gap *millrace.Gap) error {
	if lostTail(gap) {
		return t.truncated(gap.First, gap.After)
	}
	if err := t.flush(work); err != nil {
		return err
	}
	t.a.o.Metrics.gaps.WithLabelValues(t.a.name).Inc()
	t.log.LogAttrs(work, slog.LevelError, "events are gone from the stream and can't be archived",
		slog.String("after", gap.After.String()), slog.String("to", gap.First.String()), slog.String("reason", string(gap.Reason)))
	t.at = gap.First
	return t.deliverFailure(work, failure{
		After: t.record.Position, To: gap.First, Type: typeGap, Reason: string(gap.Reason),
	}, t.a.o.Now())
}

// takeUndecodable records a block that does not decode.
func (t *task) takeUndecodable(work context.Context, b millrace.StoredBlock, reason error) error {
	if err := t.flush(work); err != nil {
		return err
	}
	t.a.o.Metrics.undecodable.WithLabelValues(t.a.name).Inc()
	t.log.LogAttrs(work, slog.LevelError, "a block does not decode and can't be archived",
		slog.String("at", b.At.String()), slog.String("producer", b.Header.Producer), slog.Any("error", reason))
	t.at = b.At
	return t.deliverFailure(work, failure{
		After: t.record.Position, To: b.At, Type: typeUndecodable, Reason: reason.Error(), Stored: &b.Stored, Raw: b.Raw,
	}, b.Stored)
}

// lostTail says whether the stream ends before the position that was asked for. Where blocks in its
// midst were damaged, the gap's reason is the same, and it lies after that position: nothing that is
// archived is in doubt then.
func lostTail(gap *millrace.Gap) bool {
	return gap.Reason == millrace.Truncated && gap.First.Compare(gap.After) <= 0
}

func (t *task) truncated(end, archived millrace.Position) error {
	return millrace.Errorf(millrace.Internal, "read the stream",
		"stream %q ends at %q, before %q, which is archived: the stream lost its tail, and what it stores from now on "+
			"can't be told from what is archived; restore the stream, or start over under another archive name and prefix",
		t.a.o.From.Name(), end, archived)
}

package nats

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/millrace/millrace"
)

// Reading asks JetStream for batches of messages by sequence (direct gets) and keeps no consumer
// there: nothing to lose when JetStream starts anew, nothing to delete when the reader ends. A
// reader that has come to the end waits until somebody tells that the partition has grown: Append does
// in this process, JetStream's republishing from others.

const (
	batchMessages = 256
	// batchBytes bounds a batch, but for its last block. Larger batches would not be faster, and would
	// delay the acknowledgements that JetStream sends by the same queue.
	batchBytes = 1 << 20
	// batchTimeout without a message means that the rest of a batch is lost.
	batchTimeout = 3 * time.Second
	// giveUp is how long a reader tries again before it ends with Unavailable.
	giveUp = 30 * time.Second
	// lookEvery is how often a waiting reader of an external server looks by itself, in case a notice
	// was lost or the stream was deleted.
	lookEvery = 5 * time.Second
)

// Read implements millrace.Stream.
func (s *Stream) Read(ctx context.Context, name string, after millrace.Position) iter.Seq2[millrace.StoredBlock, error] {
	const verb = "read"
	return func(yield func(millrace.StoredBlock, error) bool) {
		p, err := s.find(verb, name)
		if err != nil {
			if !s.isClosed() {
				yield(millrace.StoredBlock{}, err)
			}
			return
		}
		r := reader{p: p, at: after, yield: yield, timer: time.NewTimer(time.Hour)}
		defer r.timer.Stop()
		r.replies = make(chan *nats.Msg, 4*(batchMessages+1))
		r.inbox = nats.NewInbox() + "."
		sub, err := s.e.read.ChanSubscribe(r.inbox+"*", r.replies)
		if err != nil {
			if !s.isClosed() {
				yield(millrace.StoredBlock{}, s.fail(millrace.Unavailable, verb, "%w", err))
			}
			return
		}
		defer func() { _ = sub.Unsubscribe() }() // fails only where the connection is closed
		if err := r.run(ctx); err != nil && !s.isClosed() {
			yield(millrace.StoredBlock{}, s.fail(millrace.Unavailable, verb, "%w", err))
		}
	}
}

// reader reads one partition for one caller.
type reader struct {
	p     *partition
	at    millrace.Position // how far the caller has come
	next  uint64            // the sequence of the next message
	yield func(millrace.StoredBlock, error) bool
	ended bool // the caller wants no more

	inbox   string
	replies chan *nats.Msg
	batch   int       // the number of the batch in flight or done
	flying  bool      // its end has not come yet
	want    uint64    // the sequence of the first message that no reply has held yet
	queue   []message // replies that are not yielded yet: at most two batches
	absent  int       // how often in a row nothing was there though the partition goes further
	trouble error     // what went wrong with the batch
	timer   *time.Timer
	failing time.Time // since when nothing succeeds; zero if all is well
}

// run reads until the caller has enough or the stream is closed (nil), or it cannot go on.
func (r *reader) run(ctx context.Context) error {
	if err := r.place(ctx); err != nil {
		return err
	}
	for !r.ended {
		r.p.mu.Lock()
		tail, changed, doubted := r.p.tail, r.p.changed, r.p.doubted
		r.p.mu.Unlock()

		// The next batch is on its way while the caller works on this one.
		for here := true; here && r.flying; {
			select {
			case m := <-r.replies:
				r.reply(m)
			default:
				here = false
			}
		}
		if r.trouble == nil && !r.flying && r.want <= tail {
			r.request()
		}
		select { // as soon as a reader that waits would
		case <-r.p.s.closed:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		default:
		}
		var err error
		switch {
		case len(r.queue) > 0:
			m := r.queue[0]
			r.queue[0] = message{} // the block is the caller's alone now
			r.queue = r.queue[1:]
			err = r.take(ctx, m)
		case r.trouble != nil:
			err = r.recover(ctx)
		default:
			err = r.wait(ctx, changed, doubted)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// wait returns when there may be something to do.
func (r *reader) wait(ctx context.Context, changed, doubted <-chan struct{}) error {
	var look <-chan time.Time
	switch {
	case r.flying:
		r.timer.Reset(batchTimeout)
		look, changed = r.timer.C, nil
	case r.p.e.server == nil:
		r.timer.Reset(lookEvery)
		look = r.timer.C
	}
	select {
	case m := <-r.replies:
		r.reply(m)
	case <-changed:
	case <-doubted:
		return r.place(ctx)
	case <-look:
		return r.place(ctx)
	case <-r.p.s.closed:
	case <-ctx.Done():
	}
	return nil
}

// recover goes on after a batch that failed.
func (r *reader) recover(ctx context.Context) error {
	if !errors.Is(r.trouble, errNoMessage) {
		if err := r.pause(ctx, r.trouble); err != nil {
			return err
		}
		return r.place(ctx)
	}
	// The partition goes further, and nothing is there: perhaps it was trimmed meanwhile, or cut. A
	// replica that lags will have it soon. Otherwise it is damaged, and what comes behind it may be
	// whole.
	patience := 2
	if r.p.e.replicas() > 1 {
		patience = 20
	}
	if r.absent++; r.absent < patience {
		if r.absent > 1 {
			if err := r.pause(ctx, r.trouble); err != nil {
				return err
			}
		}
		return r.place(ctx)
	}
	r.trouble, r.absent = nil, 0
	r.p.mu.Lock()
	tail := r.p.tail
	r.p.mu.Unlock()
	for seq := r.want + 1; seq <= tail; seq++ {
		if m, err := r.p.get(ctx, getRequest{Seq: seq}); err == nil {
			r.want = m.seq // take finds what is missing
			return nil
		} else if !errors.Is(err, errNoMessage) {
			return r.pause(ctx, err)
		}
	}
	r.next, r.want = tail+1, tail+1
	r.lost(r.p.before(tail + 1))
	return nil
}

// pause waits a little before something that failed is tried again; in the end it returns the failure.
func (r *reader) pause(ctx context.Context, failure error) error {
	if r.failing.IsZero() {
		r.failing = time.Now()
	}
	if time.Since(r.failing) > giveUp {
		return failure
	}
	r.timer.Reset(50 * time.Millisecond)
	select {
	case <-r.timer.C:
		return nil
	case <-r.p.s.closed:
		return failure
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// place finds the sequence with which reading after r.at goes on, and yields a gap if positions
// between are gone. It forgets what is in flight.
func (r *reader) place(ctx context.Context) error {
	var end millrace.Position
	for {
		_, err := r.p.refresh(ctx)
		if err == nil {
			end, err = r.p.end(ctx)
		}
		if err == nil {
			break
		}
		if err := r.pause(ctx, err); err != nil {
			return err
		}
	}
	r.failing = time.Time{}
	r.batch++
	r.flying, r.queue, r.trouble = false, nil, nil

	r.p.mu.Lock()
	trimmed, tail := r.p.trimmed, r.p.tail
	r.p.mu.Unlock()
	seq, known := r.p.sequence(r.at)
	front := trimmed.Event
	if front.IsStart() {
		front = r.p.before(1)
	}
	if end.IsStart() {
		end = front
	}
	r.next = max(seq, trimmed.Through+1)
	switch {
	case !known:
		r.next = trimmed.Through + 1
		r.gap(front, millrace.NewIncarnation)
	case seq > tail+1, seq == tail+1 && r.at.Event > 0:
		// The tail was lost. Or nobody ever was there: a client may ask for anything.
		r.p.e.o.Logger.Info("a reader asks for a position beyond the end",
			"stream", r.p.s.name, "partition", r.p.partition, "after", r.at.String(), "end", end.String())
		r.next = tail + 1
		r.gap(end, millrace.Truncated)
	case r.at.Compare(trimmed.Event) < 0:
		r.gap(trimmed.Event, millrace.Trimmed)
	}
	r.want = r.next
	return nil
}

// gap tells the caller that it misses everything up to first.
func (r *reader) gap(first millrace.Position, reason millrace.GapReason) {
	gap := &millrace.Gap{After: r.at, First: first, Reason: reason}
	r.at = first
	if !r.yield(millrace.StoredBlock{}, gap) {
		r.ended = true
	}
}

// lost tells the caller, and who runs the program, that blocks are missing in the middle.
func (r *reader) lost(first millrace.Position) {
	r.p.s.m.lost.Inc()
	r.p.e.o.Logger.Error("blocks are missing that were stored: the store is damaged",
		"stream", r.p.s.name, "partition", r.p.partition, "after", r.at.String(), "first", first.String())
	r.gap(first, millrace.Truncated)
}

// request asks for the next batch.
func (r *reader) request() {
	body, err := json.Marshal(getRequest{Seq: r.want, Batch: batchMessages, MaxBytes: batchBytes})
	if err == nil {
		r.batch++
		err = r.p.e.read.PublishRequest("$JS.API.DIRECT.GET."+r.p.name, r.inbox+strconv.Itoa(r.batch), body)
	}
	r.flying, r.trouble = err == nil, err
}

// reply queues a message of the batch in flight, or takes note of its end.
func (r *reader) reply(m *nats.Msg) {
	if !r.flying || strings.TrimPrefix(m.Subject, r.inbox) != strconv.Itoa(r.batch) {
		return // left over from a batch that was given up
	}
	switch status := m.Header.Get("Status"); status {
	case "":
		got, err := parseMessage(m)
		if err != nil {
			r.flying, r.trouble = false, err
			return
		}
		r.queue = append(r.queue, got)
		r.want, r.absent = got.seq+1, 0
	case "204": // the end of the batch
		r.flying = false
	case "404": // nothing from want on
		r.flying, r.trouble = false, errNoMessage
	default:
		r.flying, r.trouble = false, fmt.Errorf("JetStream says %s %s", status, m.Header.Get("Description"))
	}
}

// take yields the block of a message.
func (r *reader) take(ctx context.Context, m message) error {
	if m.seq > r.next {
		if err := r.missing(ctx, m.seq); err != nil || r.ended {
			return err
		}
	}
	if m.seq < r.next {
		return nil
	}
	r.next = m.seq + 1
	if !r.p.isBlock(m) {
		return nil
	}
	b, err := r.p.block(m)
	switch {
	case err != nil:
		r.lost(r.p.before(m.seq + 1))
	case b.At.Block == r.at.Block && b.At.Event < r.at.Event: // another block stood there once
		r.gap(b.At, millrace.Truncated)
	case b.At.Compare(r.at) > 0:
		r.at = b.At
		r.ended = !r.yield(b, nil)
	}
	return nil
}

// missing accounts for the sequences between the one that should come next and seq.
func (r *reader) missing(ctx context.Context, seq uint64) error {
	for {
		_, err := r.p.refresh(ctx)
		if err == nil {
			break
		}
		if err := r.pause(ctx, err); err != nil {
			return err
		}
	}
	r.failing = time.Time{}
	if trimmed := r.p.trimRecordKnown(); trimmed.Through >= r.next {
		r.next = trimmed.Through + 1
		if r.at.Compare(trimmed.Event) < 0 {
			r.gap(trimmed.Event, millrace.Trimmed)
		}
	}
	if seq > r.next && !r.ended {
		r.next = seq
		r.lost(r.p.before(seq))
	}
	return nil
}

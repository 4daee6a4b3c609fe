package producer

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/millrace/millrace"
)

// Between two tries of an append, in an outage.
const (
	firstPause = 20 * time.Millisecond
	maxPause   = 5 * time.Second
)

// mark tells a producer's blocks in one partition apart: consecutive ones never have equal marks,
// and the empty copy that trimming makes of a block has the mark of its original.
type mark struct {
	writer      [16]byte
	flush       uint64
	commit      bool
	uncommitted int // within a flush each block without Commit names one block more than the one before
}

func markOf(h millrace.Header) mark {
	return mark{writer: h.Writer, flush: h.Flush, commit: h.Commit, uncommitted: len(h.Uncommitted)}
}

// append appends a block after our newest one, until it is there, ctx has ended (Unavailable), or it
// can't be (Conflict: another writer has taken over; Internal; what the stream refuses it for).
// Appending itself happens under the context appends, which ends later.
func (p *Producer) append(ctx, appends context.Context, t *target, b millrace.Block) error {
	op := "append to " + t.String()
	for try := 0; ; try++ {
		at, err := t.stream.Append(appends, t.partition, t.last, b)
		code := millrace.CodeOf(err)
		switch code {
		case "":
			t.last, t.mark = at, markOf(b.Header)
			p.outage.end(p.log, t)
			return nil
		case millrace.Conflict, millrace.Unavailable:
		default:
			return &millrace.Error{Code: code, Op: op, Err: err}
		}
		before := t.last
		landed, lookErr := p.settle(appends, t, b.Header)
		switch {
		case landed:
			p.outage.end(p.log, t)
			return nil
		case lookErr != nil && millrace.CodeOf(lookErr) != millrace.Unavailable:
			return &millrace.Error{Code: millrace.CodeOf(lookErr), Op: op, Err: lookErr}
		}
		p.metrics.retries.Inc()
		if t.last != before {
			continue // trimming was at work: our newest block has another position now
		}
		p.outage.begin(p.log, t, err)
		if !pause(ctx, try) {
			return &millrace.Error{Code: millrace.Unavailable, Op: op, Err: err}
		}
	}
}

// settle finds out what became of an append: whether the block with header h had landed. If not, it is
// to be appended after target.last.
func (p *Producer) settle(ctx context.Context, t *target, h millrace.Header) (landed bool, err error) {
	last, err := t.stream.Last(ctx, t.partition, p.config.Name)
	if millrace.CodeOf(err) == millrace.NotFound {
		return false, millrace.Errorf(millrace.Internal, "", "the stream has lost the producer's blocks; was it deleted?")
	}
	if err != nil {
		return false, err
	}
	switch m := markOf(last.Header); {
	case m == markOf(h):
		t.last, t.mark = last.At, m
		return true, nil
	case m == t.mark: // the block before it, or its copy
		t.last = last.At
		return false, nil
	case m.writer == p.writer:
		return false, millrace.Errorf(millrace.Internal, "",
			"the stream has lost its end: its newest block of this producer is of flush %d, and flush %d was there", m.flush, t.mark.flush)
	default:
		return false, errTakenOver(last.Header)
	}
}

func errTakenOver(by millrace.Header) error {
	return millrace.Errorf(millrace.Conflict, "",
		"another writer (%x) of this producer has taken over; does a second process run the same configuration?", by.Writer)
}

// pause waits before the next try, twice as long each time up to maxPause, less a random part. It
// returns false when ctx ends.
func pause(ctx context.Context, try int) bool {
	d := min(firstPause<<min(try, 20), maxPause)
	timer := time.NewTimer(d/2 + rand.N(d/2)) //nolint:gosec // jitter is no secret
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// outage logs the beginning and the end of a time without success, once each.
type outage struct {
	mu    sync.Mutex
	since map[*target]time.Time
}

func (o *outage) begin(log *slog.Logger, t *target, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, known := o.since[t]; known {
		return
	}
	if o.since == nil {
		o.since = map[*target]time.Time{}
	}
	o.since[t] = time.Now()
	log.Warn("the stream takes no blocks; events wait, and their source with them, until it does: "+
		"look for a full disk, an engine that is down, or a reader that holds retention up",
		"stream", t.stream.Name(), "partition", t.partition, "error", err)
}

func (o *outage) end(log *slog.Logger, t *target) {
	o.mu.Lock()
	defer o.mu.Unlock()
	since, known := o.since[t]
	if !known {
		return
	}
	delete(o.since, t)
	log.Info("the stream takes blocks again; nothing was lost",
		"stream", t.stream.Name(), "partition", t.partition, "after", time.Since(since))
}

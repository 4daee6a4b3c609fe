package httpsource

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace"
)

// One call of Emit takes about so much at most, so that the producer can begin to append while the rest is
// being emitted.
const (
	emitEvents = 4096
	emitBytes  = 1 << 20
)

// run is one life of a source: the requests that wait, and the goroutine that commits them.
type run struct {
	source   *Source
	out      millrace.Emitter
	keys     *keys
	life     int64
	requests atomic.Int64  // counted in this life
	wake     chan struct{} // has something when the queue has

	mu       sync.Mutex
	queue    []*request
	entered  int // requests in flight
	draining bool
	closed   bool
	idle     chan struct{} // closed when draining and nothing is in flight

	events []millrace.Event // of one Emit; reused
}

var errNotTaken = errors.New("nothing was taken")

// enter counts a request in, unless the source is ending.
func (r *run) enter() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.draining || r.closed {
		return false
	}
	r.entered++
	return true
}

// leave counts it out.
func (r *run) leave() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.entered--
	if r.draining && r.entered == 0 {
		close(r.idle)
	}
}

// drain takes no new requests from now on.
func (r *run) drain() {
	s := r.source
	s.mu.Lock()
	s.ending = true
	s.mu.Unlock()
	r.mu.Lock()
	r.draining = true
	if r.entered == 0 {
		close(r.idle)
	}
	r.mu.Unlock()
	s.o.Step("http.draining")
}

// commit queues a request, whose done hears what becomes of it.
func (r *run) commit(q *request) bool {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return false
	}
	r.queue = append(r.queue, q)
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default: // it is awake
	}
	return true
}

// batch is what is committed together.
type batch struct {
	requests []*request
	at       time.Time
}

// commitAll commits what is queued, until ctx has ended and nothing is in flight any more. The next batch
// is emitted before those of the last one are told that they are durable: while they answer, and their
// senders send again, the stream is at work.
func (r *run) commitAll(ctx, committing context.Context) error {
	var next, durable batch
	for {
		r.mu.Lock()
		next.requests, r.queue = r.queue, next.requests[:0]
		r.mu.Unlock()
		var err error
		if len(next.requests) > 0 {
			err = r.emitBatch(committing, &next, &durable)
		}
		r.endAll(&durable, nil)
		if len(next.requests) > 0 {
			if err == nil {
				r.source.o.Step("http.emitted")
				err = r.out.Flush(committing)
			}
			if err != nil {
				r.endAll(&next, err)
				if ctx.Err() != nil && millrace.CodeOf(err) == millrace.Unavailable {
					return nil // it was cut off; nobody was told that it is durable
				}
				return err
			}
			r.source.o.Step("http.durable")
			next, durable = durable, next
			continue
		}
		select {
		case <-r.wake:
		case <-r.idle:
			return nil
		case <-committing.Done():
			return nil
		}
	}
}

// emitBatch emits the events of a batch, and takes out those requests that nobody waits for any more. The last
// batch is durable, and its keys are not settled yet: the cursor must not leave them behind.
func (r *run) emitBatch(ctx context.Context, b, last *batch) (err error) {
	b.at = r.source.o.Now()
	since := b.at
	if len(last.requests) > 0 {
		since = last.at
	}
	r.source.o.Step("http.taken")
	all, bytes, number := b.requests, 0, int64(0)
	b.requests = all[:0]
	for _, q := range all {
		if q.state.Load() == abandoned {
			r.end(q, errNotTaken, b.at)
			continue
		}
		b.requests = append(b.requests, q)
		if err != nil {
			continue
		}
		number = max(number, q.number)
		for i := range q.events {
			if q.key != nil && q.key.seen != nil && q.key.seen.has(i) {
				continue // an earlier try has brought it
			}
			r.events = append(r.events, q.events[i])
			bytes += len(q.events[i].Data)
		}
		if len(r.events) >= emitEvents || bytes >= emitBytes {
			err = r.emit(ctx, b.at, since, number)
			bytes = 0
		}
	}
	clear(all[len(b.requests):])
	if err == nil && len(r.events) > 0 {
		err = r.emit(ctx, b.at, since, number)
	}
	r.forget()
	return err
}

// endAll tells all requests of a batch what has become of them.
func (r *run) endAll(b *batch, err error) {
	for _, q := range b.requests {
		r.end(q, err, b.at)
	}
	clear(b.requests)
	b.requests = b.requests[:0]
}

// emit emits what has gathered. since is from when on keys may be settled that no line holds yet.
func (r *run) emit(ctx context.Context, now, since time.Time, number int64) error {
	if oldest := r.keys.oldest(now); !oldest.IsZero() && oldest.Before(since) {
		since = oldest
	}
	err := r.out.Emit(ctx, r.events, cursor{life: r.life, request: number, since: since.Unix()}.format())
	r.forget()
	return err
}

// forget lets go of the events, and of memory that only an unusual batch needed.
func (r *run) forget() {
	clear(r.events)
	if r.events = r.events[:0]; cap(r.events) > 4*emitEvents {
		r.events = nil
	}
}

// end tells a request what has become of it. If nobody waits for it any more it lets go of it.
func (r *run) end(q *request, err error, now time.Time) {
	if q.key != nil {
		r.keys.settle(q.key, err == nil, len(q.events), q.rejected, now)
	}
	if err == nil {
		r.source.instruments.events.Add(float64(len(q.events)))
	}
	if q.state.CompareAndSwap(waiting, ended) {
		q.done <- err
		return
	}
	r.source.release(q)
}

// close ends what waits still.
func (r *run) close() {
	r.mu.Lock()
	r.closed = true
	queue := r.queue
	r.queue = nil
	r.mu.Unlock()
	for _, q := range queue {
		r.end(q, errNotTaken, r.source.o.Now())
	}
}

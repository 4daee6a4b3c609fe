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
	requests atomic.Int64 // counted in this life
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
	defer r.mu.Unlock()
	r.draining = true
	if r.entered == 0 {
		close(r.idle)
	}
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

// commitAll commits what is queued, until ctx has ended and nothing is in flight any more.
func (r *run) commitAll(ctx, committing context.Context) error {
	var batch []*request
	for {
		r.mu.Lock()
		batch, r.queue = r.queue, batch[:0]
		r.mu.Unlock()
		if len(batch) > 0 {
			err := r.commitBatch(committing, batch)
			clear(batch)
			if err != nil {
				if ctx.Err() != nil && millrace.CodeOf(err) == millrace.Unavailable {
					return nil // it was cut off; nobody was told that it is durable
				}
				return err
			}
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

// commitBatch makes a batch durable and tells those who wait for it.
func (r *run) commitBatch(ctx context.Context, batch []*request) error {
	s := r.source
	now := s.o.Now()
	s.o.Step("http.taken")
	taken, bytes, number := batch[:0], 0, int64(0)
	var err error
	for _, q := range batch {
		if q.state.Load() == abandoned {
			r.end(q, errNotTaken, now)
			continue
		}
		taken = append(taken, q)
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
			err = r.emit(ctx, now, number)
			bytes = 0
		}
	}
	if err == nil && len(r.events) > 0 {
		err = r.emit(ctx, now, number)
	}
	r.forget()
	if err == nil && len(taken) > 0 {
		s.o.Step("http.emitted")
		err = r.out.Flush(ctx)
	}
	if err == nil {
		s.o.Step("http.durable")
	}
	for _, q := range taken {
		r.end(q, err, now)
	}
	return err
}

func (r *run) emit(ctx context.Context, now time.Time, number int64) error {
	since := r.keys.oldest(now)
	if since.IsZero() {
		since = now
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

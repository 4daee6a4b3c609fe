package httpsource

import (
	"context"
	"sync"
	"time"
)

// room bounds the requests in flight and the bytes that they hold. Who finds none waits in line; who
// waits too long goes away empty.
type room struct {
	mu       sync.Mutex
	bytes    int64 // free
	requests int   // free
	line     []*waiter
}

// waiter is one in the line.
type waiter struct {
	bytes    int64
	requests int
	turn     chan struct{} // closed when it has got what it waits for
}

func newRoom(bytes int64, requests int) *room { return &room{bytes: bytes, requests: requests} }

// take takes bytes, and a request's place if requests is 1. It returns false when it waited in vain, or
// ctx has ended.
func (r *room) take(ctx context.Context, bytes int64, requests int, wait time.Duration) bool {
	r.mu.Lock()
	if len(r.line) == 0 && r.fits(bytes, requests) {
		r.bytes -= bytes
		r.requests -= requests
		r.mu.Unlock()
		return true
	}
	if wait <= 0 {
		r.mu.Unlock()
		return false
	}
	w := &waiter{bytes: bytes, requests: requests, turn: make(chan struct{})}
	r.line = append(r.line, w)
	r.mu.Unlock()

	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-w.turn:
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, other := range r.line {
		if other == w {
			r.line = append(r.line[:i], r.line[i+1:]...)
			r.serve() // whoever is behind it may want less
			return false
		}
	}
	return true // its turn came in the same moment
}

// give gives back what was taken.
func (r *room) give(bytes int64, requests int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.bytes += bytes
	r.requests += requests
	r.serve()
}

func (r *room) fits(bytes int64, requests int) bool {
	return bytes <= r.bytes && requests <= r.requests
}

func (r *room) serve() {
	for len(r.line) > 0 && r.fits(r.line[0].bytes, r.line[0].requests) {
		w := r.line[0]
		r.line[0] = nil
		r.line = r.line[1:]
		r.bytes -= w.bytes
		r.requests -= w.requests
		close(w.turn)
	}
}

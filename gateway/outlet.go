package gateway

import (
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// outlet is one connection's way out. Frames go straight to the socket for as long as it takes them;
// what it does not take waits in a queue of at most limit bytes, and a goroutine that lives only as
// long as the queue is not empty writes it. Nobody who hands a frame over ever waits.
//
// What waits is copied, so that the shared buffers of a fan-out are free again when it has passed and
// the queue's bound is the bound of the memory. Only a single frame larger than the limit is shared
// (big); it is taken when nothing else waits.
type outlet struct {
	conn  net.Conn
	raw   syscall.RawConn // nil where a socket cannot be written directly: TLS, pipes, Windows
	form  form            // for where frames end
	limit int
	flows *flows
	done  func() // called once, with mu held: closing, and the last byte has been handed to the socket

	mu       sync.Mutex
	state    outletState
	opening  bool          // the response's head is being written: frames wait
	draining bool          // a goroutine writes what waits
	finished bool          // done has been called
	busy     bool          // drainBlocking is writing big
	big      []byte        // one frame, shared
	queue    []byte        // whole frames, after big
	line     *line         // frames after queue, of which events may be dropped; nil: there are none
	off      int           // bytes of big, or of queue if there is no big, that the socket has taken
	inflight int           // bytes that drainBlocking is writing; whole frames, before queue
	wrote    int64         // when the socket last took something, by flows.clock
	room     chan struct{} // if not nil: gets a token when nothing waits any more, or the outlet is closed
}

// flows is what all outlets of a gateway share.
type flows struct {
	clock   atomic.Int64 // coarse time in ns, moved on by the pinger
	queued  func(bytes int)
	running sync.WaitGroup
}

type outletState uint8

const (
	open    outletState = iota
	closing             // takes no more frames; what waits is still written
	closed
)

// verdict is what became of frames that were handed over.
type verdict uint8

const (
	sent    verdict = iota // to the socket, all of them
	queued                 // some wait
	gone                   // the connection is closing or closed
	refused                // they are not taken: the queue would pass its limit
)

// waiting returns the bytes that wait for the socket; mu is held.
func (o *outlet) waiting() int {
	waiting := len(o.big) + len(o.queue) - o.off + o.inflight
	if o.line != nil {
		waiting += o.line.bytes
	}
	return waiting
}

// backlog returns the bytes that wait, and when the socket last took something.
func (o *outlet) backlog() (bytes int, wrote int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.waiting(), o.wrote
}

// send hands over whole frames. shared says that b is never changed again.
func (o *outlet) send(b []byte, shared bool) verdict { return o.sendEvents(b, shared, nil) }

// sendEvents is send for events that may be dropped, if c is not nil; they are never refused.
func (o *outlet) sendEvents(b []byte, shared bool, c *cargo) verdict {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.put(b, shared, c)
}

// put is sendEvents; mu is held.
func (o *outlet) put(b []byte, shared bool, c *cargo) verdict {
	if o.state != open {
		return gone
	}
	if len(b) == 0 {
		return sent
	}
	n, direct := 0, o.raw != nil && !o.opening
	switch waiting := o.waiting(); {
	case waiting == 0 && direct:
		var err error
		if n, err = writeNow(o.raw, b); err != nil {
			o.shut()
			return gone
		}
		o.wrote = o.flows.clock.Load()
		if n == len(b) {
			return sent
		}
	case waiting > 0 && (o.over(b) || c.conflates()):
		// The drainer may not have run since the socket has room again: look before giving up.
		if direct && !o.flush() {
			return gone
		}
		if c == nil && o.waiting() > 0 && o.over(b) && !o.giveWay(b) {
			return refused
		}
	}
	if c == nil && o.line == nil {
		o.enqueue(b, n, shared)
	} else {
		o.lineUp(b, n, shared, c)
	}
	if !o.draining && !o.opening {
		o.drain()
	}
	return queued
}

// over says whether b is too much for the queue; mu is held.
func (o *outlet) over(b []byte) bool { return o.behind()+len(b) > o.limit }

// behind returns what counts against the limit. A large frame that the socket is taking does not, or the next
// event would end the connection. mu is held.
func (o *outlet) behind() int {
	behind := len(o.queue) + o.inflight
	if o.big == nil {
		behind -= o.off
	}
	if o.line != nil {
		behind += o.line.cost
	}
	return behind
}

// enqueue keeps b, of which the socket has taken n bytes; n > 0 only if nothing waits. mu is held.
func (o *outlet) enqueue(b []byte, n int, shared bool) {
	if o.waiting() == 0 {
		o.queue, o.off, o.wrote = o.queue[:0], 0, o.flows.clock.Load()
		if shared {
			o.big, o.off = b, n
			o.flows.queued(len(b) - n)
			return
		}
	}
	// Keep the frame that is half written whole, so that the queue begins with a frame.
	for n > 0 {
		size := o.form.frameSize(b)
		if size > n {
			break
		}
		b, n = b[size:], n-size
	}
	if n > 0 {
		o.off = n
	}
	o.queue = append(o.queue, b...)
	o.flows.queued(len(b) - n)
}

// flush writes what waits for as long as the socket takes it, and returns false if the socket is
// broken. mu is held.
func (o *outlet) flush() bool {
	for o.waiting() > 0 {
		front := o.queue
		if o.big != nil {
			front = o.big
		}
		if len(front) == 0 {
			if more, err := o.flushLine(); err != nil {
				o.shut()
				return false
			} else if !more {
				return true
			}
			continue
		}
		n, err := writeNow(o.raw, front[o.off:])
		if err != nil {
			o.shut()
			return false
		}
		if n > 0 {
			o.wrote = o.flows.clock.Load()
			o.flows.queued(-n)
		}
		o.off += n
		if o.off < len(front) {
			o.compact()
			return true
		}
		if o.off = 0; o.big != nil {
			o.big = nil
		} else {
			o.queue = nil
		}
	}
	return true
}

// compact drops frames that are written from the front of the queue once they are the half of it.
func (o *outlet) compact() {
	if o.big != nil || o.off < len(o.queue)/2 {
		return
	}
	whole := 0
	for {
		size := o.form.frameSize(o.queue[whole:])
		if whole+size > o.off {
			break
		}
		whole += size
	}
	o.queue = append(o.queue[:0], o.queue[whole:]...)
	o.off -= whole
}

// begin hands over the response's head, which a fresh socket takes whole. Where a socket cannot be written
// directly, whoever opens the connection writes the head, and frames wait until start.
func (o *outlet) begin(head []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.raw == nil {
		o.opening = true
		return
	}
	if n, err := writeNow(o.raw, head); err != nil || n < len(head) {
		o.shut()
	}
}

// start ends the time in which frames wait because the response's head is being written.
func (o *outlet) start() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.opening = false
	o.proceed()
}

// proceed writes what waits, or tells those who wait for that; mu is held.
func (o *outlet) proceed() {
	switch {
	case o.opening || o.state == closed:
	case o.waiting() == 0:
		o.emptied()
	case !o.draining:
		o.drain()
	}
}

// emptied tells that nothing waits any more; mu is held.
func (o *outlet) emptied() {
	if o.room != nil {
		select {
		case o.room <- struct{}{}:
		default:
		}
	}
	if o.state == closing && !o.finished {
		o.finished = true
		o.done()
	}
}

// drain starts the goroutine that writes what waits; mu is held.
func (o *outlet) drain() {
	o.draining = true
	o.flows.running.Go(func() {
		if o.raw == nil {
			o.drainBlocking()
			return
		}
		err := o.raw.Write(func(uintptr) bool { // called again whenever the socket has room
			o.mu.Lock()
			defer o.mu.Unlock()
			if o.state != closed && o.flush() && o.waiting() > 0 {
				return false
			}
			o.draining = false
			o.proceed()
			return true
		})
		if err != nil {
			o.close()
		}
	})
}

// drainBlocking is drain for connections whose Write may block.
func (o *outlet) drainBlocking() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for o.state != closed && o.waiting() > 0 {
		front := o.big
		if front == nil {
			if front, o.queue = o.queue, nil; len(front) == 0 {
				front = o.next()
			}
			if o.big == nil {
				o.inflight = len(front)
			}
		}
		o.busy = o.big != nil
		o.mu.Unlock()
		_, err := o.conn.Write(front)
		o.mu.Lock()
		if o.state == closed {
			return
		}
		if err != nil {
			o.shut()
			return
		}
		o.big, o.busy, o.inflight, o.wrote = nil, false, 0, o.flows.clock.Load()
		o.flows.queued(-len(front))
	}
	o.draining = false
	o.proceed()
}

// follow hands over frames that were held back: the queue may have its limit of them besides what waits
// already.
func (o *outlet) follow(b []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.waiting() == 0 {
		o.put(b, false, nil)
	} else if o.state == open && o.line != nil {
		o.lineUp(b, 0, false, nil)
	} else if o.state == open {
		o.enqueue(b, 0, false)
	}
}

// await returns a channel that has a token when nothing waits, or the outlet is closed. One goroutine
// at a time may use it.
func (o *outlet) await() <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.room == nil {
		o.room = make(chan struct{}, 1)
	}
	select { // a token from before
	case <-o.room:
	default:
	}
	if o.waiting() == 0 && !o.opening || o.state != open {
		o.room <- struct{}{}
	}
	return o.room
}

// finish lets the outlet take no more frames and appends a last one. drop says that what waits is
// dropped, up to the end of a frame that is half written. The client has until deadline; then reading
// from it fails. It returns false if the outlet was closing already.
func (o *outlet) finish(last []byte, drop bool, deadline time.Time) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.state != open {
		return false
	}
	_ = o.conn.SetReadDeadline(deadline) // before anything that may abort
	if drop {
		o.dropQueue()
	}
	if o.waiting() == 0 && !o.opening && o.raw != nil {
		n, err := writeNow(o.raw, last)
		if err != nil {
			o.shut()
			return true
		}
		if n == len(last) {
			last = nil
		} else if n > 0 {
			o.queue, o.off = append(o.queue[:0], last...), n
			o.flows.queued(len(last) - n)
			last = nil
		}
	}
	if o.line != nil {
		o.line.append(newParcel(last, false, o.limit))
	} else {
		o.queue = append(o.queue, last...)
	}
	o.flows.queued(len(last))
	o.state = closing
	o.proceed()
	return true
}

// dropQueue drops what waits but for the rest of a frame that is half written; mu is held.
func (o *outlet) dropQueue() {
	before := o.waiting()
	o.line = nil
	switch {
	case o.big != nil && (o.off > 0 || o.busy):
		o.queue = nil
	case o.big != nil:
		o.big, o.queue = nil, nil
	default:
		end := 0
		for end < o.off {
			end += o.form.frameSize(o.queue[end:])
		}
		o.queue = o.queue[:end]
	}
	o.flows.queued(o.waiting() - before)
}

// isClosing says whether no more frames are taken.
func (o *outlet) isClosing() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.state != open
}

// close ends the outlet and its connection at once.
func (o *outlet) close() {
	o.mu.Lock()
	o.shut()
	o.mu.Unlock()
	_ = o.conn.Close() // nothing can be done about it
}

// shut ends the outlet, and whoever reads from or writes to the connection, who closes it then: closing
// waits for all that are using the socket, of whom the caller may be one. mu is held.
func (o *outlet) shut() {
	if o.state == closed {
		return
	}
	o.flows.queued(-o.waiting())
	o.state = closed
	o.big, o.queue, o.line, o.off, o.inflight = nil, nil, nil, 0, 0
	o.emptied()
	abort(o.conn)
}

// abort makes all that use the connection fail, without waiting for them.
func abort(conn net.Conn) { _ = conn.SetDeadline(time.Unix(1, 0)) }

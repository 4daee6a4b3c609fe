package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// door is an address that the program listens on. Stages come and go behind it, one at a time, and it stays
// open: whoever knocks between two of them waits in the kernel's queue and is not refused.
type door struct {
	section, address string        // as configured
	taken            chan struct{} // capacity 1: full while somebody serves

	mu       sync.Mutex
	listener net.Listener // nil: to be bound (again)
	bound    string       // the address that it was bound to, with the port that was chosen
	waiting  []net.Conn   // taken in by somebody who had just ended; one of each at the most
}

// openDoor binds the address.
func openDoor(section, address string) (*door, error) {
	l, err := listen(section, address)
	if err != nil {
		return nil, err
	}
	return &door{section: section, address: address, taken: make(chan struct{}, 1), listener: l, bound: l.Addr().String()}, nil
}

func listen(section, address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		if failure, ok := errors.AsType[*net.OpError](err); ok {
			err = failure.Err // without the address a second time
		}
		return nil, fmt.Errorf("%s.listen: can't listen on %q: %w", section, address, err)
	}
	return l, nil
}

// serve waits until nobody else serves here and returns a listener whose Close leaves the door open. A door
// that was shut is bound again, to the same port.
func (d *door) serve(ctx context.Context) (net.Listener, error) {
	select {
	case d.taken <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.listener == nil {
		l, err := listen(d.section, d.bound)
		if err != nil {
			<-d.taken
			return nil, err
		}
		d.listener = l
	}
	return &doorway{Listener: d.listener, door: d, closed: make(chan struct{})}, nil
}

// shut closes the door. Whoever serves gets an error.
func (d *door) shut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.listener != nil {
		_ = d.listener.Close() // whatever it says, nobody comes in any more
		d.listener = nil
	}
	for _, conn := range d.waiting {
		_ = conn.Close()
	}
	d.waiting = nil
}

// doorway is a door's listener, lent to one server.
type doorway struct {
	net.Listener
	door *door

	mu        sync.Mutex
	accepting sync.WaitGroup
	closed    chan struct{}
	isClosed  bool
}

// Accept implements net.Listener.
func (w *doorway) Accept() (net.Conn, error) {
	w.mu.Lock()
	if w.isClosed {
		w.mu.Unlock()
		return nil, net.ErrClosed
	}
	w.accepting.Add(1)
	w.mu.Unlock()
	defer w.accepting.Done()
	if conn := w.door.first(); conn != nil {
		return conn, nil
	}
	conn, err := w.Listener.Accept()
	select {
	case <-w.closed:
		if err == nil {
			w.door.keep(conn)
		}
		return nil, net.ErrClosed
	default:
		return conn, err
	}
}

// Close implements net.Listener. When it returns, the next server may begin.
func (w *doorway) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.isClosed {
		return nil
	}
	w.isClosed = true
	close(w.closed)
	if l, ok := w.Listener.(interface{ SetDeadline(time.Time) error }); ok {
		_ = l.SetDeadline(time.Unix(1, 0)) // wakes Accept; fails where it is closed, which does so, too
		w.accepting.Wait()
		_ = l.SetDeadline(time.Time{})
	}
	<-w.door.taken
	return nil
}

// keep puts a connection aside for the next server.
func (d *door) keep(conn net.Conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.listener == nil {
		_ = conn.Close()
		return
	}
	d.waiting = append(d.waiting, conn)
}

// first returns a connection that was put aside, nil if there is none.
func (d *door) first() net.Conn {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.waiting) == 0 {
		return nil
	}
	conn := d.waiting[0]
	d.waiting = d.waiting[1:]
	return conn
}

//go:build unix

package sse

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
)

// conn is a connection that holds no memory while nothing comes: it takes a buffer when there is something
// to read and gives it back when that has been handed over. A read brings much at once all the same, and a
// thousand quiet feeds share a few buffers.
type conn struct {
	net.Conn
	raw syscall.RawConn

	mu     sync.Mutex // not held while there is nothing to read: Close ends that
	closed bool
	full   *[]byte // the buffer, while there is something in it
	rest   []byte  // what of it was not handed over yet
}

// readBuffer is the transport's. It need not be large: conn brings much at once.
const readBuffer = 4 << 10

// How much a read can bring: many small chunks of a busy feed. Where many connections hold on to what they have read,
// since nobody takes it, the others get by with less.
const (
	connBuffer  = 16 << 10
	smallLoan   = 4 << 10
	largeLoaned = 4 << 20 / connBuffer // so many may have a large one at the same time
)

var (
	connBuffers  = sync.Pool{New: func() any { b := make([]byte, connBuffer); return &b }}
	smallBuffers = sync.Pool{New: func() any { b := make([]byte, smallLoan); return &b }}
	loaned       atomic.Int64 // large ones
)

func borrow() *[]byte {
	if loaned.Add(1) > largeLoaned {
		loaned.Add(-1)
		return smallBuffers.Get().(*[]byte) //nolint:forcetypeassert // nothing else is in it
	}
	return connBuffers.Get().(*[]byte) //nolint:forcetypeassert // nothing else is in it
}

func giveBack(b *[]byte) {
	if len(*b) < connBuffer {
		smallBuffers.Put(b)
		return
	}
	loaned.Add(-1)
	connBuffers.Put(b)
}

// thrifty wraps a connection; one whose bytes are not the socket's own it leaves as it is.
func thrifty(c net.Conn) net.Conn {
	s, ok := c.(*net.TCPConn)
	if !ok {
		return c
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return c
	}
	return &conn{Conn: c, raw: raw}
}

// Read implements net.Conn. It is called by one goroutine at a time.
func (c *conn) Read(p []byte) (int, error) {
	c.mu.Lock()
	if c.full == nil {
		c.mu.Unlock()
		if len(p) >= connBuffer/2 || len(p) == 0 {
			return c.Conn.Read(p)
		}
		b, n, err := c.fill()
		if err != nil {
			return 0, err
		}
		c.mu.Lock()
		if c.closed {
			c.mu.Unlock()
			giveBack(b)
			return 0, net.ErrClosed
		}
		c.full, c.rest = b, (*b)[:n]
	}
	defer c.mu.Unlock()
	n := copy(p, c.rest)
	if c.rest = c.rest[n:]; len(c.rest) == 0 {
		giveBack(c.full)
		c.full = nil
	}
	return n, nil
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.mu.Lock()
	if c.closed = true; c.full != nil {
		giveBack(c.full)
		c.full, c.rest = nil, nil
	}
	c.mu.Unlock()
	return c.Conn.Close()
}

// fill waits until there is something to read, and reads it into a buffer that the caller gives back.
func (c *conn) fill() (b *[]byte, n int, err error) {
	var failed error
	err = c.raw.Read(func(fd uintptr) (done bool) {
		b = borrow()
		for {
			n, failed = syscall.Read(int(fd), *b)
			if !errors.Is(failed, syscall.EINTR) {
				break
			}
		}
		if n > 0 {
			return true
		}
		giveBack(b)
		return !errors.Is(failed, syscall.EAGAIN)
	})
	switch {
	case err != nil: // closed, or a deadline
		return nil, 0, err
	case n > 0:
		return b, n, nil
	case failed != nil:
		return nil, 0, &net.OpError{Op: "read", Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: failed}
	default:
		return nil, 0, io.EOF
	}
}

//go:build unix

package sse

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
)

// conn is a connection that holds no memory while nothing comes: it takes a buffer when there is something
// to read and gives it back when that has been handed over. A read brings much at once all the same, and a
// thousand quiet feeds share a few buffers.
type conn struct {
	net.Conn
	raw  syscall.RawConn
	full *[]byte // the buffer, while there is something in it
	rest []byte  // what of it was not handed over yet
}

// readBuffer is the transport's. It need not be large: conn brings much at once.
const readBuffer = 4 << 10

// connBuffer is how much a read can bring: many small chunks of a busy feed.
const connBuffer = 16 << 10

var connBuffers = sync.Pool{New: func() any {
	b := make([]byte, connBuffer)
	return &b
}}

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
	if c.full == nil {
		if len(p) >= connBuffer/2 || len(p) == 0 {
			return c.Conn.Read(p)
		}
		if err := c.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, c.rest)
	if c.rest = c.rest[n:]; len(c.rest) == 0 {
		connBuffers.Put(c.full)
		c.full = nil
	}
	return n, nil
}

// fill waits until there is something to read, and reads it.
func (c *conn) fill() error {
	var n int
	var failed error
	err := c.raw.Read(func(fd uintptr) (done bool) {
		b := connBuffers.Get().(*[]byte) //nolint:forcetypeassert // nothing else is in it
		for {
			n, failed = syscall.Read(int(fd), *b)
			if !errors.Is(failed, syscall.EINTR) {
				break
			}
		}
		if n > 0 {
			c.full, c.rest = b, (*b)[:n]
			return true
		}
		connBuffers.Put(b)
		return !errors.Is(failed, syscall.EAGAIN)
	})
	switch {
	case err != nil: // closed, or a deadline
		return err
	case n > 0:
		return nil
	case failed != nil:
		return &net.OpError{Op: "read", Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: failed}
	default:
		return io.EOF
	}
}

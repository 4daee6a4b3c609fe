//go:build unix

package gateway

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"

	"github.com/millrace/millrace/listener"
)

// rawConn returns the socket under conn if it may be written directly.
func rawConn(conn net.Conn) syscall.RawConn {
	tcp := listener.Socket(conn)
	if tcp == nil {
		return nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}

// directWrite is one write that does not wait. They are pooled because the function that a RawConn
// calls escapes.
type directWrite struct {
	b   []byte
	n   int
	err error
	run func(fd uintptr)
}

var directWrites = sync.Pool{New: func() any {
	w := &directWrite{}
	w.run = w.write
	return w
}}

func (w *directWrite) write(fd uintptr) {
	for {
		w.n, w.err = syscall.Write(int(fd), w.b)
		if !errors.Is(w.err, syscall.EINTR) {
			return
		}
	}
}

// writeNow writes what the socket takes without waiting, which may be nothing. It goes by
// RawConn.Control, which keeps the descriptor from being closed under it but, unlike Write, does not
// queue behind a drainer that waits for room.
func writeNow(raw syscall.RawConn, b []byte) (int, error) {
	w := directWrites.Get().(*directWrite) //nolint:forcetypeassert // the pool holds nothing else
	w.b, w.n, w.err = b, 0, nil
	err := raw.Control(w.run)
	n := w.n
	if err == nil {
		err = w.err
	}
	w.b, w.err = nil, nil
	directWrites.Put(w)
	switch {
	case err == nil && n <= 0 && len(b) > 0:
		return 0, io.ErrUnexpectedEOF
	case err == nil:
		return n, nil
	case errors.Is(err, syscall.EAGAIN):
		return 0, nil
	default:
		return 0, err
	}
}

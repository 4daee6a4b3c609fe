//go:build !unix

package gateway

import (
	"errors"
	"net"
	"syscall"
)

// rawConn returns nil: sockets are not written directly here, each queue is written by a goroutine.
func rawConn(net.Conn) syscall.RawConn { return nil }

func writeNow(syscall.RawConn, []byte) (int, error) { return 0, errors.ErrUnsupported }

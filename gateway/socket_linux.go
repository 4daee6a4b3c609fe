package gateway

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// giveUpAfter makes the kernel give a connection up whose client has acknowledged nothing for so long:
// an event stream's client that has vanished would otherwise be noticed only when its queue is full,
// for it is never asked for an answer.
func giveUpAfter(conn net.Conn, d time.Duration) {
	if raw := rawConn(conn); raw != nil {
		_ = raw.Control(func(fd uintptr) { // best effort: without it the kernel's own timeouts hold
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.Milliseconds()))
		})
	}
}

//go:build !unix

package sse

import "net"

// readBuffer is the transport's: many small chunks of a busy feed in one read.
const readBuffer = 64 << 10

// thrifty does nothing here: the system offers no way to wait for bytes without a buffer for them.
func thrifty(c net.Conn) net.Conn { return c }

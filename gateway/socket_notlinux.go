//go:build !linux

package gateway

import (
	"net"
	"time"
)

// giveUpAfter is of Linux only; elsewhere the kernel's own timeouts hold.
func giveUpAfter(net.Conn, time.Duration) {}

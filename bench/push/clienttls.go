//go:build linux

package main

import (
	"crypto/tls"
	"fmt"
	"net"
	"unsafe"
)

// runTLS is a connection over TLS, which has a goroutine of its own: what it costs is not measured.
func (c *client) runTLS(at int) {
	k := &c.all[at]
	err := func() error {
		var dialer net.Dialer
		if c.options.sources > 1 {
			dialer.LocalAddr = &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(1+at%c.options.sources))}
		}
		plain, err := dialer.Dial("tcp4", c.options.address)
		if err != nil {
			return fmt.Errorf("connect: %w", err)
		}
		defer plain.Close()
		//nolint:gosec // the server has made its certificate up
		conn := tls.Client(plain, &tls.Config{InsecureSkipVerify: true})
		if err := conn.Handshake(); err != nil {
			return fmt.Errorf("TLS: %w", err)
		}
		c.mu.Lock()
		k.tls, k.phase = conn, asking
		request := c.request(k)
		c.mu.Unlock()
		if _, err := conn.Write(request); err != nil {
			return fmt.Errorf("write: %w", err)
		}
		b := make([]byte, 4<<10)
		for {
			n, err := conn.Read(b)
			if err != nil {
				return err
			}
			c.mu.Lock()
			err = c.take(at, b[:n])
			c.mu.Unlock()
			if err != nil {
				return err
			}
		}
	}()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lose(at, err)
}

// bufferOf is the address of a buffer, for a bare system call.
func bufferOf(b []byte) uintptr { return uintptr(unsafe.Pointer(&b[0])) } //nolint:gosec // c.buf lives as long as the client

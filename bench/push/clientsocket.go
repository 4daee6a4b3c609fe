//go:build linux

package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// open begins handshakes, as many as may be under way, of connections whose time has come.
func (c *client) open() {
	if len(c.waiting) == 0 || c.opening >= handshakes {
		return
	}
	now := time.Now()
	for i := len(c.waiting) - 1; i >= 0 && c.opening < handshakes; i-- {
		at := c.waiting[i]
		if c.all[at].at.After(now) {
			continue
		}
		last := len(c.waiting) - 1
		c.waiting[i] = c.waiting[last]
		c.waiting = c.waiting[:last]
		c.opening++
		c.all[at].phase = connecting
		if c.options.tls {
			go c.runTLS(at)
			continue
		}
		if err := c.connect(at); err != nil {
			c.lose(at, err)
		}
	}
}

// connect begins to connect a socket.
func (c *client) connect(at int) error {
	k := &c.all[at]
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	k.fd = fd
	if k.stalled { // as over Ethernet: the server's socket would take megabytes of loopback's large segments
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_MAXSEG, 1448)
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 32<<10)
	}
	if c.options.sources > 1 {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1) // saves ports
		from := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, byte(1 + at%c.options.sources)}}
		if err := unix.Bind(fd, from); err != nil {
			return fmt.Errorf("bind: %w", err)
		}
	}
	err = unix.Connect(fd, &unix.SockaddrInet4{Addr: c.host, Port: c.port})
	if err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return fmt.Errorf("connect: %w", err)
	}
	e := unix.EpollEvent{Events: unix.EPOLLOUT | unix.EPOLLIN | unix.EPOLLRDHUP, Fd: int32(at)}
	if err := unix.EpollCtl(c.epoll, unix.EPOLL_CTL_ADD, fd, &e); err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	return nil
}

// handle handles what the epoll says of a connection.
func (c *client) handle(at int, events uint32) {
	k := &c.all[at]
	if k.fd < 0 {
		return
	}
	if k.phase == connecting {
		if err := c.ask(at); err != nil {
			c.lose(at, err)
		}
		return
	}
	if k.stalled && k.phase == live {
		if events&(unix.EPOLLHUP|unix.EPOLLERR) != 0 {
			c.lose(at, errors.New("it was stalled and was cut"))
		}
		return
	}
	for {
		n, _, code := unix.RawSyscall(unix.SYS_READ, uintptr(k.fd), bufferOf(c.buf), uintptr(len(c.buf)))
		switch {
		case code == unix.EAGAIN:
			return
		case code == unix.EINTR:
			continue
		case code != 0:
			c.lose(at, code)
			return
		case n == 0:
			c.lose(at, errors.New("the server closed it"))
			return
		}
		if err := c.take(at, c.buf[:n]); err != nil {
			c.lose(at, err)
			return
		}
		// Edges only: a short read has emptied the socket, unless its end has come.
		if int(n) < len(c.buf) && events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) == 0 {
			return
		}
	}
}

// ask sends the handshake when the socket is connected.
func (c *client) ask(at int) error {
	k := &c.all[at]
	if code, err := unix.GetsockoptInt(k.fd, unix.SOL_SOCKET, unix.SO_ERROR); err != nil || code != 0 {
		return fmt.Errorf("connect: %w", unix.Errno(code))
	}
	if _, err := unix.Write(k.fd, c.request(k)); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	k.phase = asking
	e := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLET, Fd: int32(at)}
	return unix.EpollCtl(c.epoll, unix.EPOLL_CTL_MOD, k.fd, &e)
}

// request is the handshake (RFC 6455, section 4.1).
func (c *client) request(k *connection) []byte {
	query := byte('?')
	r := append(make([]byte, 0, 256), "GET "...)
	r = append(r, c.options.path...)
	parameter := func(name, value string) {
		r = append(append(append(append(r, query), name...), '='), value...)
		query = '&'
	}
	if k.key != "" {
		parameter("key", k.key)
	}
	if len(k.id) > 0 && c.options.reconnect {
		parameter("since", string(k.id))
	}
	switch c.options.protocol {
	case "centrifuge-json":
		parameter("cf_ws_frame_ping_pong", "true")
	case "centrifuge-protobuf":
		parameter("cf_ws_frame_ping_pong", "true")
		parameter("cf_protocol", "protobuf")
	}
	r = fmt.Appendf(r, " HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n", c.options.address, nonce)
	if c.options.protocol == "millrace.v1" {
		r = append(r, "Sec-WebSocket-Protocol: millrace.v1\r\n"...)
	}
	return append(r, "\r\n"...)
}

// lose ends a connection, which is opened again if the client does that. Otherwise it is an error, unless
// it was stalled.
func (c *client) lose(at int, reason error) {
	k := &c.all[at]
	if k.phase == live {
		c.live--
		c.report.Losses++
		if c.lost.IsZero() {
			c.lost = time.Now()
		}
	} else {
		c.opening--
	}
	if k.fd >= 0 {
		_ = unix.Close(k.fd) // it is given up
	}
	stalled := k.stalled && k.phase == live
	k.fd, k.phase, k.rest = -1, idle, k.rest[:0]
	if !c.options.reconnect && !stalled {
		if c.failure == nil {
			c.failure = fmt.Errorf("connection %s: %w", strconv.Itoa(at), reason)
		}
		return
	}
	k.at = time.Now().Add(time.Duration(rand.Int64N(int64(max(c.options.jitter, 1)))))
	c.waiting = append(c.waiting, at)
}

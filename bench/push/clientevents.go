//go:build linux

package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// take takes bytes that have arrived.
func (c *client) take(at int, b []byte) error {
	k := &c.all[at]
	if c.counting {
		c.report.Reads++
		c.report.Bytes += int64(len(b))
	}
	if len(k.rest) > 0 {
		k.rest = append(k.rest, b...)
		b = k.rest
	}
	var now int64
	if c.timeline != nil {
		now = time.Now().UnixNano()
	}
	whole := b
	if k.phase == asking {
		head := bytes.Index(b, []byte("\r\n\r\n"))
		if head < 0 {
			k.rest = append(k.rest[:0], b...)
			return nil
		}
		if !bytes.HasPrefix(b, []byte("HTTP/1.1 101 ")) || !bytes.Contains(b[:head+2], c.accept) {
			return fmt.Errorf("the handshake was answered %q", b[:min(len(b), 200)])
		}
		if err := c.join(k); err != nil {
			return err
		}
		b = b[head+4:]
	}
	for {
		op, payload, size := splitFrame(b)
		if size == 0 {
			break
		}
		b = b[size:]
		if err := c.frame(k, op, payload, now); err != nil {
			return err
		}
	}
	switch {
	case len(b) == 0:
		k.rest = k.rest[:0]
	case len(b) < len(whole) || len(k.rest) == 0:
		k.rest = append(k.rest[:0], b...) // it may move within rest
	}
	return nil
}

// Commands with which a client of centrifuge begins; the channel is the server's choice.
var (
	connectJSON     = []byte(`{"id":1,"connect":{}}`)
	connectProtobuf = []byte{4, 0x08, 1, 0x22, 0} // its length; id 1; an empty connect
)

// join is called when the handshake was answered.
func (c *client) join(k *connection) error {
	k.phase = joining
	switch c.options.protocol {
	case "plain":
		c.joined(k)
	case "centrifuge-json":
		return c.send(k, appendMasked(nil, opText, connectJSON))
	case "centrifuge-protobuf":
		return c.send(k, appendMasked(nil, opBin, connectProtobuf))
	}
	return nil
}

// joined is called when the connection is live.
func (c *client) joined(k *connection) {
	k.phase = live
	c.opening--
	c.live++
	if c.live == len(c.all) && !c.lost.IsZero() {
		c.report.Back = time.Since(c.lost).Seconds()
	}
}

// send sends a frame that is short enough for a socket to take it whole.
func (c *client) send(k *connection, frame []byte) error {
	if k.tls != nil {
		_, err := k.tls.Write(frame)
		return err
	}
	_, err := unix.Write(k.fd, frame)
	return err
}

// frame takes one frame.
func (c *client) frame(k *connection, op byte, payload []byte, now int64) error {
	switch op {
	case opText, opBin:
	case opPing:
		return c.send(k, appendMasked(nil, opPong, payload))
	case opClose:
		code := 1005
		if len(payload) >= 2 {
			code = int(binary.BigEndian.Uint16(payload))
		}
		c.report.Codes[code]++
		_ = c.send(k, appendMasked(nil, opClose, payload[:min(2, len(payload))])) // the server may be gone
		return fmt.Errorf("the server closed it with code %d: %q", code, payload[min(2, len(payload)):])
	default:
		return fmt.Errorf("a frame has the opcode %d", op)
	}
	events := 0
	for n, rest, ok := nextNumber(payload); ok; n, rest, ok = nextNumber(rest) {
		c.event(k, n, now)
		events++
	}
	if c.options.protocol == "millrace.v1" {
		if id := positionOf(payload); id != nil && c.options.reconnect {
			k.id = append(k.id[:0], id...)
		}
		if events == 0 && bytes.Contains(payload, []byte(`"gap":`)) {
			c.report.Gaps++
		}
		if k.phase == joining && events == 0 && bytes.Contains(payload, []byte(`"live":true`)) {
			c.joined(k)
		}
	} else if k.phase == joining {
		c.joined(k) // the answer to connect
	}
	return nil
}

// event takes event n.
func (c *client) event(k *connection, n, now int64) {
	switch {
	case k.last >= 0 && n <= k.last:
		c.report.Repeats++
		return
	case k.last >= 0:
		c.report.Missing += (n-k.last)/k.step - 1
	}
	k.last = n
	if c.counting {
		c.report.Deliveries++
		if c.timeline != nil && len(c.samples) < cap(c.samples) {
			c.samples = append(c.samples, sample{n, now})
		}
	}
}

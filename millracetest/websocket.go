package millracetest

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
)

// Opcodes of WebSocket frames (RFC 6455, section 5.2).
const (
	OpContinuation byte = 0
	OpText         byte = 1
	OpBinary       byte = 2
	OpClose        byte = 8
	OpPing         byte = 9
	OpPong         byte = 10
)

// WebSocket is a client for tests. It does exactly what it is told, also what RFC 6455 forbids, and
// does nothing by itself but for answering pings in Read. One goroutine may read while another writes.
type WebSocket struct {
	Conn     net.Conn
	Response *http.Response // of the opening handshake
	in       *bufio.Reader
}

// Frame is a WebSocket frame.
type Frame struct {
	Op      byte
	Rest    bool // more fragments follow: the bit FIN is not set
	Rsv     byte // the three reserved bits
	Bare    bool // sent without a mask
	Payload []byte
}

// Closed is the error of a read that found a close frame. Code is 0 if the frame had none.
type Closed struct {
	Code   uint16
	Reason string
}

// Error implements error.
func (c *Closed) Error() string { return fmt.Sprintf("closed by the server: %d %q", c.Code, c.Reason) }

// Refused is the error of an opening handshake that was answered with another status than 101.
type Refused struct {
	Status int
	Header http.Header
	Body   string
}

// Error implements error.
func (r *Refused) Error() string { return fmt.Sprintf("refused: %d %s", r.Status, r.Body) }

// DialWebSocket opens a WebSocket at a ws:// URL.
func DialWebSocket(ctx context.Context, rawURL string, header http.Header) (*WebSocket, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, err
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return nil, err
	}
	w, err := OpenWebSocket(ctx, conn, rawURL, header)
	if err != nil {
		_ = conn.Close()
	}
	return w, err
}

// OpenWebSocket makes the opening handshake over a connection.
func OpenWebSocket(ctx context.Context, conn net.Conn, rawURL string, header http.Header) (*WebSocket, error) {
	var nonce [16]byte
	_, _ = rand.Read(nonce[:]) // never fails
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, rawURL, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Connection", "Upgrade")
	request.Header.Set("Upgrade", "websocket")
	request.Header.Set("Sec-WebSocket-Version", "13")
	request.Header.Set("Sec-WebSocket-Key", base64.StdEncoding.EncodeToString(nonce[:]))
	maps.Copy(request.Header, header)
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	if err := request.Write(conn); err != nil {
		return nil, err
	}
	w := &WebSocket{Conn: conn, in: bufio.NewReader(conn)}
	if w.Response, err = http.ReadResponse(w.in, request); err != nil {
		return nil, err
	}
	if w.Response.StatusCode != http.StatusSwitchingProtocols {
		body, _ := io.ReadAll(io.LimitReader(w.Response.Body, 4<<10)) // as much as there is
		_ = w.Response.Body.Close()
		return nil, &Refused{Status: w.Response.StatusCode, Header: w.Response.Header, Body: string(body)}
	}
	return w, nil
}

// NewWebSocket returns a client over a connection whose opening handshake has been made; in reads from
// conn.
func NewWebSocket(conn net.Conn, in *bufio.Reader) *WebSocket { return &WebSocket{Conn: conn, in: in} }

// ReadFrame reads one frame of any kind. A masked frame, or a length that is not in its shortest form, is
// an error.
func (w *WebSocket) ReadFrame() (Frame, error) {
	var head [10]byte
	if _, err := io.ReadFull(w.in, head[:2]); err != nil {
		return Frame{}, err
	}
	f := Frame{Op: head[0] & 15, Rest: head[0]&0x80 == 0, Rsv: head[0] >> 4 & 7}
	if head[1]&0x80 != 0 {
		return f, errors.New("the server has masked a frame")
	}
	length, least := uint64(head[1]), uint64(0)
	switch length {
	case 126:
		if _, err := io.ReadFull(w.in, head[2:4]); err != nil {
			return f, err
		}
		length, least = uint64(binary.BigEndian.Uint16(head[2:])), 126
	case 127:
		if _, err := io.ReadFull(w.in, head[2:10]); err != nil {
			return f, err
		}
		length, least = binary.BigEndian.Uint64(head[2:]), 1<<16
	}
	if length < least {
		return f, fmt.Errorf("the server's length %d is not in its shortest form", length)
	}
	if length > 1<<28 {
		return f, fmt.Errorf("the server's frame has %d bytes", length)
	}
	f.Payload = make([]byte, length)
	_, err := io.ReadFull(w.in, f.Payload)
	return f, err
}

// Read returns the next text or binary message, and answers the pings before it. A close frame is a
// *Closed.
func (w *WebSocket) Read() (op byte, payload []byte, err error) {
	var message Frame
	for {
		f, err := w.ReadFrame()
		if err != nil {
			return 0, nil, err
		}
		switch f.Op {
		case OpPing:
			if err := w.WriteFrame(Frame{Op: OpPong, Payload: f.Payload}); err != nil {
				return 0, nil, err
			}
			continue
		case OpPong:
			continue
		case OpClose:
			c := &Closed{}
			if len(f.Payload) >= 2 {
				c.Code, c.Reason = binary.BigEndian.Uint16(f.Payload), string(f.Payload[2:])
			}
			return 0, nil, c
		case OpContinuation:
			message.Payload = append(message.Payload, f.Payload...)
		default:
			message = f
		}
		if !f.Rest {
			return message.Op, message.Payload, nil
		}
	}
}

// WriteFrame sends one frame.
func (w *WebSocket) WriteFrame(f Frame) error {
	_, err := w.Conn.Write(AppendFrame(nil, f))
	return err
}

// AppendFrame appends a frame as a client sends it, with its length in the shortest form.
func AppendFrame(dst []byte, f Frame) []byte {
	first, mask := f.Rsv<<4|f.Op, byte(0x80)
	if !f.Rest {
		first |= 0x80
	}
	if f.Bare {
		mask = 0
	}
	switch n := len(f.Payload); {
	case n < 126:
		dst = append(dst, first, mask|byte(n))
	case n < 1<<16:
		dst = binary.BigEndian.AppendUint16(append(dst, first, mask|126), uint16(n))
	default:
		dst = binary.BigEndian.AppendUint64(append(dst, first, mask|127), uint64(n))
	}
	if f.Bare {
		return append(dst, f.Payload...)
	}
	key := [4]byte{0x37, 0xfa, 0x21, 0x3d}
	dst = append(dst, key[:]...)
	for i, b := range f.Payload {
		dst = append(dst, b^key[i%4])
	}
	return dst
}

// WriteClose sends a close frame; code 0 stands for none.
func (w *WebSocket) WriteClose(code uint16, reason string) error {
	var payload []byte
	if code != 0 {
		payload = append(binary.BigEndian.AppendUint16(nil, code), reason...)
	}
	return w.WriteFrame(Frame{Op: OpClose, Payload: payload})
}

// Close closes the connection without a word.
func (w *WebSocket) Close() error { return w.Conn.Close() }

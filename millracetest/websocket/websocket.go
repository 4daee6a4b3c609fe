// Package websocket is a conformance suite of WebSocket servers: it plays the cases of RFC 6455 and
// RFC 7692 (permessage-deflate) against one, over connections of its own.
//
// So that the suite can see what the server has understood, the server answers in a subprotocol of its
// choice the text message {"ping":VALUE} with {"pong":VALUE}, VALUE being any JSON value, byte for byte. Other
// messages it may take as it likes, as long as it does not end the connection. What else it sends
// (events, greetings, pings) is checked for its framing and otherwise ignored.
package websocket

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/millrace/millrace/millracetest"
)

// Target is a server to be tested.
type Target struct {
	// URL is where to connect: ws://HOST:PORT/PATH, or wss:// with TLS.
	URL string
	// TLS is for wss.
	TLS *tls.Config
	// Protocol is the subprotocol in which pings in JSON are answered; "" if they are without one.
	Protocol string
	// MaxMessage is the size of the largest message that the server takes, in bytes; at least 1,024.
	MaxMessage int
	// Deflate says that the server accepts permessage-deflate. The cases of compression are left out
	// if not.
	Deflate bool
}

// Case is one thing that is tested, on connections of its own.
type Case struct {
	Name    string // "GROUP: WHAT"
	Section string // of RFC 6455, or of RFC 7692 if it begins with that
	run     func(t *testing.T, target *Target)
}

// patience is how long a server may take over one case. Nothing waits for it where all is well.
const patience = 10 * time.Second

// Conformance plays all cases, each as a parallel subtest of its name.
func Conformance(t *testing.T, target Target) {
	for _, c := range Cases(target) {
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			c.run(t, &target)
			if t.Failed() {
				t.Logf("see section %s", c.Section)
			}
		})
	}
}

// Cases returns what Conformance plays.
func Cases(target Target) []Case {
	var list cases
	handshakes(&list)
	framing(&list)
	control(&list)
	fragments(&list)
	texts(&list)
	sizes(&list, target.MaxMessage)
	if target.Deflate {
		negotiation(&list)
		compression(&list, target.MaxMessage)
	} else {
		list.add("compression", "RFC 7692, 5", "declined", func(t *testing.T, target *Target) {
			if h := open(t, target, true).Response.Header; len(h.Values("Sec-WebSocket-Extensions")) > 0 {
				t.Errorf("answered %q", h.Values("Sec-WebSocket-Extensions"))
			}
		})
	}
	vanishing(&list)
	return list
}

type cases []Case

func (l *cases) add(group, section, what string, run func(t *testing.T, target *Target)) {
	*l = append(*l, Case{Name: group + ": " + what, Section: section, run: run})
}

// play adds a case that is a script, played in one piece and, unless it is long, byte by byte.
func (l *cases) play(group, section, what string, s script) {
	l.add(group, section, what, func(t *testing.T, target *Target) {
		s.play(t, target, 1<<30)
		if len(s.send) <= 400 {
			s.play(t, target, 1)
		}
	})
}

// split adds a case that is a script, played in two pieces, cut anywhere.
func (l *cases) split(group, section, what string, s script) {
	l.add(group, section, what, func(t *testing.T, target *Target) {
		for at := 1; at < len(s.send); at++ {
			s.play(t, target, at, 1<<30)
		}
	})
}

// alive, for script.closes: the connection lives on.
const alive = -1

// script is what a client sends on an open connection, and what is to become of it.
type script struct {
	deflate bool // permessage-deflate has been negotiated
	send    []byte
	echoes  []string // the values of the JSON pings that are answered, in order
	pong    *string  // the payload of the last pong frame
	closes  int      // alive, or the code of the server's close frame, 0 for none
}

// play plays it. The lengths of the pieces are given; the last repeats.
func (s *script) play(t *testing.T, target *Target, pieces ...int) {
	t.Helper()
	c := open(t, target, s.deflate)
	send := append(slices.Clip(s.send), frames(ping(theEnd))...) // a server that should have closed answers it, too
	for len(send) > 0 {
		n := min(len(send), pieces[0])
		if len(pieces) > 1 {
			pieces = pieces[1:]
		}
		if _, err := c.Conn.Write(send[:n]); err != nil {
			break // the server was quicker to close; reading tells
		}
		send = send[n:]
	}
	got := c.observe(t)
	if got.closes != s.closes {
		t.Errorf("got %s, want %s", outcome(got.closes, got.reason), outcome(s.closes, ""))
	}
	if fmt.Sprintf("%q", got.echoes) != fmt.Sprintf("%q", s.echoes) {
		t.Errorf("answered %s, want %s", short(got.echoes), short(s.echoes))
	}
	if s.pong != nil && (len(got.pongs) == 0 || got.pongs[len(got.pongs)-1] != *s.pong) {
		t.Errorf("the last pong is of %q, want %q", got.pongs, *s.pong)
	}
	_ = c.Close()
}

func outcome(closes int, reason string) string {
	if closes == alive {
		return "an open connection"
	}
	return strings.TrimSpace(fmt.Sprintf("close %d %s", closes, reason))
}

func short(values []string) string { return fmt.Sprintf("%d: %.200q", len(values), values) }

// theEnd is the payload of the ping that shows that a connection lives.
const theEnd = "the end"

// client is a connection that is open.
type client struct {
	*millracetest.WebSocket
	deflate bool
}

// connect opens a connection to the server, without a handshake. It ends with the test.
func connect(t *testing.T, target *Target) net.Conn {
	t.Helper()
	u, err := url.Parse(target.URL)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var conn net.Conn
	if u.Scheme == "wss" {
		conn, err = (&tls.Dialer{Config: target.TLS}).DialContext(ctx, "tcp", u.Host)
	} else {
		conn, err = (&net.Dialer{}).DialContext(ctx, "tcp", u.Host)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return conn
}

// open makes the opening handshake.
func open(t *testing.T, target *Target, deflate bool) *client {
	t.Helper()
	header := http.Header{}
	if target.Protocol != "" {
		header.Set("Sec-WebSocket-Protocol", target.Protocol)
	}
	if deflate {
		header.Set("Sec-WebSocket-Extensions", "permessage-deflate")
	}
	w, err := millracetest.OpenWebSocket(t.Context(), connect(t, target), target.URL, header)
	if err != nil {
		t.Fatal(err)
	}
	return &client{WebSocket: w, deflate: deflate}
}

// send sends bytes and observes what they lead to.
func (c *client) send(t *testing.T, b []byte) observed {
	t.Helper()
	_, _ = c.Conn.Write(b) // reading tells
	return c.observe(t)
}

// observed is what a server did.
type observed struct {
	echoes []string // values of {"pong":VALUE}
	packed int      // how many of them came compressed
	pongs  []string // payloads of pong frames
	closes int
	reason string
}

// observe reads until the server closes, or answers the ping that is the end.
func (c *client) observe(t *testing.T) (got observed) {
	t.Helper()
	got.closes = alive
	for {
		f, err := c.ReadFrame()
		if err != nil {
			t.Errorf("read: %v", err)
			return got
		}
		control := f.Op >= millracetest.OpClose
		switch {
		case f.Rsv != 0 && (f.Rsv != 4 || control || !c.deflate):
			t.Errorf("the server's frame has the reserved bits %03b, opcode %d", f.Rsv, f.Op)
		case control && (len(f.Payload) > 125 || f.Rest):
			t.Errorf("the server's control frame has %d bytes, and more fragments follow: %t", len(f.Payload), f.Rest)
		}
		switch f.Op {
		case millracetest.OpPing:
			_ = c.WriteFrame(millracetest.Frame{Op: millracetest.OpPong, Payload: f.Payload}) // reading tells
		case millracetest.OpPong:
			if string(f.Payload) == theEnd {
				return got
			}
			got.pongs = append(got.pongs, string(f.Payload))
		case millracetest.OpClose:
			c.closed(t, f.Payload, &got)
			return got
		case millracetest.OpText:
			text := f.Payload
			if f.Rsv == 4 {
				if text, err = inflate(text); err != nil {
					t.Errorf("the server's message does not inflate by itself: %v", err)
				}
			}
			if !utf8.Valid(text) {
				t.Errorf("the server's text is not UTF-8: %.100q", text)
			}
			if value, ok := strings.CutPrefix(string(text), `{"pong":`); ok {
				got.echoes = append(got.echoes, strings.TrimSuffix(value, "}"))
				if f.Rsv == 4 {
					got.packed++
				}
			}
		case millracetest.OpBinary:
		default:
			t.Errorf("the server's frame has opcode %d", f.Op)
		}
	}
}

// closed notes the server's close frame, after which it has to end the connection.
func (c *client) closed(t *testing.T, payload []byte, got *observed) {
	t.Helper()
	got.closes = 0
	switch {
	case len(payload) == 1:
		t.Error("the server's close frame has half a code")
	case len(payload) > 1:
		got.closes, got.reason = int(binary.BigEndian.Uint16(payload)), string(payload[2:])
		if !utf8.ValidString(got.reason) {
			t.Errorf("the reason of the server's close frame is not UTF-8: %q", got.reason)
		}
	}
	// A client that has not said that it closes does so now.
	_, _ = c.Conn.Write(frames(closing(1000, "")))
	f, err := c.ReadFrame()
	var timeout net.Error
	switch {
	case err == nil:
		t.Errorf("after the server's close frame comes one with opcode %d", f.Op)
	case errors.As(err, &timeout) && timeout.Timeout():
		t.Error("the server does not end the connection after the close frames")
	}
}

// What a client sends.

type frame = millracetest.Frame

func frames(list ...frame) []byte {
	var b []byte
	for _, f := range list {
		b = millracetest.AppendFrame(b, f)
	}
	return b
}

func text(s string) frame     { return frame{Op: millracetest.OpText, Payload: []byte(s)} }
func binaries(s string) frame { return frame{Op: millracetest.OpBinary, Payload: []byte(s)} }
func next(s string) frame     { return frame{Op: millracetest.OpContinuation, Payload: []byte(s)} }
func ping(s string) frame     { return frame{Op: millracetest.OpPing, Payload: []byte(s)} }
func pong(s string) frame     { return frame{Op: millracetest.OpPong, Payload: []byte(s)} }

// more says that further fragments follow f.
func more(f frame) frame { f.Rest = true; return f }

// closing is a close frame; code 0 stands for none.
func closing(code int, reason string) frame {
	f := frame{Op: millracetest.OpClose}
	if code >= 0 {
		f.Payload = append(binary.BigEndian.AppendUint16(nil, uint16(code)), reason...)
	}
	return f
}

// say is the message that is answered with a value.
func say(value string) string { return `{"ping":` + value + `}` }

// sayOf returns a message of exactly size bytes, at least 11, and the value that it is answered with.
func sayOf(size int) (message, value string) {
	value = `"` + strings.Repeat("0123456789", size/10+1)[:size-len(say(`""`))] + `"`
	return say(value), value
}

// cut returns the frames of a message in fragments of so many bytes.
func cut(op byte, message string, size int) []frame {
	var list []frame
	for at := 0; at == 0 || at < len(message); at += size {
		end := min(at+size, len(message))
		f := frame{Op: millracetest.OpContinuation, Rest: end < len(message), Payload: []byte(message[at:end])}
		if at == 0 {
			f.Op = op
		}
		list = append(list, f)
	}
	return list
}

// header is that of a frame as it stands: the first byte, a length written in 7, 16 or 64 bits, a mask.
func header(first byte, bits int, length uint64, mask [4]byte) []byte {
	b := []byte{first}
	switch bits {
	case 7:
		b = append(b, 0x80|byte(length))
	case 16:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(length))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), length)
	}
	return append(b, mask[:]...)
}

// masked returns the payload as it is sent under a mask.
func masked(payload string, mask [4]byte) []byte {
	b := []byte(payload)
	for i := range b {
		b[i] ^= mask[i%4]
	}
	return b
}

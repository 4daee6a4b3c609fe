package websocket

import (
	"fmt"
	"strings"
	"testing"

	"github.com/millrace/millrace/millracetest"
)

// RFC 6455, sections 5.5 and 7: pings, pongs, and the way a connection ends.
func control(l *cases) {
	for _, size := range []int{0, 1, 2, 3, 64, 124, 125} {
		payload := strings.Repeat("\x00\xffp", 50)[:size]
		l.play("ping", "5.5.2", fmt.Sprintf("of %d bytes", size), script{send: frames(ping(payload)), pong: &payload, closes: alive})
	}
	l.add("ping", "5.5.2", "of every size", func(t *testing.T, target *Target) {
		c := open(t, target, false)
		for size := range 126 {
			payload := strings.Repeat("x", size)
			if got := c.send(t, frames(ping(payload), ping(theEnd))); len(got.pongs) != 1 || got.pongs[0] != payload {
				t.Fatalf("%d bytes: got %q", size, got.pongs)
			}
		}
	})
	l.play("ping", "5.5.2", "that is not UTF-8", script{send: frames(ping("\xff\xfe\xc0")), pong: new("\xff\xfe\xc0"), closes: alive})
	l.play("ping", "5.5.3", "several at once", script{ // the last must be answered, those before may be
		send: frames(ping("1"), ping("2"), ping("3")), pong: new("3"), closes: alive,
	})
	l.play("ping", "5.5.2", "between messages", script{
		send: frames(text(say("1")), ping("p"), text(say("2"))), echoes: []string{"1", "2"}, pong: new("p"), closes: alive,
	})
	l.split("ping", "5.5.2", "cut anywhere", script{send: frames(ping("payload")), pong: new("payload"), closes: alive})
	l.play("pong", "5.5.3", "that nobody asked for", script{send: frames(pong("")), closes: alive})
	l.play("pong", "5.5.3", "that nobody asked for, of 125 bytes", script{send: frames(pong(strings.Repeat("\xff", 125))), closes: alive})
	l.play("pong", "5.5.3", "several that nobody asked for", script{
		send: frames(pong("a"), pong("b"), text(say("1")), pong("c")), echoes: []string{"1"}, closes: alive,
	})
	l.play("pong", "5.5.3", "is not answered", script{send: frames(pong("x"), ping("y")), pong: new("y"), closes: alive})

	for name, f := range map[string]frame{"ping": ping(""), "pong": pong(""), "close": closing(1000, "")} {
		for _, size := range []int{126, 127, 1000, 1 << 16} {
			f.Payload = []byte("\x03\xe8" + strings.Repeat("x", size-2))
			l.play("control", "5.5", fmt.Sprintf("%s of %d bytes", name, size), script{send: frames(f), closes: 1002})
		}
		f.Payload = []byte("\x03\xe8")
		l.play("control", "5.5", name+" in fragments", script{send: frames(more(f)), closes: 1002})
		l.play("control", "5.5", name+" in fragments, in a fragmented message", script{send: frames(more(text("a")), more(f), next("")), closes: 1002})
	}

	// Between the fragments of a message (section 5.4).
	halves := []frame{more(text(say(`"between"`)[:9])), next(say(`"between"`)[9:])}
	for name, between := range map[string][]frame{
		"ping": {ping("p")}, "empty ping": {ping("")}, "largest ping": {ping(strings.Repeat("p", 125))}, "pong": {pong("p")},
		"several": {ping("1"), pong("2"), ping("3"), ping("4")},
	} {
		s := script{send: frames(append(append([]frame{halves[0]}, between...), halves[1])...), echoes: []string{`"between"`}, closes: alive}
		if last := between[len(between)-1]; last.Op == millracetest.OpPing {
			s.pong = new(string(last.Payload))
		}
		l.play("control", "5.4", name+" between fragments", s)
	}
	l.split("control", "5.4", "pings between fragments, cut anywhere", script{
		send: frames(halves[0], ping("1"), more(next("")), pong("2"), ping("3"), halves[1]), echoes: []string{`"between"`}, pong: new("3"), closes: alive,
	})
	l.add("control", "5.4", "a ping is answered before the message ends", func(t *testing.T, target *Target) {
		c := open(t, target, false)
		if got := c.send(t, frames(halves[0], ping(theEnd))); got.closes != alive || len(got.echoes) > 0 {
			t.Errorf("got %+v", got)
		}
		if got := c.send(t, frames(halves[1], ping(theEnd))); fmt.Sprint(got.echoes) != `["between"]` {
			t.Errorf("got %+v", got)
		}
	})

	closes(l)
}

// closes are the cases of close frames: the server answers with the code that it got (section 5.5.1).
func closes(l *cases) {
	for _, code := range []int{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3001, 3999, 4000, 4001, 4998, 4999} {
		l.play("close", "7.4", fmt.Sprintf("code %d", code), script{send: frames(closing(code, "")), closes: code})
	}
	for _, code := range []int{
		0, 1, 100, 500, 998, 999, 1004, 1005, 1006, 1015, 1016, 1017, 1099, 1100, 1999, 2000, 2001, 2998, 2999, 5000, 5001, 9999, 65534, 65535,
	} {
		l.play("close", "7.4", fmt.Sprintf("code %d, which may not be sent", code), script{send: frames(closing(code, "")), closes: 1002})
	}
	l.play("close", "5.5.1", "without a code", script{send: frames(closing(-1, "")), closes: 0})
	l.play("close", "5.5.1", "half a code", script{send: frames(frame{Op: millracetest.OpClose, Payload: []byte{3}}), closes: 1002})
	for name, reason := range map[string]string{
		"of one byte": "x", "of 123 bytes": strings.Repeat("r", 123), "of characters of four bytes": strings.Repeat("🎉", 30), "with a zero byte": "a\x00b",
	} {
		l.play("close", "5.5.1", "reason "+name, script{send: frames(closing(1000, reason)), closes: 1000})
	}
	l.play("close", "5.5.1", "reason too long", script{send: frames(closing(1000, strings.Repeat("r", 124))), closes: 1002})
	for name, reason := range map[string]string{
		"no start": "\x80", "overlong": "\xc0\xaf", "a surrogate": "\xed\xa0\x80", "beyond Unicode": "\xf4\x90\x80\x80", "cut short": "ok \xe2\x82", "no byte of UTF-8": "a\xffb",
	} {
		l.play("close", "8.1", "reason with "+name, script{send: frames(closing(1000, reason)), closes: 1007})
	}
	l.play("close", "7.4", "a code that may not be sent and a reason that is not UTF-8", script{send: frames(closing(1005, "\xff")), closes: 1002})
	l.split("close", "5.5.1", "cut anywhere", script{send: frames(closing(3000, "bye")), closes: 3000})

	for name, after := range map[string]frame{
		"text": text(say("1")), "ping": ping("p"), "close": closing(1001, ""), "a frame without a mask": {Op: millracetest.OpText, Bare: true},
		"text that is not UTF-8": text("\xff"), "a reserved opcode": {Op: 15},
	} {
		l.play("close", "5.5.1", name+" after it has no meaning", script{send: frames(closing(1000, ""), after), closes: 1000})
	}
	l.play("close", "5.5.1", "during a fragmented message", script{send: frames(more(text("a")), closing(1000, "")), closes: 1000})
	l.play("close", "5.5.1", "and a continuation after it", script{send: frames(more(text(say("1")[:4])), closing(1000, ""), next(say("1")[4:])), closes: 1000})
	l.play("close", "5.5.1", "after messages, which are answered", script{
		send: frames(text(say("1")), text(say("2")), ping("p"), closing(1000, "")), echoes: []string{"1", "2"}, pong: new("p"), closes: 1000,
	})
	l.play("close", "7.1.7", "only the first violation counts", script{send: frames(frame{Op: 15}, text("\xff"), closing(1000, "")), closes: 1002})
}

// vanishing are clients that go without a word. All that can be seen from outside is that the server
// goes on; that it gives up what it kept for them is for its own tests to see.
func vanishing(l *cases) {
	for name, sent := range map[string][]byte{
		"after the handshake": nil, "in a header": {0x81}, "in a long header": {0x82, 0xfe, 1}, "before the mask": {0x81, 0x85, 1, 2},
		"before the payload": header(0x81, 7, 5, [4]byte{}), "in a payload": append(header(0x81, 7, 5, [4]byte{}), "ab"...),
		"between fragments": frames(more(text("a"))), "in a ping": append(header(0x89, 7, 5, [4]byte{}), "ab"...),
		"in a close frame": append(header(0x88, 7, 2, [4]byte{}), 3), "after a close frame": frames(closing(1000, "")),
		"after a violation": frames(frame{Op: 15}), "after a message": frames(text(say("1"))),
	} {
		l.add("vanishing", "7.1.1", name, func(t *testing.T, target *Target) {
			for _, reset := range []bool{false, true} {
				c := open(t, target, false)
				_, _ = c.Conn.Write(sent) // what follows tells
				if tcp, ok := c.Conn.(interface{ SetLinger(sec int) error }); ok && reset {
					_ = tcp.SetLinger(0)
				}
				_ = c.Close()
			}
			s := script{send: frames(text(say("1"))), echoes: []string{"1"}, closes: alive}
			s.play(t, target, 1<<30)
		})
	}
}

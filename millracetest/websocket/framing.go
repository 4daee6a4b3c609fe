package websocket

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/millrace/millrace/millracetest"
)

// RFC 6455, section 5.2 and 5.3: lengths, masks, reserved bits and opcodes.
func framing(l *cases) {
	for _, size := range []int{11, 12, 64, 124, 125, 126, 127, 128, 255, 256, 257, 1000} {
		message, value := sayOf(size)
		l.play("framing", "5.2", fmt.Sprintf("text of %d bytes", size), script{
			send: frames(text(message)), echoes: []string{value}, closes: alive,
		})
	}
	for _, size := range []int{0, 1, 2, 124, 125, 126, 127, 128, 255, 256, 1000} {
		l.play("framing", "5.2", fmt.Sprintf("binary of %d bytes", size), script{
			send: frames(binaries(strings.Repeat("\xfe", size))), closes: alive,
		})
	}
	l.play("framing", "5.2", "empty text", script{send: frames(text("")), closes: alive})
	l.play("framing", "5.2", "text of one byte", script{send: frames(text("x")), closes: alive})
	l.play("framing", "5.2", "binary is not taken for text", script{send: frames(binaries(say("1"))), closes: alive})
	l.play("framing", "5.2", "messages one after the other", script{
		send: frames(text(say("1")), binaries("\xff"), text(say("2")), text(""), text(say("3"))), echoes: []string{"1", "2", "3"}, closes: alive,
	})
	var many []frame
	var values []string
	for i := range 100 {
		values = append(values, fmt.Sprint(i))
		many = append(many, text(say(values[i])))
	}
	l.play("framing", "5.2", "a hundred messages at once", script{send: frames(many...), echoes: values, closes: alive})
	l.split("framing", "5.2", "messages cut anywhere", script{
		send: frames(text(say("1")), ping("p"), text(say(`"κόσμε"`))), echoes: []string{"1", `"κόσμε"`}, closes: alive,
	})
	long, value := sayOf(130)
	l.split("framing", "5.2", "a longer message cut anywhere", script{send: frames(text(long)), echoes: []string{value}, closes: alive})

	// A length must be in its shortest form.
	for _, test := range []struct {
		bits   int
		length uint64
	}{{16, 0}, {16, 1}, {16, 125}, {64, 0}, {64, 1}, {64, 125}, {64, 126}, {64, 1 << 8}, {64, math.MaxUint16}} {
		for name, first := range map[string]byte{"text": 0x81, "binary": 0x82, "ping": 0x89} {
			l.play("length", "5.2", fmt.Sprintf("%s, %d in %d bits", name, test.length, test.bits), script{
				send: header(first, test.bits, test.length, [4]byte{}), closes: 1002,
			})
		}
	}
	for _, length := range []uint64{1 << 63, 1<<63 | 5, math.MaxUint64} {
		l.play("length", "5.2", fmt.Sprintf("most significant bit of %x", length), script{
			send: header(0x82, 64, length, [4]byte{1, 2, 3, 4}), closes: 1002,
		})
	}

	for name, mask := range map[string][4]byte{
		"zero": {}, "ones": {0xff, 0xff, 0xff, 0xff}, "a single bit": {0, 0, 0, 1}, "half": {0xa5, 0, 0x5a, 0}, "any": {0x37, 0xfa, 0x21, 0x3d},
	} {
		l.play("mask", "5.3", "text under "+name, script{
			send: append(header(0x81, 7, uint64(len(say(`"abcde"`))), mask), masked(say(`"abcde"`), mask)...), echoes: []string{`"abcde"`}, closes: alive,
		})
		l.play("mask", "5.3", "ping under "+name, script{
			send: append(header(0x89, 7, 7, mask), masked("payload", mask)...), pong: new("payload"), closes: alive,
		})
	}
	for size := 11; size < 20; size++ { // every rest of the length by four, and by eight
		message, value := sayOf(size)
		mask := [4]byte{0x80, 1, 0x40, 2}
		l.play("mask", "5.3", fmt.Sprintf("over %d bytes", size), script{
			send: append(header(0x81, 7, uint64(size), mask), masked(message, mask)...), echoes: []string{value}, closes: alive,
		})
	}
	l.play("mask", "5.3", "another one for each frame", script{
		send: append(append(header(0x01, 7, 4, [4]byte{1, 2, 3, 4}), masked(say(`"a"`)[:4], [4]byte{1, 2, 3, 4})...),
			append(header(0x80, 7, 8, [4]byte{9, 8, 7, 6}), masked(say(`"a"`)[4:], [4]byte{9, 8, 7, 6})...)...),
		echoes: []string{`"a"`}, closes: alive,
	})
	for name, f := range map[string]frame{
		"text": text("a"), "empty text": text(""), "binary": binaries("a"), "long binary": binaries(strings.Repeat("a", 300)),
		"ping": ping("a"), "empty ping": ping(""), "pong": pong("a"), "close": closing(1000, ""), "first fragment": more(text("a")),
	} {
		f.Bare = true
		l.play("mask", "5.1", "missing on "+name, script{send: frames(f), closes: 1002})
	}
	bare := next("b")
	bare.Bare = true
	l.play("mask", "5.1", "missing on a continuation", script{send: frames(more(text("a")), bare), closes: 1002})
	l.play("mask", "5.1", "missing on the second message", script{
		send: frames(text(say("1")), frame{Op: millracetest.OpText, Bare: true}), echoes: []string{"1"}, closes: 1002,
	})

	// Nothing has been negotiated that gives the reserved bits a meaning.
	for name, f := range map[string]frame{"text": text(say("1")), "binary": binaries("a"), "ping": ping("a"), "pong": pong("a"), "close": closing(1000, "")} {
		for rsv := byte(1); rsv < 8; rsv++ {
			if rsv > 4 && name != "text" {
				continue
			}
			f.Rsv = rsv
			l.play("reserved", "5.2", fmt.Sprintf("bits %03b on %s", rsv, name), script{send: frames(f), closes: 1002})
		}
	}
	for _, rsv := range []byte{1, 2, 4} {
		f := next("b")
		f.Rsv = rsv
		l.play("reserved", "5.2", fmt.Sprintf("bits %03b on a continuation", rsv), script{send: frames(more(text("a")), f), closes: 1002})
	}
	for _, op := range []byte{3, 4, 5, 6, 7, 11, 12, 13, 14, 15} {
		l.play("reserved", "5.2", fmt.Sprintf("opcode %d", op), script{send: frames(frame{Op: op}), closes: 1002})
		l.play("reserved", "5.2", fmt.Sprintf("opcode %d with a payload", op), script{send: frames(frame{Op: op, Payload: []byte("abc")}), closes: 1002})
		l.play("reserved", "5.2", fmt.Sprintf("opcode %d after a message", op), script{
			send: frames(text(say("1")), frame{Op: op, Payload: []byte("abc")}, text(say("2"))), echoes: []string{"1"}, closes: 1002,
		})
	}
	for _, op := range []byte{3, 11} {
		l.play("reserved", "5.2", fmt.Sprintf("opcode %d between fragments", op), script{
			send: frames(more(text("a")), frame{Op: op}, next("b")), closes: 1002,
		})
	}
}

// What a message may weigh: more is answered with 1009 as soon as it is known (section 7.4.1), however
// it comes. A message of the size that the server takes is taken.
func sizes(l *cases, limit int) {
	const section = "7.4.1"
	for _, size := range []int{limit - 1, limit} {
		message, value := sayOf(size)
		l.play("size", section, fmt.Sprintf("text of %d bytes", size), script{send: frames(text(message)), echoes: []string{value}, closes: alive})
		l.play("size", section, fmt.Sprintf("binary of %d bytes", size), script{send: frames(binaries(strings.Repeat("\xff", size))), closes: alive})
		for _, piece := range []int{100, 126, 1000, size/2 + 1, size - 1} {
			l.play("size", section, fmt.Sprintf("text of %d bytes in fragments of %d", size, piece), script{
				send: frames(cut(millracetest.OpText, message, piece)...), echoes: []string{value}, closes: alive,
			})
		}
	}
	message, value := sayOf(limit)
	l.play("size", section, "largest message, then an empty fragment", script{
		send: frames(more(text(message)), more(next("")), next("")), echoes: []string{value}, closes: alive,
	})
	l.play("size", section, "largest message with pings in between", script{
		send:   frames(more(text(message[:limit/2])), ping(strings.Repeat("p", 125)), next(message[limit/2:])),
		echoes: []string{value}, closes: alive,
	})
	l.play("size", section, "largest messages one after the other", script{
		send: frames(binaries(message), text(message), text(say("1"))), echoes: []string{value, "1"}, closes: alive,
	})
	l.add("size", section, "largest text in two pieces of TCP", func(t *testing.T, target *Target) {
		s := script{send: frames(text(message)), echoes: []string{value}, closes: alive}
		for _, at := range []int{1, 2, 3, 4, 7, 8, 9, 72, 73, 4096, limit / 2, limit} {
			s.play(t, target, at, 1<<30)
		}
	})

	over := strings.Repeat("x", limit+1)
	l.play("size", section, "text one byte too large", script{send: frames(text(over)), closes: 1009})
	l.play("size", section, "binary one byte too large", script{send: frames(binaries(over)), closes: 1009})
	l.play("size", section, "a message after one that is too large", script{
		send: frames(text(say("1")), text(over), text(say("2"))), echoes: []string{"1"}, closes: 1009,
	})
	l.play("size", section, "twice as large", script{send: frames(binaries(over + over)), closes: 1009})
	for _, piece := range []int{100, 1000, limit/2 + 1, limit} {
		l.play("size", section, fmt.Sprintf("too large in fragments of %d", piece), script{
			send: frames(cut(millracetest.OpBinary, over, piece)...), closes: 1009,
		})
	}
	l.play("size", section, "too large by its last byte, text", script{send: frames(more(text(over[1:])), more(next("")), next("x")), closes: 1009})
	l.play("size", section, "too large before its end", script{send: frames(more(text(over[1:])), more(next("x"))), closes: 1009})
	for _, length := range []uint64{1 << 16, 1 << 20, math.MaxInt32, 1 << 31, 1 << 32, 1 << 40, math.MaxInt64} {
		// Only the header comes: the server does not wait for what it will not take, nor make room for it.
		l.play("size", section, fmt.Sprintf("text that says it has %d bytes", length), script{
			send: header(0x81, 64, length, [4]byte{1, 2, 3, 4}), closes: 1009,
		})
		l.play("size", section, fmt.Sprintf("continuation that says it has %d bytes", length), script{
			send: append(frames(more(binaries("a"))), header(0x80, 64, length, [4]byte{})...), closes: 1009,
		})
	}
}

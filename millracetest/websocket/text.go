package websocket

import (
	"fmt"
	"strings"
	"testing"

	"github.com/millrace/millrace/millracetest"
)

// RFC 6455, sections 5.6 and 8.1: text is UTF-8 (RFC 3629). It is the message that must be, not its
// fragments; and what is not is refused as soon as it is known, not at the end of the message.
func texts(l *cases) {
	for name, s := range map[string]string{
		"Greek": "κόσμε", "one byte": "\x7f", "two bytes, least": "\u0080", "two bytes, most": "\u07ff", "three bytes, least": "\u0800",
		"three bytes, most": "\uffff", "four bytes, least": "\U00010000", "four bytes, most": "\U0010ffff",
		"before the surrogates": "\ud7ff", "after the surrogates": "\ue000", "replacement character": "\ufffd",
		"byte order mark": "\ufeff", "no characters": "\ufdd0\ufffe\U0001fffe", "combining": "e\u0301", "emoji": "👩‍👩‍👧‍👦",
		"right to left": "שלום", "mixed": "aß水🎉",
	} {
		l.play("UTF-8", "8.1", name, script{send: frames(text(say(`"` + s + `"`))), echoes: []string{`"` + s + `"`}, closes: alive})
	}
	l.play("UTF-8", "8.1", "a zero byte", script{send: frames(text("\x00")), closes: alive})
	l.play("UTF-8", "8.1", "in JSON's escapes", script{send: frames(text(say(`"\ud800"`))), echoes: []string{`"\ud800"`}, closes: alive})

	const characters = `"aéκ水🎉` + "\U0010ffff\u07ff\u0800\"" // of one to four bytes
	whole := say(characters)
	for i := len(say("")) - 1; i < len(whole); i++ {
		l.play("UTF-8", "5.4", fmt.Sprintf("cut into fragments at byte %d", i), script{
			send: frames(more(text(whole[:i])), ping("p"), next(whole[i:])), echoes: []string{characters}, closes: alive,
		})
	}
	l.split("UTF-8", "8.1", "cut anywhere by TCP", script{send: frames(text(whole)), echoes: []string{characters}, closes: alive})
	l.split("UTF-8", "5.4", "cut into fragments of a byte, and anywhere by TCP", script{
		send: frames(cut(millracetest.OpText, say(`"水🎉"`), 1)...), echoes: []string{`"水🎉"`}, closes: alive,
	})

	// decided says after how many bytes it is known that the text cannot be UTF-8, 0 if only its end tells.
	for _, test := range []struct {
		name, bytes string
		decided     int
	}{
		{"first continuation byte", "\x80", 1},
		{"last continuation byte", "\xbf", 1},
		{"two continuation bytes", "\x80\xbf", 1},
		{"a continuation byte too many", "é\x80", 3},
		{"overlong solidus, two bytes", "\xc0\xaf", 1},
		{"overlong solidus, three bytes", "\xe0\x80\xaf", 2},
		{"overlong solidus, four bytes", "\xf0\x80\x80\xaf", 2},
		{"overlong solidus, five bytes", "\xf8\x80\x80\x80\xaf", 1},
		{"overlong solidus, six bytes", "\xfc\x80\x80\x80\x80\xaf", 1},
		{"overlong zero, two bytes", "\xc0\x80", 1},
		{"overlong zero, three bytes", "\xe0\x80\x80", 2},
		{"overlong zero, four bytes", "\xf0\x80\x80\x80", 2},
		{"greatest overlong of two bytes", "\xc1\xbf", 1},
		{"greatest overlong of three bytes", "\xe0\x9f\xbf", 2},
		{"greatest overlong of four bytes", "\xf0\x8f\xbf\xbf", 2},
		{"first high surrogate", "\xed\xa0\x80", 2},
		{"last high surrogate", "\xed\xaf\xbf", 2},
		{"first low surrogate", "\xed\xb0\x80", 2},
		{"last low surrogate", "\xed\xbf\xbf", 2},
		{"a pair of surrogates", "\xed\xa0\x80\xed\xb0\x80", 2},
		{"first beyond Unicode", "\xf4\x90\x80\x80", 2},
		{"last of four bytes", "\xf7\xbf\xbf\xbf", 1},
		{"start f5", "\xf5\x80\x80\x80", 1},
		{"five bytes", "\xf8\x88\x80\x80\x80", 1},
		{"six bytes", "\xfc\x84\x80\x80\x80\x80", 1},
		{"fe", "\xfe", 1},
		{"ff", "\xff", 1},
		{"start of two and no more", "\xc3(", 2},
		{"start of three and no more", "\xe2(", 2},
		{"start of three, one and no more", "\xe2\x82(", 3},
		{"start of four and no more", "\xf0(", 2},
		{"start of four, one and no more", "\xf0\x9f(", 3},
		{"start of four, two and no more", "\xf0\x9f\x98(", 4},
		{"a start after a start", "\xc3\xc3\xa9", 2},
		{"Latin 1", "caf\xe9 x", 5},
		{"two bytes, cut short", "\xc3", 0},
		{"three bytes, cut short after one", "\xe2", 0},
		{"three bytes, cut short after two", "\xe2\x82", 0},
		{"four bytes, cut short after one", "\xf0", 0},
		{"four bytes, cut short after two", "\xf0\x9f", 0},
		{"four bytes, cut short after three", "\xf0\x9f\x98", 0},
	} {
		l.play("no UTF-8", "8.1", test.name, script{send: frames(text("κ " + test.bytes)), closes: 1007})
		l.play("no UTF-8", "8.1", test.name+", in fragments", script{
			send: frames(append(cut(millracetest.OpText, "κ "+test.bytes, 1), text(say("1")))...), closes: 1007,
		})
		if test.decided == 0 {
			l.play("no UTF-8", "8.1", test.name+", then an empty fragment", script{send: frames(more(text(test.bytes)), next("")), closes: 1007})
			l.play("no UTF-8", "8.1", test.name+", then another message", script{
				send: frames(text(test.bytes), text("\x98\x80")), closes: 1007,
			})
			continue
		}
		known := test.bytes[:test.decided]
		l.play("fail fast", "8.1", test.name+", in the first fragment", script{send: frames(more(text("κ " + known))), closes: 1007})
		l.play("fail fast", "8.1", test.name+", in the middle of a frame", script{ // of a hundred bytes, of which no more come
			send: append(header(0x81, 7, 100, [4]byte{}), "κ "+known...), closes: 1007,
		})
	}
	for start, rest := range map[string]string{"\xc3": "\xa9", "\xe2\x82": "\xac", "\xed\x9f": "\xbf", "\xf0\x9f": "\x98\x80", "\xf4\x8f\xbf": "\xbf"} {
		l.add("fail fast", "8.1", fmt.Sprintf("not before it is known: % x", start), func(t *testing.T, target *Target) {
			c := open(t, target, false)
			if got := c.send(t, frames(more(text(say(`"`)[:9]+start)), ping(theEnd))); got.closes != alive {
				t.Fatalf("got %s", outcome(got.closes, got.reason))
			}
			if got := c.send(t, frames(next(rest+`"}`), ping(theEnd))); len(got.echoes) != 1 || got.echoes[0] != `"`+start+rest+`"` {
				t.Errorf("got %+v", got)
			}
		})
	}
	l.play("UTF-8", "5.6", "binary messages need not be", script{send: frames(binaries("\xff\xc0\xed\xa0\x80")), closes: alive})
	l.play("UTF-8", "5.6", "fragments of binary messages need not be", script{send: frames(more(binaries("\xff")), next("\xc0")), closes: alive})
	l.play("no UTF-8", "8.1", "after a long text that is", script{send: frames(text(strings.Repeat("水", 300) + "\xff")), closes: 1007})
	l.play("no UTF-8", "8.1", "in the second message", script{send: frames(text(say("1")), text("\xff")), echoes: []string{"1"}, closes: 1007})
}

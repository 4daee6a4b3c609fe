package websocket

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/millrace/millrace/millracetest"
)

// negotiation are the cases of RFC 7692, sections 5 and 7.1: what is offered, and what may be answered.
func negotiation(l *cases) {
	for _, test := range []struct {
		offer   string // lines are separated by "|"
		accepts bool   // what a server has to decline, it must; what it may accept, it may decline
	}{
		{"permessage-deflate", true},
		{"permessage-deflate; client_max_window_bits", true},
		{"permessage-deflate; client_max_window_bits=15", true},
		{"permessage-deflate; client_max_window_bits=8", true},
		{`permessage-deflate; client_max_window_bits="10"`, true},
		{"permessage-deflate ;client_max_window_bits = 12", true},
		{"permessage-deflate; server_no_context_takeover", true},
		{"permessage-deflate; client_no_context_takeover", true},
		{"permessage-deflate; server_no_context_takeover; client_no_context_takeover", true},
		{"permessage-deflate; server_max_window_bits=15", true},
		{"permessage-deflate; server_max_window_bits=12", true},
		{"permessage-deflate; server_max_window_bits=8", true},
		{`permessage-deflate; server_max_window_bits="15"; client_max_window_bits; server_no_context_takeover`, true},
		{"permessage-deflate; server_max_window_bits=10, permessage-deflate", true},
		{"permessage-deflate; client_max_window_bits, permessage-deflate; server_no_context_takeover", true},
		{"permessage-deflate; unknown, permessage-deflate", true},
		{"foo, permessage-deflate", true},
		{"foo; bar=1|permessage-deflate", true},
		{"permessage-deflate; server_max_window_bits=99|permessage-deflate; client_max_window_bits", true},
		{", ,permessage-deflate,", true},
		{"x-webkit-deflate-frame", false},
		{"permessage-bzip2", false},
		{"permessage-deflate; server_max_window_bits", false},
		{"permessage-deflate; server_max_window_bits=7", false},
		{"permessage-deflate; server_max_window_bits=16", false},
		{"permessage-deflate; server_max_window_bits=015", false},
		{"permessage-deflate; server_max_window_bits=x", false},
		{"permessage-deflate; client_max_window_bits=7", false},
		{"permessage-deflate; client_max_window_bits=16", false},
		{"permessage-deflate; client_max_window_bits=09", false},
		{`permessage-deflate; client_max_window_bits="1x"`, false},
		{"permessage-deflate; server_no_context_takeover=1", false},
		{"permessage-deflate; client_no_context_takeover=true", false},
		{"permessage-deflate; unknown", false},
		{"permessage-deflate; unknown=1; client_max_window_bits", false},
		{"permessage-deflate; client_no_context_takeover; client_no_context_takeover", false},
		{"permessage-deflate; server_no_context_takeover; server_no_context_takeover", false},
		{"permessage-deflate; client_max_window_bits; client_max_window_bits=10", false},
		{"permessage-deflate; server_max_window_bits=15; server_max_window_bits=15", false},
	} {
		l.add("offer", "RFC 7692, 7.1", test.offer, func(t *testing.T, target *Target) {
			lines := strings.Split(test.offer, "|")
			h := accepted(t, target, newRequest(target).with("Sec-WebSocket-Extensions", lines...), 1<<20)
			checkAnswer(t, h, strings.Join(lines, ","), test.accepts)
		})
	}
}

// checkAnswer checks that an answer follows from an offer.
func checkAnswer(t *testing.T, h http.Header, offered string, accepts bool) {
	t.Helper()
	lines := h.Values("Sec-WebSocket-Extensions")
	if len(lines) == 0 {
		if accepts && !strings.Contains(offered, "server_max_window_bits") {
			t.Error("declined")
		}
		return
	}
	if !accepts || len(lines) > 1 {
		t.Fatalf("answered %q", lines)
	}
	answer := parameters(lines[0])
	_, named := answer["permessage-deflate"]
	fits := slices.ContainsFunc(strings.Split(offered, ","), func(offer string) bool {
		return named && follows(answer, parameters(offer))
	})
	if !fits {
		t.Errorf("answered %q", lines[0])
	}
}

// parameters returns the parts of one extension; nil if one is there twice.
func parameters(extension string) map[string]string {
	m := map[string]string{}
	for part := range strings.SplitSeq(extension, ";") {
		name, value, _ := strings.Cut(part, "=")
		if name = strings.TrimSpace(name); m[name] != "" {
			return nil
		}
		m[name] = "set" + strings.Trim(strings.TrimSpace(value), `"`)
	}
	return m
}

// follows says whether an answer may be given to an offer (section 7.1).
func follows(answer, offer map[string]string) bool {
	bits := func(m map[string]string, name string) int {
		n, err := strconv.Atoi(strings.TrimPrefix(m[name], "set"))
		if err != nil {
			return 15
		}
		return n
	}
	for name := range answer {
		switch name {
		case "permessage-deflate", "server_no_context_takeover", "client_no_context_takeover":
			if answer[name] != "set" {
				return false
			}
		case "server_max_window_bits":
		case "client_max_window_bits": // only if it was offered, and not more
			if offer[name] == "" || bits(answer, name) > bits(offer, name) {
				return false
			}
		default:
			return false
		}
	}
	if offer["server_no_context_takeover"] != "" && answer["server_no_context_takeover"] == "" {
		return false
	}
	return offer["permessage-deflate"] != "" && bits(answer, "server_max_window_bits") <= bits(offer, "server_max_window_bits")
}

// inflate returns what the server's compressed message is, without anything from before it.
func inflate(message []byte) ([]byte, error) {
	return io.ReadAll(flate.NewReader(io.MultiReader(bytes.NewReader(message), strings.NewReader("\x00\x00\xff\xff\x01\x00\x00\xff\xff"))))
}

// deflate compresses a message (section 7.2.1).
func deflate(message string, level int) string {
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, level)
	if err != nil {
		panic(err) // the level is wrong
	}
	_, _ = w.Write([]byte(message)) // a bytes.Buffer takes everything
	_ = w.Flush()
	return strings.TrimSuffix(b.String(), "\x00\x00\xff\xff")
}

// stored is a block without compression; final has the bit BFINAL set.
func stored(s string, final bool) string {
	b := []byte{0}
	if final {
		b[0] = 1
	}
	b = binary.LittleEndian.AppendUint16(b, uint16(len(s)))
	b = binary.LittleEndian.AppendUint16(b, ^uint16(len(s)))
	return string(b) + s
}

// fixed is blocks of the fixed Huffman code, of literals only. It ends, as a compressed message does,
// with the header of an empty stored block.
func fixed(final bool, blocks ...string) string {
	var w bits
	for i, s := range blocks {
		w.add(uint32(btoi(final && i == len(blocks)-1)), 1)
		w.add(1, 2)
		for _, c := range []byte(s) {
			if c < 144 {
				w.code(0x30+uint32(c), 8)
			} else {
				w.code(0x190+uint32(c)-144, 9)
			}
		}
		w.code(0, 7) // the end of the block
	}
	if final {
		return string(w.bytes()) + "\x00"
	}
	w.add(0, 3)
	return string(w.bytes())
}

// bits are written from the least significant of a byte on (RFC 1951, section 3.1.1).
type bits struct {
	b []byte
	n int
}

func (w *bits) add(v uint32, n int) {
	for i := range n {
		if w.n%8 == 0 {
			w.b = append(w.b, 0)
		}
		w.b[w.n/8] |= byte(v>>i&1) << (w.n % 8)
		w.n++
	}
}

// code writes a Huffman code, which goes from its most significant bit on.
func (w *bits) code(v uint32, n int) {
	for i := n - 1; i >= 0; i-- {
		w.add(v>>i, 1)
	}
}

func (w *bits) bytes() []byte { return w.b }

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// packed says that f begins a compressed message.
func packed(f frame) frame { f.Rsv = 4; return f }

// compression are the cases of RFC 7692, sections 6 and 7.2, on connections that have negotiated it.
func compression(l *cases, limit int) {
	play := func(section, what string, s script) {
		s.deflate = true
		l.play("compression", "RFC 7692, "+section, what, s)
	}
	split := func(section, what string, s script) {
		s.deflate = true
		l.split("compression", "RFC 7692, "+section, what, s)
	}
	const value = `"κόσμε κόσμε κόσμε 🎉"`
	message := say(value)
	echoed := []string{value}

	for level := -2; level <= 9; level++ {
		play("7.2.1", fmt.Sprintf("level %d", level), script{send: frames(packed(text(deflate(message, level)))), echoes: echoed, closes: alive})
	}
	for _, size := range []int{11, 100, 125, 126, 1000, limit - 1, limit} {
		long, value := sayOf(size)
		play("7.2.2", fmt.Sprintf("text that inflates to %d bytes", size), script{
			send: frames(packed(text(deflate(long, 6)))), echoes: []string{value}, closes: alive,
		})
	}
	for name, compressed := range map[string]string{
		"stored block":                     stored(message, false) + "\x00",
		"final stored block":               stored(message, true) + "\x00",
		"two stored blocks":                stored(message[:9], false) + stored(message[9:], false) + "\x00",
		"empty blocks around":              stored("", false) + stored(message, false) + stored("", false) + "\x00",
		"a hundred empty blocks":           strings.Repeat(stored("", false), 100) + deflate(message, 6),
		"a block for each byte":            blocks(message),
		"fixed block":                      fixed(false, message),
		"two fixed blocks":                 fixed(false, message[:10], message[10:]),
		"final fixed block":                fixed(true, message),
		"two fixed blocks, the last final": fixed(true, message[:10], message[10:]),
		"a final block and one after it":   stored(message[:10], true) + stored(message[10:], false) + "\x00",
		"two final blocks":                 stored(message[:10], true) + stored(message[10:], true) + "\x00",
		"stored, then fixed":               stored(message[:10], false) + fixed(false, message[10:]),
		"dynamic block":                    deflate(message, -2),
		"flushed in the middle":            deflate(message[:10], 6) + "\x00\x00\xff\xff" + deflate(message[10:], 6),
		"flushed after each byte":          flushed(message),
		"final block and no zero byte":     stored(message, true),
		"flushed twice":                    deflate(message, 6) + "\x00\x00\xff\xff\x00",
	} {
		play("7.2.3", name, script{send: frames(packed(text(compressed))), echoes: echoed, closes: alive})
	}
	for name, f := range map[string]frame{
		"text": packed(text("\x00")), "binary": packed(binaries("\x00")), "final block": packed(text("\x03\x00\x00")), "no bytes at all": packed(text("")),
	} {
		play("7.2.3.6", "empty message, "+name, script{send: frames(f), closes: alive})
	}
	play("6", "binary", script{send: frames(packed(binaries(deflate("\xff\xfe", 6)))), closes: alive})
	play("6", "the example, Hello", script{send: frames(packed(text("\xf2\x48\xcd\xc9\xc9\x07\x00"))), closes: alive})
	play("6", "the example in fragments", script{send: frames(more(packed(text("\xf2\x48\xcd"))), next("\xc9\xc9\x07\x00")), closes: alive})
	play("6", "a message that is not compressed", script{send: frames(text(message)), echoes: echoed, closes: alive})
	play("6", "compressed and not, in turn", script{
		send:   frames(packed(text(deflate(say("1"), 6))), text(say("2")), packed(text(deflate(say("3"), 6))), more(text(say("4")[:3])), next(say("4")[3:])),
		echoes: []string{"1", "2", "3", "4"}, closes: alive,
	})
	play("7.1.1.2", "the same message again, without context", script{
		send:   frames(packed(text(deflate(message, 9))), packed(text(deflate(message, 9))), packed(text(deflate(message, 1)))),
		echoes: []string{value, value, value}, closes: alive,
	})

	small := deflate(say(`"水🎉 abcabcabc"`), 6)
	smallValue := []string{`"水🎉 abcabcabc"`}
	for at := range len(small) + 1 {
		play("6.1", fmt.Sprintf("cut into fragments at byte %d", at), script{
			send: frames(more(packed(text(small[:at]))), ping("p"), next(small[at:])), echoes: smallValue, pong: new("p"), closes: alive,
		})
	}
	byBytes := cut(millracetest.OpText, small, 1)
	byBytes[0].Rsv = 4
	play("6.1", "a fragment for each byte", script{send: frames(byBytes...), echoes: smallValue, closes: alive})
	play("6.1", "empty fragments", script{
		send: frames(more(packed(text(""))), more(next("")), more(next(small[:5])), more(next("")), more(next(small[5:])), next("")), echoes: smallValue, closes: alive,
	})
	split("6", "cut anywhere by TCP", script{send: frames(packed(text(small)), text(say("1"))), echoes: append(smallValue, "1"), closes: alive})
	split("6", "in fragments, cut anywhere by TCP", script{
		send: frames(more(packed(text(small[:7]))), ping("p"), next(small[7:])), echoes: smallValue, closes: alive,
	})

	// Where the bit has no meaning.
	for name, f := range map[string]frame{"ping": ping("a"), "pong": pong("a"), "close": closing(1000, ""), "empty ping": ping("")} {
		play("6", "the bit on "+name, script{send: frames(packed(f)), closes: 1002})
	}
	play("6.1", "the bit on a continuation", script{send: frames(more(packed(text(small[:5]))), packed(next(small[5:]))), closes: 1002})
	play("6.1", "the bit on a continuation only", script{send: frames(more(text("a")), packed(next(small))), closes: 1002})
	play("6.1", "the bit on a continuation of nothing", script{send: frames(packed(next(small))), closes: 1002})
	play("6", "the bit on a message in a message", script{send: frames(more(packed(text(small))), packed(text(small))), closes: 1002})
	play("6", "the bit on a reserved opcode", script{send: frames(packed(frame{Op: 3})), closes: 1002})
	for _, rsv := range []byte{1, 2, 3, 5, 6, 7} {
		f := text(small)
		f.Rsv = rsv
		play("6", fmt.Sprintf("bits %03b", rsv), script{send: frames(f), closes: 1002})
	}
	bare := packed(text(small))
	bare.Bare = true
	play("6", "no mask", script{send: frames(bare), closes: 1002})

	// What does not inflate.
	for name, compressed := range map[string]string{
		"no deflate at all":           "\xff\xff\xff\xff",
		"plain text":                  "this is not compressed",
		"reserved kind of block":      "\x06",
		"lengths that disagree":       "\x00\x05\x00\xfa\xfe\x48\x65\x6c\x6c\x6f\x00",
		"stored block cut short":      stored(message, false)[:12],
		"fixed block cut short":       fixed(false, message)[:8],
		"dynamic block cut short":     deflate(strings.Repeat(message, 3), -2)[:30],
		"dynamic header cut short":    deflate(strings.Repeat(message, 3), -2)[:5],
		"its tail not taken away":     deflate(message, 6) + "\x00\x00\xff\xff",
		"distance before the start":   "\x02\x13\x00",
		"distance code 30":            string(distance30()),
		"zlib header":                 "\x78\x9c" + deflate(message, 6),
		"gzip header":                 "\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff" + deflate(message, 6),
		"a good block, then garbage":  stored(message, false) + "\xff\xff\xff",
		"garbage after a final block": stored(message, true) + "\xff\xff\xff",
	} {
		play("7.2.2", name, script{send: frames(packed(text(compressed))), closes: 1007})
		play("7.2.2", name+", binary in fragments", script{send: frames(more(packed(binaries(compressed[:len(compressed)/2]))), next(compressed[len(compressed)/2:])), closes: 1007})
	}
	play("7.1.1.2", "context of the message before", script{
		send: frames(withContext(message)...), echoes: echoed, closes: 1007, // the server has asked for none
	})

	// Text is UTF-8 once it is inflated.
	for name, s := range map[string]string{
		"no start": "a\x80", "overlong": "\xc0\xaf", "a surrogate": "\xed\xa0\x80", "beyond Unicode": "\xf4\x90\x80\x80", "cut short": "κ\xe2\x82",
	} {
		play("6.2", "text with "+name, script{send: frames(packed(text(deflate(s, 6)))), closes: 1007})
	}
	play("6.2", "binary that is not UTF-8", script{send: frames(packed(binaries(deflate("\xff\x80", 6)))), closes: alive})

	// Bombs: what counts is what a message inflates to.
	random := make([]byte, limit/4*3)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range random {
		random[i] = byte(r.Uint32())
	}
	incompressible := fmt.Sprintf(`"%x"`, random)[:limit-len(say(""))-1] + `"`
	play("8", "the largest message, hardly compressed", script{
		send: frames(packed(text(deflate(say(incompressible), 1)))), echoes: []string{incompressible}, closes: alive,
	})
	play("8", "the largest message, stored", script{
		send: frames(packed(text(deflate(say(incompressible), 0)))), echoes: []string{incompressible}, closes: alive,
	})
	for name, size := range map[string]int{"one byte too large": limit + 1, "twice as large": 2 * limit, "a hundred times": 100 * limit, "a thousand times": 1000 * limit} {
		bomb := deflate(strings.Repeat("x", size), 9)
		if len(bomb) > limit { // it would be refused for its own size
			bomb = bomb[:limit/2]
		}
		play("8", "bomb, "+name, script{send: frames(packed(text(bomb))), closes: 1009})
		parts := cut(millracetest.OpBinary, bomb, 100)
		parts[0].Rsv = 4
		play("8", "bomb in fragments, "+name, script{send: frames(parts...), closes: 1009})
	}
	play("8", "bomb of final blocks", script{
		send: frames(packed(binaries(strings.Repeat(deflate(strings.Repeat("x", limit/2), 9)+"\x00\x00\xff\xff"+stored("", true), 3)))), closes: 1009,
	})
	play("8", "bomb of stored blocks", script{
		send: frames(packed(binaries(stored(strings.Repeat("x", limit/2), false) + stored(strings.Repeat("y", limit/2), false) + stored("z", false) + "\x00"))), closes: 1009,
	})
	play("8", "compressed message that is itself too large", script{send: frames(packed(binaries(strings.Repeat(stored("", false), limit)))), closes: 1009})
	play("8", "compressed message that says it is too large", script{send: header(0xc1, 64, 1<<40, [4]byte{}), closes: 1009})
	play("8", "a message after the largest", script{
		send:   frames(packed(binaries(deflate(strings.Repeat("x", limit), 9))), packed(text(deflate(say("1"), 6)))),
		echoes: []string{"1"}, closes: alive,
	})

	l.add("compression", "RFC 7692, 7.1.1.1", "the server's messages stand alone", func(t *testing.T, target *Target) {
		c := open(t, target, true)
		message, value := sayOf(limit)
		got := c.send(t, frames(text(message), text(message), packed(text(deflate(message, 9))), ping(theEnd)))
		if len(got.echoes) != 3 || slices.ContainsFunc(got.echoes, func(s string) bool { return s != value }) {
			t.Errorf("got %s", short(got.echoes))
		}
		if got.packed != 3 { // observe has inflated each by itself
			t.Errorf("%d of 3 long messages came compressed", got.packed)
		}
	})
	l.add("compression", "RFC 7692, 5", "nothing is compressed that has not been negotiated", func(t *testing.T, target *Target) {
		message, value := sayOf(limit)
		s := script{send: frames(text(message)), echoes: []string{value}, closes: alive}
		s.play(t, target, 1<<30) // observe looks at the bits
	})
	for name, f := range map[string]frame{"text": packed(text(small)), "binary": packed(binaries(small)), "first fragment": more(packed(text(small)))} {
		l.play("compression", "RFC 7692, 6", "not negotiated, "+name, script{send: frames(f), closes: 1002})
	}
	for name, sent := range map[string][]byte{
		"in a compressed frame": frames(packed(text(small)))[:9], "between compressed fragments": frames(more(packed(text(small[:7])))),
	} {
		l.add("compression", "7.1.1", "vanishing "+name, func(t *testing.T, target *Target) {
			c := open(t, target, true)
			_, _ = c.Conn.Write(sent) // what follows tells
			_ = c.Close()
			s := script{deflate: true, send: frames(packed(text(small))), echoes: smallValue, closes: alive}
			s.play(t, target, 1<<30)
		})
	}
}

// blocks is a stored block for each byte.
func blocks(s string) string {
	var b strings.Builder
	for i := range len(s) {
		b.WriteString(stored(s[i:i+1], false))
	}
	return b.String() + "\x00"
}

// flushed is s, flushed after each byte.
func flushed(s string) string {
	var b bytes.Buffer
	w, _ := flate.NewWriter(&b, 6) // the level is right
	for i := range len(s) {
		_, _ = w.Write([]byte(s[i : i+1]))
		_ = w.Flush()
	}
	return strings.TrimSuffix(b.String(), "\x00\x00\xff\xff")
}

// withContext is a message twice, the second time referring to the first.
func withContext(s string) []frame {
	var b bytes.Buffer
	w, _ := flate.NewWriter(&b, 9) // the level is right
	var list []frame
	for range 2 {
		b.Reset()
		_, _ = w.Write([]byte(s))
		_ = w.Flush()
		list = append(list, packed(text(strings.TrimSuffix(b.String(), "\x00\x00\xff\xff"))))
	}
	return list
}

// distance30 is a fixed block with a distance code that there is not.
func distance30() []byte {
	var w bits
	w.add(0, 1)
	w.add(1, 2)
	w.code(0x30+'a', 8)
	w.code(1, 7) // length 3
	w.code(30, 5)
	w.add(0, 16)
	return w.bytes()
}

package jsonpath

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"unicode/utf16"
	"unicode/utf8"
)

// The scanning functions take the offset at which to begin and return the offset behind what they
// scanned, or, if the data is malformed, the complement of the offset of the byte that can't be there
// (or of the end of the data): a negative number.

// lanes holds a byte in each of the eight bytes of a word; top is the highest bit of each.
const (
	lanes = 0x0101010101010101
	top   = 0x8080808080808080
)

// text scans a string; i is the offset behind its opening quote. escaped says whether it has escapes.
//
// It looks at eight bytes at a time. For a word x, (x-n) &^ x & top marks the bytes that are less
// than n, and with n = 1 those that are zero. A borrow can mark bytes above one that is marked
// rightly, but never the lowest one, and only that is used. For strings of the length that keys and
// values have this beats bytes.IndexByte, which can't look for two bytes and the control characters.
func text(data []byte, i int) (end int, escaped bool) {
	for i >= 0 && i+8 <= len(data) {
		w := binary.LittleEndian.Uint64(data[i : i+8])
		quote := w ^ lanes*'"'
		slash := w ^ lanes*'\\'
		stop := ((quote-lanes)&^quote | (slash-lanes)&^slash | (w-lanes*' ')&^w) & top
		if stop == 0 {
			i += 8
			continue
		}
		at := bits.TrailingZeros64(stop) // the highest bit of the byte that stops
		i += at >> 3
		switch byte(w >> ((at - 7) & 63)) {
		case '"':
			return i + 1, escaped
		case '\\':
			escaped = true
			if i = escape(data, i+1); i < 0 {
				return i, true
			}
		default:
			return ^i, escaped // control characters must be escaped
		}
	}
	return shortText(data, i, escaped)
}

// shortText is text byte by byte, for the last bytes of the data.
func shortText(data []byte, i int, escaped bool) (int, bool) {
	for i < len(data) {
		switch c := data[i]; {
		case c == '"':
			return i + 1, escaped
		case c == '\\':
			escaped = true
			if i = escape(data, i+1); i < 0 {
				return i, true
			}
		case c < ' ':
			return ^i, escaped
		default:
			i++
		}
	}
	return ^len(data), escaped
}

// escape scans an escape sequence; i is the offset behind its backslash.
func escape(data []byte, i int) int {
	if i >= len(data) {
		return ^len(data)
	}
	switch data[i] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return i + 1
	case 'u':
		for range 4 {
			i++
			if i >= len(data) {
				return ^len(data)
			}
			if unhex(data[i]) < 0 {
				return ^i
			}
		}
		return i + 1
	default:
		return ^i
	}
}

func unhex(c byte) rune {
	switch {
	case '0' <= c && c <= '9':
		return rune(c - '0')
	case 'a' <= c && c <= 'f':
		return rune(c - 'a' + 10)
	case 'A' <= c && c <= 'F':
		return rune(c - 'A' + 10)
	default:
		return -1
	}
}

// appendUnescaped appends the text of a string, which has been scanned, without its quotes.
func appendUnescaped(dst, s []byte) []byte {
	for len(s) > 0 {
		plain := bytes.IndexByte(s, '\\')
		if plain < 0 {
			return append(dst, s...)
		}
		r, n := unescape(s[plain:])
		dst = utf8.AppendRune(append(dst, s[:plain]...), r)
		s = s[plain+n:]
	}
	return dst
}

// equalUnescaped says whether the text of a string, which has been scanned, is t.
func equalUnescaped(s []byte, t string) bool {
	for len(s) > 0 {
		plain := bytes.IndexByte(s, '\\')
		if plain < 0 {
			return string(s) == t
		}
		r, n := unescape(s[plain:])
		var char [utf8.UTFMax]byte
		size := utf8.EncodeRune(char[:], r)
		if len(t) < plain+size || t[:plain] != string(s[:plain]) || t[plain:plain+size] != string(char[:size]) {
			return false
		}
		s, t = s[plain+n:], t[plain+size:]
	}
	return t == ""
}

// unescape returns the character that s begins with as an escape sequence, and the sequence's length.
// A pair of surrogates is one character; half a pair is U+FFFD.
func unescape(s []byte) (r rune, n int) {
	switch s[1] {
	case 'b':
		return '\b', 2
	case 'f':
		return '\f', 2
	case 'n':
		return '\n', 2
	case 'r':
		return '\r', 2
	case 't':
		return '\t', 2
	case 'u':
		r = hex4(s[2:])
		if !utf16.IsSurrogate(r) {
			return r, 6
		}
		if len(s) >= 12 && s[6] == '\\' && s[7] == 'u' {
			if pair := utf16.DecodeRune(r, hex4(s[8:])); pair != utf8.RuneError {
				return pair, 12
			}
		}
		return utf8.RuneError, 6
	default:
		return rune(s[1]), 2
	}
}

func hex4(s []byte) rune {
	return unhex(s[0])<<12 | unhex(s[1])<<8 | unhex(s[2])<<4 | unhex(s[3])
}

// space skips white space: mostly there is none, and the first comparison says so.
func space(data []byte, i int) int {
	const white = 1<<' ' | 1<<'\n' | 1<<'\r' | 1<<'\t'
	for i < len(data) && data[i] <= ' ' && white>>data[i]&1 != 0 {
		i++
	}
	return i
}

// colon skips the colon between a key and its value, and the white space around it.
func colon(data []byte, i int) int {
	if i = space(data, i); i >= len(data) || data[i] != ':' {
		return ^i
	}
	return space(data, i+1)
}

// scalar scans a string, number, true, false or null at i.
func scalar(data []byte, i int) int {
	if i >= len(data) {
		return ^len(data)
	}
	switch data[i] {
	case '"':
		end, _ := text(data, i+1)
		return end
	case 't':
		return word(data, i, "true")
	case 'f':
		return word(data, i, "false")
	case 'n':
		return word(data, i, "null")
	default:
		return number(data, i)
	}
}

func word(data []byte, i int, w string) int {
	for j := range len(w) {
		if i+j >= len(data) || data[i+j] != w[j] {
			return ^(i + j)
		}
	}
	return i + len(w)
}

// number scans a number (RFC 8259 section 6).
func number(data []byte, i int) int {
	if i < len(data) && data[i] == '-' {
		i++
	}
	if i < len(data) && data[i] == '0' {
		i++
	} else if i = digits(data, i); i < 0 {
		return i
	}
	if i < len(data) && data[i] == '.' {
		if i = digits(data, i+1); i < 0 {
			return i
		}
	}
	if i < len(data) && data[i]|0x20 == 'e' {
		i++
		if i < len(data) && (data[i] == '+' || data[i] == '-') {
			i++
		}
		return digits(data, i)
	}
	return i
}

// digits scans one or more digits.
func digits(data []byte, i int) int {
	start := i
	for i < len(data) && data[i]-'0' <= 9 {
		i++
	}
	if i == start {
		return ^i
	}
	return i
}

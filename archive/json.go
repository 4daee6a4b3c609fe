package archive

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"math/bits"
	"unicode/utf8"
)

// appendLine appends an event's data as one line of JSON, its newline included:
//
//   - A JSON text (RFC 8259) is kept byte for byte, but for one that holds line breaks, which is compacted.
//   - Other UTF-8 text becomes a JSON string; so does empty data.
//   - Bytes that are no UTF-8 become the JSON string of a data URL (RFC 2397), base64-encoded, so that
//     nothing is lost: "data:application/octet-stream;base64,AAEC/w==".
//   - Empty data of an event that ends its key is null.
func appendLine(dst, data []byte, deleted bool) []byte {
	s := jsonScan{b: data}
	switch {
	case deleted && len(data) == 0:
		dst = append(dst, "null"...)
	case s.valid() && (!s.beyondASCII || utf8.Valid(data)):
		if s.lineBreak {
			var compact bytes.Buffer
			_ = json.Compact(&compact, data) // fails for invalid JSON only
			data = compact.Bytes()
		}
		dst = append(dst, data...)
	case utf8.Valid(data):
		dst = appendJSONString(dst, data)
	default:
		dst = append(dst, `"data:application/octet-stream;base64,`...)
		dst = base64.StdEncoding.AppendEncode(dst, data)
		dst = append(dst, '"')
	}
	return append(dst, '\n')
}

// appendJSONString appends UTF-8 text as a JSON string, escaping only what must be.
func appendJSONString(dst, text []byte) []byte {
	const digits = "0123456789abcdef"
	dst = append(dst, '"')
	for _, c := range text {
		switch {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c == '\n':
			dst = append(dst, '\\', 'n')
		case c == '\r':
			dst = append(dst, '\\', 'r')
		case c == '\t':
			dst = append(dst, '\\', 't')
		case c < ' ':
			dst = append(dst, '\\', 'u', '0', '0', digits[c>>4], digits[c&15])
		default:
			dst = append(dst, c)
		}
	}
	return append(dst, '"')
}

// maxNesting is encoding/json's limit.
const maxNesting = 10_000

// jsonScan says whether bytes are one JSON text, as json.Valid does in four times the time, and on the
// way what the line needs to know.
type jsonScan struct {
	b           []byte
	lineBreak   bool // between its tokens; inside strings there can be none
	beyondASCII bool // it may be no UTF-8
}

func (s *jsonScan) valid() bool {
	i := s.value(s.space(0), maxNesting)
	return i >= 0 && s.space(i) == len(s.b)
}

// space returns where the white space that begins at i ends. i may be -1, a failure, which it keeps.
func (s *jsonScan) space(i int) int {
	if i < 0 {
		return i
	}
	for ; i < len(s.b) && s.b[i] <= ' '; i++ {
		switch s.b[i] {
		case ' ', '\t':
		case '\n', '\r':
			s.lineBreak = true
		default:
			return i
		}
	}
	return i
}

// value returns where the value that begins at i ends, or -1 if there is none.
func (s *jsonScan) value(i, depth int) int {
	if i < 0 || i >= len(s.b) {
		return -1
	}
	switch c := s.b[i]; c {
	case '"':
		return s.text(i + 1)
	case '{', '[':
		if depth == 0 {
			return -1
		}
		return s.list(i+1, c == '{', depth-1)
	case 't':
		return s.literal(i, "true")
	case 'f':
		return s.literal(i, "false")
	case 'n':
		return s.literal(i, "null")
	default:
		return s.number(i)
	}
}

// list returns where the object or array ends whose first member begins at i.
func (s *jsonScan) list(i int, object bool, depth int) int {
	end := byte(']')
	if object {
		end = '}'
	}
	if i = s.space(i); i < len(s.b) && s.b[i] == end {
		return i + 1
	}
	for {
		if object {
			if i >= len(s.b) || s.b[i] != '"' {
				return -1
			}
			i = s.space(s.text(i + 1))
			if i < 0 || i >= len(s.b) || s.b[i] != ':' {
				return -1
			}
			i = s.space(i + 1)
		}
		i = s.space(s.value(i, depth))
		switch {
		case i < 0 || i >= len(s.b):
			return -1
		case s.b[i] == end:
			return i + 1
		case s.b[i] != ',':
			return -1
		}
		i = s.space(i + 1)
	}
}

func (s *jsonScan) literal(i int, word string) int {
	if end := i + len(word); end <= len(s.b) && string(s.b[i:end]) == word {
		return end
	}
	return -1
}

// number returns where the number that begins at i ends: -?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?
func (s *jsonScan) number(i int) int {
	if s.b[i] == '-' {
		i++
	}
	if i < len(s.b) && s.b[i] == '0' {
		i++
	} else if i = s.digits(i); i < 0 {
		return -1
	}
	if i < len(s.b) && s.b[i] == '.' {
		if i = s.digits(i + 1); i < 0 {
			return -1
		}
	}
	if i < len(s.b) && s.b[i]|0x20 == 'e' {
		i++
		if i < len(s.b) && (s.b[i] == '+' || s.b[i] == '-') {
			i++
		}
		i = s.digits(i)
	}
	return i
}

// digits returns where the digits that begin at i end, or -1 if there are none.
func (s *jsonScan) digits(i int) int {
	start := i
	for i < len(s.b) && s.b[i]-'0' <= 9 {
		i++
	}
	if i == start {
		return -1
	}
	return i
}

// text returns where the string ends whose first character is at i. It looks at eight bytes at once,
// in which the special ones are found by arithmetic: BenchmarkLine takes half the time with it.
func (s *jsonScan) text(i int) int {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	for {
		for ; i+8 <= len(s.b); i += 8 {
			w := binary.LittleEndian.Uint64(s.b[i:])
			if w&highs != 0 {
				s.beyondASCII = true
			}
			quote, slash := w^('"'*ones), w^('\\'*ones)
			// A byte's high bit is set where it is zero, or below a space; above such a byte a false
			// alarm is possible, and only the lowest is looked at.
			special := (quote-ones)&^quote | (slash-ones)&^slash | (w-' '*ones)&^w
			if special &= highs; special != 0 {
				i += bits.TrailingZeros64(special) / 8
				break
			}
		}
		if i >= len(s.b) {
			return -1
		}
		switch c := s.b[i]; {
		case c == '"':
			return i + 1
		case c < ' ':
			return -1
		case c == '\\':
			if i = s.escape(i + 1); i < 0 {
				return -1
			}
		default:
			s.beyondASCII = s.beyondASCII || c >= utf8.RuneSelf
			i++
		}
	}
}

// escape returns where the escape ends whose letter is at i.
func (s *jsonScan) escape(i int) int {
	if i >= len(s.b) {
		return -1
	}
	switch s.b[i] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return i + 1
	case 'u':
		if i+5 > len(s.b) {
			return -1
		}
		for _, c := range s.b[i+1 : i+5] {
			if c-'0' > 9 && c|0x20-'a' > 5 {
				return -1
			}
		}
		return i + 5
	}
	return -1
}

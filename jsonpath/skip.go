package jsonpath

import (
	"iter"

	"github.com/millrace/millrace"
)

// maxNesting is how deep values may be nested; encoding/json has the same limit.
const maxNesting = 10000

// Valid fails with Invalid and the offset where data stops being one valid JSON value; it takes what
// json.Valid takes.
func Valid(data []byte) error {
	i := skip(data, space(data, 0))
	if i >= 0 {
		i = end(data, i)
	}
	if i < 0 {
		return malformed("read JSON", data, ^i)
	}
	return nil
}

// Elements yields the raw text of each element of the array that data is, without white space around
// it; elements alias data. If data is no array, or malformed, it yields an Invalid error last: the
// elements before it are those that came before the fault.
func Elements(data []byte) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) { elements(data, yield) }
}

func elements(data []byte, yield func([]byte, error) bool) {
	fail := func(i int) { yield(nil, malformed("split JSON array", data, i)) }
	i := space(data, 0)
	if i >= len(data) || data[i] != '[' {
		fail(i)
		return
	}
	i = space(data, i+1)
	if i < len(data) && data[i] == ']' {
		if i = end(data, i+1); i < 0 {
			fail(^i)
		}
		return
	}
	for {
		start := space(data, i)
		if i = skip(data, start); i < 0 {
			fail(^i)
			return
		}
		if !yield(data[start:i:i], nil) {
			return
		}
		i = space(data, i)
		switch {
		case i < len(data) && data[i] == ',':
			i++
		case i < len(data) && data[i] == ']':
			if i = end(data, i+1); i < 0 {
				fail(^i)
			}
			return
		default:
			fail(i)
			return
		}
	}
}

// skip scans the value at i without recursion.
func skip(data []byte, i int) int {
	if i >= len(data) {
		return ^i
	}
	if data[i] != '{' && data[i] != '[' {
		return scalar(data, i)
	}
	// One bit for each level that is open, 1 for an object, lowest bit innermost. Whenever open is full
	// it goes to outer, which is rarely needed.
	var open uint64
	var outer []uint64
	depth := 0
	for {
		// A value begins at i.
		if i >= len(data) {
			return ^i
		}
		if c := data[i]; c == '{' || c == '[' {
			if depth >= maxNesting {
				return ^i
			}
			if depth > 0 && depth%64 == 0 {
				outer = append(outer, open)
			}
			depth++
			open <<= 1
			i = space(data, i+1)
			if c == '{' {
				open |= 1
				if i >= len(data) || data[i] != '}' {
					if i = member(data, i); i < 0 {
						return i
					}
					continue
				}
			} else if i >= len(data) || data[i] != ']' {
				continue
			}
			// An empty one: its end follows.
		} else if i = scalar(data, i); i < 0 {
			return i
		}

		// A value has ended: close what ends here too, then go on to the next value.
	closing:
		for {
			if i = space(data, i); i >= len(data) {
				return ^i
			}
			switch c := data[i]; {
			case c == ',':
				i = space(data, i+1)
				if open&1 != 0 {
					if i = member(data, i); i < 0 {
						return i
					}
				}
				break closing
			case c == '}' && open&1 != 0, c == ']' && open&1 == 0:
				i++
				depth--
				if depth == 0 {
					return i
				}
				open >>= 1
				if depth%64 == 0 {
					open, outer = outer[len(outer)-1], outer[:len(outer)-1]
				}
			default:
				return ^i
			}
		}
	}
}

// member scans a key and its colon, up to the value.
func member(data []byte, i int) int {
	if i >= len(data) || data[i] != '"' {
		return ^i
	}
	if i, _ = text(data, i+1); i < 0 {
		return i
	}
	return colon(data, i)
}

// end checks that nothing follows a value.
func end(data []byte, i int) int {
	if i = space(data, i); i < len(data) {
		return ^i
	}
	return i
}

// malformed describes the byte at which the data stops being JSON.
func malformed(op string, data []byte, i int) error {
	if i >= len(data) {
		return millrace.Errorf(millrace.Invalid, op, "the data ends at offset %d, before its JSON value does", len(data))
	}
	return millrace.Errorf(millrace.Invalid, op, "the data is not JSON: %q at offset %d does not belong there", data[i:i+1], i)
}

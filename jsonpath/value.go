package jsonpath

import (
	"bytes"
	"math"
	"strconv"
	"unsafe"
)

// Kind is the kind of a JSON value.
type Kind uint8

// The kinds. Missing is the zero Kind: the path leads nowhere.
const (
	Missing Kind = iota
	Null
	String
	Number
	Bool
	Object
	Array
)

// String returns the kind as a word for messages: "a string".
func (k Kind) String() string {
	switch k {
	case Missing:
		return "missing"
	case Null:
		return "null"
	case String:
		return "a string"
	case Number:
		return "a number"
	case Bool:
		return "a bool"
	case Object:
		return "an object"
	case Array:
		return "an array"
	default:
		return "kind " + strconv.Itoa(int(k))
	}
}

// kindOf returns the kind that a valid value beginning with c has.
func kindOf(c byte) Kind {
	switch c {
	case '{':
		return Object
	case '[':
		return Array
	case '"':
		return String
	case 't', 'f':
		return Bool
	case 'n':
		return Null
	case '-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9':
		return Number
	default:
		return Missing
	}
}

// KindOf returns the kind of the value that data begins with, judged by its first byte that is no
// white space alone; Missing if no value begins with it.
func KindOf(data []byte) Kind {
	if i := space(data, 0); i < len(data) {
		return kindOf(data[i])
	}
	return Missing
}

// Value is a JSON value where it lies in the data: Raw aliases the data and is as long valid as that is
// unchanged. The zero Value is a missing one.
type Value struct {
	// Raw is the value's JSON text, without white space around it; a string has its quotes. Nil if Kind
	// is Missing.
	Raw  []byte
	Kind Kind
}

// String returns a string's text, and the JSON text of any other value; "" for a missing one. It
// aliases the data like Raw, unless there are escapes in the string: only then does it allocate.
// Escaped lone surrogates become U+FFFD; other bytes stay as they are, also where they are not UTF-8.
func (v Value) String() string {
	if v.Kind == String && v.Escaped() {
		return string(v.Append(nil))
	}
	return view(v.text())
}

// Append appends what String returns to dst.
func (v Value) Append(dst []byte) []byte {
	if v.Kind == String {
		return appendUnescaped(dst, v.text())
	}
	return append(dst, v.Raw...)
}

// Escaped says whether the value is a string with escapes in it, so that String allocates.
func (v Value) Escaped() bool { return v.Kind == String && bytes.IndexByte(v.Raw, '\\') >= 0 }

// text is the raw text, without the quotes of a string.
func (v Value) text() []byte {
	if v.Kind == String {
		return v.Raw[1 : len(v.Raw)-1]
	}
	return v.Raw
}

// Float returns a number; ok is false for any other value, and for a number beyond the range of float64.
func (v Value) Float() (f float64, ok bool) {
	if v.Kind != Number {
		return 0, false
	}
	f, err := strconv.ParseFloat(view(v.Raw), 64)
	return f, err == nil
}

// Int returns a number that is whole, in whatever notation; ok is false for any other value, and for
// a number beyond the range of int64. In notations with a fraction or an exponent numbers are whole
// up to 2^53.
func (v Value) Int() (n int64, ok bool) {
	if v.Kind != Number {
		return 0, false
	}
	if bytes.ContainsAny(v.Raw, ".eE") {
		f, ok := v.Float()
		ok = ok && math.Abs(f) <= 1<<53 && f == math.Trunc(f)
		if !ok {
			return 0, false
		}
		return int64(f), true
	}
	n, err := strconv.ParseInt(view(v.Raw), 10, 64)
	if err != nil {
		return 0, false
	}
	return n, true
}

// Bool returns true or false; ok is false for any other value.
func (v Value) Bool() (b, ok bool) {
	return v.Kind == Bool && v.Raw[0] == 't', v.Kind == Bool
}

// view returns b as a string without copying it.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

package expr

import (
	"cmp"
	"math"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"github.com/millrace/millrace/jsonpath"
)

// value is what a node gives for an event. The zero value is null.
type value struct {
	kind kind
	bool bool
	// text of a string; of a number as it is written, "" if it was computed; the JSON of an array.
	text   string
	number float64 // the nearest one; infinite beyond the range
	nano   int64   // of a time, Unix
}

// kind of a value.
type kind uint8

const (
	null        kind = iota // missing, null in the data, or without a result
	nullLiteral             // the word null: it alone equals null
	aBool
	aNumber
	aString
	aTime
	anArray
	anObject
	aList    // in the expression
	anything // what the event has there
)

func (k kind) String() string {
	switch k {
	case null, nullLiteral:
		return "null"
	case aBool:
		return "true or false"
	case aNumber:
		return "a number"
	case aString:
		return "a string"
	case aTime:
		return "a time"
	case anArray, aList:
		return "a list"
	case anObject:
		return "an object"
	default:
		return "a value of the event"
	}
}

func boolValue(b bool) value { return value{kind: aBool, bool: b} }

// computed returns a number, null if it is none.
func computed(f float64) value {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return value{}
	}
	return value{kind: aNumber, number: f}
}

// ofJSON returns a value of the data; a string is as it is between its quotes, escapes and all.
func ofJSON(v jsonpath.Value) value {
	switch v.Kind {
	case jsonpath.Number:
		s := view(v.Raw)
		f, _ := strconv.ParseFloat(s, 64)
		return value{kind: aNumber, number: f, text: s}
	case jsonpath.String:
		return value{kind: aString, text: view(v.Raw[1 : len(v.Raw)-1])}
	case jsonpath.Bool:
		return boolValue(v.Raw[0] == 't')
	case jsonpath.Array:
		return value{kind: anArray, text: view(v.Raw)}
	case jsonpath.Object:
		return value{kind: anObject}
	default:
		return value{}
	}
}

// asNumber returns a number as it takes part in arithmetic; a time is one of Unix milliseconds.
func (v value) asNumber() (f float64, ok bool) {
	switch v.kind {
	case aNumber:
		return v.number, true
	case aTime:
		return float64(v.nano/1e6) + float64(v.nano%1e6)/1e6, true // one float64 of nanoseconds has not enough bits
	default:
		return 0, false
	}
}

// equal says whether two values are equal: of one kind and the same.
func equal(a, b value) bool {
	switch {
	case a.kind == aBool && b.kind == aBool:
		return a.bool == b.bool
	case a.kind == nullLiteral || b.kind == nullLiteral:
		return a.kind <= nullLiteral && b.kind <= nullLiteral
	case a.kind == aString && b.kind == aString:
		return a.text == b.text
	default:
		order, ok := compare(a, b)
		return ok && order == 0
	}
}

// compare returns the order of two values; ok is false where there is none.
func compare(a, b value) (order int, ok bool) {
	switch {
	case a.kind == aNumber && b.kind == aNumber:
		return compareNumbers(a, b), true
	case a.kind == aString && b.kind == aString:
		return strings.Compare(a.text, b.text), true
	case a.kind == aTime:
		return compareTime(a.nano, b)
	case b.kind == aTime:
		order, ok = compareTime(b.nano, a)
		return -order, ok
	default:
		return 0, false
	}
}

// compareNumbers compares exactly, as decimals, what was written, and as float64 what was computed.
// Rounding to the nearest float64 keeps the order, so that only numbers with the same one need a look
// at their digits, and of those up to 15 digits none share one unless they are subnormal.
func compareNumbers(a, b value) int {
	const digits, normal = 15, 1e-290
	if order := cmp.Compare(a.number, b.number); order != 0 || a.text == b.text || a.text == "" || b.text == "" {
		return order
	}
	if size := math.Abs(a.number); len(a.text) <= digits && len(b.text) <= digits && normal < size && size <= math.MaxFloat64 {
		return 0
	}
	return compareDecimals(a.text, b.text)
}

// compareTime compares a time with a time, a string in RFC 3339, or Unix milliseconds.
func compareTime(nano int64, with value) (order int, ok bool) {
	switch with.kind {
	case aTime:
		return cmp.Compare(nano, with.nano), true
	case aNumber:
		const far = math.MaxInt64 / 1e6
		if f := with.number; f >= far {
			return -1, true
		} else if f <= -far {
			return 1, true
		}
		whole := math.Floor(with.number)
		return cmp.Compare(nano, int64(whole)*1e6+int64(math.Round((with.number-whole)*1e6))), true
	case aString:
		t, ok := parseTime(with.text)
		if !ok {
			return 0, false
		}
		return time.Unix(0, nano).Compare(t), true
	default:
		return 0, false
	}
}

// parseTime reads RFC 3339 strictly.
func parseTime(s string) (time.Time, bool) {
	const shortest = "2006-01-02T15:04:05Z"
	if len(s) < len(shortest) || s[4] != '-' || s[10] != 'T' { // an error would allocate
		return time.Time{}, false
	}
	var t time.Time
	err := t.UnmarshalText(unsafe.Slice(unsafe.StringData(s), len(s)))
	return t, err == nil
}

// view returns b as a string without copying it; b must not change while the string is in use.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

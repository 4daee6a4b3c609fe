package expr

import (
	"cmp"
	"strconv"
	"strings"
)

// decimal is a number as JSON writes it, exactly: 0.DIGITS times ten to the power of point, where the
// digits are those of whole and then those of fraction, without zeros in front or behind. Zero has none.
type decimal struct {
	negative        bool
	whole, fraction string
	point           int64
}

// exactDecimal reads a number of JSON.
func exactDecimal(s string) decimal {
	const far = 1 << 60 // exponents beyond are as good as equal: no number has as many digits
	var d decimal
	s, d.negative = strings.CutPrefix(s, "-")
	mantissa := s
	if e := strings.IndexAny(s, "eE"); e >= 0 {
		mantissa = s[:e]
		exponent, _ := strconv.ParseInt(s[e+1:], 10, 64) // the nearest one if it is out of range
		d.point = min(max(exponent, -far), far)
	}
	d.whole, d.fraction, _ = strings.Cut(mantissa, ".")
	d.whole = strings.TrimLeft(d.whole, "0")
	d.fraction = strings.TrimRight(d.fraction, "0")
	d.point += int64(len(d.whole))
	if d.whole == "" {
		n := len(d.fraction)
		d.fraction = strings.TrimLeft(d.fraction, "0")
		d.point -= int64(n - len(d.fraction))
	}
	if d.fraction == "" {
		d.whole = strings.TrimRight(d.whole, "0")
	}
	if d.len() == 0 {
		return decimal{} // also -0
	}
	return d
}

func (d *decimal) len() int { return len(d.whole) + len(d.fraction) }

func (d *decimal) digit(i int) byte {
	if i < len(d.whole) {
		return d.whole[i]
	}
	return d.fraction[i-len(d.whole)]
}

func (d *decimal) sign() int {
	switch {
	case d.len() == 0:
		return 0
	case d.negative:
		return -1
	default:
		return 1
	}
}

// compareDecimals returns the order of two numbers of JSON.
func compareDecimals(a, b string) int {
	x, y := exactDecimal(a), exactDecimal(b)
	sign := x.sign()
	if order := cmp.Compare(sign, y.sign()); order != 0 {
		return order
	}
	if order := cmp.Compare(x.point, y.point); order != 0 {
		return order * sign
	}
	for i := range min(x.len(), y.len()) {
		if order := cmp.Compare(x.digit(i), y.digit(i)); order != 0 {
			return order * sign
		}
	}
	return cmp.Compare(x.len(), y.len()) * sign
}

// String returns the one notation that equal numbers share.
func (d decimal) String() string {
	const most = 21 // digits before the point without an exponent, and 6 zeros behind it, as in JavaScript
	text := d.whole + d.fraction
	sign := ""
	if d.negative {
		sign = "-"
	}
	switch n := int64(len(text)); {
	case n == 0:
		return "0"
	case 0 < d.point && d.point < n:
		return sign + text[:d.point] + "." + text[d.point:]
	case n <= d.point && d.point <= most:
		return sign + text + strings.Repeat("0", int(d.point-n))
	case -6 < d.point && d.point <= 0:
		return sign + "0." + strings.Repeat("0", int(-d.point)) + text
	case n == 1:
		return sign + text + "e" + strconv.FormatInt(d.point-1, 10)
	default:
		return sign + text[:1] + "." + text[1:] + "e" + strconv.FormatInt(d.point-1, 10)
	}
}

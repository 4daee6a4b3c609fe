package sse

import "unicode/utf8"

// valid returns b with malformed UTF-8 replaced. The result is b itself if there is nothing to
// replace, and lives until the next Read.
//
// Of text that is not ASCII this is four fifths of the work, character by character in utf8.Valid. Tried and
// not kept: four characters at once (twice as fast in pure Hebrew, slower in Russian and German with their
// spaces and quotes) and a table of states (a third faster in Russian, a quarter slower in German).
func (d *Decoder) valid(b []byte) []byte {
	if utf8.Valid(b) {
		return b
	}
	start := len(d.fixed)
	d.fixed = appendValid(d.fixed, b)
	return d.fixed[start:]
}

// appendValid appends b with U+FFFD for each malformed sequence, as the WHATWG Encoding standard
// counts them: one for each maximal part of a sequence that could have become a character, one for
// every other byte.
func appendValid(dst, b []byte) []byte {
	good := 0 // b[good:i] is well-formed
	for i := 0; i < len(b); {
		if b[i] < utf8.RuneSelf {
			i++
			continue
		}
		r, n := utf8.DecodeRune(b[i:])
		if r == utf8.RuneError && n == 1 {
			dst = append(dst, b[good:i]...)
			dst = append(dst, "\uFFFD"...)
			n = subpart(b[i:])
			good = i + n
		}
		i += n
	}
	return append(dst, b[good:]...)
}

// subpart returns how many of the first bytes of b, which is malformed there, one U+FFFD stands for.
func subpart(b []byte) int {
	low, high, need := byte(0x80), byte(0xbf), 0
	switch c := b[0]; {
	case c >= 0xc2 && c <= 0xdf:
		need = 1
	case c >= 0xe0 && c <= 0xef:
		need = 2
		switch c {
		case 0xe0:
			low = 0xa0 // below it would be an overlong form
		case 0xed:
			high = 0x9f // above it are surrogates
		}
	case c >= 0xf0 && c <= 0xf4:
		need = 3
		switch c {
		case 0xf0:
			low = 0x90
		case 0xf4:
			high = 0x8f // above it Unicode ends
		}
	}
	n := 1
	for n <= need && n < len(b) && low <= b[n] && b[n] <= high {
		low, high = 0x80, 0xbf
		n++
	}
	return n
}

// wholeRunes cuts a character that the end of a prefix has cut in two.
func wholeRunes(b []byte) []byte {
	for i := len(b) - 1; i >= 0 && i >= len(b)-utf8.UTFMax; i-- {
		if utf8.RuneStart(b[i]) {
			if !utf8.FullRune(b[i:]) {
				return b[:i]
			}
			break
		}
	}
	return b
}

package archive

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// pattern is a compiled java.time.format.DateTimeFormatter pattern, for instants in UTC and English
// texts.
type pattern []field

// field is a run of one pattern letter, or a literal where letter is 0.
type field struct {
	letter  byte
	count   int
	literal string
}

// Letters and how many of them may stand in a row; those that java.time knows and that are missing
// here depend on a locale (Y, w, W, e, c, B), pad what follows (p), or serve reading only.
var patternLetters = map[byte]func(count int) bool{
	'y': upTo(10), 'u': upTo(10), // java.time fails to format with more
	'M': upTo(5), 'L': upTo(5), 'Q': upTo(5), 'q': upTo(5), 'E': upTo(5), 'G': upTo(5),
	'd': upTo(2), 'H': upTo(2), 'k': upTo(2), 'K': upTo(2), 'h': upTo(2), 'm': upTo(2), 's': upTo(2),
	'D': upTo(3), 'a': upTo(1), 'S': upTo(9), 'A': upTo(19), 'n': upTo(19), 'N': upTo(19),
	'X': upTo(5), 'x': upTo(5), 'Z': upTo(5), 'z': upTo(4),
	'V': func(n int) bool { return n == 2 },
	'O': func(n int) bool { return n == 1 || n == 4 },
}

func upTo(most int) func(int) bool { return func(n int) bool { return n <= most } }

// unsupported says what to write instead of letters that are refused on purpose.
var unsupported = map[byte]string{
	'Y': "is the week-based year, which differs from the calendar year around New Year; write y",
	'w': "depends on a locale; write D for the day of the year",
	'W': "depends on a locale; write d for the day of the month",
	'e': "depends on a locale; write E for the day of the week",
	'c': "depends on a locale; write E for the day of the week",
	'B': "depends on a locale; write a for AM and PM",
}

func parsePattern(text string) (pattern, error) {
	var p pattern
	literal := func(s string) {
		if n := len(p); n > 0 && p[n-1].letter == 0 {
			p[n-1].literal += s
		} else {
			p = append(p, field{literal: s})
		}
	}
	for i := 0; i < len(text); {
		c := text[i]
		switch {
		case 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z':
			n := 1
			for i+n < len(text) && text[i+n] == c {
				n++
			}
			allowed := patternLetters[c]
			switch {
			case allowed == nil && unsupported[c] != "":
				return nil, fmt.Errorf("the letter %c in %q %s", c, text, unsupported[c])
			case allowed == nil:
				return nil, fmt.Errorf("the letter %c in %q is not supported; text is quoted: 'text'", c, text)
			case !allowed(n):
				return nil, fmt.Errorf("the letter %c can't stand %d times in a row, as in %q", c, n, text)
			}
			p = append(p, field{letter: c, count: n})
			i += n
		case c == '\'':
			quoted, n, ok := cutQuoted(text[i:])
			if !ok {
				return nil, fmt.Errorf("the quotation in %q is not closed; a quote itself is written twice", text)
			}
			literal(quoted)
			i += n
		case strings.IndexByte("[]{}#", c) >= 0:
			return nil, fmt.Errorf("%q in %q is reserved; to write it, quote it: '%c'", string(c), text, c)
		default:
			literal(text[i : i+1])
			i++
		}
	}
	return p, nil
}

// cutQuoted reads a quotation with which s begins and returns its length. Two quotes in a row inside it
// are a quote itself, and so is an empty quotation.
func cutQuoted(s string) (text string, length int, ok bool) {
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] != '\'':
			b.WriteByte(s[i])
		case strings.HasPrefix(s[i:], "''"):
			b.WriteByte('\'')
			i++
		case b.Len() == 0:
			return "'", i + 1, true
		default:
			return b.String(), i + 1, true
		}
	}
	return "", 0, false
}

// format appends the time as the pattern says.
func (p pattern) format(dst []byte, t time.Time) []byte {
	t = t.UTC()
	for _, f := range p {
		if f.letter == 0 {
			dst = append(dst, f.literal...)
		} else {
			dst = f.format(dst, t)
		}
	}
	return dst
}

func (f field) format(dst []byte, t time.Time) []byte {
	number := func(n int) []byte { return pad(dst, int64(n), f.count) }
	switch f.letter {
	case 'y', 'u': // the same for the years of our era
		if f.count == 2 {
			return number(t.Year() % 100)
		}
		return number(t.Year())
	case 'M', 'L':
		return f.text(dst, int(t.Month()), t.Month().String())
	case 'Q', 'q':
		quarter := (int(t.Month()) + 2) / 3
		switch f.count {
		case 3:
			return append(dst, 'Q', '0'+byte(quarter))
		case 4:
			return append(dst, [...]string{"1st", "2nd", "3rd", "4th"}[quarter-1]+" quarter"...)
		case 5:
			return append(dst, '0'+byte(quarter))
		}
		return number(quarter)
	case 'E':
		return field{count: max(f.count, 3)}.text(dst, 0, t.Weekday().String())
	case 'G':
		return append(dst, [...]string{"AD", "AD", "AD", "Anno Domini", "A"}[f.count-1]...)
	case 'D':
		return number(t.YearDay())
	case 'd':
		return number(t.Day())
	case 'a':
		if t.Hour() < 12 {
			return append(dst, "AM"...)
		}
		return append(dst, "PM"...)
	case 'H':
		return number(t.Hour())
	case 'k':
		return number((t.Hour()+23)%24 + 1)
	case 'K':
		return number(t.Hour() % 12)
	case 'h':
		return number((t.Hour()+11)%12 + 1)
	case 'm':
		return number(t.Minute())
	case 's':
		return number(t.Second())
	case 'S': // a fraction: cut off, not rounded
		return append(dst, fmt.Sprintf("%09d", t.Nanosecond())[:f.count]...)
	case 'A':
		return pad(dst, nanoOfDay(t)/int64(time.Millisecond), f.count)
	case 'n':
		return number(t.Nanosecond())
	case 'N':
		return pad(dst, nanoOfDay(t), f.count)
	case 'X':
		return append(dst, 'Z')
	case 'x':
		return append(dst, [...]string{"+00", "+0000", "+00:00", "+0000", "+00:00"}[f.count-1]...)
	case 'Z':
		return append(dst, [...]string{"+0000", "+0000", "+0000", "GMT", "Z"}[f.count-1]...)
	case 'O':
		return append(dst, "GMT"...)
	case 'z':
		if f.count == 4 {
			return append(dst, "Coordinated Universal Time"...)
		}
		return append(dst, "UTC"...)
	default: // V
		return append(dst, "UTC"...)
	}
}

// text appends a number, or its name in short, whole, or as one letter.
func (f field) text(dst []byte, number int, name string) []byte {
	switch f.count {
	case 3:
		return append(dst, name[:3]...)
	case 4:
		return append(dst, name...)
	case 5:
		return append(dst, name[0])
	default:
		return pad(dst, int64(number), f.count)
	}
}

func nanoOfDay(t time.Time) int64 {
	return int64(t.Hour())*int64(time.Hour) + int64(t.Minute())*int64(time.Minute) +
		int64(t.Second())*int64(time.Second) + int64(t.Nanosecond())
}

// pad appends n with at least width digits.
func pad(dst []byte, n int64, width int) []byte {
	digits := strconv.FormatInt(n, 10)
	for range width - len(digits) {
		dst = append(dst, '0')
	}
	return append(dst, digits...)
}

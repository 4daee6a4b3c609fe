package mapping

import "time"

// outcome says what a text is.
type outcome uint8

const (
	noTime outcome = iota
	isTime
	outOfRange // a time, but not between the years 1678 and 2261
)

// The event times that can be stored, in Unix nanoseconds.
var (
	minNano = time.Date(1678, 1, 1, 0, 0, 0, 0, time.UTC).UnixNano()
	maxNano = time.Date(2262, 1, 1, 0, 0, 0, 0, time.UTC).UnixNano() - 1
)

// parseTime reads a time in one of the notations that Config.Time names, as Unix nanoseconds.
func parseTime(s string) (int64, outcome) {
	if len(s) > 10 && s[4] == '-' && s[7] == '-' {
		return parseDate(s)
	}
	return parseUnix(s)
}

// parseDate reads RFC 3339, also without a zone, which then is UTC, with a space or a small t for the T,
// and with a zone's offset that has no colon or no minutes, as ISO 8601 allows. It computes what
// time.Parse does in half the time; digits of the fraction of a second behind the ninth are
// dropped.
func parseDate(s string) (int64, outcome) {
	const shape = "2006-01-02T15:04:05"
	if len(s) < len(shape) || s[4] != '-' || s[7] != '-' || s[10]|0x20 != 't' && s[10] != ' ' || s[13] != ':' || s[16] != ':' {
		return 0, noTime
	}
	year := digits2(s[0:])*100 + digits2(s[2:])
	month, day := digits2(s[5:]), digits2(s[8:])
	hour, minute, second := digits2(s[11:]), digits2(s[14:]), digits2(s[17:])
	// A pair that is no number is large and negative, and so is what it is part of.
	if year < 0 || month < 1 || month > 12 || day < 1 || day > daysIn(year, month) ||
		uint(hour) > 23 || uint(minute) > 59 || uint(second) > 59 {
		return 0, noTime
	}

	s = s[len(shape):]
	nano := 0
	if s != "" && s[0] == '.' {
		n := 1
		for unit := 100_000_000; n < len(s) && s[n]-'0' <= 9; n++ {
			nano += int(s[n]-'0') * unit
			unit /= 10
		}
		if n == 1 {
			return 0, noTime
		}
		s = s[n:]
	}
	offset, ok := zone(s)
	if !ok {
		return 0, noTime
	}

	if year < 1677 || year > 2262 { // the offset may lead into the year beside
		return 0, outOfRange
	}
	seconds := int64(daysBefore(year, month)+day-1)*86400 + int64(hour*3600+minute*60+second-offset)
	if seconds < minNano/1e9 || seconds > maxNano/1e9 {
		return 0, outOfRange
	}
	return seconds*1e9 + int64(nano), isTime
}

// digits2 returns the number that two digits are; if they are none, one so negative that it stays
// negative in a sum.
func digits2(s string) int {
	tens, ones := s[0]-'0', s[1]-'0'
	if tens > 9 || ones > 9 {
		return -1 << 20
	}
	return int(tens)*10 + int(ones)
}

// zone returns the seconds by which a zone is ahead of UTC.
func zone(s string) (offset int, ok bool) {
	if s == "" || s == "Z" || s == "z" {
		return 0, true
	}
	sign := 1
	switch s[0] {
	case '+':
	case '-':
		sign = -1
	default:
		return 0, false
	}
	hours, minutes := 0, 0
	switch {
	case len(s) == len("+07:00") && s[3] == ':':
		hours, minutes = digits2(s[1:]), digits2(s[4:])
	case len(s) == len("+0700"):
		hours, minutes = digits2(s[1:]), digits2(s[3:])
	case len(s) == len("+07"):
		hours = digits2(s[1:])
	default:
		return 0, false
	}
	if uint(hours) > 23 || uint(minutes) > 59 {
		return 0, false
	}
	return sign * (hours*3600 + minutes*60), true
}

// daysUntil holds the days of a common year before each month.
var daysUntil = [...]int{0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334, 365}

func leap(year int) bool { return year%4 == 0 && (year%100 != 0 || year%400 == 0) }

func daysIn(year, month int) int {
	if month == 2 && leap(year) {
		return 29
	}
	return daysUntil[month] - daysUntil[month-1]
}

// daysBefore returns the days from the beginning of 1970 to that of the month.
func daysBefore(year, month int) int {
	const until1970 = 719162 // from the beginning of the year 1
	y := year - 1
	days := y*365 + y/4 - y/100 + y/400 + daysUntil[month-1] - until1970
	if month > 2 && leap(year) {
		days++
	}
	return days
}

// parseUnix reads a decimal number, with or without fraction and exponent, as Unix seconds,
// milliseconds, microseconds or nanoseconds. The digits before the decimal point tell which: up to 10 are
// seconds, which reaches to the year 2286, and three more each are the next unit. So what can't be
// written in milliseconds and the smaller units are the times within four months of 1970 began.
func parseUnix(s string) (int64, outcome) {
	negative := s != "" && s[0] == '-'
	if negative {
		s = s[1:]
	}
	mantissa, digits, exponent, ok := decimal(s)
	switch {
	case !ok:
		return 0, noTime
	case mantissa == 0:
		return 0, isTime
	}
	switch before := digits + exponent; {
	case before <= 10:
		exponent += 9
	case before <= 13:
		exponent += 6
	case before <= 16:
		exponent += 3
	}
	for ; exponent < 0 && mantissa > 0; exponent++ {
		mantissa /= 10
	}
	limit := uint64(maxNano)
	if negative {
		limit = uint64(-minNano)
	}
	for ; exponent > 0 && mantissa <= limit; exponent-- {
		if mantissa > limit/10 {
			return 0, outOfRange
		}
		mantissa *= 10
	}
	if mantissa > limit {
		return 0, outOfRange
	}
	if negative {
		return -int64(mantissa), isTime
	}
	return int64(mantissa), isTime
}

// decimal takes a number without its sign apart: it is mantissa * 10^exponent, and mantissa has that
// many digits, at most 19; more are dropped.
func decimal(s string) (mantissa uint64, digits, exponent int, ok bool) {
	const most = 19
	i, point := 0, -1
	for ; i < len(s); i++ {
		c := s[i]
		if c == '.' && point < 0 && i > 0 {
			point = i
			continue
		}
		if c-'0' > 9 {
			break
		}
		if digits == most {
			if point < 0 {
				exponent++
			}
			continue
		}
		mantissa = mantissa*10 + uint64(c-'0')
		if mantissa > 0 {
			digits++
		}
		if point >= 0 {
			exponent--
		}
	}
	if i == 0 || point == i-1 {
		return 0, 0, 0, false
	}
	if i < len(s) {
		power, ok := power(s[i:])
		if !ok {
			return 0, 0, 0, false
		}
		exponent += power
	}
	return mantissa, digits, exponent, true
}

// power reads an exponent such as e+09.
func power(s string) (n int, ok bool) {
	if s[0]|0x20 != 'e' {
		return 0, false
	}
	s = s[1:]
	negative := false
	if s != "" && (s[0] == '+' || s[0] == '-') {
		negative = s[0] == '-'
		s = s[1:]
	}
	for i := range len(s) {
		if s[i]-'0' > 9 {
			return 0, false
		}
		n = min(n*10+int(s[i]-'0'), 1000) // far out of range, or zero
	}
	if negative {
		n = -n
	}
	return n, s != ""
}

package mapping

import (
	"cmp"
	"math/big"
	"regexp"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestParseTime(t *testing.T) {
	at := func(s string) time.Time {
		v, err := time.Parse(time.RFC3339Nano, s)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	for text, want := range map[string]time.Time{
		"2026-07-14T09:26:53Z":                 at("2026-07-14T09:26:53Z"),
		"2026-07-14T09:26:53.5Z":               at("2026-07-14T09:26:53.5Z"),
		"2026-07-14T09:26:53.123456789Z":       at("2026-07-14T09:26:53.123456789Z"),
		"2026-07-14T09:26:53.1234567899Z":      at("2026-07-14T09:26:53.123456789Z"),
		"2026-07-14T09:26:53-04:00":            at("2026-07-14T13:26:53Z"),
		"2026-07-14T09:26:53.25+05:45":         at("2026-07-14T03:41:53.25Z"),
		"2026-07-14T09:26:53+0200":             at("2026-07-14T07:26:53Z"),
		"2026-07-14T09:26:53+02":               at("2026-07-14T07:26:53Z"),
		"2026-07-14T09:26:53":                  at("2026-07-14T09:26:53Z"),
		"2026-07-14 09:26:53":                  at("2026-07-14T09:26:53Z"),
		"2026-07-14 09:26:53.125":              at("2026-07-14T09:26:53.125Z"),
		"2026-07-14 09:26:53.125Z":             at("2026-07-14T09:26:53.125Z"),
		"2026-07-14t09:26:53z":                 at("2026-07-14T09:26:53Z"),
		"2024-02-29T00:00:00Z":                 at("2024-02-29T00:00:00Z"),
		"2000-02-29T00:00:00Z":                 at("2000-02-29T00:00:00Z"),
		"1678-01-01T00:00:00Z":                 at("1678-01-01T00:00:00Z"),
		"2261-12-31T23:59:59.999999999Z":       at("2261-12-31T23:59:59.999999999Z"),
		"1969-12-31T23:59:59.75Z":              at("1969-12-31T23:59:59.75Z"),
		"1677-12-31T23:00:00-02:00":            at("1678-01-01T01:00:00Z"),
		"0":                                    time.Unix(0, 0),
		"1784021213":                           time.Unix(1784021213, 0),
		"1784021213.25":                        time.Unix(1784021213, 250e6),
		"1784021213.123456789012":              time.Unix(1784021213, 123456789),
		"1784021213123":                        time.UnixMilli(1784021213123),
		"1784021213123.5":                      time.UnixMicro(1784021213123500),
		"1784021213123456":                     time.UnixMicro(1784021213123456),
		"1784021213123456789":                  time.Unix(1784021213, 123456789),
		"1.784021213e9":                        time.Unix(1784021213, 0),
		"1784021213E+3":                        time.UnixMilli(1784021213000),
		"17840212130e-1":                       time.Unix(1784021213, 0),
		"0.001":                                time.UnixMilli(1),
		"-1.5":                                 time.Unix(-2, 500e6),
		"-86400":                               time.Unix(-86400, 0),
		"-9214560000":                          at("1678-01-01T00:00:00Z"),
		"1e-400":                               time.Unix(0, 0),
		"10000000000":                          time.UnixMilli(1e10),
		"00001784021213":                       time.Unix(1784021213, 0), // as text only
		"1784021213.0000000000000000000000001": time.Unix(1784021213, 0),
	} {
		n, found := parseTime(text)
		if found != isTime || !time.Unix(0, n).Equal(want) {
			t.Errorf("%q: %s (%d), want %s", text, time.Unix(0, n).UTC().Format(time.RFC3339Nano), found, want.UTC().Format(time.RFC3339Nano))
		}
	}
	for text, want := range map[string]outcome{
		"":                               noTime,
		"now":                            noTime,
		"2026-07-14":                     noTime,
		"2026-07-14T":                    noTime,
		"2026-07-14T09:26":               noTime,
		"2026-7-14T09:26:53Z":            noTime,
		"2026-02-29T00:00:00Z":           noTime,
		"1900-02-29T00:00:00Z":           noTime,
		"2026-13-01T00:00:00Z":           noTime,
		"2026-00-01T00:00:00Z":           noTime,
		"2026-04-31T00:00:00Z":           noTime,
		"2026-04-00T00:00:00Z":           noTime,
		"2026-07-14T24:00:00Z":           noTime,
		"2026-07-14T23:60:00Z":           noTime,
		"2026-07-14T23:59:60Z":           noTime,
		"2026-07-14T09:26:53.Z":          noTime,
		"2026-07-14T09:26:53,5Z":         noTime,
		"2026-07-14T09:26:53 Z":          noTime,
		"2026-07-14T09:26:53+24:00":      noTime,
		"2026-07-14T09:26:53+02:60":      noTime,
		"2026-07-14T09:26:53+2:00":       noTime,
		"2026-07-14T09:26:53ZZ":          noTime,
		"2026-07-14T09:26:5xZ":           noTime,
		"x026-07-14T09:26:53Z":           noTime,
		"2026-07-14x09:26:53Z":           noTime,
		"0001-01-01T00:00:00Z":           outOfRange,
		"0000-01-01T00:00:00Z":           outOfRange,
		"1677-12-31T23:59:59.999999999Z": outOfRange,
		"1678-01-01T00:00:00+00:01":      outOfRange,
		"2262-01-01T00:00:00Z":           outOfRange,
		"9999-12-31T23:59:59Z":           outOfRange,
		"-":                              noTime,
		".":                              noTime,
		".5":                             noTime,
		"5.":                             noTime,
		"1.2.3":                          noTime,
		"1e":                             noTime,
		"1e+":                            noTime,
		"1e5x":                           noTime,
		"0x10":                           noTime,
		" 1":                             noTime,
		"+1":                             noTime,
		"1_000":                          noTime,
		"9999999999":                     outOfRange,
		"-9300000000":                    outOfRange,
		"9300000000000000000":            outOfRange,
		"-9300000000000000000":           outOfRange,
		"99999999999999999999":           outOfRange,
		"1e400":                          outOfRange,
		"1e999999999999999999999999":     outOfRange,
		strings.Repeat("9", 400):         outOfRange,
	} {
		if n, found := parseTime(text); found != want {
			t.Errorf("%q: found %d (%d), want %d", text, found, n, want)
		}
	}
}

// FuzzParseTime compares with the standard library: dates with time.Parse, numbers with big.Rat.
func FuzzParseTime(f *testing.F) {
	for _, s := range []string{
		"2026-07-14T09:26:53Z", "2026-07-14T09:26:53.000000001+23:59", "2026-07-14 09:26:53.1", "1677-12-31T23:59:59-00:01",
		"2262-01-01T00:00:00+00:01", "1784021213.5", "-1784021213123", "1e18", "0.1e11", "2024-02-29T12:00:00-0400", "12345678901234567890.5e-7",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) { checkTime(t, s) })
}

var (
	datePattern   = regexp.MustCompile(`^(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d(?:\.\d+)?)(?:([Zz])|([+-])([01]\d|2[0-3])(?::?([0-5]\d))?)?$`)
	numberPattern = regexp.MustCompile(`^-?\d+(\.\d+)?([eE][+-]?\d+)?$`)
)

type failer interface {
	Fatalf(format string, args ...any)
}

func checkTime(t failer, s string) {
	n, found := parseTime(s)
	want, nanos := noTime, new(big.Int)
	if parts := datePattern.FindStringSubmatch(s); parts != nil {
		zone := "Z"
		if parts[4] != "" {
			zone = parts[4] + parts[5] + ":" + cmp.Or(parts[6], "00")
		}
		if at, err := time.Parse(time.RFC3339, parts[1]+"T"+parts[2]+zone); err == nil {
			want = outOfRange
			if y := at.UTC().Year(); y >= 1678 && y <= 2261 {
				want = isTime
			}
			nanos.SetInt64(at.UnixNano())
		}
	} else if numberPattern.MatchString(s) {
		if _, exponent, _ := strings.Cut(strings.ToLower(s), "e"); len(exponent) > 4 {
			return // big.Rat would take its time
		}
		nanos = unixNanos(s)
		want = outOfRange
		if nanos.Cmp(big.NewInt(minNano)) >= 0 && nanos.Cmp(big.NewInt(maxNano)) <= 0 {
			want = isTime
		}
	}
	if found != want || found == isTime && n != nanos.Int64() {
		t.Fatalf("%q: %d (outcome %d), want %d (%d)", s, n, found, nanos, want)
	}
}

// unixNanos returns a number as Unix nanoseconds, in exact arithmetic.
func unixNanos(s string) *big.Int {
	value, ok := new(big.Rat).SetString(s)
	if !ok {
		panic(s)
	}
	size := new(big.Rat).Abs(value)
	unit := int64(1)
	for _, u := range []struct{ below, nanos int64 }{{1e10, 1e9}, {1e13, 1e6}, {1e16, 1e3}} {
		if size.Cmp(new(big.Rat).SetInt64(u.below)) < 0 {
			unit = u.nanos
			break
		}
	}
	value.Mul(value, new(big.Rat).SetInt64(unit))
	return new(big.Int).Quo(value.Num(), value.Denom()) // towards zero
}

// TestParseTimeRandomly gives the fuzz target's check texts that look like times.
func TestParseTimeRandomly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		checkTime(t, rapid.StringMatching(`(1[67]|20|22)[0-9]{2}-[01][0-9]-[0-3][0-9][T ][0-2][0-9]:[0-6][0-9]:[0-6][0-9](\.[0-9]{1,12})?(Z|[+-][0-2][0-9]:[0-6][0-9])?`).Draw(t, "date"))
		checkTime(t, rapid.StringMatching(`-?[0-9]{1,20}(\.[0-9]{1,15})?([eE][+-]?[0-9]{1,2})?`).Draw(t, "number"))
	})
}

func BenchmarkParseTime(b *testing.B) {
	for name, text := range map[string]string{
		"rfc3339": "2026-07-14T09:26:53-04:00", "fraction": "2026-07-14T09:26:53.123456Z", "unix_ms": "1784021213123",
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, found := parseTime(text); found != isTime {
					b.Fatal(text)
				}
			}
		})
	}
	b.Run("time.Parse", func(b *testing.B) {
		for b.Loop() {
			if _, err := time.Parse(time.RFC3339, "2026-07-14T09:26:53-04:00"); err != nil {
				b.Fatal(err)
			}
		}
	})
}

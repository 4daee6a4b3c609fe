package archive

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace"
)

func TestPrefix(t *testing.T) {
	for text, want := range map[string]string{
		"":                                      "2026/03/07/21/",
		"positions/":                            "positions/2026/03/07/21/",
		"positions":                             "positions2026/03/07/21/",
		"a!b{c}/":                               "a!b{c}/2026/03/07/21/",
		"positions/!{timestamp:yyyy/MM/dd/HH}/": "positions/2026/03/07/21/",
		"year=!{timestamp:yyyy}/month=!{timestamp:MM}/":           "year=2026/month=03/",
		"!{timestamp:'year='yyyy'/day='dd'/'}":                    "year=2026/day=07/",
		"!{timestamp:yyyy}-!{firehose:random-string}/":            "2026-RANDOM1/",
		"!{millrace:random-string}/!{millrace:random-string}/":    "RANDOM1/RANDOM2/2026/03/07/21/",
		"x/!{timestamp:yyyy-MM-dd'T'HH:mm:ss.SSS}_":               "x/2026-03-07T21:04:05.123_",
		"deep/" + strings.Repeat("d/", 200) + "!{timestamp:EEE}-": "deep/" + strings.Repeat("d/", 200) + "Sat-",
		"\u00fc/!{timestamp:yyyy}/":                               "\u00fc/2026/",
	} {
		c := Config{Prefix: text}
		p, _, _, err := parsePrefixes(&c)
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		n := 0
		if got := p.format(evening, "", func() string { n++; return fmt.Sprintf("RANDOM%d", n) }); got != want {
			t.Errorf("%q = %q, want %q", text, got, want)
		}
	}
}

func TestErrorPrefix(t *testing.T) {
	for _, test := range [][3]string{
		{"p/", "", "errors/gap/2026/03/07/"},
		{"p/", "failed/", "failed/"},
		{"p/!{timestamp:yyyy}/", "errors/!{millrace:error-output-type}/!{timestamp:yyyy/MM/dd}/", "errors/gap/2026/03/07/"},
		{"p/!{timestamp:yyyy}/", "!{firehose:error-output-type}-", "gap-"},
	} {
		_, p, _, err := parsePrefixes(&Config{Prefix: test[0], ErrorPrefix: test[1]})
		if err != nil {
			t.Errorf("%q: %v", test[1], err)
		} else if got := p.format(evening, typeGap, nil); got != test[2] {
			t.Errorf("%q = %q, want %q", test[1], got, test[2])
		}
	}
}

func TestPrefixErrors(t *testing.T) {
	for _, test := range []struct{ prefix, failures, key, want string }{
		{"!{timestamp:yyyy", "", "prefix", "not closed"},
		{"!{timestamp:}", "", "prefix", "needs a pattern"},
		{"!{timestamp}", "", "prefix", "needs a pattern"},
		{"!{timestamp:YYYY}/", "", "prefix", "write y"},
		{"!{}", "", "prefix", "unknown"},
		{"!{time:yyyy}", "", "prefix", "!{time:yyyy} is unknown"},
		{"!{firehose:uuid}", "", "prefix", "!{firehose:uuid} is unknown"},
		{"!{partitionKeyFromQuery:id}/", "", "prefix", "dynamic partitions"},
		{"!{millrace:error-output-type}/", "", "prefix", "belongs into error_prefix"},
		{"/absolute/", "", "prefix", `segment ""`},
		{"a//b/", "", "prefix", `segment ""`},
		{"a/../b/", "", "prefix", `segment ".."`},
		{"./", "", "prefix", `segment "."`},
		{"!{timestamp:yyyy/'..'/MM}/", "", "prefix", `segment ".."`},
		{"a\nb/", "", "prefix", "control characters"},
		{"a\xff/", "", "prefix", "UTF-8"},
		{strings.Repeat("long/", 110), "", "prefix", "the limit is 512"},
		{"!{timestamp:'" + strings.Repeat("long/", 100) + "last'MMMM}", "", "prefix", "on 2028-09-01"},
		{strings.Repeat("x", 70) + "!{timestamp:yyyy}", "", "prefix", "and 60 for the last"},
		{"p/!{timestamp:yyyy}/", "failed/", "error_prefix", "must contain !{millrace:error-output-type}"},
		{"p/", "!{nothing:x}", "error_prefix", "unknown"},
		{"p/", "/failed/", "error_prefix", `segment ""`},
	} {
		_, _, key, err := parsePrefixes(&Config{Prefix: test.prefix, ErrorPrefix: test.failures})
		if err == nil || key != test.key || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q, %q: %q, %v, want %q with %q", test.prefix, test.failures, key, err, test.key, test.want)
		}
	}
}

func TestRandomString(t *testing.T) {
	a, b := randomString(), randomString()
	if a == b || !regexp.MustCompile(`^[a-z0-9]{11}$`).MatchString(a) {
		t.Errorf("%q and %q", a, b)
	}
}

func TestObjectName(t *testing.T) {
	at := func(n uint64, event uint32) millrace.Position {
		return millrace.Position{Block: millrace.BlockName("abc", n), Event: event}
	}
	if got, want := objectName("positions", "0", at(1, 1), at(33, 40), ".ndjson.gz"),
		"positions_0_abc-000000000001.0000001_abc-000000000011.0000040.ndjson.gz"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	last := ""
	for _, p := range []millrace.Position{{}, at(1, 1), at(1, 2), at(1, 10), at(1, 1<<20), at(2, 1), at(32, 1), at(1<<40, 1)} {
		name := objectName("s", "0", p, at(1<<50, 1), ".raw")
		if name <= last {
			t.Errorf("%q does not sort after %q", name, last)
		}
		last = name
	}
}

func FuzzPrefix(f *testing.F) {
	for _, s := range []string{
		"", "positions/!{timestamp:yyyy/MM/dd/HH}/", "!{timestamp:'it''s' EEEE MMMM a}", "!{millrace:error-output-type}/",
		"!{firehose:random-string}", "!{", "!{timestamp:", "!{timestamp:'}", "!{timestamp:YYYY}", "!{a:b}!{c}", "a!{!{timestamp:H}}",
	} {
		f.Add(s, int64(1_700_000_000))
	}
	f.Fuzz(func(t *testing.T, text string, seconds int64) {
		at := time.Unix(seconds%7e9, 0) // years 1748 to 2191
		p, err := parsePrefix(text)
		if err != nil {
			if err.Error() == "" {
				t.Error("an error without a text")
			}
			return
		}
		one := p.format(at, typeGap, func() string { return "random" })
		if two := p.format(at.In(time.FixedZone("", 3600)), typeGap, func() string { return "random" }); one != two {
			t.Errorf("%q: %q and %q", text, one, two)
		}
		if p.plain() && one != text {
			t.Errorf("%q has no expressions and becomes %q", text, one)
		}
		if _, _, key, err := parsePrefixes(&Config{Prefix: text}); err == nil && key != "" {
			t.Errorf("%q: key %q without an error", text, key)
		}
	})
}

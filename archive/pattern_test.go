package archive

import (
	"bufio"
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var (
	evening  = time.Date(2026, time.March, 7, 21, 4, 5, 123_456_789, time.UTC)
	midnight = time.Date(2028, time.December, 31, 0, 0, 0, 0, time.UTC)
	noon     = time.Date(1999, time.August, 9, 12, 30, 59, 7_000_000, time.UTC)
)

var patternTable = []struct {
	pattern string
	t       time.Time
	want    string
}{
	{"yyyy/MM/dd/HH/", evening, "2026/03/07/21/"},
	{"y|yy|yyy|yyyy|yyyyy|yyyyyy", evening, "2026|26|2026|2026|02026|002026"},
	{"u|uu|uuu|uuuu|uuuuu", noon, "1999|99|1999|1999|01999"},
	{"M|MM|MMM|MMMM|MMMMM", evening, "3|03|Mar|March|M"},
	{"L|LL|LLL|LLLL|LLLLL", noon, "8|08|Aug|August|A"},
	{"MMM", time.Date(2026, time.September, 1, 0, 0, 0, 0, time.UTC), "Sep"},
	{"MMM MMMM", time.Date(2026, time.May, 1, 0, 0, 0, 0, time.UTC), "May May"},
	{"Q|QQ|QQQ|QQQQ|QQQQQ", evening, "1|01|Q1|1st quarter|1"},
	{"q|qq|qqq|qqqq|qqqqq", noon, "3|03|Q3|3rd quarter|3"},
	{"d|dd", evening, "7|07"},
	{"d|dd", midnight, "31|31"},
	{"D|DD|DDD", evening, "66|66|066"},
	{"D|DD|DDD", midnight, "366|366|366"},
	{"E|EE|EEE|EEEE|EEEEE", evening, "Sat|Sat|Sat|Saturday|S"},
	{"E|EEEE|EEEEE", midnight, "Sun|Sunday|S"},
	{"G|GG|GGG|GGGG|GGGGG", evening, "AD|AD|AD|Anno Domini|A"},
	{"a", evening, "PM"},
	{"a", noon, "PM"},
	{"a", midnight, "AM"},
	{"H|HH|k|kk|K|KK|h|hh", evening, "21|21|21|21|9|09|9|09"},
	{"H|HH|k|kk|K|KK|h|hh", midnight, "0|00|24|24|0|00|12|12"},
	{"H|HH|k|kk|K|KK|h|hh", noon, "12|12|12|12|0|00|12|12"},
	{"m|mm|s|ss", evening, "4|04|5|05"},
	{"S|SS|SSS|SSSS|SSSSSS|SSSSSSSSS", evening, "1|12|123|1234|123456|123456789"},
	{"S|SSS|SSSSSSSSS", noon, "0|007|007000000"},
	{"A|AAAAAAAAAAA", evening, "75845123|00075845123"},
	{"A|n|N", midnight, "0|0|0"},
	{"n|nnnnnnnnnnn", noon, "7000000|00007000000"},
	{"N|NNNNNNNNNNNNNNNNN", evening, "75845123456789|00075845123456789"},
	{"X|XX|XXX|XXXX|XXXXX", evening, "Z|Z|Z|Z|Z"},
	{"x|xx|xxx|xxxx|xxxxx", evening, "+00|+0000|+00:00|+0000|+00:00"},
	{"Z|ZZ|ZZZ|ZZZZ|ZZZZZ", evening, "+0000|+0000|+0000|GMT|Z"},
	{"O|OOOO", evening, "GMT|GMT"},
	{"z|zz|zzz|zzzz|VV", evening, "UTC|UTC|UTC|Coordinated Universal Time|UTC"},
	{"'year='yyyy'/month='MM", evening, "year=2026/month=03"},
	{"'at' h 'o''clock' a", evening, "at 9 o'clock PM"},
	{"yyyy''MM''''", evening, "2026'03'"},
	{"'''a'", evening, "'a"},
	{"''", evening, "'"},
	{"'a''b'", evening, "a'b"},
	{"yyyyMMdd-HHmmss.SSS_+~*!\"§$%&/()=?ü", evening, "20260307-210405.123_+~*!\"§$%&/()=?ü"},
	{"", evening, ""},
}

func TestPattern(t *testing.T) {
	for _, test := range patternTable {
		p, err := parsePattern(test.pattern)
		if err != nil {
			t.Errorf("%q: %v", test.pattern, err)
			continue
		}
		if got := string(p.format(nil, test.t)); got != test.want {
			t.Errorf("%q = %q, want %q", test.pattern, got, test.want)
		}
	}
	elsewhere := time.FixedZone("", 5*3600)
	p, _ := parsePattern("yyyy-MM-dd HH")
	if got := string(p.format(nil, evening.In(elsewhere))); got != "2026-03-07 21" {
		t.Errorf("a time of another zone = %q, want it in UTC", got)
	}
}

func TestPatternErrors(t *testing.T) {
	for pattern, want := range map[string]string{
		"YYYY/MM/dd":  "write y",
		"ww":          "write D",
		"W":           "write d",
		"e":           "write E",
		"ccc":         "write E",
		"B":           "write a",
		"bb":          "letter b in",
		"I":           "letter I in",
		"yyyy-MM-ddT": "letter T in",
		"pHH":         "letter p in",
		"ddd":         "3 times",
		"HHH":         "3 times",
		"aa":          "2 times",
		"MMMMMM":      "6 times",
		"SSSSSSSSSS":  "10 times",
		"V":           "1 times",
		"OO":          "2 times",
		"'open":       "not closed",
		"yyyy'":       "not closed",
		"'a''":        "not closed",
		"[yyyy]":      "reserved",
		"yyyy#":       "reserved",
		"{yyyy":       "reserved",
	} {
		if p, err := parsePattern(pattern); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, %v, want an error with %q", pattern, p, err, want)
		} else if !strings.Contains(err.Error(), pattern) {
			t.Errorf("%q: the error %q does not quote it", pattern, err)
		}
	}
}

// TestPatternOracle compares the table, and patterns put together at random, with java.time.
func TestPatternOracle(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a JVM")
	}
	java, err := exec.LookPath("java")
	if err != nil {
		t.Skip("needs a JDK, and there is no java in PATH")
	}
	program := filepath.Join(t.TempDir(), "Oracle.java")
	if err := os.WriteFile(program, []byte(oracle), 0o600); err != nil {
		t.Fatal(err)
	}
	type question struct {
		pattern string
		t       time.Time
	}
	var questions []question
	for _, test := range patternTable {
		questions = append(questions, question{test.pattern, test.t})
	}
	random := rand.New(rand.NewPCG(1, 2))
	letters := "yuMLQqEGdHkKhmsDaSAnNXxZzVO"
	for range 3000 {
		var b strings.Builder
		for range 1 + random.IntN(4) {
			switch random.IntN(8) {
			case 0:
				b.WriteString([]string{"/", "-", "''", "'x'", "'a''b'", "1"}[random.IntN(6)])
			default:
				b.WriteString(strings.Repeat(string(letters[random.IntN(len(letters))]), 1+random.IntN(6)))
			}
		}
		at := time.Unix(random.Int64N(9e9)-2e9, random.Int64N(1e9)).UTC()
		questions = append(questions, question{b.String(), at})
	}
	var in bytes.Buffer
	for _, q := range questions {
		fmt.Fprintf(&in, "%d\t%d\t%s\n", q.t.Unix(), q.t.Nanosecond(), q.pattern)
	}
	cmd := exec.CommandContext(t.Context(), java, "-Dfile.encoding=UTF-8", program)
	cmd.Stdin = &in
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil && len(out) == 0 {
		t.Skipf("java can't run a source file (needs a JDK of version 11 or later): %v\n%s", err, &complaints)
	}
	if err != nil {
		t.Fatalf("java: %v\n%s", err, &complaints)
	}
	lines := bufio.NewScanner(bytes.NewReader(out))
	understood := 0
	for i, q := range questions {
		if !lines.Scan() {
			t.Fatalf("java answered %d of %d", i, len(questions))
		}
		want, refused := lines.Text(), lines.Text() == "REFUSED"
		p, err := parsePattern(q.pattern)
		switch {
		case refused && err == nil:
			t.Errorf("%q: java refuses it, and it is %q here", q.pattern, p.format(nil, q.t))
		case !refused && err != nil:
			t.Errorf("%q: %v, and java says %q", q.pattern, err, want)
		case !refused:
			understood++
			if got := string(p.format(nil, q.t)); got != want {
				t.Errorf("%q of %s = %q, and java says %q", q.pattern, q.t, got, want)
			}
		}
	}
	if understood < len(questions)/4 {
		t.Errorf("only %d of %d patterns are valid: the test proves little", understood, len(questions))
	}
}

const oracle = `
import java.io.*;
import java.nio.charset.StandardCharsets;
import java.time.*;
import java.time.format.DateTimeFormatter;
import java.util.Locale;

public class Oracle {
	public static void main(String[] arguments) throws IOException {
		var in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
		var out = new PrintStream(new FileOutputStream(FileDescriptor.out), false, "UTF-8");
		for (String line; (line = in.readLine()) != null; ) {
			String[] question = line.split("\t", 3);
			var instant = Instant.ofEpochSecond(Long.parseLong(question[0]), Long.parseLong(question[1]));
			try {
				out.println(DateTimeFormatter.ofPattern(question[2], Locale.US).withZone(ZoneId.of("UTC")).format(instant));
			} catch (IllegalArgumentException | ArrayIndexOutOfBoundsException e) {
				out.println("REFUSED");
			}
		}
		out.flush();
	}
}
`

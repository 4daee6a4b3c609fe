package expr

import (
	"encoding/json"
	"flag"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
)

var update = flag.Bool("update", false, "write testdata/errors.txt anew")

// TestExpressions runs the specification in testdata/expressions.txt.
func TestExpressions(t *testing.T) {
	var ev millrace.Event
	for i, line := range lines(t, "testdata/expressions.txt") {
		word, rest, _ := strings.Cut(line, " ")
		rest = strings.TrimSpace(rest)
		switch word {
		case "", "#":
		case "event":
			ev = event(t, rest)
		case "data":
			ev.Data = []byte(rest)
		case "true", "false":
			f, err := Compile(rest)
			if err != nil {
				t.Errorf("line %d: %v", i+1, err)
				continue
			}
			for name, got := range match(t, f, &ev) {
				if want := word == "true"; got != want {
					t.Errorf("line %d: %s on %s: %t, want %t", i+1, rest, name, got, want)
				}
			}
			again, err := Compile(f.String())
			if err != nil || again.String() != f.String() {
				t.Errorf("line %d: %s prints as %s, which compiles to %v (%v)", i+1, rest, f, again, err)
			}
		default:
			t.Errorf("line %d: %q is no result", i+1, word)
		}
	}
}

func lines(t testing.TB, name string) []string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
}

// event reads an event's columns from JSON.
func event(t *testing.T, text string) millrace.Event {
	t.Helper()
	var read struct {
		Key, Type, ID string
		Time          time.Time
		Deleted       bool
		Attributes    map[string]string
	}
	if err := json.Unmarshal([]byte(text), &read); err != nil {
		t.Fatal(err)
	}
	return millrace.Event{
		Key: read.Key, Type: read.Type, ID: read.ID, Time: read.Time,
		Deleted: read.Deleted, Attributes: read.Attributes,
	}
}

// match evaluates a filter in both ways, on the event and on the second of a block.
func match(t testing.TB, f *Filter, ev *millrace.Event) map[string]bool {
	t.Helper()
	var r block.Reader
	if err := r.Reset(pack(t, millrace.Event{Data: []byte(`{"other":1}`)}, *ev)); err != nil {
		t.Fatal(err)
	}
	if err := r.Load(f.Needs()); err != nil {
		t.Fatal(err)
	}
	e := f.Evaluator()
	e.Match(&r, 0)
	return map[string]bool{"a block": e.Match(&r, 1), "an event": e.MatchEvent(ev)}
}

func pack(t testing.TB, events ...millrace.Event) []byte {
	t.Helper()
	var b block.Builder
	for i := range events {
		if err := b.Add(&events[i]); err != nil {
			t.Fatal(err)
		}
	}
	packed, err := b.Encode(nil, millrace.Header{Producer: "source/test"})
	if err != nil {
		t.Fatal(err)
	}
	return packed.Raw
}

// TestErrors compares messages with those in testdata/errors.txt, each below its expression.
func TestErrors(t *testing.T) {
	const indent = "    "
	var told strings.Builder
	all := lines(t, "testdata/errors.txt")
	for _, line := range all {
		if strings.HasPrefix(line, indent) {
			continue
		}
		told.WriteString(line + "\n")
		if line == "" && told.Len() > 1 {
			continue
		}
		_, err := Compile(line)
		if err == nil {
			t.Errorf("%s compiles", line)
			continue
		}
		if code := millrace.CodeOf(err); code != millrace.Invalid {
			t.Errorf("%s: code %s", line, code)
		}
		_, message, _ := strings.Cut(err.Error(), `": `)
		told.WriteString(indent + message + "\n")
	}
	if *update {
		if err := os.WriteFile("testdata/errors.txt", []byte(told.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	for i, line := range strings.Split(strings.TrimSuffix(told.String(), "\n"), "\n") {
		if i >= len(all) || line != all[i] {
			t.Fatalf("line %d of errors.txt would be\n%s\n(-update writes it)", i+1, line)
		}
	}
}

func TestCanonical(t *testing.T) {
	for want, texts := range map[string][]string{
		`speed > 80`:                          {"speed>80", " speed\t>\n80 ", "(speed > 80)", "((speed) > (80))", "speed > 80.0", "speed > 8e1", "`speed` > 0.8e+2"},
		`a && b && c`:                         {"a and b AND c", "(a && b) && c", "a && (b && c)", "((a)&&((b)&&c))"},
		`a || b && c`:                         {"a or b and c", "a || (b && c)"},
		`(a || b) && c`:                       {"(a or b) and c"},
		`!(a == 1) && b`:                      {"not a = 1 and b", "!(a==1) && b", "NOT (a == 1) && b"},
		`!a == true`:                          {"(!a) == true"},
		`!a`:                                  {"not a", "! a", "not (a)"},
		`a - b - c == d`:                      {"(a-b)-c==d"},
		`a - (b - c) == d`:                    {"a-(b-c)=d"},
		`a * (b + 1) > -c`:                    {"a*(b+1)>-c", "(a * (b + 1)) > (-(c))"},
		`a == -5`:                             {"a == - 5", "a == -(5.0)", "a == -5e0"},
		`a == 5`:                              {"a == --5", "a == -(-5)"},
		`a == 0`:                              {"a == -0", "a == 0e5", "a == 0.000"},
		`a == 1e300`:                          {"a == 1" + strings.Repeat("0", 300), "a==10e299"},
		`a == 1.5e-7`:                         {"a == 0.00000015"},
		`a == 0.000001`:                       {"a == 1e-6"},
		`"x" in tags`:                         {"'x' in tags", `"\u0078"IN tags`},
		`a not in [1, "b", null]`:             {"a NOT  IN [1.0,'b',NULL]"},
		"`odd name`.b.0.`c.d` > 1":            {"`odd name`.`b`.0.c\\.d > 1"},
		"`and` && `9`.x == `In`":              {"`and` and `9`.x = `In`"},
		"$attributes.a == \"\\u0001\\n\\\"\"": {"$attributes.`a` == '\\u0001\\n\"'"},
		`lower(a) == "é/\\"`:                  {`LOWER( a )=="\u00e9\/\\"`},
		`(a == 1) == (b > 2)`:                 {"(a = 1) = (b>2)"},
		`a == "Grüße\u007f"`:                  {`a == 'Gr\u00fc\u00dfe` + "\x7f'"},
	} {
		want = strings.ReplaceAll(want, `\u007f`, "\x7f")
		for _, text := range append(texts, want) {
			if f, err := Compile(text); err != nil || f.String() != want {
				t.Errorf("%s prints as %v, want %s (%v)", text, f, want, err)
			}
		}
	}
}

func TestNeeds(t *testing.T) {
	for text, want := range map[string]block.Sections{
		`true`:                              0,
		`$key == "a" && !$deleted`:          block.Keys,
		`$time > 5`:                         block.Keys,
		`$id == $type`:                      block.IDs,
		`exists($attributes.a)`:             block.Attributes,
		`a`:                                 block.Data,
		`$type == "a" || a == $key`:         block.Data | block.Keys | block.IDs,
		`$attributes.a == "1" && !$deleted`: block.Attributes | block.Keys,
	} {
		if got := mustCompile(t, text).Needs(); got != want {
			t.Errorf("%s needs %b, want %b", text, got, want)
		}
	}
}

func TestLimits(t *testing.T) {
	fields := func(n int) string {
		var b strings.Builder
		for i := range n {
			b.WriteString("|| a" + strconv.Itoa(i))
		}
		return b.String()[3:]
	}
	sum := func(n int) string { return "a" + strings.Repeat(" + a", n) }
	for _, tt := range []struct {
		name, text string
		fits       bool
	}{
		{"text", "a" + strings.Repeat(" ", MaxText-1), true},
		{"text", "a" + strings.Repeat(" ", MaxText), false},
		{"canonical text", strings.Repeat("a||", 700) + "a", true},
		{"canonical text", strings.Repeat("a||", 1000) + "a", false},
		{"fields", fields(MaxFields), true},
		{"fields", fields(MaxFields + 1), false},
		{"fields", fields(MaxFields) + "|| a0", true},
		{"depth", strings.Repeat("!", MaxDepth) + "a", true},
		{"depth", strings.Repeat("!", MaxDepth+1) + "a", false},
		{"depth", strings.Repeat("not ", MaxDepth-1) + "a == 1", true},
		{"depth", strings.Repeat("not ", MaxDepth) + "a == 1", false},
		{"depth", sum(MaxDepth-1) + " > 1", true},
		{"depth", sum(MaxDepth) + " > 1", false},
		{"depth", "length(" + strings.Repeat("lower(", MaxDepth-2) + "a" + strings.Repeat(")", MaxDepth-2) + ") > 1", true},
		{"depth", "length(" + strings.Repeat("lower(", MaxDepth-1) + "a" + strings.Repeat(")", MaxDepth-1) + ") > 1", false},
		{"chain", strings.Repeat("a && (b || ", 15) + "a" + strings.Repeat(")", 15), true},
		{"chain", strings.Repeat("a && (b || ", 16) + "c" + strings.Repeat(")", 16), true},
		{"chain", strings.Repeat("a && (b || ", 17) + "c" + strings.Repeat(")", 17), false},
		{"chain", "a" + strings.Repeat(" && a", 500), true},
		{"parentheses", strings.Repeat("(", 100) + "a" + strings.Repeat(")", 100), true},
		{"parentheses", strings.Repeat("(", 2000) + "a" + strings.Repeat(")", 2000), false},
		{"pattern", `matches(a, "` + strings.Repeat("a", MaxPattern-10) + `")`, true},
		{"pattern", `matches(a, "` + strings.Repeat("a", MaxPattern+10) + `")`, false},
		{"pattern", `matches(a, "(?:a{30}){30}")`, true},
		{"pattern", `matches(a, "(?:a{30}){30}") && matches(b, "a{200}")`, false},
		{"pattern", `matches(a, "[` + strings.Repeat(`\\PL`, 5) + `]")`, true},
		{"pattern", `matches(a, "[` + strings.Repeat(`\\PL`, 500) + `]")`, false},
		{"scans", strings.Repeat("length(a) > 1 || b in c && ", MaxScans/2) + "a", true},
		{"scans", strings.Repeat("length(a) > 1 || b in c && ", MaxScans/2) + "contains(a, b)", false},
		{"scans", strings.Repeat("starts_with(a, b) || a in [1] || ", 60) + "a", true},
		{"path", "a" + strings.Repeat(".a", 63), true},
		{"path", "a" + strings.Repeat(".a", 64), false},
		{"UTF-8", "a == '\xff'", false},
	} {
		if _, err := Compile(tt.text); (err == nil) != tt.fits || err != nil && millrace.CodeOf(err) != millrace.Invalid {
			t.Errorf("%s: %.60s: %v, want it to fit: %t", tt.name, tt.text, err, tt.fits)
		}
	}
}

// TestLazy: the data is not looked at where the columns decide, and once where they do not.
func TestLazy(t *testing.T) {
	var r block.Reader
	if err := r.Reset(pack(t, millrace.Event{Key: "a", Data: []byte(`{"speed":1,"x":2}`)})); err != nil {
		t.Fatal(err)
	}
	if err := r.Load(block.Keys | block.Data); err != nil {
		t.Fatal(err)
	}
	for text, searches := range map[string]bool{
		`$key == "b" && speed > 0`:     false,
		`$key == "a" || speed > 0`:     false,
		`$key == "a" && speed > 0`:     true,
		`coalesce($key, speed) == "a"`: false,
		`x > 1 && speed > 0`:           true,
	} {
		e := mustCompile(t, text).Evaluator()
		e.reader = &r
		e.test(e.filter.root)
		if e.searched != searches {
			t.Errorf("%s: searched %t, want %t", text, e.searched, searches)
		}
	}
}

// TestLetsGo: an evaluator at rest holds neither the event nor more memory than it should.
func TestLetsGo(t *testing.T) {
	e := mustCompile(t, `lower(a) == "x" || upper(coalesce(a, b)) == "Y" || coalesce(upper(a), true)`).Evaluator()
	for range 2 {
		e.MatchEvent(&millrace.Event{Data: []byte(`{"a":"` + strings.Repeat(`\u0041b`, 100_000) + `"}`)})
		if e.event != nil || e.found[0].Raw != nil || e.values[0].text != "" {
			t.Error("the event is held")
		}
		if cap(e.texts) > keep || cap(e.scratch) > keep || len(e.scratch) > 0 {
			t.Errorf("%d and %d bytes are held", cap(e.texts), cap(e.scratch))
		}
	}
}

// TestScratch: operations one after the other, and within each other, use the memory of one.
func TestScratch(t *testing.T) {
	ev := millrace.Event{Data: []byte(`{"a":"` + strings.Repeat("Ab", 500) + `"}`)}
	for _, text := range []string{
		strings.Repeat(`lower(a) == "x" || `, 30) + "b",
		strings.Repeat(`length(lower(a)) + `, 15) + "1 == 0",
		`length(` + strings.Repeat("lower(upper(", 15) + "a" + strings.Repeat(")", 31) + ` == 0`,
	} {
		e := mustCompile(t, text).Evaluator()
		if e.MatchEvent(&ev); cap(e.scratch) == 0 || cap(e.scratch) > 5000 {
			t.Errorf("%.30s...: %d bytes of scratch for a string of 1000", text, cap(e.scratch))
		}
	}
}

// TestShared evaluates one filter in several goroutines; the race detector watches.
func TestShared(t *testing.T) {
	f := mustCompile(t, `lower(name) == "grüße" && matches(updated_at, "^2026") && speed >= 0 && $key != "x"`)
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			e := f.Evaluator()
			for n := range 200 {
				if ev := vehicle(n); !e.MatchEvent(&ev) {
					t.Errorf("vehicle %d does not pass", n)
					return
				}
			}
		})
	}
	group.Wait()
}

// TestDocumented compiles the examples of the manual, and compares its errors.
func TestDocumented(t *testing.T) {
	rows, examples, inExamples := 0, 0, false
	for i, line := range lines(t, "../docs/expressions.md") {
		cells := strings.Split(line, " | ")
		switch {
		case strings.HasPrefix(line, "```"):
			inExamples = !inExamples
		case inExamples:
			examples++
			mustCompile(t, line)
		case len(cells) == 2 && strings.Contains(cells[1], "column "):
			rows++
			want := strings.TrimSuffix(cells[1], " |")
			if _, err := Compile(strings.Trim(cells[0], "|` ")); err == nil || !strings.HasSuffix(err.Error(), want) {
				t.Errorf("line %d says %s, and it is %v", i+1, want, err)
			}
		}
	}
	if rows < 4 || examples < 6 {
		t.Errorf("found %d errors and %d examples; has the page another shape?", rows, examples)
	}
}

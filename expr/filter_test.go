package expr

import (
	"encoding/json"
	"flag"
	"os"
	"strings"
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

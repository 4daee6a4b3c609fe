package config

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the golden files anew")

const secret = "hunter2"

// environment is what the files in testdata may ask for.
func environment(name string) (string, bool) {
	value, ok := map[string]string{"MBTA_KEY": secret, "SECRET": secret, "DRAIN": "45s", "EMPTY": ""}[name]
	return value, ok
}

func files(t *testing.T, pattern string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join("testdata", pattern))
	if err != nil || len(names) == 0 {
		t.Fatal("no files match", pattern, err)
	}
	return names
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs.\ngot:\n%s\nwant:\n%s", name, got, want)
	}
}

// Each good file is read, and its effective configuration is what the golden file says.
func TestGood(t *testing.T) {
	for _, name := range files(t, "*.good.yaml") {
		t.Run(filepath.Base(name), func(t *testing.T) {
			c, err := Load(name, environment)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(c.String(), secret) || strings.Contains(c.String(), "sesame") {
				t.Error("the printed configuration holds a secret")
			}
			golden(t, strings.TrimSuffix(name, ".yaml")+".golden", c.String())
		})
	}
}

// Each bad file has the problems that its golden file lists, in one pass.
func TestBad(t *testing.T) {
	for _, name := range files(t, "*.bad.yaml") {
		t.Run(filepath.Base(name), func(t *testing.T) {
			_, err := Load(name, environment)
			if _, ok := errors.AsType[Problems](err); !ok {
				t.Fatalf("%v, want problems", err)
			}
			if strings.Contains(err.Error(), secret) {
				t.Error("a problem quotes a secret")
			}
			golden(t, strings.TrimSuffix(name, ".yaml")+".golden", err.Error()+"\n")
		})
	}
}

// What Print writes is a configuration, and the same one.
func TestPrintIsRead(t *testing.T) {
	// In the directory of the files, since paths are printed as they are from the working directory.
	t.Chdir("testdata")
	names, err := filepath.Glob("*.good.yaml")
	if err != nil || len(names) == 0 {
		t.Fatal("no files", err)
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		c, err := Parse(name, text, environment)
		if err != nil {
			t.Fatal(err)
		}
		wantSameWhenPrinted(t, c, environment)
	}
}

// fataler is testing.T or rapid.T.
type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

// wantSameWhenPrinted fails unless what is printed of a configuration is read as the same one, but for what
// is hidden.
func wantSameWhenPrinted(t fataler, c *Config, env func(string) (string, bool)) {
	t.Helper()
	printed := c.String()
	again, err := Parse(c.file, []byte(printed), env)
	if err != nil {
		t.Fatalf("%s: what is printed is not read: %v\n%s", c.file, err, printed)
	}
	if twice := again.String(); twice != printed {
		t.Fatalf("%s: printed\n%s\nand once more\n%s", c.file, printed, twice)
	}
	one, two := *c, *again
	for _, c := range []*Config{&one, &two} {
		c.places, c.hidden, c.file = nil, nil, ""
	}
	first, second := masked(reflect.ValueOf(one), option{}), masked(reflect.ValueOf(two), option{})
	if !reflect.DeepEqual(first.Interface(), second.Interface()) {
		t.Fatalf("%s: printed\n%s\nit is read as\n%+v\nand was\n%+v", c.file, printed, second, first)
	}
}

// masked returns a copy of a value in which everything is hidden that Print may hide.
func masked(v reflect.Value, o option) reflect.Value {
	out := reflect.New(v.Type()).Elem()
	out.Set(v)
	switch v.Kind() {
	case reflect.String:
		switch {
		case o.secret && v.String() != "":
			out.SetString(hiddenText)
		case !o.secret:
			out.SetString(withoutCredentials(v.String()))
		}
	case reflect.Pointer:
		if !v.IsNil() {
			out.Set(reflect.New(v.Type().Elem()))
			out.Elem().Set(masked(v.Elem(), o))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() {
				_, o := tagOf(f)
				out.Field(i).Set(masked(v.Field(i), o))
			}
		}
	case reflect.Map:
		if v.Len() > 0 {
			out.Set(reflect.MakeMap(v.Type()))
		}
		for it := v.MapRange(); it.Next(); {
			out.SetMapIndex(it.Key(), masked(it.Value(), o))
		}
	case reflect.Slice:
		if v.Len() > 0 {
			out.Set(reflect.MakeSlice(v.Type(), v.Len(), v.Len()))
		}
		for i := range v.Len() {
			out.Index(i).Set(masked(v.Index(i), o))
		}
	default:
	}
	return out
}

func TestValues(t *testing.T) {
	c, err := Load("testdata/full.good.yaml", environment)
	if err != nil {
		t.Fatal(err)
	}
	buses := c.Sources["buses"]
	if got := buses.SSE.Headers["x-api-key"]; got != secret {
		t.Errorf("x-api-key is %q", got)
	}
	if got := buses.SSE.Headers["authorization"]; got != "Bearer sesame" {
		t.Errorf("authorization is %q", got)
	}
	if buses.SSE.ReadTimeout != 90*time.Second || buses.SSE.EventLimit != 1<<20 || !buses.Mapping.Split {
		t.Errorf("the source is %+v", buses)
	}
	if got := c.Streams["crossings"].Retention.Age; got != 7*24*time.Hour {
		t.Errorf("age is %s", got)
	}
	if got := c.Streams["dead"].Retention.Bytes; got != 100e6 {
		t.Errorf("bytes is %d", got)
	}
	if got := c.Queries["crossings"].Query.Fence.Fences; got != filepath.Join("testdata", "depots.geojson") {
		t.Errorf("fences is %q", got)
	}
	if got := c.Problem("queries.crossings.fence.fences", "is no GeoJSON").String(); got != "testdata/full.good.yaml:31:15: queries.crossings.fence.fences: is no GeoJSON" {
		t.Error(got)
	}
}

func TestMissingFile(t *testing.T) {
	for _, name := range []string{"testdata/none.yaml", "testdata"} {
		if _, err := Load(name, environment); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	large := filepath.Join(t.TempDir(), "large.yaml")
	if err := os.WriteFile(large, make([]byte, maxFile+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(large, environment); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Error(err)
	}
}

// A file that is wrong throughout, or made to cost much, is answered shortly and soon.
func TestBounded(t *testing.T) {
	for name, text := range map[string]string{
		"flow":     "a: " + strings.Repeat("[", 500_000),
		"maps":     "a: " + strings.Repeat("{a: ", 100_000),
		"dashes":   strings.Repeat("- ", 500_000),
		"marks":    strings.Repeat("? ", 500_000),
		"anchors":  "a: " + strings.Repeat("&a ", 200_000),
		"tags":     "a: " + strings.Repeat("!a ", 200_000),
		"laughs":   laughs(),
		"problems": "streams:\n" + strings.Repeat("  a: {}\n", 100_000),
		"long":     "streams: {" + strings.Repeat("x", 900_000) + ": {}}",
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse("x.yaml", []byte(text), environment)
			if err == nil {
				t.Fatal("no problem")
			}
			if len(err.Error()) > 64<<10 {
				t.Errorf("the problems are %d bytes long", len(err.Error()))
			}
		})
	}
}

// laughs is a small file whose aliases unfold into 10^9 values.
func laughs() string {
	var b strings.Builder
	b.WriteString("a: &a {x: {}}\n")
	for _, next := range "bcdefghij" {
		last := string(next - 1)
		b.WriteString(string(next) + ": &" + string(next) + " {" + strings.Repeat("x", 1))
		for i := range 10 {
			b.WriteString(string(rune('a'+i)) + ": *" + last + ", x")
		}
		b.WriteString("y: 1}\n")
	}
	b.WriteString("streams: *j\n")
	return b.String()
}

func TestDuration(t *testing.T) {
	for s, want := range map[string]time.Duration{
		"0": 0, "0s": 0, "60s": time.Minute, "1h30m": 90 * time.Minute, "1.5h": 90 * time.Minute, "500ms": 500 * time.Millisecond,
		"7d": 168 * time.Hour, "1w1d": 192 * time.Hour, "0.5d": 12 * time.Hour, "3µs": 3 * time.Microsecond,
	} {
		if got, err := parseDuration(s); err != nil || got != want {
			t.Errorf("%q is %s, %v, want %s", s, got, err, want)
		}
	}
	for _, s := range []string{"", "1", "s", "1x", "-1s", "1h-1s", "1 h", "300y", "99999999h", "20000w", "1..5s", ".", "1e3s"} {
		if got, err := parseDuration(s); err == nil {
			t.Errorf("%q is %s, want an error", s, got)
		}
	}
}

func TestSize(t *testing.T) {
	for s, want := range map[string]int64{
		"0": 0, "1": 1, "10GiB": 10 << 30, "1.5KiB": 1536, "5MB": 5e6, "64kB": 64e3, "12B": 12, "1_000": 1000, "8388607TiB": 8388607 << 40,
	} {
		if got, err := parseSize(s); err != nil || got != want {
			t.Errorf("%q is %d, %v, want %d", s, got, err, want)
		}
	}
	for _, s := range []string{"", "B", "1.5", "1.0001KiB", "-1", "10 GiB", "1e9", "8388608TiB", "10G", "0x10", "1.2.3MiB", strings.Repeat("9", 40)} {
		if got, err := parseSize(s); err == nil {
			t.Errorf("%q is %d, want an error", s, got)
		}
	}
	if _, err := parseSize("10 gib"); err == nil || !strings.Contains(err.Error(), `"10GiB"`) {
		t.Error(err)
	}
}

// What is formatted is read back.
func TestFormat(t *testing.T) {
	for _, d := range []time.Duration{0, 1, 1500, time.Second, time.Minute, 61 * time.Minute, 24 * time.Hour, 90 * time.Second, 1<<63 - 1} {
		if got, err := parseDuration(formatDuration(d)); err != nil || got != d {
			t.Errorf("%s: %q, %v", d, formatDuration(d), err)
		}
	}
	for _, n := range []int64{0, 1, 1023, 1024, 10 << 30, 1e9, 1<<63 - 1} {
		if got, err := parseSize(formatSize(n)); err != nil || got != n {
			t.Errorf("%d: %q, %v", n, formatSize(n), err)
		}
	}
}

func TestClosest(t *testing.T) {
	known := []string{"read_timeout", "report_every", "url", "types", "headers"}
	for name, want := range map[string]string{
		"read_timout": "read_timeout", "readtimeout": "read_timeout", "URL": "url", "ulr": "url", "typ": "", "type": "types", "zzz": "", "header": "headers",
	} {
		if got := closest(name, known); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, pattern := range []string{"testdata/*.good.yaml", "testdata/*.bad.yaml"} {
		names, _ := filepath.Glob(pattern)
		for _, name := range names {
			text, err := os.ReadFile(name)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(text)
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := Parse("fuzz.yaml", text, environment)
		if err != nil {
			if message := err.Error(); message == "" || strings.Contains(message, secret) && !strings.Contains(string(text), secret) {
				t.Errorf("the error is %q", message)
			}
			return
		}
		printed := c.String()
		again, err := Parse("fuzz.yaml", []byte(printed), environment)
		if err != nil {
			t.Fatalf("what was printed is not read: %v\n%s", err, printed)
		}
		if again.String() != printed {
			t.Errorf("printed twice:\n%s\nthen\n%s", printed, again)
		}
	})
}

func FuzzScalars(f *testing.F) {
	for _, s := range []string{"10GiB", "1h30m", "7d", "1.5", "-1", "${env:X}", "$${", "10 gib"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if d, err := parseDuration(s); err == nil {
			if again, err := parseDuration(formatDuration(d)); err != nil || again != d {
				t.Errorf("%q is %s, then %s, %v", s, d, again, err)
			}
		}
		if n, err := parseSize(s); err == nil {
			if again, err := parseSize(formatSize(n)); err != nil || again != n {
				t.Errorf("%q is %d, then %d, %v", s, n, again, err)
			}
		}
	})
}

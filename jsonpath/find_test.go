package jsonpath

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/millrace/millrace"
)

func compile(t testing.TB, paths ...string) *Set {
	t.Helper()
	set, err := Compile(paths...)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func TestFind(t *testing.T) {
	for _, test := range []struct {
		data, path string
		kind       Kind
		raw        string
	}{
		{`{"id":"x"}`, "id", String, `"x"`},
		{` { "id" : "x" } `, "id", String, `"x"`},
		{"\t{\r\n\"id\"\t:\n-1.5e+3\r}", "id", Number, `-1.5e+3`},
		{`{"a":{"b":{"c":true}}}`, "a.b.c", Bool, `true`},
		{`{"a":{"b":{"c":true}}}`, "a.b", Object, `{"c":true}`},
		{`{"a":[ 1 , [2,3] ]}`, "a", Array, `[ 1 , [2,3] ]`},
		{`{"a":[ 1 , [2,3] ]}`, "a.0", Number, `1`},
		{`{"a":[ 1 , [2,3] ]}`, "a.1.1", Number, `3`},
		{`{"a":[ 1 , [2,3] ]}`, "a.2", Missing, ``},
		{`{"a":[ 1 , [2,3] ]}`, "a.01", Missing, ``},
		{`{"a":[]}`, "a.0", Missing, ``},
		{`[{"id":null}]`, "0.id", Null, `null`},
		{`{"a":{"0":"zero","01":"one"}}`, "a.0", String, `"zero"`},
		{`{"a":{"0":"zero","01":"one"}}`, "a.01", String, `"one"`},
		{`{"a.b":1,"a":{"b":2}}`, `a\.b`, Number, `1`},
		{`{"a.b":1,"a":{"b":2}}`, `a.b`, Number, `2`},
		{`{"a\\b":1}`, `a\\b`, Number, `1`},
		{`{"\u0069d":"x"}`, "id", String, `"x"`},
		{`{"\ud83d\ude8c":"bus"}`, "🚌", String, `"bus"`},
		{`{"🚌":"bus"}`, "🚌", String, `"bus"`},
		{`{"a\/b\n\t\"":1}`, "a/b\n\t\"", Number, `1`},
		{`{"\ud83d":1}`, "\ufffd", Number, `1`},
		{`{"a\u0000":1,"a":2}`, "a", Number, `2`},
		{`{"id":1,"id":2}`, "id", Number, `1`},
		{`{"a":1,"a":{"b":2}}`, "a.b", Missing, ``},
		{`{"a":{"x":1},"a":{"b":2}}`, "a.b", Missing, ``},
		{`{}`, "id", Missing, ``},
		{`{"idx":1,"i":2}`, "id", Missing, ``},
		{`{"":1}`, "id", Missing, ``},
		{`"id"`, "id", Missing, ``},
		{`null`, "id", Missing, ``},
		{`{"x":"a\"id\":1","id":3}`, "id", Number, `3`},
		{`{"x":"\\","id":3}`, "id", Number, `3`},
		{`{"x":{"id":1,"y":[{"id":2}]},"id":3}`, "id", Number, `3`},
	} {
		t.Run(test.path+" in "+test.data, func(t *testing.T) {
			var out [1]Value
			for name, find := range map[string]func(*Set, []byte, []Value) error{"Find": (*Set).Find, "FindValid": (*Set).FindValid} {
				if err := find(compile(t, test.path), []byte(test.data), out[:]); err != nil {
					t.Fatal(name, err)
				}
				if out[0].Kind != test.kind || string(out[0].Raw) != test.raw {
					t.Errorf("%s: %v %q, want %v %q", name, out[0].Kind, out[0].Raw, test.kind, test.raw)
				}
			}
		})
	}
}

func TestFindSeveral(t *testing.T) {
	data := []byte(`{"z":0,"b":{"c":[10,{"d":"x"}],"e":null},"a":1,"f":{"g":2}}`)
	set := compile(t, "a", "b.c.1.d", "b.c", "b", "nothing", "b.e", "a", "f.g.h", "b.c.0")
	out := make([]Value, set.Len())
	out[4] = Value{Kind: Bool, Raw: []byte("left over")}
	if err := set.Find(data, out); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, v := range out {
		got = append(got, string(v.Raw))
	}
	want := []string{`1`, `"x"`, `[10,{"d":"x"}]`, `{"c":[10,{"d":"x"}],"e":null}`, ``, `null`, `1`, ``, `10`}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// More keys than are compared one by one, and as many paths as there may be.
func TestFindMany(t *testing.T) {
	var paths []string
	data := []byte("{")
	for i := range MaxPaths {
		paths = append(paths, fmt.Sprintf("key%d", MaxPaths-1-i))
		data = fmt.Appendf(data, `"other%d":{"key1":[]},"key%d":%d,`, i, i, i)
	}
	data = append(data, `"k\u0065y1":0}`...)
	set := compile(t, paths...)
	out := make([]Value, set.Len())
	if err := set.FindValid(data, out); err != nil {
		t.Fatal(err)
	}
	for i, v := range out {
		if n, ok := v.Int(); !ok || n != int64(MaxPaths-1-i) {
			t.Errorf("%s is %q", paths[i], v.Raw)
		}
	}
}

func TestFindStopsEarly(t *testing.T) {
	set := compile(t, "id", "a.b")
	out := make([]Value, set.Len())
	data := []byte(`{"id":1,"a":{"b":2, here it ends`)
	if err := set.Find(data, out); err != nil || string(out[1].Raw) != "2" {
		t.Errorf("Find: %q, %v", out, err)
	}
	if err := set.FindValid(data, out); millrace.CodeOf(err) != millrace.Invalid {
		t.Errorf("FindValid: %v", err)
	}
	// What is missing is known only at the end, unless the object that would hold it has ended.
	set = compile(t, "a.b")
	if err := set.Find([]byte(`{"a":{"c":1},x`), out); err != nil {
		t.Errorf("after the object: %v", err)
	}
	// No paths: nothing to look at, or everything.
	set = compile(t)
	if err := set.Find([]byte(`{`), nil); err != nil {
		t.Error(err)
	}
	if err := set.FindValid([]byte(`{`), nil); err == nil {
		t.Error("no error")
	}
}

func TestMalformed(t *testing.T) {
	deep := strings.Repeat("[", 100)
	for data, offset := range map[string]int{
		``: 0, ` `: 1, `{`: 1, `}`: 0, `[`: 1, `]`: 0, `x`: 0, `nul`: 3, `nulL`: 3, `tru`: 3, `fals`: 4, `truex`: 4,
		`{"a"`: 4, `{"a":`: 5, `{"a":1`: 6, `{"a":1,`: 7, `{"a":1,}`: 7, `{"a":1}}`: 7, `{"a" 1}`: 5, `{a:1}`: 1, `{,}`: 1, `{"a":}`: 5,
		`{"a":1]`: 6, `{"a":[1}`: 7, `[1,]`: 3, `[,1]`: 1, `[1 2]`: 3, `[1`: 2, `[1,`: 3,
		`01`: 1, `-`: 1, `-x`: 1, `1.`: 2, `1.x`: 2, `.5`: 0, `1e`: 2, `1e+`: 3, `1ex`: 2, `+1`: 0, `--1`: 1, `0x1`: 1,
		`"`: 1, `"abc`: 4, `"abcdefghijk`: 12, `"a\`: 3, `"a\x"`: 3, `"\u12`: 5, `"\u12g4"`: 5, "\"a\nb\"": 2, "\"abcdefgh\x1fij\"": 9, "\"\x00\"": 1,
		`{"a\q":1}`: 4, "{\"\t\":1}": 2, `{"abcdefghijklmnop\`: 19,
		deep: 100, deep + `}`: 100, deep + `1` + deep: 101, `{"x":[{"y":[}]}`: 12, `[[],[{}],{]`: 10,
	} {
		set := compile(t, "nothing", "x.0.y.0")
		out := make([]Value, set.Len())
		for name, err := range map[string]error{
			"Valid": Valid([]byte(data)), "Find": set.Find([]byte(data), out), "FindValid": set.FindValid([]byte(data), out),
		} {
			if millrace.CodeOf(err) != millrace.Invalid || !strings.Contains(err.Error()+" ", fmt.Sprintf("offset %d", offset)) {
				t.Errorf("%s(%.50q): %v, want offset %d", name, data, err, offset)
			}
		}
		if json.Valid([]byte(data)) {
			t.Errorf("%.50q is valid", data)
		}
	}
}

func TestNesting(t *testing.T) {
	for _, depth := range []int{1, 63, 64, 65, 127, 128, 129, 130, 1000, maxNesting} {
		for _, brackets := range [][2]string{{"[", "]"}, {`{"a":`, "}"}, {`[{"a":[`, "]}]"}} {
			n := max(1, depth/len(brackets[1]))
			data := []byte(strings.Repeat(brackets[0], n) + "1" + strings.Repeat(brackets[1], n))
			if err := Valid(data); err != nil {
				t.Errorf("%d of %s: %v", n, brackets[0], err)
			}
			set := compile(t, "0.a", "a.a.a.a", strings.Repeat("a.", MaxDepth-1)+"a")
			if err := set.FindValid(data, make([]Value, 3)); err != nil {
				t.Errorf("%d of %s: %v", n, brackets[0], err)
			}
			// One bracket wrong at any level is noticed.
			for _, at := range []int{0, n / 2, n - 1} {
				wrong := bytes.Clone(data)
				wrong[len(data)-1-at] ^= '}' ^ ']'
				if json.Valid(wrong) != (Valid(wrong) == nil) {
					t.Errorf("%d of %s, wrong %d before the end: %v", n, brackets[0], at, Valid(wrong))
				}
			}
		}
	}
	if err := Valid([]byte(strings.Repeat("[", maxNesting+1) + strings.Repeat("]", maxNesting+1))); err == nil {
		t.Error("one level too many is taken")
	}
	if err := Valid([]byte(strings.Repeat("[", 8<<20))); err == nil {
		t.Error("no error")
	}
}

func TestCompileErrors(t *testing.T) {
	for path, want := range map[string]string{
		"":                                   "the path is empty",
		".":                                  "segment 1 is empty",
		"a.":                                 "segment 2 is empty",
		".a":                                 "segment 1 is empty",
		"a..b":                               "segment 2 is empty",
		`a\`:                                 "a backslash must stand before",
		`a\b`:                                "a backslash must stand before",
		"a\xff":                              "not valid UTF-8",
		strings.Repeat("a.", MaxDepth) + "a": "65 segments are over the limit of 64",
	} {
		_, err := Compile("fine", path)
		if millrace.CodeOf(err) != millrace.Invalid || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", path, err, want)
		}
	}
	if _, err := Compile(make([]string, MaxPaths+1)...); millrace.CodeOf(err) != millrace.Invalid {
		t.Errorf("too many: %v", err)
	}
}

func TestMustCompilePanics(t *testing.T) {
	defer func() {
		if err, ok := recover().(error); !ok || millrace.CodeOf(err) != millrace.Invalid {
			t.Errorf("it panics with %v", err)
		}
	}()
	MustCompile("")
}

func TestFindDoesNotAllocate(t *testing.T) {
	data := vehicle(7)
	data = append(data[:len(data)-1], `,"not\u0065":{"deep":`+strings.Repeat("[", 50)+strings.Repeat("]", 50)+`}}`...)
	paths := []string{"id", "attributes.latitude", "attributes.longitude", "attributes.carriages.1.label", "links", "nothing", "relationships.trip.data.id", "type", "notes", "note"}
	set := compile(t, paths...)
	out := make([]Value, set.Len())
	allocs := testing.AllocsPerRun(100, func() {
		if err := set.Find(data, out); err != nil {
			t.Error(err)
		}
		if err := set.FindValid(data, out); err != nil {
			t.Error(err)
		}
		if out[0].String() == "" {
			t.Error("no id")
		}
		if f, ok := out[1].Float(); !ok || f < 42 {
			t.Error("no latitude")
		}
	})
	if allocs > 0 {
		t.Errorf("%g allocations", allocs)
	}
}

// FuzzFind compares with encoding/json.
func FuzzFind(f *testing.F) {
	for _, path := range []string{"id", "attributes.latitude", `a\.b.0`, "a.a.a", "0.1", "é"} {
		for _, data := range []string{
			`{"id":"x","attributes":{"latitude":1.5,"id":[]}}`, `{"a.b":["x"],"a":{"a":{"a":{}}}}`, `[[0,"\u00e9\ud83d\ude8c"],1]`,
			`{"\u0069d":null,"id":2,"\u00e9":true}`, ` { "a" : [ { } , "\\\"" , -0.1E+5 ] } `, `{"a":"0123456789\n","x":"\\"}x`, "{\"a\":\"\x01\"}", `[[[[[[]]]]]`,
		} {
			f.Add(path, []byte(data))
		}
	}
	f.Fuzz(func(t *testing.T, path string, data []byte) {
		if valid := json.Valid(data); valid != (Valid(data) == nil) {
			t.Fatalf("json.Valid says %t, Valid says %v", valid, Valid(data))
		}
		segments, err := Split(path)
		if err != nil {
			return
		}
		// Others beside it must not get in its way.
		last := len(segments) - 1
		set, err := Compile(path, "id", path, "a.0", join(append(segments[:last:last], "other")))
		if err != nil {
			t.Fatal(err)
		}
		out := make([]Value, set.Len())
		err = set.FindValid(data, out)
		if valid := json.Valid(data); valid != (err == nil) {
			t.Fatalf("json.Valid says %t, FindValid says %v", valid, err)
		}
		early := make([]Value, set.Len())
		earlyErr := set.Find(data, early)
		if err != nil {
			return
		}
		if earlyErr != nil || !reflect.DeepEqual(out, early) {
			t.Fatalf("Find found %q (%v), FindValid %q", early, earlyErr, out)
		}
		if !utf8.Valid(data) {
			return // encoding/json replaces what is not UTF-8
		}
		for i, segments := range [][]string{segments, {"id"}, segments, {"a", "0"}} {
			want, found := oracle(data, segments)
			if found != (out[i].Kind != Missing) || !bytes.Equal(want, out[i].Raw) {
				t.Fatalf("%q: found %q, want %q (%t)", segments, out[i].Raw, want, found)
			}
			if found {
				checkValue(t, out[i])
			}
		}
	})
}

// oracle finds a path with encoding/json.
func oracle(data []byte, segments []string) (raw []byte, found bool) {
	data = bytes.TrimSpace(data)
	if len(segments) == 0 {
		return data, true
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	open, err := d.Token()
	if err != nil {
		panic(err)
	}
	for n := 0; d.More(); n++ {
		key := strconv.Itoa(n)
		switch open {
		case json.Delim('{'):
			token, err := d.Token()
			if err != nil {
				panic(err)
			}
			key = token.(string)
		case json.Delim('['):
			if index(segments[0]) < 0 {
				return nil, false
			}
		default:
			return nil, false
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			panic(err)
		}
		if key == segments[0] {
			return oracle(value, segments[1:])
		}
	}
	return nil, false
}

// checkValue compares what a value says of itself with encoding/json.
func checkValue(t *testing.T, v Value) {
	t.Helper()
	var want any
	d := json.NewDecoder(bytes.NewReader(v.Raw))
	d.UseNumber()
	if err := d.Decode(&want); err != nil {
		t.Fatal(err)
	}
	if got := string(v.Append([]byte("x"))); got != "x"+v.String() {
		t.Fatalf("Append appends %q, String returns %q", got, v.String())
	}
	kind := Missing
	switch want := want.(type) {
	case nil:
		kind = Null
	case bool:
		kind = Bool
		if b, ok := v.Bool(); !ok || b != want {
			t.Fatalf("Bool of %q: %t %t", v.Raw, b, ok)
		}
	case string:
		kind = String
		if v.String() != want {
			t.Fatalf("String of %q: %q, want %q", v.Raw, v.String(), want)
		}
	case json.Number:
		kind = Number
		f, err := want.Float64()
		if got, ok := v.Float(); ok != (err == nil) || ok && got != f {
			t.Fatalf("Float of %q: %g %t", v.Raw, got, ok)
		}
		n, err := want.Int64()
		if got, ok := v.Int(); err == nil && (!ok || got != n) {
			t.Fatalf("Int of %q: %d %t", v.Raw, got, ok)
		}
	case []any:
		kind = Array
	case map[string]any:
		kind = Object
	}
	if v.Kind != kind {
		t.Fatalf("%q is %v, want %v", v.Raw, v.Kind, kind)
	}
}

// join makes a path of segments.
func join(segments []string) string {
	escaped := make([]string, len(segments))
	for i, s := range segments {
		escaped[i] = strings.NewReplacer(`\`, `\\`, `.`, `\.`).Replace(s)
	}
	return strings.Join(escaped, ".")
}

package jsonpath_test

import (
	"fmt"
	"math"
	"testing"

	"github.com/millrace/millrace/jsonpath"
)

func value(t *testing.T, raw string) jsonpath.Value {
	t.Helper()
	set, err := jsonpath.Compile("v")
	if err != nil {
		t.Fatal(err)
	}
	var out [1]jsonpath.Value
	if err := set.FindValid([]byte(`{"v":`+raw+`}`), out[:]); err != nil {
		t.Fatal(err)
	}
	return out[0]
}

func TestValueString(t *testing.T) {
	for raw, want := range map[string]string{
		`"plain"`: "plain", `""`: "", `"a\"b\\c\/d\b\f\n\r\t"`: "a\"b\\c/d\b\f\n\r\t", `"\u00e9\u20AC"`: "é€",
		`"\ud83d\ude8c!"`: "🚌!", `"\ud83d"`: "\ufffd", `"\ude8c\ud83d"`: "\ufffd\ufffd", `"\ud83d\ud83d\ude8c"`: "\ufffd🚌", `"\ud83dx"`: "\ufffdx",
		`12.50`: "12.50", `true`: "true", `null`: "null", `{"a": 1}`: `{"a": 1}`, `[ ]`: "[ ]",
	} {
		v := value(t, raw)
		if v.String() != want || string(v.Append(nil)) != want {
			t.Errorf("%s: %q, %q, want %q", raw, v.String(), v.Append(nil), want)
		}
	}
	var missing jsonpath.Value
	if missing.String() != "" || len(missing.Append(nil)) != 0 || missing.Kind != jsonpath.Missing {
		t.Error("the zero Value is not a missing one")
	}
}

func TestValueNumbers(t *testing.T) {
	for _, test := range []struct {
		raw      string
		f        float64
		floats   bool
		n        int64
		integral bool
	}{
		{`0`, 0, true, 0, true},
		{`-42.3601`, -42.3601, true, 0, false},
		{`9223372036854775807`, math.MaxInt64, true, math.MaxInt64, true},
		{`9223372036854775808`, 1 << 63, true, 0, false},
		{`-9223372036854775808`, math.MinInt64, true, math.MinInt64, true},
		{`1.5e3`, 1500, true, 1500, true},
		{`2.0`, 2, true, 2, true},
		{`1e300`, 1e300, true, 0, false},
		{`1e400`, 0, false, 0, false},
		{`"1"`, 0, false, 0, false},
		{`null`, 0, false, 0, false},
	} {
		v := value(t, test.raw)
		if f, ok := v.Float(); ok != test.floats || ok && f != test.f {
			t.Errorf("Float of %s: %g %t", test.raw, f, ok)
		}
		if n, ok := v.Int(); ok != test.integral || n != test.n {
			t.Errorf("Int of %s: %d %t", test.raw, n, ok)
		}
		if _, ok := v.Bool(); ok {
			t.Errorf("%s is a bool", test.raw)
		}
	}
	if b, ok := value(t, `true`).Bool(); !b || !ok {
		t.Error("true is not true")
	}
	if b, ok := value(t, `false`).Bool(); b || !ok {
		t.Error("false is not false")
	}
}

func TestKindOf(t *testing.T) {
	for data, want := range map[string]string{
		" {}": "an object", "\n[": "an array", `"x`: "a string", "-": "a number", "true": "a bool", "null": "null", "": "missing", " ": "missing", "x": "missing",
	} {
		if got := jsonpath.KindOf([]byte(data)).String(); got != want {
			t.Errorf("%q: %s, want %s", data, got, want)
		}
	}
}

func ExampleSet_Find() {
	set, err := jsonpath.Compile("vehicle_id", "attributes.latitude", "links.0.self", `meta\.source`)
	if err != nil {
		panic(err)
	}
	out := make([]jsonpath.Value, set.Len())
	err = set.Find([]byte(`{"vehicle_id":"bus-7","attributes":{"speed":11.5,"latitude":42.36},"links":[{"self":"\/v\/7"}]}`), out)
	if err != nil {
		panic(err)
	}
	latitude, ok := out[1].Float()
	fmt.Println(out[0].String(), latitude, ok, out[2].String(), out[3].Kind)
	// Output: bus-7 42.36 true /v/7 missing
}

func ExampleElements() {
	for element, err := range jsonpath.Elements([]byte(`[{"id":1}, {"id":2}, oops]`)) {
		fmt.Printf("%s %v\n", element, err)
	}
	// Output:
	// {"id":1} <nil>
	// {"id":2} <nil>
	//  split JSON array: the data is not JSON: "o" at offset 21 does not belong there
}

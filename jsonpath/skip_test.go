package jsonpath

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/millrace/millrace"
)

// FuzzElements compares with encoding/json.
func FuzzElements(f *testing.F) {
	for _, data := range []string{
		`[]`, ` [ 1 , "a" , {"b":[]} ] `, `[1,]`, `[1`, `[1]]`, `{}`, ``, `[[],[[]]]`, `[1 2]`, "[\"\xff\"]", `[,]`, `["a]",{"]":1}]`,
	} {
		f.Add([]byte(data))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var want []json.RawMessage
		valid := json.Unmarshal(data, &want) == nil && KindOf(data) == Array
		n := 0
		var failed error
		for element, err := range Elements(data) {
			if failed != nil {
				t.Fatal("something follows the error")
			}
			if failed = err; err != nil {
				if element != nil || millrace.CodeOf(err) != millrace.Invalid {
					t.Fatalf("%q with %v", element, err)
				}
				continue
			}
			if valid && (n >= len(want) || !bytes.Equal(element, want[n])) {
				t.Fatalf("element %d is %q, want %q", n, element, want)
			}
			n++
		}
		if valid != (failed == nil) || valid && n != len(want) {
			t.Fatalf("%d elements and %v; encoding/json has %d (%t)", n, failed, len(want), valid)
		}
	})
}

func TestElementsStops(t *testing.T) {
	for range Elements([]byte(`[1,2,x`)) {
		break
	}
}

func TestElementsDoesNotAllocate(t *testing.T) {
	data := []byte(`[{"a":1},{"a":2},"three"]`)
	allocs := testing.AllocsPerRun(100, func() {
		n := 0
		for _, err := range Elements(data) {
			if err != nil {
				t.Error(err)
			}
			n++
		}
		if n != 3 {
			t.Error(n)
		}
	})
	if allocs > 0 {
		t.Errorf("%g allocations", allocs)
	}
}

package fence

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/millrace/millrace"
)

func TestSnapshot(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	fences := randomFences(r, 20).geojson()
	whole, first := newOperator(t, fences, nil), newOperator(t, fences, nil)
	var events []millrace.Event
	for i := range 500 {
		events = append(events, at(float64(i)-r.Float64()*3, fmt.Sprint("v", r.IntN(20)), r.Float64()*16, r.Float64()*16))
	}
	want, _ := run(t, whole, events...)
	got, _ := run(t, first, events[:300]...)
	second := newOperator(t, fences, nil)
	if err := second.Restore(first.AppendSnapshot(nil)); err != nil {
		t.Fatal(err)
	}
	if second.Keys() != first.Keys() {
		t.Errorf("%d keys, want %d", second.Keys(), first.Keys())
	}
	for key, track := range first.keys {
		other := second.keys[key]
		if other == nil || other.at != track.at || !slices.Equal(other.inside, track.inside) {
			t.Errorf("%s: %+v, want %+v", key, other, track)
		}
	}
	rest, _ := run(t, second, events[300:]...)
	if got = append(got, rest...); !slices.Equal(got, want) {
		t.Errorf("with a snapshot in between there are other transitions:\n%q\n%q", got, want)
	}
}

// TestChangedFences: what is reported after a change are movements between the new fences.
func TestChangedFences(t *testing.T) {
	before := newOperator(t, three, nil)
	run(t, before, at(0, "a", 2, 3), at(0, "b", 0.5, 1), at(0, "c", 9, 9))
	// "west" is gone, "new" lies where a, b and the nothing of c were.
	after := newOperator(t, strings.NewReplacer(`"west"`, `"new"`, `[[[0,0],[4,0],[4,4],[0,4],[0,0]]]`, `[[[0,0],[10,0],[10,10],[0,10],[0,0]]]`).Replace(three), nil)
	if err := after.Restore(before.AppendSnapshot(nil)); err != nil {
		t.Fatal(err)
	}
	got, _ := run(t, after, at(1, "a", 2, 2.5), at(1, "b", 0.5, 1), at(1, "c", 9, 8), at(2, "a", 20, 20), at(2, "b", 20, 20), at(2, "c", 20, 20))
	if want := []string{"a exit new", "a exit across", "b exit new", "c exit new"}; !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestRestoreRefuses(t *testing.T) {
	o := newOperator(t, three, nil)
	run(t, o, at(0, "a", 2, 3), at(0, "b", 0.5, 1))
	good := o.AppendSnapshot(nil)
	keys := maps.Clone(o.keys)
	lat := bytes.LastIndex(good, binary.LittleEndian.AppendUint64(nil, math.Float64bits(3)))
	if lat < 0 {
		t.Fatal("no longitude 3 in the snapshot")
	}
	wrong := slices.Clone(good)
	binary.LittleEndian.PutUint64(wrong[lat:], math.Float64bits(math.NaN()))
	twice := append([]byte(nil), good...)
	i := bytes.LastIndexByte(twice, 'a')
	j := bytes.LastIndexByte(twice, 'b')
	twice[max(i, j)] = twice[min(i, j)]
	for name, test := range map[string]struct {
		snapshot []byte
		want     string
	}{
		"empty":         {nil, "the snapshot is not of version 1"},
		"version":       {append([]byte{2}, good[1:]...), "the snapshot is not of version 1"},
		"cut":           {good[:len(good)-1], "the snapshot is cut short"},
		"cut in a path": {good[:3], "the snapshot is cut short"},
		"longer":        {append(slices.Clone(good), 0), "the snapshot has 1 bytes too many"},
		"no place":      {wrong, `the snapshot places "a" at 2, NaN`},
		"a key twice":   {twice, "twice"},
		"count":         {append(slices.Clone(good[:10]), 0xff, 0xff, 0xff, 0xff, 0xff, 1), "the snapshot is cut short"},
	} {
		if err := o.Restore(test.snapshot); millrace.CodeOf(err) != millrace.Invalid || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %s", name, err, test.want)
		}
	}
	if !maps.Equal(o.keys, keys) {
		t.Error("a failed Restore changed the state")
	}
	other := newOperator(t, three, func(c *Config) { c.Lat = "latitude" })
	if err := other.Restore(good); err == nil || !strings.Contains(err.Error(), `the snapshot was made with lat: "lat", and now it is "latitude"`) {
		t.Errorf("other paths: %v", err)
	}
}

func FuzzRestore(f *testing.F) {
	o := newOperator(f, three, nil)
	f.Add(o.AppendSnapshot(nil))
	run(f, o, at(0, "a", 2, 3), at(1, "", -90, 180), at(2, strings.Repeat("k", 200), 1e-9, 1))
	f.Add(o.AppendSnapshot(nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		o, _ := New(o.set, o.config, "0")
		if err := o.Restore(data); err != nil {
			if millrace.CodeOf(err) != millrace.Invalid || o.Keys() != 0 {
				t.Fatalf("%v, %d keys", err, o.Keys())
			}
			return
		}
		again, _ := New(o.set, o.config, "0")
		if err := again.Restore(o.AppendSnapshot(nil)); err != nil || again.Keys() != o.Keys() {
			t.Fatalf("a restored state does not restore: %v", err)
		}
	})
}

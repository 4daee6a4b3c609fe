package expr

import (
	"fmt"
	"strings"
	"testing"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
	"github.com/millrace/millrace/jsonpath"
)

// vehicle returns an event of about 850 bytes as a transit feed sends it; the speed lies in the middle.
func vehicle(n int) millrace.Event {
	return millrace.Event{
		ID: fmt.Sprint("e-", n), Key: fmt.Sprint("bus-", n), Type: "update",
		Attributes: map[string]string{"content-type": "application/json"},
		Data: fmt.Appendf(nil, `{"id":"bus-%d","type":"vehicle","links":{"self":"/vehicles/bus-%d","schema":"/schemas/vehicle/3"},`+
			`"status":"IN_TRANSIT_TO","sequence":%d,"direction":0,"label":"%04d","occupancy":"MANY_SEATS_AVAILABLE","revenue":"REVENUE",`+
			`"carriages":[{"label":"%04d-a","occupancy_percentage":12},{"label":"%04d-b","occupancy_percentage":40}],`+
			`"speed":%d.5,"latitude":%.7f,"longitude":%.7f,"updated_at":"2026-07-14T09:26:53-04:00",`+
			`"relationships":{"route":{"data":{"id":"route-%d","type":"route"}},"stop":{"data":{"id":"stop-%d","type":"stop"}},`+
			`"trip":{"data":{"id":"trip-%d","type":"trip"}}},"name":"Gr\u00fc\u00dfe","note":"%s"}`,
			n, n, n%50, n%10000, n%10000, n%10000, n%120, 42.3+float64(n%1000)/1e4, -71.1+float64(n%777)/1e4,
			n%90, n%4000, n%20000, strings.Repeat("the quick line of text ", 10)),
	}
}

// loaded returns a block of 512 vehicles, read.
func loaded(t testing.TB) *block.Reader {
	events := make([]millrace.Event, 512)
	for i := range events {
		events[i] = vehicle(i)
	}
	r := new(block.Reader)
	if err := r.Reset(pack(t, events...)); err != nil {
		t.Fatal(err)
	}
	if err := r.Load(block.All); err != nil {
		t.Fatal(err)
	}
	return r
}

var measured = []struct{ name, text string }{
	{"columns", `$type == "update" && $key != "bus-7"`},
	{"short_circuit", `$type == "reset" && speed > 80`},
	{"one_field", `speed > 80`},
	{"three_fields", `speed > 80 && status == "IN_TRANSIT_TO" && relationships.route.data.id != "route-10"`},
	{"list", `relationships.route.data.id in ["route-1", "route-2", "route-3", "route-4", "route-5", "route-6"]`},
	{"distance", `distance(latitude, longitude, 42.35, -71.06) < 1000`},
	{"escaped", `lower(name) == "grüße"`},
	{"matches", `matches(updated_at, "^2026-07-1[0-9]T")`},
	{"attribute", "$attributes.`content-type` == 'application/json'"},
	{"array", `"0001-a" in carriages || length(carriages) > 3`},
	{"time", `$time > "2026-01-31T12:00:00Z" || $time > updated_at`},
}

// TestAllocations: an evaluator that has warmed up allocates nothing.
func TestAllocations(t *testing.T) {
	r := loaded(t)
	events, err := block.Events(pack(t, vehicle(1), vehicle(100)))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range measured {
		f := mustCompile(t, m.text)
		e := f.Evaluator()
		i := 0
		if n := testing.AllocsPerRun(600, func() { e.Match(r, i%r.Len()); i++ }); n != 0 {
			t.Errorf("%s: Match allocates %v times", f, n)
		}
		if n := testing.AllocsPerRun(100, func() { e.MatchEvent(&events[i%2]); i++ }); n != 0 {
			t.Errorf("%s: MatchEvent allocates %v times", f, n)
		}
	}
}

func BenchmarkMatch(b *testing.B) {
	r := loaded(b)
	for _, m := range measured {
		f := mustCompile(b, m.text)
		e := f.Evaluator()
		b.Run(m.name, func(b *testing.B) {
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				e.Match(r, i%r.Len())
				i++
			}
		})
	}
}

func BenchmarkCompile(b *testing.B) {
	for b.Loop() {
		mustCompile(b, measured[3].text)
	}
}

func mustCompile(t testing.TB, text string) *Filter {
	t.Helper()
	f, err := Compile(text)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// BenchmarkFind is what finding the field alone costs.
func BenchmarkFind(b *testing.B) {
	r := loaded(b)
	set, err := jsonpath.Compile("speed")
	if err != nil {
		b.Fatal(err)
	}
	out := make([]jsonpath.Value, set.Len())
	i := 0
	for b.Loop() {
		if err := set.Find(r.Data(i%r.Len()), out); err != nil {
			b.Fatal(err)
		}
		i++
	}
}

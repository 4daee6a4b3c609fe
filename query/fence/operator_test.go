package fence

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
)

// two squares side by side, with a third across both, in the order west, across, east.
const three = `{"type":"FeatureCollection","features":[
	{"type":"Feature","id":"west","geometry":{"type":"Polygon","coordinates":[[[0,0],[4,0],[4,4],[0,4],[0,0]]]}},
	{"type":"Feature","id":"across","properties":{"name":"A \"B\"","n": 1},"geometry":{"type":"Polygon","coordinates":[[[2,1],[6,1],[6,3],[2,3],[2,1]]]}},
	{"type":"Feature","id":"east","geometry":{"type":"Polygon","coordinates":[[[4,0],[8,0],[8,4],[4,4],[4,0]]]}}]}`

func newOperator(t testing.TB, geojson string, change func(*Config)) *Operator {
	t.Helper()
	set, err := Parse([]byte(geojson))
	if err != nil {
		t.Fatal(err)
	}
	c := Config{Lat: "lat", Lon: "lon", Detect: []string{"enter", "exit"}}
	if change != nil {
		change(&c)
	}
	o, err := New(set, c, "0")
	if err != nil {
		t.Fatal(err)
	}
	return o
}

var start = time.Date(2026, 11, 21, 8, 0, 0, 0, time.UTC)

// at returns an event of a key at a place, some seconds after start.
func at(seconds float64, key string, lat, lon float64) millrace.Event {
	return millrace.Event{
		Key: key, Time: start.Add(time.Duration(seconds * float64(time.Second))),
		Data: fmt.Appendf(nil, `{"lat":%v,"lon":%v}`, lat, lon),
	}
}

func encode(t testing.TB, events ...millrace.Event) (millrace.StoredBlock, *block.Reader) {
	t.Helper()
	var b block.Builder
	for i := range events {
		if err := b.Add(&events[i]); err != nil {
			t.Fatal(err)
		}
	}
	encoded, err := b.Encode(nil, millrace.Header{Producer: "test"})
	if err != nil {
		t.Fatal(err)
	}
	var r block.Reader
	if err := r.Reset(encoded.Raw); err != nil {
		t.Fatal(err)
	}
	if err := r.Load(block.Keys | block.Data); err != nil {
		t.Fatal(err)
	}
	return millrace.StoredBlock{Block: encoded, At: millrace.Position{Block: millrace.BlockName("i", 7), Event: uint32(len(events))}}, &r
}

// run processes events as one block and returns the transitions as "key transition fence", what was
// rejected as "number: reason".
func run(t testing.TB, o *Operator, events ...millrace.Event) (transitions, rejected []string) {
	t.Helper()
	at, r := encode(t, events...)
	for i := 0; i < r.Len(); {
		var results []millrace.Event
		results, i = o.Process(r, at, i, r.Len(), nil, func(i int, reason error) {
			rejected = append(rejected, fmt.Sprintf("%d: %v", i, reason))
			if millrace.CodeOf(reason) != millrace.Invalid {
				t.Errorf("the code of %v is %s", reason, millrace.CodeOf(reason))
			}
		})
		for _, e := range results {
			var data struct{ Key, Fence, Transition string }
			if err := json.Unmarshal(e.Data, &data); err != nil || data.Key != e.Key || data.Transition != e.Type {
				t.Fatalf("%+v: %v", e, err)
			}
			transitions = append(transitions, data.Key+" "+data.Transition+" "+data.Fence)
		}
	}
	return transitions, rejected
}

func TestTransitions(t *testing.T) {
	deleted := func(e millrace.Event) millrace.Event {
		e.Deleted, e.Data = true, nil
		return e
	}
	for name, test := range map[string]struct {
		change func(*Config)
		events []millrace.Event
		want   string
		late   uint64
	}{
		"the first position inside is an enter":    {nil, []millrace.Event{at(0, "a", 0.5, 1)}, "a enter west", 0},
		"outside is nothing":                       {nil, []millrace.Event{at(0, "a", 9, 9), at(1, "a", 9, 8)}, "", 0},
		"staying is nothing":                       {nil, []millrace.Event{at(0, "a", 1, 1), at(1, "a", 2, 1)}, "a enter west", 0},
		"in and out":                               {nil, []millrace.Event{at(0, "a", 9, 1), at(1, "a", 0.5, 1), at(2, "a", 9, 1), at(3, "a", 0.5, 1)}, "a enter west, a exit west, a enter west", 0},
		"exits before enters, in the file's order": {nil, []millrace.Event{at(0, "a", 2, 3), at(1, "a", 0.5, 7), at(2, "a", 2, 3)}, "a enter west, a enter across, a exit west, a exit across, a enter east, a exit east, a enter west, a enter across", 0},
		"a shared border belongs to the east":      {nil, []millrace.Event{at(0, "a", 0.5, 3.999), at(1, "a", 0.5, 4), at(2, "a", 0.5, 3.999)}, "a enter west, a exit west, a enter east, a exit east, a enter west", 0},
		"keys are apart":                           {nil, []millrace.Event{at(0, "a", 0.5, 1), at(0, "b", 0.5, 1), at(1, "", 0.5, 1), at(1, "a", 9, 9)}, "a enter west, b enter west,  enter west, a exit west", 0},
		"late positions are ignored":               {nil, []millrace.Event{at(5, "a", 0.5, 1), at(4, "a", 9, 9), at(4.9, "a", 9, 9), at(0, "b", 9, 9)}, "a enter west", 2},
		"equal times are not late":                 {nil, []millrace.Event{at(5, "a", 0.5, 1), at(5, "a", 9, 9)}, "a enter west, a exit west", 0},
		"only enter":                               {func(c *Config) { c.Detect = []string{"enter"} }, []millrace.Event{at(0, "a", 1, 1), at(1, "a", 9, 9), at(2, "a", 0.5, 1)}, "a enter west, a enter west", 0},
		"only exit":                                {func(c *Config) { c.Detect = []string{"exit"} }, []millrace.Event{at(0, "a", 1, 1), at(1, "a", 9, 9), at(2, "a", 0.5, 1)}, "a exit west", 0},
		"the end of a key ends its stays":          {nil, []millrace.Event{at(0, "a", 2, 3), deleted(at(1, "a", 0, 0)), at(0, "a", 2, 3)}, "a enter west, a enter across, a exit west, a exit across, a enter west, a enter across", 0},
		"the end of an unknown key":                {nil, []millrace.Event{deleted(at(1, "a", 0, 0)), deleted(at(1, "a", 0, 0))}, "", 0},
		"a late end":                               {nil, []millrace.Event{at(1, "a", 0.5, 1), deleted(at(0, "a", 0, 0)), at(2, "a", 9, 9)}, "a enter west, a exit west", 1},
		"the key is in the data, as text or a number": {func(c *Config) { c.Key = "v.0" }, []millrace.Event{
			{Key: "x", Time: start, Data: []byte(`{"lat":0.5,"lon":1,"v":["\u0041"]}`)},
			{Key: "x", Time: start, Data: []byte(`{"lat":0.5,"lon":1,"v":[7.0]}`)},
			{Key: "y", Time: start, Data: []byte(`{"lat":9,"lon":9,"v":["A"]}`)},
			{Key: "y", Time: start, Data: []byte(`{"v":[7.0]}`), Deleted: true},
		}, "A enter west, 7.0 enter west, A exit west, 7.0 exit west", 0},
	} {
		t.Run(name, func(t *testing.T) {
			o := newOperator(t, three, test.change)
			got, rejected := run(t, o, test.events...)
			if s := strings.Join(got, ", "); s != test.want || len(rejected) > 0 {
				t.Errorf("got  %s\nwant %s\nrejected %q", s, test.want, rejected)
			}
			if o.Late() != test.late {
				t.Errorf("%d late, want %d", o.Late(), test.late)
			}
		})
	}
}

func TestRejections(t *testing.T) {
	for data, want := range map[string]string{
		``:                          `no JSON: find JSON path: `,
		`{"lat":1,"lon":`:           `no JSON: find JSON path: `,
		`{"lat":1}`:                 `lon: "lon" is missing`,
		`{"lat":null,"lon":1}`:      `lat: "lat" is null`,
		`{"lat":"1.5","lon":1}`:     `lat: "lat" is a string, not a number: "1.5"`,
		`{"lat":1,"lon":[1,2]}`:     `lon: "lon" is an array, not a number: [1,2]`,
		`{"lat":90.01,"lon":1}`:     `lat: "lat" is 90.01, not between -90 and 90 degrees`,
		`{"lat":1,"lon":-181}`:      `lon: "lon" is -181, not between -180 and 180 degrees`,
		`{"lat":1e999,"lon":1}`:     `lat: "lat" is 1e999, not between -90 and 90 degrees`,
		`[1,2]`:                     `lat: "lat" is missing`,
		`{"lat":-90,"lon":180}`:     ``,
		`{"lon":-180,"lat":90,"x":`: ``, // what follows the position is not looked at
	} {
		_, got := run(t, newOperator(t, three, nil), at(0, "a", 1, 1), millrace.Event{Key: "a", Time: start, Data: []byte(data)}, at(1, "a", 1, 1))
		switch {
		case want == "" && len(got) == 0:
		case want == "" || len(got) != 1 || !strings.HasPrefix(got[0], "1: read position: "+want):
			t.Errorf("%s\ngot  %q\nwant %s", data, got, want)
		}
	}
	o := newOperator(t, three, func(c *Config) { c.Key = "k" })
	_, got := run(t, o, millrace.Event{Time: start, Data: []byte(`{"k":true,"lat":1,"lon":1}`)}, millrace.Event{Time: start, Data: []byte(`{}`), Deleted: true})
	want := []string{`0: read position: key: "k" is a bool, not a string or a number`, `1: read position: key: "k" is missing, not a string or a number`}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestResult(t *testing.T) {
	o := newOperator(t, three, nil)
	stored, r := encode(t,
		at(0, "a", 9, 9),
		millrace.Event{Key: "a\"\\\n\x7f\xffü", Time: start.Add(120 * time.Millisecond).In(time.FixedZone("", 3600)), Data: []byte(`{"x":{}, "lat": 2.500 ,"lon":-0.3e1, "lon":2}`)},
		millrace.Event{Key: "a\"\\\n\x7f\xffü", Time: start.Add(time.Second), Data: []byte(`{"lon":2.0000000000000000000000000000000000000001,"lat":25e-1}`)},
		millrace.Event{Key: "a\"\\\n\x7f\xffü", Time: start.Add(2 * time.Second), Deleted: true},
	)
	results, next := o.Process(r, stored, 0, r.Len(), nil, func(i int, reason error) { t.Errorf("%d: %v", i, reason) })
	if next != 4 {
		t.Errorf("stopped at %d", next)
	}
	var got []string
	for _, e := range results {
		got = append(got, fmt.Sprintf("%s %q %s %s %s", e.ID, e.Key, e.Type, e.Time.Format(time.RFC3339Nano), e.Data))
	}
	key, name := `"a\"\\\n\x7f\xffü"`, `"a\"\\\u000a`+"\x7f\ufffdü\""
	want := []string{
		`0/i-000000000007.3/0 ` + key + ` enter 2026-11-21T08:00:01Z {"key":` + name + `,"fence":"west","transition":"enter","time":"2026-11-21T08:00:01Z","lat":25e-1,"lon":2,"properties":{}}`,
		`0/i-000000000007.3/1 ` + key + ` enter 2026-11-21T08:00:01Z {"key":` + name + `,"fence":"across","transition":"enter","time":"2026-11-21T08:00:01Z","lat":25e-1,"lon":2,"properties":{"name":"A \"B\"","n":1}}`,
		`0/i-000000000007.4/0 ` + key + ` exit 2026-11-21T08:00:02Z {"key":` + name + `,"fence":"west","transition":"exit","time":"2026-11-21T08:00:02Z","lat":2.5,"lon":2,"properties":{}}`,
		`0/i-000000000007.4/1 ` + key + ` exit 2026-11-21T08:00:02Z {"key":` + name + `,"fence":"across","transition":"exit","time":"2026-11-21T08:00:02Z","lat":2.5,"lon":2,"properties":{"name":"A \"B\"","n":1}}`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}

	stored, r = encode(t, millrace.Event{Key: "b", Time: start.Add(120 * time.Millisecond).In(time.FixedZone("", 3600)), Data: []byte(`{"lat": 2.500 ,"lon":0.3e1}`)})
	results, _ = o.Process(r, stored, 0, 1, nil, nil)
	if got, want := string(results[0].Data), `{"key":"b","fence":"west","transition":"enter","time":"2026-11-21T08:00:00.12Z","lat":2.500,"lon":0.3e1,"properties":{}}`; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// TestAgainstBruteForce compares random journeys with a program that knows no index, no state but the
// previous position, and no order but that of the definition.
func TestAgainstBruteForce(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for round := range 5 {
		fences := randomFences(r, 30)
		o := newOperator(t, fences.geojson(), nil)
		type known struct {
			time time.Time
			p    point
		}
		newest := map[string]known{}
		var events []millrace.Event
		var want []string
		late := uint64(0)
		for i := range 1000 {
			e := at(float64(i)+r.Float64()*20-10, fmt.Sprint("v", r.IntN(10)), float64(r.IntN(64))/4, float64(r.IntN(64))/4)
			var p point
			var data struct{ Lat, Lon float64 }
			_ = json.Unmarshal(e.Data, &data)
			p = point{data.Lon, data.Lat}
			e.Deleted = r.IntN(50) == 0
			before, seen := newest[e.Key]
			events = append(events, e)
			if seen && e.Time.Before(before.time) {
				late++
				continue
			}
			for f := range fences {
				if seen && fences[f].contains(before.p) && (e.Deleted || !fences[f].contains(p)) {
					want = append(want, fmt.Sprint(e.Key, " exit ", f))
				}
			}
			for f := range fences {
				was := seen && fences[f].contains(before.p)
				if !was && !e.Deleted && fences[f].contains(p) {
					want = append(want, fmt.Sprint(e.Key, " enter ", f))
				}
			}
			newest[e.Key] = known{e.Time, p}
			if e.Deleted {
				delete(newest, e.Key)
			}
		}
		got, rejected := run(t, o, events...)
		if !slices.Equal(got, want) || len(rejected) > 0 || o.Late() != late || o.Keys() != len(newest) {
			t.Fatalf("round %d: %d transitions, want %d; rejected %q; %d late, want %d; %d keys, want %d",
				round, len(got), len(want), rejected, o.Late(), late, o.Keys(), len(newest))
		}
	}
}

// TestManyResults: a block whose results are large is taken in pieces.
func TestManyResults(t *testing.T) {
	large := strings.Replace(three, `"n": 1`, `"n":"`+strings.Repeat("x", 100_000)+`"`, 1)
	o := newOperator(t, large, nil)
	var events []millrace.Event
	for i := range 100 {
		events = append(events, at(float64(i), "a", 2, float64(5+i%2*20)))
	}
	stored, r := encode(t, events...)
	calls, results := 0, 0
	for i := 0; i < r.Len(); calls++ {
		var got []millrace.Event
		got, i = o.Process(r, stored, i, r.Len(), nil, nil)
		results += len(got)
	}
	if calls < 5 || results != 200 {
		t.Errorf("%d results in %d calls", results, calls)
	}
}

func TestAllocations(t *testing.T) {
	o := newOperator(t, string(city(500, 3)), nil)
	r := rand.New(rand.NewPCG(1, 2))
	var events []millrace.Event
	for i := range 2000 {
		e := at(0, fmt.Sprintf("vehicle %d", i%1000), 39.9+r.Float64()*0.45, 116+r.Float64()*0.58)
		if i >= 1000 {
			e.Data = events[i-1000].Data // stays where it is
		}
		events = append(events, e)
	}
	stored, b := encode(t, events...)
	dst, _ := o.Process(b, stored, 0, b.Len(), nil, nil)
	transitions := len(dst)
	allocations := testing.AllocsPerRun(10, func() { dst, _ = o.Process(b, stored, 0, b.Len(), dst[:0], nil) })
	if allocations > 0 || len(dst) > 0 || transitions == 0 {
		t.Errorf("%v allocations for 2,000 positions with %d transitions, after %d", allocations, len(dst), transitions)
	}
}

func TestNewRefuses(t *testing.T) {
	for _, c := range []Config{{Lat: "", Lon: "x"}, {Lat: "x", Lon: "y", Detect: []string{"dwell"}}} {
		if _, err := New(&Set{}, c, "0"); millrace.CodeOf(err) != millrace.Invalid {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func TestMissing(t *testing.T) {
	var got []uint32
	missing([]uint32{1, 3, 5, 7}, []uint32{0, 3, 4, 7, 9}, func(v uint32) { got = append(got, v) })
	if !slices.Equal(got, []uint32{1, 5}) {
		t.Errorf("%v", got)
	}
}

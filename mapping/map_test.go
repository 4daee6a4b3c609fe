package mapping

import (
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace"
)

func TestMap(t *testing.T) {
	arrival := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		name, data string
		config     Config
		keys       string // of the events, separated by commas
		problem    string
	}{
		{name: "as it is", data: "not JSON", keys: "own"},
		{name: "key", data: `{"id":"a\u0062"}`, config: Config{Key: "id"}, keys: "ab"},
		{name: "missing key", data: `{}`, config: Config{Key: "id"}, problem: `nothing at "id"`},
		{name: "not JSON", data: `{"id":1`, config: Config{Key: "id"}, problem: "JSON"},
		{name: "time", data: `{"t":"yesterday"}`, config: Config{Time: "t"}, problem: "is no time"},
		{name: "split", data: `[{"id":1},{"id":2}]`, config: Config{Split: true, Key: "id"}, keys: "1,2"},
		{name: "split, one is wrong", data: `[{"id":1},{"id":2},{}]`, config: Config{Split: true, Key: "id"}, problem: "element 2: "},
		{name: "split of no array", data: `{"id":1}`, config: Config{Split: true, Key: "id"}, keys: "1"},
		{name: "split of nothing", data: `[]`, config: Config{Split: true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := New(tt.config, Options{}, nil)
			before := millrace.Event{ID: "before"}
			for range 2 { // the second time after Release
				events, err := m.Map([]millrace.Event{before}, &millrace.Event{Key: "own", Time: arrival, Data: []byte(tt.data)})
				if len(events) == 0 || events[0].ID != "before" {
					t.Fatalf("%v: what was in dst is gone", events)
				}
				var keys []string
				for _, e := range events[1:] {
					keys = append(keys, e.Key)
				}
				if got := strings.Join(keys, ","); got != tt.keys {
					t.Errorf("keys %q, want %q", got, tt.keys)
				}
				switch {
				case tt.problem == "" && err != nil:
					t.Error(err)
				case tt.problem != "" && (err == nil || !strings.Contains(err.Error(), tt.problem)):
					t.Errorf("%v, want %q", err, tt.problem)
				case tt.problem != "" && millrace.CodeOf(err) != millrace.Invalid:
					t.Errorf("its code is %q", millrace.CodeOf(err))
				}
				m.Release()
			}
		})
	}
}

// What Map returned stays while further inputs are mapped.
func TestMapKeepsEvents(t *testing.T) {
	m := New(Config{Key: "id"}, Options{}, nil)
	var events []millrace.Event
	for _, text := range []string{`{"id":"\u0061"}`, `{"id":"\u0062"}`, `{"id":"` + strings.Repeat(`\u0063`, 10_000) + `"}`, `{"id":"\u0064"}`} {
		var err error
		if events, err = m.Map(events, &millrace.Event{Data: []byte(text)}); err != nil {
			t.Fatal(err)
		}
	}
	if events[0].Key != "a" || events[1].Key != "b" || len(events[2].Key) != 10_000 || events[3].Key != "d" {
		t.Errorf("keys %q, %q, %d bytes, %q", events[0].Key, events[1].Key, len(events[2].Key), events[3].Key)
	}
}

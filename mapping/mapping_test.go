package mapping_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/mapping"
)

var arrival = time.Date(2026, 7, 14, 12, 0, 0, 0, time.UTC)

// record is an Emitter that writes down what it is given, as text.
type record struct {
	calls []string
	fail  error
}

func (r *record) Emit(_ context.Context, events []millrace.Event, at millrace.Cursor) error {
	var b strings.Builder
	fmt.Fprintf(&b, "emit at %q", at)
	for _, e := range events {
		fmt.Fprintf(&b, "; %s key=%s type=%s time=%s %s", e.ID, e.Key, e.Type, e.Time.Format(time.RFC3339Nano), e.Data)
		for _, name := range slices.Sorted(maps.Keys(e.Attributes)) {
			fmt.Fprintf(&b, " %s=%s", name, e.Attributes[name])
		}
	}
	return r.take(b.String())
}

func (r *record) Reject(_ context.Context, x millrace.Rejection, at millrace.Cursor) error {
	return r.take(fmt.Sprintf("reject at %q; %s", at, rejection(x)))
}

func (r *record) Flush(context.Context) error { return r.take("flush") }

func (r *record) take(call string) error {
	if r.fail != nil {
		return r.fail
	}
	r.calls = append(r.calls, call)
	return nil
}

func rejection(x millrace.Rejection) string {
	return fmt.Sprintf("%s key=%s time=%s %s (%s: %v)", x.ID, x.Key, x.Time.Format(time.RFC3339Nano), x.Input, millrace.CodeOf(x.Reason), x.Reason)
}

// recordAll is a record that takes events and rejections together, as the producer does.
type recordAll struct{ record }

func (r *recordAll) EmitAll(ctx context.Context, events []millrace.Event, rejections []millrace.Rejection, at millrace.Cursor) error {
	if err := r.Emit(ctx, events, at); err != nil {
		return err
	}
	for _, x := range rejections {
		r.calls[len(r.calls)-1] += "; rejected " + rejection(x)
	}
	return nil
}

func input(id, data string) millrace.Event {
	return millrace.Event{ID: id, Key: "feed", Type: "update", Time: arrival, Data: []byte(data)}
}

func want(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

func emit(t *testing.T, m *mapping.Mapper, at millrace.Cursor, inputs ...millrace.Event) {
	t.Helper()
	if err := m.Emit(t.Context(), inputs, at); err != nil {
		t.Fatal(err)
	}
}

func TestKeyAndTimeFromData(t *testing.T) {
	var next recordAll
	m := mapping.New(mapping.Config{Key: "id", Time: "attributes.updated_at"}, mapping.Options{}, &next)
	e := input("7", `{"id":"bus \u0034\"2","attributes":{"updated_at":"2026-07-14T09:26:53.5-04:00"}}`)
	e.Attributes = map[string]string{"trace": "1"}
	emit(t, m, "7", e,
		input("8", `{"attributes":{"updated_at":1784021213123},"id":42}`),
		input("9", ` {"attributes":{"updated_at":"1784021213"},"id":true} `))
	want(t, next.calls, `emit at "7"`+
		`; 7 key=bus 4"2 type=update time=2026-07-14T13:26:53.5Z {"id":"bus \u0034\"2","attributes":{"updated_at":"2026-07-14T09:26:53.5-04:00"}} trace=1`+
		`; 8 key=42 type=update time=2026-07-14T09:26:53.123Z {"attributes":{"updated_at":1784021213123},"id":42}`+
		`; 9 key=true type=update time=2026-07-14T09:26:53Z  {"attributes":{"updated_at":"1784021213"},"id":true} `)
	if e.Key != "feed" || !e.Time.Equal(arrival) {
		t.Errorf("the caller's event was changed: %+v", e)
	}
}

func TestNoPathsPassesAnythingOn(t *testing.T) {
	var next record
	m := mapping.New(mapping.Config{}, mapping.Options{}, &next)
	emit(t, m, "1", input("1", `not JSON`), input("2", ``))
	emit(t, m, "2")
	if err := m.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	want(t, next.calls, `emit at "1"; 1 key=feed type=update time=2026-07-14T12:00:00Z not JSON; 2 key=feed type=update time=2026-07-14T12:00:00Z `,
		`emit at "2"`, `flush`)
}

func TestSplit(t *testing.T) {
	var next recordAll
	m := mapping.New(mapping.Config{Split: true, Key: "id"}, mapping.Options{}, &next)
	emit(t, m, "c", input("r", " [ {\"id\":\"a\"} ,\n{\"id\":7}, {\"no\":1} ]\n"), input("s", `{"id":"b"}`), input("t", `[]`), input("u", `[{"id":"c"}]`))
	want(t, next.calls, `emit at "c"; r#0 key=a type=update time=2026-07-14T12:00:00Z {"id":"a"}; r#1 key=7 type=update time=2026-07-14T12:00:00Z {"id":7}`+
		`; s key=b type=update time=2026-07-14T12:00:00Z {"id":"b"}; u#0 key=c type=update time=2026-07-14T12:00:00Z {"id":"c"}`+
		`; rejected r#2 key=feed time=2026-07-14T12:00:00Z {"no":1} (invalid: take the key: the input has nothing at "id"; correct the source's key, or remove it to keep the feed's own key)`)
}

func TestSplitWithoutPaths(t *testing.T) {
	var next record
	m := mapping.New(mapping.Config{Split: true}, mapping.Options{}, &next)
	emit(t, m, "c", input("r", `[1,[2,3],"x"]`), input("s", `not JSON`), input("t", `[]`))
	emit(t, m, "d", input("t", `[]`))
	want(t, next.calls, `emit at "c"; r#0 key=feed type=update time=2026-07-14T12:00:00Z 1; r#1 key=feed type=update time=2026-07-14T12:00:00Z [2,3]`+
		`; r#2 key=feed type=update time=2026-07-14T12:00:00Z "x"; s key=feed type=update time=2026-07-14T12:00:00Z not JSON`,
		`emit at "d"`)
}

func TestBrokenArrayIsRejectedWhole(t *testing.T) {
	for name, data := range map[string]string{
		"cut off": `[{"id":"a"},{"id":"b"`, "a comma too many": `[{"id":"a"},]`, "something behind": `[{"id":"a"}]]`,
		"a fault inside": `[{"no":"a"},{"id":nul}]`,
	} {
		t.Run(name, func(t *testing.T) {
			var next recordAll
			m := mapping.New(mapping.Config{Split: true, Key: "id"}, mapping.Options{}, &next)
			emit(t, m, "c", input("p", `{"id":"p"}`), input("r", data), input("s", `{"id":"s"}`))
			got := strings.Join(next.calls, "\n")
			for _, part := range []string{`emit at "c"; p key=p`, `; s key=s `, `rejected r key=feed time=2026-07-14T12:00:00Z ` + data + ` (invalid: split JSON array: the data `} {
				if !strings.Contains(got, part) {
					t.Errorf("no %q in %q", part, got)
				}
			}
			if strings.Contains(got, "#") {
				t.Errorf("elements of the broken array were handed on: %q", got)
			}
		})
	}
}

func TestTooManyElements(t *testing.T) {
	var next recordAll
	m := mapping.New(mapping.Config{Split: true}, mapping.Options{}, &next)
	emit(t, m, "c", input("r", "["+strings.Repeat("1,", mapping.MaxElements)+"1]"))
	if len(next.calls) != 1 || !strings.HasPrefix(next.calls[0], `emit at "c"; rejected r `) ||
		!strings.HasSuffix(next.calls[0], "(too_large: split JSON array: it has more than 131072 elements)") {
		t.Errorf("%.200q", next.calls)
	}
}

func TestReasons(t *testing.T) {
	for _, test := range []struct{ data, reason string }{
		{`{"time":"2026-07-14T09:26:53Z"}`, `take the key: the input has nothing at "k.id"; correct the source's key, or remove it to keep the feed's own key`},
		{`{"k":{"id":null},"time":1}`, `take the key: the value at "k.id" is null; a key is a string, a number or a bool`},
		{`{"k":{"id":[1]},"time":1}`, `take the key: [1] at "k.id" is an array; a key is a string, a number or a bool`},
		{`{"k":{"id":{"x":"` + strings.Repeat("y", 90) + `"}},"time":1}`, `take the key: {"x":"` + strings.Repeat("y", 74) + `... at "k.id" is an object; a key is a string, a number or a bool`},
		{`{"k":{"id":"a"}}`, `take the time: the input has nothing at "time"; correct the source's time, or remove it to use the time of arrival`},
		{`{"k":{"id":"a"},"time":null}`, `take the time: the value at "time" is null; an event time is RFC 3339 text such as 2006-01-02T15:04:05Z, or a number of Unix seconds, milliseconds, microseconds or nanoseconds`},
		{`{"k":{"id":"a"},"time":"yesterday"}`, `take the time: "yesterday" at "time" is no time; an event time is RFC 3339 text such as 2006-01-02T15:04:05Z, or a number of Unix seconds, milliseconds, microseconds or nanoseconds`},
		{`{"k":{"id":"a"},"time":"0001-01-01T00:00:00Z"}`, `take the time: "0001-01-01T00:00:00Z" at "time" is outside the years 1678 to 2261`},
		{`{"k":{"id":"a"},"time":1e30}`, `take the time: 1e30 at "time" is outside the years 1678 to 2261`},
		{`hello`, `find JSON path: the data is not JSON: "h" at offset 0 does not belong there`},
		{``, `find JSON path: the data ends at offset 0, before its JSON value does`},
		{`{"k":{"id":"a"},"time":1`, `find JSON path: the data ends at offset 24, before its JSON value does`},
		{`{"k":{"id":"a"},"time":1} trailing`, `find JSON path: the data is not JSON: "t" at offset 26 does not belong there`},
		{`"k"`, `take the key: the input has nothing at "k.id"; correct the source's key, or remove it to keep the feed's own key`},
	} {
		var next recordAll
		m := mapping.New(mapping.Config{Key: "k.id", Time: "time"}, mapping.Options{}, &next)
		emit(t, m, "1", input("1", test.data))
		key := "feed"
		if strings.Contains(test.reason, "take the time") {
			key = "a"
		}
		want(t, next.calls, fmt.Sprintf(`emit at "1"; rejected 1 key=%s time=2026-07-14T12:00:00Z %s (invalid: %s)`, key, test.data, test.reason))
	}
}

func TestRemovalNeedsNoTime(t *testing.T) {
	var next record
	m := mapping.New(mapping.Config{Key: "id", Time: "attributes.updated_at"}, mapping.Options{}, &next)
	e := input("1", `{"id":"y1","type":"vehicle"}`)
	e.Deleted = true
	emit(t, m, "1", e)
	want(t, next.calls, `emit at "1"; 1 key=y1 type=update time=2026-07-14T12:00:00Z {"id":"y1","type":"vehicle"}`)
}

// A plain Emitter gets the rejections first, and the new cursor only with the last thing of a call.
func TestCursorBelongsToTheWholeCall(t *testing.T) {
	var next record
	m := mapping.New(mapping.Config{Key: "id"}, mapping.Options{Cursor: "0"}, &next)
	emit(t, m, "1", input("a", `{"id":1}`), input("b", `1`), input("c", `{"id":2}`))
	emit(t, m, "2", input("d", `2`), input("e", `3`))
	if err := m.Reject(t.Context(), millrace.Rejection{ID: "f", Reason: errors.New("its own")}, "3"); err != nil {
		t.Fatal(err)
	}
	emit(t, m, "4", input("g", `4`), input("h", `{"id":3}`))
	for i, call := range next.calls {
		next.calls[i], _, _ = strings.Cut(call, " key=")
	}
	want(t, next.calls, `reject at "0"; b`, `emit at "1"; a`, `reject at "1"; d`, `reject at "2"; e`, `reject at "3"; f`, `reject at "3"; g`, `emit at "4"; h`)
}

func TestFailuresOfNextAreReturned(t *testing.T) {
	failed := millrace.Errorf(millrace.Conflict, "append", "fenced")
	for name, next := range map[string]millrace.Emitter{"plain": &record{fail: failed}, "all": &recordAll{record{fail: failed}}} {
		t.Run(name, func(t *testing.T) {
			m := mapping.New(mapping.Config{Key: "id"}, mapping.Options{}, next)
			for _, data := range []string{`{"id":1}`, `1`} {
				if err := m.Emit(t.Context(), []millrace.Event{input("a", data)}, "1"); !errors.Is(err, failed) {
					t.Errorf("%s: %v", data, err)
				}
			}
		})
	}
}

func TestConfigValidate(t *testing.T) {
	var got []string
	problem := func(path, format string, args ...any) { got = append(got, path+": "+fmt.Sprintf(format, args...)) }
	(&mapping.Config{Split: true, Key: `a\.b.c`, Time: "x.0"}).Validate(problem)
	(&mapping.Config{}).Validate(problem)
	want(t, got)
	(&mapping.Config{Key: "a..b", Time: `a\b`}).Validate(problem)
	want(t, got, `key: compile JSON path "a..b": segment 2 is empty; write \. for a dot that belongs to a key`,
		`time: compile JSON path "a\\b": a backslash must stand before a dot or a backslash`)
}

// counter is an Emitter that looks at everything and keeps nothing.
type counter struct{ events, bytes, rejections int }

func (c *counter) Emit(_ context.Context, events []millrace.Event, _ millrace.Cursor) error {
	c.events += len(events)
	for i := range events {
		c.bytes += len(events[i].ID) + len(events[i].Key) + len(events[i].Data)
	}
	return nil
}

func (c *counter) Reject(context.Context, millrace.Rejection, millrace.Cursor) error {
	c.rejections++
	return nil
}

func (c *counter) Flush(context.Context) error { return nil }

// vehicles returns n events of about 850 bytes.
func vehicles(n int) []millrace.Event {
	events := make([]millrace.Event, n)
	for i := range events {
		events[i] = input(fmt.Sprint("cursor#", i), fmt.Sprintf(`{"id":"bus-%d","type":"vehicle","links":{"self":"/vehicles/bus-%d"},`+
			`"attributes":{"bearing":%d,"current_status":"IN_TRANSIT_TO","current_stop_sequence":%d,"direction_id":0,`+
			`"label":"%04d","occupancy_status":"MANY_SEATS_AVAILABLE","revenue":"REVENUE","speed":%d.5,`+
			`"carriages":[{"label":"%04d-a","occupancy_percentage":12},{"label":"%04d-b","occupancy_percentage":40}],`+
			`"latitude":%.7f,"longitude":%.7f,"updated_at":"2026-07-14T09:26:%02d-04:00"},`+
			`"relationships":{"route":{"data":{"id":"route-%d","type":"route"}},"stop":{"data":{"id":"stop-%d","type":"stop"}},`+
			`"trip":{"data":{"id":"trip-%d","type":"trip"}}},"note":"%s"}`,
			i, i, i%360, i%50, i%10000, i%30, i%10000, i%10000, 42.3+float64(i%1000)/1e4, -71.1+float64(i%777)/1e4, i%60,
			i%90, i%4000, i%20000, strings.Repeat("the quick line of text ", 9)))
	}
	return events
}

func TestMapsWithoutAllocating(t *testing.T) {
	events := vehicles(64)
	events[3].Data = []byte(`{"id":"an \"escaped\" key","attributes":{"updated_at":"2026-07-14T09:26:53\u005a"}}`)
	var next counter
	m := mapping.New(mapping.Config{Split: true, Key: "id", Time: "attributes.updated_at"}, mapping.Options{}, &next)
	allocs := testing.AllocsPerRun(100, func() {
		if err := m.Emit(t.Context(), events, "c"); err != nil {
			t.Error(err)
		}
	})
	if allocs > 0 {
		t.Errorf("%g allocations for 64 events", allocs)
	}
	if next.rejections > 0 {
		t.Error("events were rejected")
	}

	array := []millrace.Event{input("r", "["+strings.Repeat(`{"id":"a","attributes":{"updated_at":1784021213}},`, 99)+`{"id":"b","attributes":{"updated_at":1}}]`)}
	allocs = testing.AllocsPerRun(100, func() {
		if err := m.Emit(t.Context(), array, "c"); err != nil {
			t.Error(err)
		}
	})
	if allocs > 2 {
		t.Errorf("%g allocations for an array of 100 elements", allocs)
	}
}

func BenchmarkMapper(b *testing.B) {
	events := vehicles(512)
	size := 0
	for _, e := range events {
		size += len(e.Data)
	}
	var array []byte
	for _, e := range events {
		array = append(append(array, ','), e.Data...)
	}
	array[0] = '['
	array = append(array, ']')
	for _, bench := range []struct {
		name   string
		config mapping.Config
		inputs []millrace.Event
	}{
		{"key_and_time", mapping.Config{Key: "id", Time: "attributes.updated_at"}, events},
		{"split", mapping.Config{Split: true, Key: "id", Time: "attributes.updated_at"}, []millrace.Event{input("r", string(array))}},
		{"nothing", mapping.Config{}, events},
	} {
		b.Run(bench.name, func(b *testing.B) {
			var next counter
			m := mapping.New(bench.config, mapping.Options{}, &next)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if err := m.Emit(b.Context(), bench.inputs, "c"); err != nil {
					b.Fatal(err)
				}
			}
			if next.rejections > 0 {
				b.Fatal("events were rejected")
			}
			b.ReportMetric(float64(next.events)/b.Elapsed().Seconds(), "events/s")
		})
	}
}

func ExampleMapper() {
	next := &record{} // a producer
	m := mapping.New(mapping.Config{Split: true, Key: "id", Time: "at"}, mapping.Options{}, next)
	_ = m.Emit(context.Background(), []millrace.Event{{
		ID: "17", Type: "reset", Data: []byte(`[{"id":"bus-1","at":1784021213},{"id":"bus-2","at":1784021214}]`),
	}}, "17")
	fmt.Println(strings.ReplaceAll(next.calls[0], "; ", "\n"))
	// Output:
	// emit at "17"
	// 17#0 key=bus-1 type=reset time=2026-07-14T09:26:53Z {"id":"bus-1","at":1784021213}
	// 17#1 key=bus-2 type=reset time=2026-07-14T09:26:54Z {"id":"bus-2","at":1784021214}
}

package millracetest

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace"
)

// OpenEmitter is an Emitter that runs, for the suite Emitter.
type OpenEmitter struct {
	millrace.Emitter
	// Durable returns all that would survive a power cut: events in order, the ids of rejected inputs
	// as they were given, the cursor.
	Durable func() (events []millrace.Event, rejected []string, at millrace.Cursor)
	// End makes it end; every call fails afterwards, and no event becomes durable any more.
	End func()
	// EventLimit is the size in bytes over which an event's data is refused; 0 if it refuses none.
	EventLimit int
}

// Emitter runs the conformance suite of millrace.Emitter. open returns a new one whose cursor is empty
// and which test clean-up ends.
func Emitter(t *testing.T, open func(t *testing.T) OpenEmitter) {
	event := func(i int) millrace.Event {
		return millrace.Event{
			ID: fmt.Sprintf("id-%d", i), Key: fmt.Sprintf("key-%d", i%3), Type: "update",
			Time:       time.Unix(1700000000, int64(i)).UTC(),
			Attributes: map[string]string{"number": fmt.Sprint(i)},
			Deleted:    i%5 == 4,
			Data:       fmt.Appendf(nil, `{"number":%d}`, i),
		}
	}
	check := func(t *testing.T, o OpenEmitter, events int, rejected string, at millrace.Cursor) {
		t.Helper()
		got, ids, cursor := o.Durable()
		if len(got) != events {
			t.Errorf("%d events are durable, want %d", len(got), events)
		}
		last := map[string]int{}
		for _, e := range got {
			var i int
			_, _ = fmt.Sscanf(e.ID, "id-%d", &i)
			if want := event(i); !equalEvents(e, want) {
				t.Errorf("event %d became\n%+v, want\n%+v", i, e, want)
			}
			if before, ok := last[e.Key]; ok && before >= i {
				t.Errorf("key %q: event %d comes after event %d", e.Key, i, before)
			}
			last[e.Key] = i
		}
		if list := strings.Join(ids, " "); list != rejected {
			t.Errorf("rejected are %q, want %q", list, rejected)
		}
		if cursor != at {
			t.Errorf("the cursor is %q, want %q", cursor, at)
		}
	}

	t.Run("what was flushed is durable, in order, with its cursor", func(t *testing.T) {
		o := open(t)
		for i := range 100 {
			events := []millrace.Event{event(2 * i), event(2*i + 1)}
			if err := o.Emit(t.Context(), events, millrace.Cursor(fmt.Sprint(i))); err != nil {
				t.Fatal(err)
			}
		}
		if err := o.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		check(t, o, 200, "", "99")
	})

	t.Run("it copies what it keeps", func(t *testing.T) {
		o := open(t)
		e := event(1)
		if err := o.Emit(t.Context(), []millrace.Event{e}, "1"); err != nil {
			t.Fatal(err)
		}
		clear(e.Data)
		e.Attributes["number"] = "changed"
		input := []byte("input")
		if err := o.Reject(t.Context(), millrace.Rejection{ID: "r", Input: input, Reason: context.Canceled}, "2"); err != nil {
			t.Fatal(err)
		}
		clear(input)
		if err := o.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		check(t, o, 1, "r", "2")
	})

	t.Run("a cursor moves alone", func(t *testing.T) {
		o := open(t)
		for _, at := range []millrace.Cursor{"1", "2", "2", ""} {
			if err := o.Emit(t.Context(), nil, at); err != nil {
				t.Fatal(err)
			}
			if err := o.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			check(t, o, 0, "", at)
		}
	})

	t.Run("rejections keep their place among the events", func(t *testing.T) {
		o := open(t)
		for i := range 10 {
			at := millrace.Cursor(fmt.Sprint(i))
			var err error
			if i%2 == 0 {
				err = o.Emit(t.Context(), []millrace.Event{event(i)}, at)
			} else {
				err = o.Reject(t.Context(), millrace.Rejection{ID: fmt.Sprint(i), Reason: context.Canceled}, at)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := o.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		check(t, o, 5, "1 3 5 7 9", "9")
	})

	t.Run("events and rejections of one call", func(t *testing.T) {
		o := open(t)
		all, ok := o.Emitter.(interface {
			EmitAll(context.Context, []millrace.Event, []millrace.Rejection, millrace.Cursor) error
		})
		if !ok {
			t.Skip("it has no EmitAll")
		}
		rejections := []millrace.Rejection{{ID: "a", Reason: context.Canceled}, {ID: "b", Reason: context.Canceled}}
		if err := all.EmitAll(t.Context(), []millrace.Event{event(0), event(1)}, rejections, "1"); err != nil {
			t.Fatal(err)
		}
		if err := o.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		check(t, o, 2, "a b", "1")
	})

	t.Run("what can't be stored becomes a dead letter", func(t *testing.T) {
		o := open(t)
		if o.EventLimit == 0 {
			t.Skip("it refuses no event")
		}
		early, late, large := event(1), event(2), event(3)
		early.ID, early.Time = "early", time.Date(1600, 1, 1, 0, 0, 0, 0, time.UTC)
		late.ID, late.Time = "late", time.Date(2300, 1, 1, 0, 0, 0, 0, time.UTC)
		large.ID, large.Data = "large", bytes.Repeat([]byte("x"), o.EventLimit+1)
		if err := o.Emit(t.Context(), []millrace.Event{event(0), early, late, large, event(6)}, "1"); err != nil {
			t.Fatal(err)
		}
		if err := o.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		check(t, o, 2, "early late large", "1")
	})

	t.Run("an ended context", func(t *testing.T) {
		o := open(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := o.Emit(ctx, []millrace.Event{event(0)}, "1"); millrace.CodeOf(err) != millrace.Unavailable {
			t.Errorf("Emit: %v, want unavailable", err)
		}
		if err := o.Flush(t.Context()); err != nil {
			t.Errorf("Flush with another context: %v", err)
		}
		check(t, o, 0, "", "")
	})

	t.Run("after its end every call fails", func(t *testing.T) {
		o := open(t)
		if err := o.Emit(t.Context(), []millrace.Event{event(0)}, "1"); err != nil {
			t.Fatal(err)
		}
		if err := o.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		o.End()
		if err := o.Emit(t.Context(), []millrace.Event{event(1)}, "2"); err == nil {
			t.Error("Emit did not fail")
		}
		if err := o.Reject(t.Context(), millrace.Rejection{ID: "r", Reason: context.Canceled}, "2"); err == nil {
			t.Error("Reject did not fail")
		}
		if err := o.Flush(t.Context()); err == nil {
			t.Error("Flush did not fail")
		}
		check(t, o, 1, "", "1")
	})
}

func equalEvents(a, b millrace.Event) bool {
	if len(a.Attributes) != len(b.Attributes) {
		return false
	}
	for name, value := range a.Attributes {
		if b.Attributes[name] != value {
			return false
		}
	}
	return a.ID == b.ID && a.Key == b.Key && a.Type == b.Type && a.Time.Equal(b.Time) &&
		a.Deleted == b.Deleted && bytes.Equal(a.Data, b.Data)
}

// Package mapping turns a source's inputs into events: it splits arrays and takes key and time from
// the data. A source emits into a Mapper, and the Mapper emits into a producer:
//
//	source ──► Mapper ──► producer ──► stream
//
// Inputs that can't be mapped become dead letters, in the same flush as the events around them.
package mapping

import (
	"context"
	"strconv"
	"time"
	"unsafe"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/jsonpath"
)

// MaxElements bounds the elements of one array that is split; a longer array becomes a dead letter.
const MaxElements = 1 << 17

// Mapper is the Emitter that a source emits its inputs into. Each event that it is given holds one
// input as the feed gave it in Data, and what the source knows besides: ID, Type, Attributes, the time
// of arrival. It is used by one goroutine at a time, like any Emitter, and changes nothing of what it is
// given. In steady state it allocates nothing for an event that is mapped.
type Mapper struct {
	config Config
	next   millrace.Emitter
	all    emitAller     // next, if it is one
	paths  *jsonpath.Set // nil if there are none
	key    int           // its index in values; -1 if it isn't taken from the data
	time   int           // likewise
	values []jsonpath.Value

	cursor millrace.Cursor // the one handed on last

	// What one call gathers. The memory is reused, and strings of the events point into text and into
	// the inputs.
	events     []millrace.Event
	rejections []millrace.Rejection
	text       []byte
}

// Options are what a Mapper needs besides its configuration.
type Options struct {
	// Cursor is where the source starts, from its Resume.
	Cursor millrace.Cursor
}

// emitAller is an Emitter that takes the events and rejections of one call together, so that they
// become durable with the cursor or not at all. The producer is one.
type emitAller interface {
	EmitAll(ctx context.Context, events []millrace.Event, rejections []millrace.Rejection, at millrace.Cursor) error
}

// New returns a Mapper that emits into next. It panics if the configuration is not valid.
func New(c Config, o Options, next millrace.Emitter) *Mapper {
	m := &Mapper{config: c, next: next, key: -1, time: -1, cursor: o.Cursor}
	m.all, _ = next.(emitAller)
	var paths []string
	if c.Key != "" {
		m.key = len(paths)
		paths = append(paths, c.Key)
	}
	if c.Time != "" {
		m.time = len(paths)
		paths = append(paths, c.Time)
	}
	if len(paths) > 0 {
		m.paths = jsonpath.MustCompile(paths...) // Config.Validate reports what is wrong with them
		m.values = make([]jsonpath.Value, len(paths))
	}
	return m
}

// Emit maps the inputs and hands the events on in their order, all in one call with the cursor at,
// which belongs to the last of them. If there are rejections too, they go along in the same call where
// next can take them (EmitAll). To any other Emitter they go first, still with the previous cursor:
// none is lost in a crash between, but one may be repeated, with the same id.
func (m *Mapper) Emit(ctx context.Context, inputs []millrace.Event, at millrace.Cursor) error {
	if m.paths == nil && !m.config.Split {
		return m.moved(m.next.Emit(ctx, inputs, at), at)
	}
	for i := range inputs {
		m.input(&inputs[i])
	}
	err := m.handOn(ctx, at)
	m.forget()
	return m.moved(err, at)
}

// Map maps one input for a source that answers its sender itself, where a dead letter would tell nobody:
// it appends the input's events to dst, or none of them and says why not. It emits nothing, so a Mapper
// that is only used like this needs no next. The events point into the input and into memory of the
// Mapper; they are valid until Release. It fails with Invalid, or TooLarge (more than MaxElements).
func (m *Mapper) Map(dst []millrace.Event, input *millrace.Event) ([]millrace.Event, error) {
	m.input(input)
	var err error
	if len(m.rejections) > 0 {
		first := m.rejections[0]
		if err = first.Reason; first.ID != input.ID {
			err = millrace.Errorf(millrace.CodeOf(err), "element "+first.ID[len(input.ID)+1:], "%w", err)
		}
	} else {
		dst = append(dst, m.events...)
	}
	clear(m.events)
	clear(m.rejections)
	m.events, m.rejections = m.events[:0], m.rejections[:0]
	return dst, err
}

// Release ends the use of all events that Map has returned.
func (m *Mapper) Release() { m.forget() }

// Reject hands on what the source itself could not make an input of.
func (m *Mapper) Reject(ctx context.Context, r millrace.Rejection, at millrace.Cursor) error {
	return m.moved(m.next.Reject(ctx, r, at), at)
}

// Flush implements millrace.Emitter.
func (m *Mapper) Flush(ctx context.Context) error { return m.next.Flush(ctx) }

func (m *Mapper) moved(err error, at millrace.Cursor) error {
	if err == nil {
		m.cursor = at
	}
	return err
}

func (m *Mapper) handOn(ctx context.Context, at millrace.Cursor) error {
	switch {
	case len(m.rejections) == 0:
		return m.next.Emit(ctx, m.events, at)
	case m.all != nil:
		return m.all.EmitAll(ctx, m.events, m.rejections, at)
	}
	for i, r := range m.rejections {
		cursor := m.cursor
		if len(m.events) == 0 && i == len(m.rejections)-1 {
			cursor = at // nothing else will carry it
		}
		if err := m.next.Reject(ctx, r, cursor); err != nil {
			return err
		}
	}
	if len(m.events) == 0 {
		return nil
	}
	return m.next.Emit(ctx, m.events, at)
}

// forget lets go of the inputs, and of memory that only an unusual call needed.
func (m *Mapper) forget() {
	const usual = 8192
	clear(m.events)
	clear(m.rejections)
	clear(m.values)
	m.events, m.rejections, m.text = m.events[:0], m.rejections[:0], m.text[:0]
	if cap(m.events) > usual {
		m.events = nil
	}
	if cap(m.rejections) > usual {
		m.rejections = nil
	}
	if cap(m.text) > usual*64 {
		m.text = nil
	}
}

// input makes one input into events and rejections.
func (m *Mapper) input(e *millrace.Event) {
	if !m.config.Split || jsonpath.KindOf(e.Data) != jsonpath.Array {
		m.event(*e, false)
		return
	}
	events, rejections := len(m.events), len(m.rejections)
	n := 0
	for data, err := range jsonpath.Elements(e.Data) {
		if err == nil && n == MaxElements {
			err = millrace.Errorf(millrace.TooLarge, "split JSON array", "it has more than %d elements", MaxElements)
		}
		if err != nil {
			// All of the array or nothing: the elements so far are in the input that is rejected.
			clear(m.events[events:])
			clear(m.rejections[rejections:])
			m.events, m.rejections = m.events[:events], m.rejections[:rejections]
			m.reject(*e, err)
			return
		}
		element := *e
		element.ID, element.Data = m.elementID(e.ID, n), data
		m.event(element, true)
		n++
	}
}

// elementID returns the id of the n-th element of an array.
func (m *Mapper) elementID(id string, n int) string {
	start := len(m.text)
	m.text = append(append(m.text, id...), '#')
	m.text = strconv.AppendInt(m.text, int64(n), 10)
	return view(m.text[start:])
}

// event takes key and time from the event's data; checked says that it is known to be JSON.
func (m *Mapper) event(e millrace.Event, checked bool) {
	if m.paths != nil {
		find := m.paths.FindValid
		if checked {
			find = m.paths.Find
		}
		if err := find(e.Data, m.values); err != nil {
			m.reject(e, err)
			return
		}
		if m.key >= 0 {
			key, err := m.keyOf(m.values[m.key])
			if err != nil {
				m.reject(e, err)
				return
			}
			e.Key = key
		}
		if m.time >= 0 {
			t, err := m.timeOf(m.values[m.time], e.Deleted, e.Time)
			if err != nil {
				m.reject(e, err)
				return
			}
			e.Time = t
		}
	}
	m.events = append(m.events, e)
}

func (m *Mapper) reject(e millrace.Event, reason error) {
	m.rejections = append(m.rejections, millrace.Rejection{
		ID: e.ID, Input: e.Data, Key: e.Key, Time: e.Time, Reason: reason,
	})
}

// keyOf returns a value as a key.
func (m *Mapper) keyOf(v jsonpath.Value) (string, error) {
	switch v.Kind {
	case jsonpath.String, jsonpath.Number, jsonpath.Bool:
		return m.textOf(v), nil
	case jsonpath.Missing:
		return "", millrace.Errorf(millrace.Invalid, "take the key", "the input has nothing at %q; "+
			"correct the source's key, or remove it to keep the feed's own key", m.config.Key)
	case jsonpath.Null:
		return "", millrace.Errorf(millrace.Invalid, "take the key", "the value at %q is null; a key is a string, a number or a bool", m.config.Key)
	default:
		return "", millrace.Errorf(millrace.Invalid, "take the key", "%s at %q is %s; a key is a string, a number or a bool",
			excerpt(v), m.config.Key, v.Kind)
	}
}

// timeOf returns a value as a time.
func (m *Mapper) timeOf(v jsonpath.Value, deleted bool, arrival time.Time) (time.Time, error) {
	const want = "an event time is RFC 3339 text such as 2006-01-02T15:04:05Z, " +
		"or a number of Unix seconds, milliseconds, microseconds or nanoseconds"
	switch {
	case v.Kind == jsonpath.Missing && deleted:
		return arrival, nil
	case v.Kind == jsonpath.Missing:
		return time.Time{}, millrace.Errorf(millrace.Invalid, "take the time", "the input has nothing at %q; "+
			"correct the source's time, or remove it to use the time of arrival", m.config.Time)
	case v.Kind == jsonpath.Null:
		return time.Time{}, millrace.Errorf(millrace.Invalid, "take the time", "the value at %q is null; "+want, m.config.Time)
	case v.Kind != jsonpath.String && v.Kind != jsonpath.Number:
		return time.Time{}, millrace.Errorf(millrace.Invalid, "take the time", "%s at %q is %s; "+want, excerpt(v), m.config.Time, v.Kind)
	}
	n, found := parseTime(m.textOf(v))
	switch found {
	case isTime:
		return time.Unix(0, n).UTC(), nil
	case outOfRange:
		return time.Time{}, millrace.Errorf(millrace.Invalid, "take the time", "%s at %q is outside the years 1678 to 2261",
			excerpt(v), m.config.Time)
	default:
		return time.Time{}, millrace.Errorf(millrace.Invalid, "take the time", "%s at %q is no time; "+want, excerpt(v), m.config.Time)
	}
}

// textOf is v.String without an allocation: a string with escapes is unescaped into m.text.
func (m *Mapper) textOf(v jsonpath.Value) string {
	if !v.Escaped() {
		return v.String()
	}
	start := len(m.text)
	m.text = v.Append(m.text)
	return view(m.text[start:])
}

// excerpt returns a value's JSON text, short enough for a message.
func excerpt(v jsonpath.Value) string {
	const most = 80
	if len(v.Raw) > most {
		return string(v.Raw[:most]) + "..."
	}
	return string(v.Raw)
}

// view returns b as a string without copying it. Its bytes do not change until the call that made them
// is over: m.text only grows until then, and where it moves the old memory stays.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

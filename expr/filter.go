package expr

import (
	"math"
	"strconv"
	"unicode/utf8"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
	"github.com/millrace/millrace/jsonpath"
)

// The bounds of an expression. What is over them is Invalid.
const (
	MaxText    = 4096 // bytes of text, also in the canonical form
	MaxDepth   = 32   // operators and functions within each other
	MaxFields  = 64   // distinct fields of the data
	MaxPattern = 1000 // instructions of all regular expressions together
	MaxScans   = 32   // operations that read a whole string or array: contains, matches, lower, upper, length, in a field
)

// Filter is a compiled expression. It is immutable and may be used by several goroutines at a time.
type Filter struct {
	root   *node
	text   string
	fields *jsonpath.Set
	needs  block.Sections
}

// Compile parses text. It fails with Invalid, and says at which column what is wrong and what to write
// instead.
func Compile(text string) (*Filter, error) {
	fail := func(format string, args ...any) (*Filter, error) {
		return nil, millrace.Errorf(millrace.Invalid, "compile filter "+strconv.Quote(clip(text)), format, args...)
	}
	if len(text) > MaxText {
		return fail("the expression has %d bytes, the limit is %d; write a shorter one", len(text), MaxText)
	}
	if !utf8.ValidString(text) {
		return fail("the expression is not valid UTF-8")
	}
	p := parser{lexer: lexer{text: text, column: 1}, index: make(map[string]int)}
	root, m := p.parse()
	if m != nil {
		return fail("column %d: %s", m.column, m.text)
	}
	f := &Filter{root: root, text: root.String(), needs: p.needs}
	if len(f.text) > MaxText {
		return fail("the expression has %d bytes in its canonical form, the limit is %d; write a shorter one", len(f.text), MaxText)
	}
	var err error
	if f.fields, err = jsonpath.Compile(p.fields...); err != nil {
		return fail("%w", err)
	}
	return f, nil
}

// String returns the canonical form: expressions that differ in spacing, needless parentheses or
// notation alone have the same one. It compiles to the same filter.
func (f *Filter) String() string { return f.text }

// Needs returns the sections that a Reader must have loaded before Match.
func (f *Filter) Needs() block.Sections { return f.needs }

// Evaluator returns an evaluator of the filter, which holds the memory that evaluation needs.
func (f *Filter) Evaluator() *Evaluator {
	n := f.fields.Len()
	return &Evaluator{filter: f, found: make([]jsonpath.Value, n), values: make([]value, n)}
}

// Evaluator evaluates a filter for one event after the other. It is used by one goroutine at a time.
type Evaluator struct {
	filter *Filter

	// The event: that of a block, or one of its own.
	reader *block.Reader
	i      int
	event  *millrace.Event

	searched bool             // found is set
	found    []jsonpath.Value // the fields
	have     uint64           // bit n: values[n] is set; MaxFields are 64
	values   []value          // of the fields
	texts    []byte           // of fields whose strings have escapes
	scratch  []byte           // of strings in between
}

// keep is how many bytes an evaluator keeps for the next event.
const keep = 64 << 10

// Match says whether the i-th event of the block passes. The sections that Needs names must be loaded.
func (e *Evaluator) Match(r *block.Reader, i int) bool {
	e.reader, e.i = r, i
	matched := e.test(e.filter.root)
	e.forget()
	return matched
}

// MatchEvent is Match for an event.
func (e *Evaluator) MatchEvent(ev *millrace.Event) bool {
	e.event = ev
	matched := e.test(e.filter.root)
	e.forget()
	return matched
}

// forget lets go of the event, so that an evaluator at rest holds no block.
func (e *Evaluator) forget() {
	e.reader, e.event = nil, nil
	e.release(0)
	if !e.searched {
		return
	}
	e.searched, e.have = false, 0
	clear(e.found)
	clear(e.values)
	if e.texts = e.texts[:0]; cap(e.texts) > keep {
		e.texts = nil
	}
}

// field returns a field of the data. The first one that is asked for finds them all, in one pass.
func (e *Evaluator) field(i int) value {
	if e.have>>i&1 != 0 {
		return e.values[i]
	}
	if !e.searched {
		e.searched = true
		if err := e.filter.fields.Find(e.data(), e.found); err != nil {
			clear(e.found) // what is not JSON has no fields
		}
	}
	v := ofJSON(e.found[i])
	if e.found[i].Escaped() {
		start := len(e.texts)
		e.texts = e.found[i].Append(e.texts)
		v.text = view(e.texts[start:])
	}
	e.have |= 1 << i
	e.values[i] = v
	return v
}

func (e *Evaluator) data() []byte {
	if e.event != nil {
		return e.event.Data
	}
	return e.reader.Data(e.i)
}

// own returns one of the event's own columns.
func (e *Evaluator) own(o op) value {
	ev := e.event
	switch {
	case o == opTime:
		return e.time()
	case o == opDeleted && ev != nil:
		return boolValue(ev.Deleted)
	case o == opDeleted:
		return boolValue(e.reader.Deleted(e.i))
	}
	v := value{kind: aString}
	switch {
	case o == opKey && ev != nil:
		v.text = ev.Key
	case o == opKey:
		v.text = view(e.reader.Key(e.i))
	case o == opID && ev != nil:
		v.text = ev.ID
	case o == opID:
		v.text = view(e.reader.ID(e.i))
	case ev != nil:
		v.text = ev.Type
	default:
		v.text = view(e.reader.Type(e.i))
	}
	return v
}

// time is the event's; null if it has none.
func (e *Evaluator) time() value {
	switch {
	case e.event == nil:
		n := e.reader.UnixNano(e.i)
		if n == math.MinInt64 {
			return value{}
		}
		return value{kind: aTime, nano: n}
	case e.event.Time.IsZero():
		return value{}
	default:
		return value{kind: aTime, nano: e.event.Time.UnixNano()}
	}
}

func (e *Evaluator) attribute(name string) value {
	if e.event != nil {
		if s, ok := e.event.Attributes[name]; ok {
			return value{kind: aString, text: s}
		}
		return value{}
	}
	for n, s := range e.reader.Attributes(e.i) {
		if n == name {
			return value{kind: aString, text: s}
		}
	}
	return value{}
}

// clip keeps error messages short.
func clip(s string) string {
	const most = 80
	for i := range s {
		if i >= most {
			return s[:i] + "..."
		}
	}
	return s
}

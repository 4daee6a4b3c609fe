package expr

import (
	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
)

// The bounds of an expression. What is over them is Invalid.
const (
	MaxText    = 4096 // bytes of text, also in the canonical form
	MaxDepth   = 32   // operators and functions within each other
	MaxFields  = 64   // distinct fields of the data
	MaxPattern = 1000 // instructions of all regular expressions together
)

// Filter is a compiled expression. It is immutable and may be used by several goroutines at a time.
type Filter struct {
	text  string
	needs block.Sections
}

// Compile parses text. It fails with Invalid, and says at which column what is wrong and what to write
// instead.
func Compile(text string) (*Filter, error) {
	return nil, millrace.Errorf(millrace.Internal, "compile filter", "not built yet: %q", text)
}

// String returns the canonical form: filters that differ in spacing, needless parentheses or notation
// alone have the same one.
func (f *Filter) String() string { return f.text }

// Needs returns the sections that a Reader must have loaded before Match.
func (f *Filter) Needs() block.Sections { return f.needs }

// Evaluator returns an evaluator of the filter, which holds the memory that evaluation needs.
func (f *Filter) Evaluator() *Evaluator { return &Evaluator{filter: f} }

// Evaluator evaluates a filter for one event after the other. It is used by one goroutine at a time.
type Evaluator struct {
	filter *Filter
}

// Match says whether the i-th event of the block passes. The sections that Needs names must be loaded.
func (e *Evaluator) Match(r *block.Reader, i int) bool { return false }

// MatchEvent is Match for an event.
func (e *Evaluator) MatchEvent(ev *millrace.Event) bool { return false }

package millrace

import (
	"errors"
	"fmt"
)

// Code says what to do about an error.
type Code string

// The codes.
const (
	Unavailable Code = "unavailable" // retry with back-off
	Invalid     Code = "invalid"     // the input is wrong: dead-letter it, or tell the sender
	TooLarge    Code = "too_large"   // the input is over a limit
	Denied      Code = "denied"      // credentials or permissions
	NotFound    Code = "not_found"
	Conflict    Code = "conflict" // someone else was faster
	CodeGap     Code = "gap"      // positions are gone: answer the caller
	Internal    Code = "internal" // a fault of ours: stop the stage
)

// Error is a failure with its code. Op is what was tried, in lower case: `append to "positions"`.
type Error struct {
	Code Code
	Op   string
	Err  error
}

// Error implements error.
func (e *Error) Error() string {
	switch {
	case e.Err == nil:
		return e.Op + ": " + string(e.Code)
	case e.Op == "":
		return e.Err.Error()
	default:
		return e.Op + ": " + e.Err.Error()
	}
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Errorf returns an *Error whose cause is formatted like fmt.Errorf.
func Errorf(code Code, op, format string, args ...any) error {
	return &Error{Code: code, Op: op, Err: fmt.Errorf(format, args...)}
}

// CodeOf returns the code of the outermost *Error or *Gap in err's chain: Internal if there is none,
// and "" for nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	for e := err; e != nil; e = errors.Unwrap(e) {
		switch e := e.(type) { //nolint:errorlint // walks the chain itself to find the outermost
		case *Error:
			return e.Code
		case *Gap:
			return CodeGap
		}
	}
	return Internal
}

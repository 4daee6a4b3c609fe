package millrace

import (
	"context"
	"iter"
	"time"
)

// Source brings events in from outside.
type Source interface {
	// Run brings events in until ctx ends (nil), the input ends for good (nil), or it cannot go on
	// (an error). It starts where from says and emits in the input's order.
	Run(ctx context.Context, from Resume, out Emitter) error
}

// Resume is what a source may know of its own past.
type Resume struct {
	// Cursor is the last one that became durable; empty if there is none.
	Cursor Cursor
	// Recent yields the source's own blocks stored since a time, oldest first, and ends at the end of
	// the stream. It may be nil.
	Recent func(ctx context.Context, since time.Time) iter.Seq2[StoredBlock, error]
}

// Emitter takes a source's or a query's output. It is used by one goroutine at a time.
type Emitter interface {
	// Emit hands events over together with the cursor reached after the last of them. They become
	// durable in this order, and at moves with them or not at all. Emit copies what it keeps: the
	// events and all that they point to belong to the caller again when it returns. It blocks only
	// while the gathering block is full (the back pressure), and fails when the producer has failed:
	// Conflict (fenced by another writer), Unavailable (ctx ended), Internal. An event that can't be
	// stored (over the limit, a time out of range) becomes a dead letter, not an error. No events and
	// a cursor move the cursor alone.
	Emit(ctx context.Context, events []Event, at Cursor) error
	// Reject hands over an input that could not be processed; it goes to the dead-letter stream in
	// the same flush as the events around it. It blocks and fails like Emit, and copies.
	Reject(ctx context.Context, r Rejection, at Cursor) error
	// Flush returns once all that was emitted is durable.
	Flush(ctx context.Context) error
}

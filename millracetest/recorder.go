package millracetest

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/millrace/millrace"
)

// Recorder is an Emitter that keeps copies of what it is given, in order, for the tests of sources and
// queries. It can hold its caller up (Block) and fail (FailWith). All methods may be called
// concurrently.
type Recorder struct {
	mu         sync.Mutex
	events     []millrace.Event
	rejections []millrace.Rejection
	cursor     millrace.Cursor
	calls      int
	flushes    int
	err        error
	blocked    chan struct{} // not nil while blocked; closed by Unblock
	changed    chan struct{} // closed and replaced when anything was recorded or the failure was set
}

// NewRecorder returns a Recorder that takes everything.
func NewRecorder() *Recorder { return &Recorder{changed: make(chan struct{})} }

// Emit implements millrace.Emitter.
func (r *Recorder) Emit(ctx context.Context, events []millrace.Event, at millrace.Cursor) error {
	return r.EmitAll(ctx, events, nil, at)
}

// Reject implements millrace.Emitter.
func (r *Recorder) Reject(ctx context.Context, rejection millrace.Rejection, at millrace.Cursor) error {
	return r.EmitAll(ctx, nil, []millrace.Rejection{rejection}, at)
}

// EmitAll records events and rejections together, as the producer commits them.
func (r *Recorder) EmitAll(ctx context.Context, events []millrace.Event, rejections []millrace.Rejection, at millrace.Cursor) error {
	if err := r.admit(ctx); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range events {
		r.events = append(r.events, CloneEvent(events[i]))
	}
	for _, rejection := range rejections {
		rejection.ID, rejection.Key = strings.Clone(rejection.ID), strings.Clone(rejection.Key)
		rejection.SHA256 = strings.Clone(rejection.SHA256)
		rejection.Input = bytes.Clone(rejection.Input)
		r.rejections = append(r.rejections, rejection)
	}
	r.cursor = millrace.Cursor(strings.Clone(string(at)))
	r.calls++
	r.wake()
	return nil
}

// Flush implements millrace.Emitter: what was recorded counts as durable.
func (r *Recorder) Flush(ctx context.Context) error {
	if err := r.admit(ctx); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.flushes++
	r.wake()
	return nil
}

// admit waits while the recorder is blocked and returns its failure.
func (r *Recorder) admit(ctx context.Context) error {
	for {
		r.mu.Lock()
		err, blocked := r.err, r.blocked
		r.mu.Unlock()
		switch {
		case ctx.Err() != nil:
			return millrace.Errorf(millrace.Unavailable, "emit", "%w", context.Cause(ctx))
		case err != nil:
			return err
		case blocked == nil:
			return nil
		}
		select {
		case <-blocked:
		case <-ctx.Done():
		}
	}
}

// Events returns what was emitted so far.
func (r *Recorder) Events() []millrace.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.events)
}

// Rejections returns what was rejected so far.
func (r *Recorder) Rejections() []millrace.Rejection {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.rejections)
}

// Cursor returns the newest cursor.
func (r *Recorder) Cursor() millrace.Cursor {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.cursor
}

// Calls returns the number of calls of Emit, EmitAll and Reject that succeeded.
func (r *Recorder) Calls() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.calls
}

// Flushes returns the number of calls of Flush that succeeded.
func (r *Recorder) Flushes() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.flushes
}

// Wait returns once n events have been emitted, or with an error when ctx ends.
func (r *Recorder) Wait(ctx context.Context, n int) error {
	return r.wait(ctx, "events", n, func() int { return len(r.events) })
}

// WaitRejections returns once n inputs have been rejected, or with an error when ctx ends.
func (r *Recorder) WaitRejections(ctx context.Context, n int) error {
	return r.wait(ctx, "rejections", n, func() int { return len(r.rejections) })
}

// WaitCursor returns once the newest cursor is at, or with an error when ctx ends.
func (r *Recorder) WaitCursor(ctx context.Context, at millrace.Cursor) error {
	err := r.wait(ctx, "cursor", 1, func() int {
		if r.cursor == at {
			return 1
		}
		return 0
	})
	if err != nil {
		return fmt.Errorf("wait for cursor %q, standing at %q: %w", at, r.Cursor(), err)
	}
	return nil
}

func (r *Recorder) wait(ctx context.Context, what string, n int, count func() int) error {
	for {
		r.mu.Lock()
		got, changed := count(), r.changed
		r.mu.Unlock()
		if got >= n {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait for %d %s: %d have arrived: %w", n, what, got, context.Cause(ctx))
		}
	}
}

func (r *Recorder) wake() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// Block holds up every call of Emit, EmitAll, Reject and Flush until Unblock: back pressure.
func (r *Recorder) Block() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.blocked == nil {
		r.blocked = make(chan struct{})
	}
}

// Unblock lets the calls go on.
func (r *Recorder) Unblock() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.blocked != nil {
		close(r.blocked)
		r.blocked = nil
	}
}

// FailWith makes every call from now on fail with err, also those that are blocked after Unblock; nil
// ends that.
func (r *Recorder) FailWith(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = err
	r.wake()
}

// CloneEvent returns a copy that shares no memory with e.
func CloneEvent(e millrace.Event) millrace.Event {
	e.ID, e.Key, e.Type = strings.Clone(e.ID), strings.Clone(e.Key), strings.Clone(e.Type)
	e.Data = bytes.Clone(e.Data)
	if e.Attributes != nil {
		attributes := make(map[string]string, len(e.Attributes))
		for name, value := range maps.All(e.Attributes) {
			attributes[strings.Clone(name)] = strings.Clone(value)
		}
		e.Attributes = attributes
	}
	return e
}

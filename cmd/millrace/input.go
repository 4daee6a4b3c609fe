package main

import (
	"context"
	"errors"
	"iter"

	"github.com/millrace/millrace"
)

// retained is a stream that trims, as the engine has them.
type retained interface {
	millrace.Stream
	millrace.Retainer
}

// input is a stream as a query reads it. While the pipeline runs it is the stream itself. When it drains,
// reading ends at what is then the stream's end, so that the query computes all that its input holds.
type input struct {
	retained
	ending <-chan struct{} // closed when nothing more is written to the stream
}

// Read implements millrace.Stream.
func (s *input) Read(ctx context.Context, partition string, after millrace.Position) iter.Seq2[millrace.StoredBlock, error] {
	return func(yield func(millrace.StoredBlock, error) bool) {
		waiting, stopWaiting := context.WithCancel(ctx)
		defer stopWaiting()
		go func() {
			select {
			case <-s.ending:
				stopWaiting()
			case <-waiting.Done():
			}
		}()
		at, open := s.pass(waiting, partition, after, millrace.Position{}, yield)
		if !open || ctx.Err() != nil || waiting.Err() == nil {
			return // nobody wants more, or there is none
		}
		_, end, err := s.Bounds(ctx, partition)
		if err != nil {
			yield(millrace.StoredBlock{}, err)
			return
		}
		if at.Compare(end) < 0 {
			s.pass(ctx, partition, at, end, yield)
		}
	}
}

// pass yields what comes after a position, until ctx ends or, if there is an end, until that. It returns
// how far it came, and whether yield wants more. It does not yield the end of ctx where that means the end
// of waiting.
func (s *input) pass(ctx context.Context, partition string, at, end millrace.Position, yield func(millrace.StoredBlock, error) bool) (millrace.Position, bool) {
	for b, err := range s.retained.Read(ctx, partition, at) {
		var gap *millrace.Gap
		switch {
		case errors.As(err, &gap):
			at = gap.First
		case err != nil && ctx.Err() != nil && end.IsStart():
			return at, true
		case err == nil:
			at = b.At
		}
		if !yield(b, err) || err != nil && gap == nil {
			return at, false
		}
		if !end.IsStart() && at.Compare(end) >= 0 {
			return at, true
		}
	}
	return at, true
}

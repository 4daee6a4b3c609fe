package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace"
)

// A stage that fails says so, waits longer each time, and forgets its failures when it has run well.
func TestStageStartsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		var starts []time.Duration
		begin := time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		s := newStage("source/buses", slog.New(slog.NewTextHandler(&log, nil)), newStageMetrics(nil), func(ctx context.Context, ready func()) error {
			starts = append(starts, time.Since(begin))
			ready()
			switch n := len(starts); {
			case n <= 10:
				return millrace.Errorf(millrace.Unavailable, "connect", "refused")
			case n == 11:
				time.Sleep(2 * ranWell)
				return millrace.Errorf(millrace.Conflict, "append", "another writer")
			}
			<-ctx.Done()
			return nil
		})
		ended := make(chan struct{})
		go func() { s.run(ctx, nil); close(ended) }()
		synctest.Wait()
		if status := s.status(); status.Ready || status.State != stateFailed || status.Err == nil {
			t.Errorf("after a failure: %+v", status)
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if len(starts) != 12 {
			t.Fatalf("started %d times, want 12", len(starts))
		}
		for i := 1; i < len(starts); i++ {
			wait := starts[i] - starts[i-1]
			longest := min(firstWait<<(i-1), longWait)
			if i == 11 {
				wait -= 2 * ranWell
				longest = firstWait // it had run well
			}
			if wait < longest/2 || wait > longest {
				t.Errorf("start %d came after %s, want %s to %s", i, wait, longest/2, longest)
			}
		}
		if status := s.status(); !status.Ready || status.State != stateRunning {
			t.Errorf("running: %+v", status)
		}
		cancel()
		<-ended
		if status := s.status(); status.Ready || status.State != stateDrained {
			t.Errorf("drained: %+v", status)
		}
		if n := strings.Count(log.String(), "level=WARN"); n != 10 {
			t.Errorf("%d warnings, want one for each failure:\n%s", n, &log)
		}
		if n := strings.Count(log.String(), "level=ERROR"); n != 1 {
			t.Errorf("%d errors, want one for the conflict:\n%s", n, &log)
		}
	})
}

func TestStageEnds(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	s := newStage("source/once", log, newStageMetrics(nil), func(context.Context, func()) error { return nil })
	s.run(t.Context(), nil)
	if status := s.status(); !status.Ready || status.State != stateEnded {
		t.Errorf("%+v", status)
	}
	<-s.begun

	ctx, cancel := context.WithCancel(t.Context())
	s = newStage("archive/late", log, newStageMetrics(nil), func(ctx context.Context, ready func()) error {
		ready()
		cancel()
		return errors.New("not delivered")
	})
	s.run(ctx, nil)
	if status := s.status(); status.State != stateDrained || status.Err == nil {
		t.Errorf("%+v", status)
	}
}

// Once the pipeline drains, a stage that waits for its next start is not started again.
func TestStageDrainsWhileItWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ending := make(chan struct{})
		starts := 0
		s := newStage("query/bad", slog.New(slog.DiscardHandler), newStageMetrics(nil), func(context.Context, func()) error {
			starts++
			return errors.New("no")
		})
		ended := make(chan struct{})
		go func() { s.run(t.Context(), ending); close(ended) }()
		synctest.Wait()
		close(ending)
		<-ended
		if status := s.status(); status.State != stateDrained || status.Err == nil || starts != 1 {
			t.Errorf("%+v after %d starts", status, starts)
		}
	})
}

package main

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/admin"
	httpsource "github.com/millrace/millrace/source/http"
)

// Back-off of stages that fail: the first wait, the longest, and how long a stage must have run for its
// failures to be forgotten.
const (
	firstWait = 250 * time.Millisecond
	longWait  = 30 * time.Second
	ranWell   = time.Minute
)

// The states of a stage.
const (
	stateStarting = "starting"
	stateRunning  = "running"
	stateFailed   = "failed"
	stateEnded    = "ended" // its input is over for good
	stateDrained  = "drained"
)

// stage is a part of the pipeline that fails and starts again on its own.
type stage struct {
	name string
	log  *slog.Logger
	// work does the stage's work until ctx ends, and calls ready when it has begun. It may be called again
	// after it has failed.
	work func(ctx context.Context, ready func()) error

	tier   int                // it drains when all stages of lower tiers have
	of     madeOf             // the same again: it goes on as it is
	finish func()             // tells it that its input is complete; may be nil
	holds  []hold             // of what it still needs of its inputs
	door   *door              // that it serves; may be nil
	posts  *httpsource.Source // of a source that takes posts
	routes []string           // that the gateway serves
	seal   *seal              // of the admin listener
	// forget removes the metrics of what is gone with it, when it was replaced by another, or nil; may be nil.
	forget func(by *stage)

	metrics *stageMetrics

	first sync.Once
	begun chan struct{}      // closed when it was ready for the first time
	stop  context.CancelFunc // ends it; nil before start
	ended chan struct{}      // closed when it has ended, and all is done that leave asked for

	mu    sync.Mutex
	state string
	err   error  // why it failed
	gone  bool   // it has ended
	after func() // what is left to do then
}

func newStage(name string, log *slog.Logger, m *stageMetrics, work func(ctx context.Context, ready func()) error) *stage {
	return &stage{
		name: name, log: log, work: work, state: stateStarting, metrics: m,
		begun: make(chan struct{}), ended: make(chan struct{}),
	}
}

// start runs the stage in a goroutine, once the one that it takes the place of has ended. parent ends it at
// the latest.
func (s *stage) start(parent context.Context, ending <-chan struct{}, before *stage) {
	ctx, stop := context.WithCancel(parent)
	s.stop = stop
	s.metrics.expect(s.name)
	go func() {
		defer close(s.ended)
		defer stop()
		if before != nil {
			<-before.ended // it was told to; should it hang, what comes after this one waits, too
		}
		if over(ctx, ending) {
			s.set(stateDrained, nil)
		} else {
			s.run(ctx, ending)
		}
		s.mu.Lock()
		s.gone = true
		after := s.after
		s.mu.Unlock()
		if after != nil {
			after()
		}
	}()
}

// leave ends the stage, while others go on, and calls after when it has ended.
func (s *stage) leave(after func()) {
	s.mu.Lock()
	s.after = after
	ended := s.gone
	s.mu.Unlock()
	if ended {
		after()
	}
	s.stop()
}

// run supervises the stage until ctx ends or its work is done. When ending is closed the pipeline has
// begun to drain: from then on a stage that fails or ends does not start again.
func (s *stage) run(ctx context.Context, ending <-chan struct{}) {
	wait := firstWait
	for {
		started := time.Now()
		err := s.work(ctx, s.ready)
		switch {
		case over(ctx, ending):
			if err != nil {
				s.log.Warn("stage did not end cleanly; the next start goes on from what is durable", "stage", s.name, "error", err)
			}
			s.set(stateDrained, err)
			return
		case err == nil:
			s.log.Info("stage has come to the end of its input", "stage", s.name)
			s.set(stateEnded, nil)
			s.first.Do(func() { close(s.begun) })
			return
		}
		if time.Since(started) >= ranWell {
			wait = firstWait
		}
		in := jitter(wait)
		wait = min(2*wait, longWait)
		s.set(stateFailed, err)
		s.metrics.failures.WithLabelValues(s.name).Inc()
		level := slog.LevelWarn
		switch millrace.CodeOf(err) {
		case millrace.Conflict, millrace.Internal, millrace.Denied, millrace.Invalid, millrace.NotFound:
			level = slog.LevelError // waiting alone does not help: someone must look
		}
		s.log.Log(ctx, level, "stage failed and starts again", "stage", s.name, "code", millrace.CodeOf(err), "in", in.Round(time.Millisecond), "error", err)
		select {
		case <-time.After(in):
		case <-ending:
		case <-ctx.Done():
		}
		if over(ctx, ending) {
			s.set(stateDrained, err)
			return
		}
	}
}

func over(ctx context.Context, ending <-chan struct{}) bool {
	select {
	case <-ending:
		return true
	default:
		return ctx.Err() != nil
	}
}

// ready says that the work has begun.
func (s *stage) ready() {
	s.set(stateRunning, nil)
	s.first.Do(func() { close(s.begun) })
}

func (s *stage) set(state string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state, s.err = state, err
	running := 0.0
	if state == stateRunning {
		running = 1
	}
	s.metrics.running.WithLabelValues(s.name).Set(running)
}

// status is what /readyz says of the stage. A stage whose input is over has nothing more to do and is as
// ready as it will be.
func (s *stage) status() admin.Stage {
	s.mu.Lock()
	defer s.mu.Unlock()
	return admin.Stage{Name: s.name, State: s.state, Err: s.err, Ready: s.state == stateRunning || s.state == stateEnded}
}

// jitter spreads a wait over half to the whole of it, so that stages that failed together do not come back
// together.
func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d/2+1) }

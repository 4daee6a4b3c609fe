package main

import (
	"context"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/config"
	"github.com/millrace/millrace/mapping"
	"github.com/millrace/millrace/producer"
)

const (
	// openTimeout bounds taking over the producer.
	openTimeout = 10 * time.Second
	// flushTimeout bounds how long a source that ends waits until what it has emitted is durable.
	flushTimeout = 5 * time.Second
)

// source is the way of one feed's events into a stream: the client, the mapping, the producer.
type source struct {
	config   config.Source
	producer producer.Config
	open     func() millrace.Source
	opening  chan struct{} // capacity openAtOnce, of all sources
}

// openAtOnce is how many sources take over their producers side by side, each in a few appends. A thousand that
// start at once would all wait for each other for longer than openTimeout.
const openAtOnce = 16

// run opens the producer, which takes over from whoever had it before and knows where to go on, and brings
// events in until ctx ends; then it waits until they are durable.
func (s *source) run(ctx context.Context, ready func()) error {
	out, err := s.takeOver(ctx)
	if out == nil || err != nil {
		return err
	}
	// The producer goes on while the source ends.
	committing, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	reading, cancel := context.WithCancel(ctx)
	defer cancel()
	committed := make(chan error, 1)
	go func() {
		committed <- out.Run(committing)
		cancel() // a source whose producer has failed is of no use, and may be waiting for its feed
	}()
	resume := out.Resume()
	mapper := mapping.New(s.config.Mapping, mapping.Options{Cursor: resume.Cursor}, out)
	ready()
	err = s.open().Run(reading, resume, mapper)
	if err == nil {
		flushing, done := context.WithTimeout(committing, flushTimeout)
		err = mapper.Flush(flushing)
		done()
	}
	stop()
	if failure := <-committed; failure != nil {
		return failure // the cause of whatever the source said
	}
	return err
}

// takeOver opens the producer when it is its turn; nil if ctx ends before.
func (s *source) takeOver(ctx context.Context) (*producer.Producer, error) {
	select {
	case s.opening <- struct{}{}:
		defer func() { <-s.opening }()
	case <-ctx.Done():
		return nil, nil
	}
	// Taking over appends; cutting that off when ctx ends would only make its outcome unknown.
	opening, opened := context.WithTimeout(context.WithoutCancel(ctx), openTimeout)
	defer opened()
	return producer.Open(opening, s.producer)
}

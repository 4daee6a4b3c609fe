package nats

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/millrace/millrace"
)

// Turns are bounded, come back, and nobody waits for one beyond his context or the stream's end.
func TestTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Stream{name: "s", closed: make(chan struct{}), e: &Engine{open: map[string]*Stream{}}}
		s.partitions = []*partition{{partition: "0", turns: make(chan struct{}, 2)}}
		var done []func()
		for range 2 {
			end, err := s.Turn(t.Context(), "0")
			if err != nil {
				t.Fatal(err)
			}
			done = append(done, end)
		}
		results := make(chan error)
		wait := func(ctx context.Context) {
			go func() {
				_, err := s.Turn(ctx, "0")
				results <- err
			}()
			synctest.Wait()
			select {
			case err := <-results:
				t.Fatalf("a third turn: %v", err)
			default:
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		wait(ctx)
		cancel()
		if err := <-results; millrace.CodeOf(err) != millrace.Unavailable {
			t.Errorf("given up: %v", err)
		}
		wait(t.Context())
		done[0]()
		if err := <-results; err != nil {
			t.Errorf("after another's end: %v", err)
		}
		wait(t.Context())
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if err := <-results; millrace.CodeOf(err) != millrace.Unavailable {
			t.Errorf("after the stream's end: %v", err)
		}
		if _, err := s.Turn(t.Context(), "1"); millrace.CodeOf(err) != millrace.Unavailable {
			t.Errorf("of a closed stream: %v", err)
		}
	})
}

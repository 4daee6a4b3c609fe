package nats

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
)

// The fence vouches for what it was told last, and for nothing else.
func TestFence(t *testing.T) {
	var f fence
	claim := func(last uint64, want bool) {
		t.Helper()
		known, err := f.claim(t.Context(), "a", last)
		if err != nil || known != want {
			t.Errorf("claim %d: %v, %v", last, known, err)
		}
	}
	claim(0, false) // nothing there: JetStream has to say so
	f.settle("a", 5)
	claim(5, true)
	f.settle("a", 9)
	claim(5, false)
	f.settle("a", 0) // refused, or its fate is unknown
	claim(9, false)
	f.settle("a", 11)
	f.forget()
	claim(11, false)
	f.settle("a", 12)
	claim(12, true)
	f.forget() // while it is on its way
	f.settle("a", 13)
	claim(13, true)
	f.settle("a", 0)
	if len(f.marks) != 0 {
		t.Errorf("%d subjects are remembered of which nothing is known", len(f.marks))
	}
}

// One append of a subject is on its way at a time; those of others don't wait for it.
func TestFenceWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f fence
		if _, err := f.claim(t.Context(), "a", 0); err != nil {
			t.Fatal(err)
		}
		if _, err := f.claim(t.Context(), "b", 0); err != nil {
			t.Fatal(err)
		}
		over, cancel := context.WithCancel(t.Context())
		claimed := make(chan bool)
		go func() {
			_, err := f.claim(over, "a", 0)
			if !errors.Is(err, context.Canceled) {
				t.Errorf("a claim that was given up: %v", err)
			}
			claimed <- false
		}()
		for range 2 {
			go func() {
				known, err := f.claim(t.Context(), "a", 3)
				if err != nil {
					t.Error(err)
				}
				claimed <- known
			}()
		}
		synctest.Wait()
		select {
		case <-claimed:
			t.Error("two appends of a subject are on their way")
		default:
		}
		cancel()
		<-claimed
		f.settle("a", 3)
		if !<-claimed {
			t.Error("the first one that waited does not know what the one before it stored")
		}
		synctest.Wait()
		select {
		case <-claimed:
			t.Error("two appends of a subject are on their way")
		default:
		}
		f.settle("a", 4)
		if <-claimed {
			t.Error("3 was not the last message any more")
		}
	})
}

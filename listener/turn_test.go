package listener

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// The others wait for the first: until it is done, for half a minute, or until the listener is closed.
func TestTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, began := &turn{over: make(chan struct{})}, time.Now()
		end := first.wait(t.Context())
		if time.Since(began) > 0 {
			t.Error("the first waits")
		}
		first.wait(t.Context())()
		if waited := time.Since(began); waited != ahead {
			t.Errorf("the second waits %s for one that is not done", waited)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		first.wait(ctx)()
		time.AfterFunc(time.Second, end)
		first.wait(t.Context())()
		if waited := time.Since(began); waited != ahead+time.Second {
			t.Errorf("the last goes on after %s", waited)
		}
	})
}

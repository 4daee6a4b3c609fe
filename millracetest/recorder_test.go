package millracetest_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/millracetest"
)

func TestRecorderIsAnEmitter(t *testing.T) {
	millracetest.Emitter(t, func(*testing.T) millracetest.OpenEmitter {
		r := millracetest.NewRecorder()
		return millracetest.OpenEmitter{
			Emitter: r,
			Durable: func() ([]millrace.Event, []string, millrace.Cursor) {
				var ids []string
				for _, rejection := range r.Rejections() {
					ids = append(ids, rejection.ID)
				}
				return r.Events(), ids, r.Cursor()
			},
			End: func() { r.FailWith(millrace.Errorf(millrace.Unavailable, "emit", "it has ended")) },
		}
	})
}

func TestRecorderHoldsUpAndFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := millracetest.NewRecorder()
		r.Block()
		emitted := make(chan error, 1)
		go func() { emitted <- r.Emit(t.Context(), []millrace.Event{{ID: "1"}}, "1") }()
		synctest.Wait()
		if len(emitted) > 0 || len(r.Events()) > 0 {
			t.Fatal("Emit went on while blocked")
		}
		waited := make(chan error, 1)
		go func() { waited <- r.Wait(t.Context(), 1) }()
		r.Unblock()
		if err := errors.Join(<-emitted, <-waited, r.WaitCursor(t.Context(), "1")); err != nil {
			t.Fatal(err)
		}

		failure := errors.New("full")
		r.FailWith(failure)
		if err := r.Emit(t.Context(), nil, "2"); !errors.Is(err, failure) {
			t.Errorf("Emit: %v, want %v", err, failure)
		}
		r.FailWith(nil)
		if err := r.Reject(t.Context(), millrace.Rejection{ID: "r"}, "2"); err != nil || r.Cursor() != "2" {
			t.Errorf("Reject: %v, cursor %q", err, r.Cursor())
		}

		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := r.WaitRejections(ctx, 2); !errors.Is(err, context.Canceled) {
			t.Errorf("WaitRejections: %v, want %v", err, context.Canceled)
		}
	})
}

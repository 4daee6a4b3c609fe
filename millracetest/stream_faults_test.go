package millracetest_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
	"github.com/millrace/millrace/millracetest"
	"github.com/millrace/millrace/stream/memory"
)

func TestFaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fault := millracetest.NoFault
		stored := memory.New("into", memory.Options{})
		f := millracetest.NewFaults(func(stream, partition string, h millrace.Header) millracetest.Fault {
			if stream != "into" || partition != "0" || h.Producer != "p" {
				t.Errorf("asked about %s/%s of %s", stream, partition, h.Producer)
			}
			return fault
		})
		s := f.Stream(stored)
		ledger := millracetest.NewLedger()
		var last millrace.Position
		// try appends an event after the newest one and returns the code of its failure.
		try := func(next millracetest.Fault) millrace.Code {
			fault = next
			var b block.Builder
			_, id := ledger.Send("key")
			if err := b.Add(&millrace.Event{ID: id}); err != nil {
				t.Fatal(err)
			}
			encoded, err := b.Encode(nil, millrace.Header{Producer: "p"})
			if err != nil {
				t.Fatal(err)
			}
			_, err = s.Append(t.Context(), "0", last, encoded)
			if newest, err := stored.Last(t.Context(), "0", "p"); err == nil {
				last = newest.At
			}
			return millrace.CodeOf(err)
		}
		arrived := func() int {
			if err := ledger.ArrivedInStream(t.Context(), "now", stored); err != nil {
				t.Fatal(err)
			}
			return ledger.NumberArrived("now")
		}
		for _, step := range []struct {
			fault   millracetest.Fault
			code    millrace.Code
			arrived int
		}{
			{millracetest.NoFault, "", 1},
			{millracetest.Refuse, millrace.Unavailable, 1},
			{millracetest.LoseReply, millrace.Unavailable, 2},
			{millracetest.Delay, millrace.Unavailable, 2},
			{millracetest.NoFault, millrace.Conflict, 3}, // the delayed one came first
		} {
			if code := try(step.fault); code != step.code {
				t.Errorf("fault %d: %q, want %q", step.fault, code, step.code)
			}
			if n := arrived(); n != step.arrived {
				t.Errorf("fault %d: %d events have arrived, want %d", step.fault, n, step.arrived)
			}
		}

		f.Latency = func() time.Duration { return time.Second }
		began := time.Now()
		if code := try(millracetest.NoFault); code != "" || time.Since(began) != 2*time.Second {
			t.Errorf("%q after %s, want 2s", code, time.Since(began))
		}
		f.Latency = nil

		done := make(chan millrace.Code)
		go func() { done <- try(millracetest.Hold) }()
		synctest.Wait()
		if n := arrived(); n != 4 || f.Held() != 1 {
			t.Errorf("%d events have arrived while %d are held", n, f.Held())
		}
		f.Release()
		if code := <-done; code != "" || arrived() != 5 {
			t.Errorf("after its release: %q, %d events", code, arrived())
		}

		reading := make(chan error)
		go func() {
			var last error
			for _, err := range s.Read(context.Background(), "0", millrace.Position{}) {
				last = err
			}
			reading <- last
		}()
		synctest.Wait()
		if code := try(millracetest.CrashAfter); code != millrace.Internal || arrived() != 6 {
			t.Errorf("at the crash: %q, %d events", code, arrived())
		}
		if err := <-reading; millrace.CodeOf(err) != millrace.Internal {
			t.Errorf("the reader ended with %v", err)
		}
		if code := try(millracetest.NoFault); code != millrace.Internal || arrived() != 6 {
			t.Errorf("after the crash: %q, %d events", code, arrived())
		}
		if _, err := s.Last(t.Context(), "0", "p"); millrace.CodeOf(err) != millrace.Internal {
			t.Errorf("Last after the crash: %v", err)
		}
	})
}

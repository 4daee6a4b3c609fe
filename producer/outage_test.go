package producer_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/millracetest"
	"github.com/millrace/millrace/producer"
)

// TestOutages lets every kind of failure happen to every append. Nobody must notice but the log, and
// that once for each outage.
func TestOutages(t *testing.T) {
	for _, kind := range []millracetest.Fault{millracetest.Refuse, millracetest.LoseReply, millracetest.Delay} {
		t.Run(fmt.Sprint(kind), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log bytes.Buffer
				reg := prometheus.NewRegistry()
				c := config(2)
				c.Logger = slog.New(slog.NewTextHandler(&log, nil))
				c.Metrics = producer.NewMetrics(reg)
				fault, n := millracetest.NoFault, 0
				faults := millracetest.NewFaults(func(string, string, millrace.Header) millracetest.Fault {
					if n++; n%3 == 0 {
						return millracetest.NoFault
					}
					return fault
				})
				into, dead := c.Into, c.Dead
				c.Into, c.Dead = faults.Stream(into), faults.Stream(dead)
				p, stop := open(t, c)
				fault = kind
				for i := range 30 {
					rejections := []millrace.Rejection{{ID: strconv.Itoa(i), Reason: context.Canceled}}
					if err := p.EmitAll(t.Context(), []millrace.Event{event(3 * i), event(3*i + 1), event(3*i + 2)}, rejections, millrace.Cursor(strconv.Itoa(i))); err != nil {
						t.Fatal(err)
					}
					if err := p.Flush(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				stop()
				ledger := millracetest.NewLedger()
				for i := range 90 {
					ledger.Sent(event(i).Key, i/3, event(i).ID)
				}
				for _, e := range events(t, into) {
					i, _ := strconv.Atoi(string(e.Data))
					ledger.Arrived("into", e.Key, i/3, e.ID)
				}
				ledger.Check(t, "into")
				if n := len(events(t, dead)); n != 30 {
					t.Errorf("%d dead letters arrived, want 30", n)
				}
				if cursor := cursor(t, c); cursor != "29" {
					t.Errorf("the cursor is %q", cursor)
				}
				begun := strings.Count(log.String(), "the stream takes no blocks")
				ended := strings.Count(log.String(), "the stream takes blocks again")
				if kind == millracetest.LoseReply && begun > 0 || kind != millracetest.LoseReply && begun == 0 || begun != ended {
					t.Errorf("the log tells of %d outages and the end of %d:\n%s", begun, ended, &log)
				}
				if kind != millracetest.LoseReply && metric(t, reg, "millrace_producer_retries_total") == 0 {
					t.Error("no retry was counted")
				}
				for name, want := range map[string]float64{
					"millrace_producer_events_total": 90, "millrace_dead_letters_total": 30,
					"millrace_producer_queue_events": 0, "millrace_producer_queue_bytes": 0,
					"millrace_producer_flushes_total": 30,
				} {
					if got := metric(t, reg, name); got != want {
						t.Errorf("%s is %v, want %v", name, got, want)
					}
				}
			})
		})
	}
}

func metric(t *testing.T, reg *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if m := family.GetMetric(); family.GetName() == name && len(m) == 1 {
			return m[0].GetCounter().GetValue() + m[0].GetGauge().GetValue()
		}
	}
	t.Errorf("there is no metric %s", name)
	return 0
}

// TestEveryOutcomeOfAnAppend: what can't be tried again ends the producer, and every call says so.
func TestAppendFailsForGood(t *testing.T) {
	c := config(1)
	failing := &failingStream{Stream: c.Into}
	c.Into = failing
	p, err := producer.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	failing.err = millrace.Errorf(millrace.Denied, "append", "not yours")
	if err := p.Emit(t.Context(), []millrace.Event{event(0)}, "1"); err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{
		"Run": p.Run(t.Context()), "Emit": p.Emit(t.Context(), nil, "2"), "Flush": p.Flush(t.Context()),
	} {
		if millrace.CodeOf(err) != millrace.Denied || !strings.Contains(err.Error(), `partition "0" of "into"`) {
			t.Errorf("%s: %v, want denied", what, err)
		}
	}
}

type failingStream struct {
	millrace.Stream
	err error
}

func (s *failingStream) Append(ctx context.Context, partition string, after millrace.Position, b millrace.Block) (millrace.Position, error) {
	if s.err != nil {
		return millrace.Position{}, s.err
	}
	return s.Stream.Append(ctx, partition, after, b)
}

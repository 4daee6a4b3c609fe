//go:build linux

package paced

import (
	"context"
	"encoding/json"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

func TestPace(t *testing.T) {
	for _, test := range []struct {
		load    Load
		events  int64
		batches int
	}{
		{Load{Rate: 60, Burst: 1}, 60, 60},
		{Load{Rate: 200, Burst: 10}, 200, 20},
		{Load{Rate: 10_000, Burst: 1, Tick: 10 * time.Millisecond}, 10_000, 100},
		{Load{Rate: 3e6, Burst: 1, Tick: time.Second}, 3e6, 300}, // batches have a bound
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second+time.Microsecond)
			defer cancel()
			var next int64
			batches := 0
			events, err := Pace(ctx, test.load, func(from, to int64) error {
				if from != next || to <= from {
					t.Errorf("%+v: [%d, %d) comes after %d", test.load, from, to, next)
				}
				next = to
				batches++
				return nil
			})
			if err != nil || events != test.events || batches != test.batches {
				t.Errorf("%+v: %d events in %d batches, %v; want %d in %d", test.load, events, batches, err, test.events, test.batches)
			}
		})
	}
}

func TestRender(t *testing.T) {
	b := NewBatch(Load{Keys: 3, Size: 200})
	events := b.Render(7, 12)
	for i, e := range events {
		var data struct {
			N int64
			K string
		}
		if err := json.Unmarshal(e.Data, &data); err != nil {
			t.Fatal(err)
		}
		n := int64(7 + i)
		key := []string{"0", "1", "2"}[n%3]
		if e.Number != n || e.Key != key || data.N != n || data.K != key || len(e.Data) != 200 {
			t.Errorf("event %d is %d, key %q, %s", n, e.Number, e.Key, e.Data)
		}
	}
	if len(events) != 5 {
		t.Errorf("%d events, want 5", len(events))
	}
}

func TestTimeline(t *testing.T) {
	name := filepath.Join(t.TempDir(), "timeline")
	server, err := OpenTimeline(name)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	client, err := OpenTimeline(name)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server.Made(2, 4)
	server.Durable(3, 4)
	server.Durable(timelineEvents-1, timelineEvents+5) // beyond its room nothing is noted
	if made, durable := client.Of(3); made == 0 || durable < made {
		t.Errorf("event 3 was made at %d and durable at %d", made, durable)
	}
	if made, durable := client.Of(2); made == 0 || durable != 0 {
		t.Errorf("event 2 was made at %d and durable at %d, which it is not", made, durable)
	}
	if made, _ := client.Of(timelineEvents); made != 0 {
		t.Error("an event beyond the timeline has a time")
	}
	none, err := OpenTimeline("")
	if err != nil || none != nil {
		t.Errorf("without a name there is %v, %v", none, err)
	}
	none.Made(0, 1)
}

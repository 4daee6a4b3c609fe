package paced

import (
	"context"
	"math"
	"time"
)

// most bounds a batch: what has become due while the last one was being pushed comes in several.
const most = 10_000

// Pace calls push with the numbers of events [from, to) when they are due, until ctx ends or push fails.
// It returns how many events there were. Events that became due while push took its time follow at once.
func Pace(ctx context.Context, l Load, push func(from, to int64) error) (int64, error) {
	interval := time.Duration(math.Ceil(float64(l.Burst) / l.Rate * float64(time.Second))) // never before it is due
	step := max(interval, l.Tick)
	begun := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	var pushed int64
	for next := begun; ; {
		select {
		case <-ctx.Done():
			return pushed, nil
		case <-timer.C:
		}
		for due := due(l, time.Since(begun)); pushed < due && ctx.Err() == nil; {
			to := min(due, pushed+most)
			if err := push(pushed, to); err != nil {
				return pushed, err
			}
			pushed = to
		}
		for now := time.Now(); !next.After(now); {
			next = next.Add(step)
		}
		timer.Reset(time.Until(next))
	}
}

// due returns how many events are due after some time: whole bursts.
func due(l Load, after time.Duration) int64 {
	bursts := int64(after.Seconds()*l.Rate/float64(l.Burst) + 1e-6)
	return bursts * int64(l.Burst)
}

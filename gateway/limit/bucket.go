package limit

import (
	"sync/atomic"
	"time"
)

// bucket is a token bucket in one number, the time at which it will be full (as in the generic cell rate
// algorithm, ITU-T I.371): Unix nanoseconds. The zero bucket is full.
type bucket struct{ fullAt atomic.Int64 }

// rate is what a bucket takes and gives, in nanoseconds.
type rate struct {
	every int64 // for each message; 0 is no limit
	whole int64 // for a whole bucket
}

func newRate(r Rate) rate {
	if r.Rate == 0 {
		return rate{}
	}
	every := int64(time.Second) / int64(r.Rate)
	return rate{every: every, whole: every * int64(r.burst())}
}

// take takes one message from the bucket, or says after how long there will be one.
func (b *bucket) take(r rate, now time.Time) (wait time.Duration, ok bool) {
	if r.every == 0 {
		return 0, true
	}
	t := now.UnixNano()
	for {
		old := b.fullAt.Load()
		if old > t+r.whole { // emptier than empty: the clock was set back
			b.fullAt.CompareAndSwap(old, t+r.whole)
			continue
		}
		next := max(old, t) + r.every
		if over := next - t - r.whole; over > 0 {
			return time.Duration(over), false
		}
		if b.fullAt.CompareAndSwap(old, next) {
			return 0, true
		}
	}
}

// giveBack undoes a take.
func (b *bucket) giveBack(r rate) {
	if r.every != 0 {
		b.fullAt.Add(-r.every)
	}
}

func (b *bucket) full(now time.Time) bool { return b.fullAt.Load() <= now.UnixNano() }

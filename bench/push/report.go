//go:build linux

package main

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// Report is what the client says of an interval.
type Report struct {
	Seconds    float64 // how long it was
	CPU        float64 // of the client, in seconds
	Deliveries int64   // events that arrived, those of the stalled left out
	Bytes      int64
	Reads      int64
	Open       int // connections

	// Since the start, not only in the interval:
	Missing int64       // numbers that were left out
	Repeats int64       // numbers that came again
	Gaps    int64       // gap messages
	Losses  int64       // connections that ended
	Codes   map[int]int // close codes
	Back    float64     // seconds from the first loss until the last connection was live again

	SinceMade, SinceDurable Latency
}

// Latency is how long events took to arrive.
type Latency struct {
	Count          int
	P50, P99, Most time.Duration
}

// saturated says whether the client itself may have been the limit.
func (r *Report) saturated() bool { return r.Seconds > 0 && r.CPU > 0.9*r.Seconds }

// latencyOf sorts its argument.
func latencyOf(all []time.Duration) Latency {
	slices.Sort(all)
	return Latency{Count: len(all), P50: quantile(all, 0.5), P99: quantile(all, 0.99), Most: quantile(all, 1)}
}

// quantile returns the smallest value that at least the share q of the sorted values do not exceed; the zero
// value of none.
func quantile[T any](sorted []T, q float64) (value T) {
	if len(sorted) == 0 {
		return value
	}
	i := int(math.Ceil(q*float64(len(sorted)))) - 1
	return sorted[max(0, min(i, len(sorted)-1))]
}

// median returns the middle value, of an even number the lower of the two in the middle.
func median[T cmp.Ordered](values []T) T {
	sorted := slices.Clone(values)
	slices.Sort(sorted)
	return quantile(sorted, 0.5)
}

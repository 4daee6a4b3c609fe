//go:build race

package producer_test

// Under the race detector sync.Pool drops at random what it should keep, builders among it.
func init() { raceDetector = true }

//go:build race

package block_test

// Under the race detector sync.Pool drops at random what it should keep, and S2 encodes with memory
// from a pool.
func init() { raceDetector = true }

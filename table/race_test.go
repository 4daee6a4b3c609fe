//go:build race

package table

// The race detector's memory is counted with ours.
func init() { raceDetector = true }

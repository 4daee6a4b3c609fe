//go:build !race

package gateway

// raceDetector says that the race detector is on.
const raceDetector = false

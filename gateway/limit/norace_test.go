//go:build !race

package limit

// raceDetector says that the race detector is on.
const raceDetector = false

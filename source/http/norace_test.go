//go:build !race

package httpsource

// raceDetector says that the race detector is on.
const raceDetector = false

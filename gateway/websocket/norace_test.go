//go:build !race

package websocket

// raceDetector says that the race detector is on.
const raceDetector = false

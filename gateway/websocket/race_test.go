//go:build race

package websocket

// raceDetector says that the race detector is on, with which pools give things away at random.
const raceDetector = true

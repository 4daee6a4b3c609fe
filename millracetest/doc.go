// Package millracetest holds the means of proof; only tests import it.
//
// A conformance suite for each contract: an implementation is one that passes it. (That of WebSockets is
// the package websocket.) A Ledger that counts what was lost, repeated or reordered between two ends. Ways
// to break things: crash points (CrashAt, PanicAt, CrashFromEnv), a way to streams that loses and delays
// appends and crashes (Faults), faulty feeds. And what stands in for the world: a Clock that a test
// moves, a Recorder that takes a source's events.
package millracetest

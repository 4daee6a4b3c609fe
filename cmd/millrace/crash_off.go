//go:build !millrace_crash

package main

// crashPoint returns the hook that rooms call between the steps of a commit: none. A build with the tag
// millrace_crash can be stopped there, see crash_on.go.
func crashPoint() func(step string) { return nil }

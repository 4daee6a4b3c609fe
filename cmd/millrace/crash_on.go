//go:build millrace_crash

package main

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// crashPoint returns the hook that rooms call between the steps of a commit. With
// MILLRACE_CRASH_AT="STEP:N" in the environment the process kills itself, as kill -9 does, when the step
// is reached for the N-th time. Builds without the tag millrace_crash know nothing of the variable.
func crashPoint() func(step string) {
	at, count, _ := strings.Cut(os.Getenv("MILLRACE_CRASH_AT"), ":")
	n, err := strconv.ParseInt(count, 10, 64)
	if at == "" {
		return nil
	}
	if err != nil || n < 1 {
		panic("MILLRACE_CRASH_AT must be STEP:N")
	}
	var reached atomic.Int64
	return func(step string) {
		if step != at || reached.Add(1) != n {
			return
		}
		self, err := os.FindProcess(os.Getpid())
		if err == nil {
			err = self.Signal(syscall.SIGKILL)
		}
		if err != nil {
			os.Exit(137)
		}
		select {} // until the signal arrives
	}
}

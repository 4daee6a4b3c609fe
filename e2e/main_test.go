// Package e2e proves the promises of the whole program: it builds millrace, runs it as a process over
// real feeds, clients and directories, kills it at any moment, and counts what was lost, repeated or
// out of order.
//
// The tests start the program again and again in one directory (a pipeline), enter what the feed sends
// into books, and let clients that reconnect by position, the archive's objects and finally the
// streams themselves be entered against them. What crossings there must be is computed by a program of
// the tests' own.
//
// MILLRACE_E2E=long makes the tests that kill do so more often.
package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
)

// binary is the program under test; "" if there is none, because of unbuilt.
var (
	binary  string
	unbuilt error
)

// long says whether the long form of the tests is asked for.
var long = os.Getenv("MILLRACE_E2E") == "long"

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "millrace-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binary, unbuilt = build(dir)
	if _, failed := errors.AsType[*exec.ExitError](unbuilt); failed { // there is a go tool, and the program does not compile
		fmt.Fprintln(os.Stderr, unbuilt)
		_ = os.RemoveAll(dir) // nothing worth keeping
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if err := os.RemoveAll(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(code)
	}))
}

// build builds the program with its crash points; with the race detector if the tests have it.
func build(dir string) (string, error) {
	tool, err := exec.LookPath("go")
	if err != nil {
		return "", err
	}
	file := filepath.Join(dir, "millrace.exe") // the suffix does no harm where it means nothing
	args := []string{"build", "-buildvcs=false", "-tags", "millrace_crash", "-o", file}
	if raceEnabled {
		args = append(args, "-race")
	}
	command := exec.Command(tool, append(args, "./cmd/millrace")...)
	command.Dir = ".."
	if output, err := command.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the program: %w\n%s", err, output)
	}
	return file, nil
}

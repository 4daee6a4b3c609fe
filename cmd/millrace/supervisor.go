package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// supervisor keeps a process of this same program going: when it dies it is started again.
//
// A pipe into its stdin is the only tie between the two, which every system has: the line "drain" says that the
// process is to end in order, and the end of the pipe that its parent has died, whatever killed it.
type supervisor struct {
	arguments func(l lives) []string
	died      func(how string) // called before it is started again
	out, err  io.Writer        // its stdout and stderr
	log       *slog.Logger
}

// lives are those that have ended.
type lives struct{ all, killed int }

// drainLine is what a process is told that is to end in order.
const drainLine = "drain"

// errSaid is a failure of the process, which has said itself what it was.
var errSaid = errors.New("the pipeline's process has failed")

// Bounds of starting again.
const (
	shortLife = 2 * time.Second // a process that fails by itself sooner has not really run
	mostWait  = 5 * time.Second // before another try after short lives
)

// run ends when ctx has ended and the process has drained; and with an error if the process cannot even
// start.
func (s *supervisor) run(ctx context.Context) error {
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	wait := time.Duration(0)
	for ended := (lives{}); ; {
		started := time.Now()
		err := s.live(ctx, program, s.arguments(ended))
		exit, exited := errors.AsType[*exec.ExitError](err)
		switch {
		case err == nil && ctx.Err() != nil:
			return nil
		case err != nil && (!exited || ctx.Err() != nil): // it could not be started, or not drained
			if exited {
				return errSaid
			}
			return err
		case exited && ended.all == 0 && exit.Exited() && exit.ExitCode() != 0 && time.Since(started) < shortLife:
			return errSaid // an address in use, a directory that cannot be written: what would not go away
		}
		if time.Since(started) > shortLife {
			wait = 0
		} else if ended.all > 0 {
			wait = min(mostWait, max(2*wait, 50*time.Millisecond))
		}
		how := "ended by itself"
		ended.all++
		if exited {
			how = "ended with " + exit.Error()
		}
		if exited && killed(exit) {
			ended.killed++
			how = fmt.Sprintf("was killed (%d so far)", ended.killed)
		}
		s.log.Info("the pipeline's process has ended", "how", err, "lived", time.Since(started).Round(time.Millisecond), "wait", wait)
		s.died(how)
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
	}
}

// killed says whether a process was ended by kill -9. Windows does not tell: there whatever is killed ends with 1, as
// what has failed does, and both count.
func killed(exit *exec.ExitError) bool {
	status, ok := exit.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL || runtime.GOOS == "windows" && exit.ExitCode() == 1
}

// live runs one process to its end. It returns nil if that was in order.
func (s *supervisor) live(ctx context.Context, program string, arguments []string) error {
	command := exec.Command(program, arguments...)
	command.Args[0] = os.Args[0] // the name by which this one was called
	command.Stdout, command.Stderr = s.out, s.err
	tie, err := command.StdinPipe()
	if err != nil {
		return fmt.Errorf("start the pipeline: %w", err)
	}
	if err := command.Start(); err != nil {
		return fmt.Errorf("start the pipeline: %w", err)
	}
	stop := context.AfterFunc(ctx, func() {
		_, _ = io.WriteString(tie, drainLine+"\n") // it may be gone
	})
	defer stop()
	return command.Wait() // which closes the pipe
}

// obey is the other end: it reads what the parent says until the end of the pipe, which is the parent's end.
func obey(tie io.Reader, drain, die func()) {
	for lines := bufio.NewScanner(tie); lines.Scan(); {
		if lines.Text() == drainLine {
			drain()
		}
	}
	die()
}

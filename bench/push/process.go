//go:build linux

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// process is a child that answers on stdout the lines it gets on stdin.
type process struct {
	name  string
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines chan string // closed when it has ended

	mu  sync.Mutex
	log tail // of stderr
}

// place is where a process runs.
type place struct {
	core     int // -1: any
	realtime bool
}

// command returns the command that runs a program there, as far as this machine has what it takes.
func (p place) command(program string, args []string) *exec.Cmd {
	command := append([]string{program}, args...)
	if taskset, err := exec.LookPath("taskset"); err == nil && p.core >= 0 && p.core < runtime.NumCPU() {
		command = append([]string{taskset, "-c", strconv.Itoa(p.core)}, command...)
	}
	if chrt, err := exec.LookPath("chrt"); err == nil && p.realtime {
		command = append([]string{chrt, "--rr", "1"}, command...)
	}
	return exec.Command(command[0], command[1:]...)
}

// start starts a program with environment in addition.
func start(name string, at place, environment []string, program string, args ...string) (*process, error) {
	p := &process{name: name, cmd: at.command(program, args), lines: make(chan string, 64)}
	p.cmd.Env = append(os.Environ(), environment...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	logs, err := p.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	var reading sync.WaitGroup
	forward := func(from io.Reader, each func(string)) {
		for all := bufio.NewReaderSize(from, 1<<20); ; {
			line, err := all.ReadString('\n')
			if line = strings.TrimSuffix(line, "\n"); line != "" {
				each(line)
			}
			if err != nil {
				return
			}
		}
	}
	reading.Go(func() { forward(out, func(line string) { p.lines <- line }) })
	reading.Go(func() {
		forward(logs, func(line string) {
			p.mu.Lock()
			p.log.add(line)
			p.mu.Unlock()
			if strings.HasPrefix(line, "{") && strings.Contains(line, `"msg":"ready"`) { // of millrace run
				p.lines <- line
			}
		})
	})
	go func() {
		reading.Wait()
		close(p.lines)
	}()
	return p, nil
}

// tail is the end of a log.
type tail struct{ lines []string }

func (t *tail) add(line string) {
	if t.lines = append(t.lines, line); len(t.lines) > 20 {
		t.lines = t.lines[1:]
	}
}

// ask sends a line, unless it is empty, and returns what the child answers.
func (p *process) ask(line string, patience time.Duration) (string, error) {
	if line != "" {
		if _, err := io.WriteString(p.in, line+"\n"); err != nil {
			return "", p.failed(err)
		}
	}
	select {
	case answer, more := <-p.lines:
		if !more {
			return "", p.failed(errors.New("it has ended"))
		}
		return answer, nil
	case <-time.After(patience):
		return "", p.failed(fmt.Errorf("no answer to %q within %s", line, patience))
	}
}

// failed adds what the child logged last.
func (p *process) failed(err error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return fmt.Errorf("%s: %w\n%s", p.name, err, strings.Join(p.log.lines, "\n"))
}

// end ends the child at once.
func (p *process) end() {
	_ = p.cmd.Process.Kill() // it may have ended
	for range p.lines {
	}
	_ = p.cmd.Wait() // says that it was killed
}

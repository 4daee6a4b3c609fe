package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience bounds every wait of the tests. Nothing depends on it unless something is broken.
const patience = 60 * time.Second

// program is one life of millrace.
type program struct {
	t       *testing.T
	command *exec.Cmd
	ready   chan struct{} // closed when it has logged "ready" and the addresses
	ended   chan struct{} // closed when it has ended and all its output was read

	gateway, admin string // once ready
	wait           error  // once ended

	mu     sync.Mutex
	log    []logLine
	passed int // lines that logged has looked at
	stdout bytes.Buffer
	heard  chan struct{} // closed and replaced with every line
}

// logLine is a line that the program logged; Text is all of it.
type logLine struct {
	Level, Msg, Stage, Error string
	Gateway, Admin           string
	Text                     string `json:"-"`
}

// need skips the test where the program can't be run.
func need(t *testing.T) {
	t.Helper()
	switch {
	case unbuilt != nil:
		t.Skipf("the program can't be built here: %v", unbuilt)
	case runtime.GOOS == "windows":
		t.Skip("the tests send signals, which Windows does not have")
	}
}

// launch starts the program in a directory and returns at once. It is killed with the test at the latest.
func launch(t *testing.T, dir string, environment []string, args ...string) *program {
	t.Helper()
	need(t)
	p := &program{
		t: t, command: exec.Command(binary, args...),
		ready: make(chan struct{}), ended: make(chan struct{}), heard: make(chan struct{}),
	}
	p.command.Dir = dir
	p.command.Env = append(os.Environ(), environment...)
	p.command.SysProcAttr = dieWithParent()
	stderr, err := p.command.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := p.command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.command.Start(); err != nil {
		t.Fatal(err)
	}
	var reading sync.WaitGroup
	reading.Go(func() { p.readLog(stderr) })
	reading.Go(func() { p.readOutput(stdout) })
	go func() {
		reading.Wait()
		p.wait = p.command.Wait()
		close(p.ended)
	}()
	t.Cleanup(func() {
		p.kill()
		if crash := p.crash(); crash != "" {
			t.Errorf("the program logs %s", crash)
		}
		if t.Failed() {
			t.Logf("the end of what the program (pid %d, %v) logged:\n%s", p.command.Process.Pid, p.wait, p.tail(200))
		}
	})
	return p
}

func (p *program) readLog(stderr io.Reader) {
	lines := bufio.NewReader(stderr)
	for {
		text, err := lines.ReadString('\n')
		if text = strings.TrimSuffix(text, "\n"); text != "" {
			l := logLine{Text: text}
			_ = json.Unmarshal([]byte(text), &l) // or it is no line of the log, such as a panic's
			p.mu.Lock()
			if l.Msg == "ready" {
				if p.gateway == "" { // the demo's pipeline says it again after each death, with the same addresses
					p.gateway, p.admin = l.Gateway, l.Admin
					close(p.ready)
				}
			}
			p.log = append(p.log, l)
			close(p.heard)
			p.heard = make(chan struct{})
			p.mu.Unlock()
		}
		if err != nil {
			return
		}
	}
}

func (p *program) readOutput(stdout io.Reader) {
	buffer := make([]byte, 4096)
	for {
		n, err := stdout.Read(buffer)
		p.mu.Lock()
		p.stdout.Write(buffer[:n])
		p.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// output is what the program has written to stdout.
func (p *program) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stdout.String()
}

// tail returns the last n lines of the log.
func (p *program) tail(n int) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var b strings.Builder
	for _, l := range p.log[max(0, len(p.log)-n):] {
		b.WriteString(l.Text + "\n")
	}
	return b.String()
}

// crash returns the line that begins a report of the race detector, a panic or the like; "" if there is none.
func (p *program) crash() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.log {
		for _, sign := range []string{"WARNING: DATA RACE", "panic: ", "fatal error: "} {
			if strings.HasPrefix(l.Text, sign) {
				return l.Text
			}
		}
	}
	return ""
}

// logged waits for a line of the log, behind the one that it returned before.
func (p *program) logged(what string, is func(logLine) bool) logLine {
	p.t.Helper()
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for {
		p.mu.Lock()
		for p.passed < len(p.log) {
			l := p.log[p.passed]
			p.passed++
			if is(l) {
				p.mu.Unlock()
				return l
			}
		}
		heard := p.heard
		p.mu.Unlock()
		select {
		case <-heard:
		case <-p.ended:
			p.t.Fatalf("the program ended (%v) and did not log %s", p.wait, what)
		case <-timeout.C:
			p.t.Fatalf("the program did not log %s", what)
		}
	}
}

// waitReady returns when the program is ready.
func (p *program) waitReady() {
	p.t.Helper()
	select {
	case <-p.ready:
	case <-p.ended:
		p.t.Fatalf("the program ended before it was ready: %v", p.wait)
	case <-time.After(patience):
		p.t.Fatal("the program is not ready")
	}
}

// kill ends the program as kill -9 does, if it has not ended, and waits for it.
func (p *program) kill() {
	_ = p.command.Process.Kill() // fails if it has ended
	<-p.ended
}

// end ends the program as an interactive user or a service manager does. It must succeed.
func (p *program) end(signal os.Signal) {
	p.t.Helper()
	if err := p.command.Process.Signal(signal); err != nil {
		p.t.Fatalf("signal the program: %v", err)
	}
	p.waitEnd()
	if p.wait != nil {
		p.t.Errorf("the program ended with %v, want exit code 0", p.wait)
	}
}

func (p *program) waitEnd() {
	p.t.Helper()
	select {
	case <-p.ended:
	case <-time.After(patience):
		_ = p.command.Process.Signal(syscall.SIGQUIT) // it logs what all its goroutines do
		<-p.ended
		p.t.Fatal("the program does not end")
	}
}

// get returns what the admin listener answers, and page what the gateway does; an error as its text.
func (p *program) get(path string) string  { return fetch("http://" + p.admin + path) }
func (p *program) page(path string) string { return fetch("http://" + p.gateway + path) }

func fetch(url string) string {
	client := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get(url)
	if err != nil {
		return err.Error()
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err.Error()
	}
	return string(body)
}

// killed says whether the program, which has ended, was killed with -9, by whomever.
func (p *program) killed() bool {
	exit, ok := errors.AsType[*exec.ExitError](p.wait)
	if !ok {
		return false
	}
	status, ok := exit.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

// pipeline is a directory with a configuration, in which the program lives one life after another.
type pipeline struct {
	t           *testing.T
	dir         string
	environment []string

	mu      sync.Mutex
	current *program
	changed chan struct{} // closed and replaced when current is another one
}

// newPipeline writes the configuration, and other files by name, into a directory: of the test's, if dir is
// empty.
func newPipeline(t *testing.T, dir string, files map[string]string, environment ...string) *pipeline {
	t.Helper()
	if dir == "" {
		dir = t.TempDir()
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return &pipeline{t: t, dir: dir, environment: environment, changed: make(chan struct{})}
}

// launch starts the program and returns at once.
func (p *pipeline) launch(environment ...string) *program {
	p.t.Helper()
	next := launch(p.t, p.dir, append(slices.Clip(p.environment), environment...), "run", "config.yaml")
	p.mu.Lock()
	defer p.mu.Unlock()
	p.current = next
	close(p.changed)
	p.changed = make(chan struct{})
	return next
}

// start starts the program and waits until it is ready.
func (p *pipeline) start(environment ...string) *program {
	p.t.Helper()
	next := p.launch(environment...)
	next.waitReady()
	return next
}

// serving returns a program that is ready and has not ended, and waits for one; nil when ctx ends.
func (p *pipeline) serving(ctx context.Context) *program {
	for {
		p.mu.Lock()
		current, changed := p.current, p.changed
		p.mu.Unlock()
		if current != nil {
			select {
			case <-current.ended:
			case <-current.ready:
				select {
				case <-current.ended:
				default:
					return current
				}
			case <-changed:
				continue
			case <-ctx.Done():
				return nil
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

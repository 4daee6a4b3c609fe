//go:build linux

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/millrace/millrace/bench/push/paced"
)

// contender is a server in a protocol: a column of the tables.
type contender struct {
	name     string // in the tables
	server   string // gateway, program, bareloop, bareloop-raw or centrifuge
	protocol string // of the client
}

var (
	gatewayPlain = contender{"gateway", "gateway", "plain"}
	gatewayV1    = contender{"gateway millrace.v1", "gateway", "millrace.v1"}
	programPlain = contender{"program", "program", "plain"}
	programV1    = contender{"program millrace.v1", "program", "millrace.v1"}
	loop         = contender{"bare loop", "bareloop", "plain"}
	loopRaw      = contender{"bare loop of system calls", "bareloop-raw", "plain"}
	centrifugeJS = contender{"centrifuge", "centrifuge", "centrifuge-json"}
	centrifugePB = contender{"centrifuge protobuf", "centrifuge", "centrifuge-protobuf"}
)

var contenders = []contender{gatewayPlain, gatewayV1, programPlain, programV1, loop, loopRaw, centrifugeJS, centrifugePB}

// server is one that runs.
type server interface {
	address() string
	pid() int
	load(l paced.Load) error
	stop() (stopped, error)
	settle() error // gives free memory back; where it cannot be told, nothing
	end()
}

// stopped is what a server tells when the load ends.
type stopped struct {
	events int64
	cut    int // connections, where it is known
}

// launcher starts servers.
type launcher struct {
	dir         string // for what they need
	self        string // this program
	environment []string
	centrifuge  string // its program, once built
	millrace    string // its program, once built
	serverAt    place
	timeline    string
	procs       int // GOMAXPROCS of the servers
	profile     string
}

// surroundings are a server's environment.
func (l *launcher) surroundings() []string {
	return append([]string{fmt.Sprint("GOMAXPROCS=", max(1, l.procs))}, l.environment...)
}

// launch starts the server of a contender.
func (l *launcher) launch(c contender, tls bool) (server, error) {
	if c.server == "program" {
		return l.launchProgram(tls)
	}
	var args []string
	if l.timeline != "" {
		args = append(args, "-timeline", l.timeline)
	}
	if l.profile != "" && c.server == "gateway" {
		args = append(args, "-profile", l.profile)
	}
	if tls {
		args = append(args, "-tls")
	}
	program := l.self
	switch c.server {
	case "centrifuge":
		if err := l.buildCentrifuge(); err != nil {
			return nil, err
		}
		program = l.centrifuge
	case "bareloop-raw":
		args = append([]string{"bareloop", "-raw"}, args...)
	default:
		args = append([]string{c.server}, args...)
	}
	p, err := start(c.name, l.serverAt, l.surroundings(), program, args...)
	if err != nil {
		return nil, err
	}
	line, err := p.ask("", 30*time.Second)
	address, found := strings.CutPrefix(line, "listening ")
	if err == nil && !found {
		err = p.failed(fmt.Errorf("%q is no address", line))
	}
	if err != nil {
		p.end()
		return nil, err
	}
	return &commanded{process: p, at: address}, nil
}

// commanded is a server that obeys paced.Main's commands.
type commanded struct {
	*process
	at string
}

func (s *commanded) address() string { return s.at }
func (s *commanded) pid() int        { return s.cmd.Process.Pid }

func (s *commanded) load(l paced.Load) error {
	_, err := s.ask(fmt.Sprintf("load %g %d %d %d %d", l.Rate, l.Burst, l.Tick.Nanoseconds(), l.Keys, l.Size), 10*time.Second)
	return err
}

func (s *commanded) stop() (end stopped, err error) {
	line, err := s.ask("stop", 30*time.Second)
	if err != nil {
		return end, err
	}
	if _, err := fmt.Sscanf(line, "stopped %d %d", &end.events, &end.cut); err != nil {
		return end, s.failed(fmt.Errorf("%q says not how many events there were", line))
	}
	return end, nil
}

func (s *commanded) settle() error {
	_, err := s.ask("settle", 30*time.Second)
	return err
}

// buildCentrifuge builds the baseline's program from its module.
func (l *launcher) buildCentrifuge() (err error) {
	if l.centrifuge != "" {
		return nil
	}
	l.centrifuge, err = build(l.dir, "centrifuge", filepath.Join("bench", "baseline"), "./push/centrifuge")
	return err
}

// build builds a program as a user would; from is a folder of the repository.
func build(into, name, from, what string) (string, error) {
	root, err := repository()
	if err != nil {
		return "", err
	}
	program := filepath.Join(into, name)
	cmd := exec.Command("go", "build", "-o", program, what)
	cmd.Dir = filepath.Join(root, from)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", name, err, out)
	}
	return program, nil
}

// repository returns the folder that bench/ is in.
func repository() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for at := dir; ; at = filepath.Dir(at) {
		if _, err := os.Stat(filepath.Join(at, "bench", "baseline", "go.mod")); err == nil {
			return at, nil
		}
		if at == filepath.Dir(at) {
			return "", fmt.Errorf("%s is not in the repository", dir)
		}
	}
}

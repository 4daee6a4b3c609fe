package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// commands are what scripts can say besides testscript's own commands.
//
//	feed VAR FILE [STATUS [TYPE]]  serve the file as a feed; its URL in $VAR
//	occupy VAR                     listen on a port; its address in $VAR
//	begin NAME [VAR=...] ARGS...   start millrace and wait until it logs "ready"; the addresses that it
//	                               logs in $NAME_gateway and $NAME_admin
//	end NAME                       interrupt it and wait; its log in NAME.log. ! end: it must fail
//	kill9 NAME                     kill it and wait
//	hangup NAME                    send it SIGHUP
//	logged NAME PATTERN            wait until a line of its log matches
//	get URL [STATUS]               ask until the answer has the status (200); the body is stdout
func commands() map[string]func(ts *testscript.TestScript, neg bool, args []string) {
	programs := &programs{}
	return map[string]func(ts *testscript.TestScript, neg bool, args []string){
		"feed":   feedCommand,
		"occupy": occupyCommand,
		"begin":  programs.begin,
		"end":    programs.end,
		"kill9":  programs.kill,
		"hangup": programs.hangup,
		"logged": programs.logged,
		"get":    getCommand,
	}
}

func feedCommand(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: feed VAR FILE [STATUS [TYPE]]")
	}
	text := ts.ReadFile(args[1])
	status, contentType := http.StatusOK, "text/event-stream"
	if len(args) > 2 {
		var err error
		status, err = strconv.Atoi(args[2])
		ts.Check(err)
	}
	if len(args) > 3 {
		contentType = args[3]
	}
	ended := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(status)
		if r.Header.Get("Last-Event-ID") == "" {
			fmt.Fprint(w, text)
		}
		if status != http.StatusOK || r.URL.Query().Has("end") {
			return
		}
		w.(http.Flusher).Flush()
		select { // like a feed that has gone quiet
		case <-r.Context().Done():
		case <-ended:
		}
	}))
	ts.Defer(func() {
		close(ended)
		server.Close()
	})
	ts.Setenv(args[0], server.URL)
}

func occupyCommand(ts *testscript.TestScript, _ bool, args []string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Defer(func() { l.Close() })
	ts.Setenv(args[0], l.Addr().String())
}

// programs are those that scripts have started, by script and name.
type programs struct {
	mu      sync.Mutex
	started map[string]*running
}

type running struct {
	command *exec.Cmd
	logged  chan struct{} // closed at the end of the log

	mu  sync.Mutex
	log strings.Builder
}

func (r *running) text() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log.String()
}

func (p *programs) begin(ts *testscript.TestScript, _ bool, args []string) {
	name := args[0]
	binary, err := exec.LookPath("millrace") // testscript has put it into the path of this process
	ts.Check(err)
	environment := append(os.Environ(), "GORACE="+ts.Getenv("GORACE"))
	for args = args[1:]; strings.Contains(args[0], "="); args = args[1:] {
		environment = append(environment, args[0])
	}
	started := &running{command: exec.Command(binary, args...), logged: make(chan struct{})}
	started.command.Dir = ts.MkAbs(".")
	started.command.Env = environment
	stderr, err := started.command.StderrPipe()
	ts.Check(err)
	stdout, err := os.Create(ts.MkAbs(name + ".out"))
	ts.Check(err)
	defer stdout.Close()
	started.command.Stdout = stdout
	ts.Check(started.command.Start())
	ts.Defer(func() { _ = started.command.Process.Kill() })

	type line struct{ Msg, Gateway, Admin string }
	ready := make(chan line, 1)
	go func() {
		defer close(started.logged)
		defer close(ready)
		lines := bufio.NewScanner(stderr)
		for lines.Scan() {
			started.mu.Lock()
			started.log.WriteString(lines.Text() + "\n")
			started.mu.Unlock()
			var l line
			if json.Unmarshal(lines.Bytes(), &l) == nil && l.Msg == "ready" {
				ready <- l
			}
		}
	}()
	select {
	case l, ok := <-ready:
		if !ok {
			<-started.logged
			ts.Fatalf("millrace ended before it was ready:\n%s", started.text())
		}
		ts.Setenv(name+"_gateway", l.Gateway)
		ts.Setenv(name+"_admin", l.Admin)
	case <-time.After(30 * time.Second):
		ts.Fatalf("millrace is not ready")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.started == nil {
		p.started = map[string]*running{}
	}
	p.started[ts.Name()+" "+name] = started
}

func (p *programs) find(ts *testscript.TestScript, name string) *running {
	p.mu.Lock()
	defer p.mu.Unlock()
	started := p.started[ts.Name()+" "+name]
	if started == nil {
		ts.Fatalf("no program %q was begun", name)
	}
	return started
}

func (p *programs) end(ts *testscript.TestScript, neg bool, args []string) {
	started := p.find(ts, args[0])
	ts.Check(started.command.Process.Signal(os.Interrupt))
	<-started.logged
	err := started.command.Wait()
	ts.Check(os.WriteFile(ts.MkAbs(args[0]+".log"), []byte(started.text()), 0o644))
	if (err != nil) != neg {
		ts.Fatalf("millrace ended with %v:\n%s", err, started.text())
	}
}

func (p *programs) kill(ts *testscript.TestScript, _ bool, args []string) {
	started := p.find(ts, args[0])
	ts.Check(started.command.Process.Kill())
	<-started.logged
	_ = started.command.Wait() // it was killed
}

func (p *programs) hangup(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(p.find(ts, args[0]).command.Process.Signal(syscall.SIGHUP))
}

func (p *programs) logged(ts *testscript.TestScript, _ bool, args []string) {
	started := p.find(ts, args[0])
	pattern, err := regexp.Compile("(?m)" + args[1])
	ts.Check(err)
	for end := time.Now().Add(20 * time.Second); !pattern.MatchString(started.text()); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			ts.Fatalf("no line matches %q:\n%s", args[1], started.text())
		}
	}
}

func getCommand(ts *testscript.TestScript, _ bool, args []string) {
	want := http.StatusOK
	if len(args) > 1 {
		var err error
		want, err = strconv.Atoi(args[1])
		ts.Check(err)
	}
	var answer string
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		response, err := http.Get(args[0])
		if err != nil {
			answer = err.Error()
			continue
		}
		body, _ := io.ReadAll(response.Body)
		response.Body.Close()
		answer = fmt.Sprintf("%d %s", response.StatusCode, body)
		if response.StatusCode == want {
			_, _ = ts.Stdout().Write(body)
			return
		}
	}
	ts.Fatalf("%s: %s", args[0], answer)
}

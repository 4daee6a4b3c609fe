package nats_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/millracetest"
	"github.com/millrace/millrace/stream/nats"
)

// runServer is a NATS server as somebody would run it: on a port, with the usual limits. It prints its
// URL and ends when its input does.
func runServer() {
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true,
		JetStream: true, StoreDir: os.Getenv("MILLRACE_TEST_DIR"), SyncAlways: true,
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		os.Exit(1)
	}
	fmt.Println(s.ClientURL())
	_, _ = io.Copy(io.Discard, os.Stdin)
	s.Shutdown()
	s.WaitForShutdown()
}

// child is this test binary running as another process.
type child struct {
	cmd   *exec.Cmd
	stdin io.Closer
	out   *bufio.Reader
}

func startChild(t *testing.T, kind, dir string, env ...string) *child {
	t.Helper()
	cmd := exec.Command(os.Args[0]) //nolint:gosec // this program
	cmd.Env = append(append(os.Environ(), "MILLRACE_TEST_CHILD="+kind, "MILLRACE_TEST_DIR="+dir), env...)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &child{cmd, stdin, bufio.NewReader(stdout)}
	t.Cleanup(c.kill)
	return c
}

// kill is kill -9.
func (c *child) kill() {
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait()
}

func startServer(t *testing.T, dir string) (c *child, url string) {
	t.Helper()
	c = startChild(t, "server", dir)
	url, err := c.out.ReadString('\n')
	if err != nil {
		t.Fatalf("the server did not start: %v", err)
	}
	return c, strings.TrimSpace(url)
}

func externalOptions(t *testing.T, url string) nats.Options {
	return nats.Options{Config: nats.Config{NATS: &nats.External{URL: url}}, Logger: logger(t)}
}

func TestStreamExternal(t *testing.T) {
	_, url := startServer(t, t.TempDir())
	open := func(t *testing.T, o millracetest.StreamOptions) *millracetest.StreamHarness {
		clock := new(stoppable)
		options := externalOptions(t, url)
		options.Now = clock.now
		e, err := nats.Open(t.Context(), options)
		if err != nil {
			t.Fatal(err)
		}
		s := openStream(t, e, o)
		t.Cleanup(func() {
			_ = s.Close()
			if err := e.Delete(context.WithoutCancel(t.Context()), "positions"); err != nil {
				t.Error(err)
			}
			if err := e.Close(); err != nil {
				t.Error(err)
			}
		})
		return &millracetest.StreamHarness{
			Stream: s,
			Reopen: func(t *testing.T) millrace.Stream {
				_ = e.Close()
				if e, err = nats.Open(t.Context(), options); err != nil {
					t.Fatal(err)
				}
				s = openStream(t, e, o)
				return s
			},
			Recreate: func(t *testing.T) millrace.Stream {
				_ = s.Close()
				if err := e.Delete(t.Context(), "positions"); err != nil {
					t.Fatal(err)
				}
				s = openStream(t, e, o)
				return s
			},
			SetClock: clock.set,
		}
	}
	millracetest.Stream(t, open)
	millracetest.Retainer(t, open)
}

func TestStateExternal(t *testing.T) {
	millracetest.State(t, func(t *testing.T) *millracetest.StateHarness {
		_, url := startServer(t, t.TempDir())
		open := func(t *testing.T) millrace.State {
			s, err := openEngine(t, externalOptions(t, url)).State(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		return &millracetest.StateHarness{State: open(t), Reopen: open}
	})
}

package nats_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
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
	port, err := strconv.Atoi(os.Getenv("MILLRACE_TEST_PORT"))
	if err != nil {
		port = server.RANDOM_PORT
	}
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: port, NoSigs: true,
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

func startServer(t *testing.T, dir string, env ...string) (c *child, url string) {
	t.Helper()
	c = startChild(t, "server", dir, env...)
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

// TestServerKilled kills the external server and starts it again, while a producer appends and a reader
// reads. Neither is opened anew, and nothing is lost or repeated.
func TestServerKilled(t *testing.T) {
	dir := t.TempDir()
	c, url := startServer(t, dir)
	e := openEngine(t, externalOptions(t, url))
	s := openStream(t, e, millracetest.StreamOptions{Partitions: 1})
	const flushes, kills = 60, 3
	done := make(chan struct{})
	go func() {
		defer close(done)
		flush := uint64(0)
		for b, err := range s.Read(t.Context(), "0", millrace.Position{}) {
			if err != nil {
				t.Error(err)
				return
			}
			if flush++; b.Header.Flush != flush {
				t.Errorf("flush %d comes as number %d", b.Header.Flush, flush)
			}
			if flush == flushes {
				return
			}
		}
	}()
	at := millrace.Position{}
	for flush := uint64(1); flush <= flushes; flush++ {
		if flush%(flushes/kills) == 10 {
			c.kill()
			c, _ = startServer(t, dir, "MILLRACE_TEST_PORT="+url[strings.LastIndexByte(url, ':')+1:])
		}
		b := encode(t, "source/a", flush, noise(5000))
		for {
			next, err := s.Append(t.Context(), "0", at, b)
			if err == nil {
				at = next
				break
			}
			last, lastErr := s.Last(t.Context(), "0", "source/a")
			if lastErr == nil && last.Header.Flush == flush {
				at = last.At // it had landed
				break
			}
			time.Sleep(10 * time.Millisecond) // as a producer does between its attempts
		}
	}
	<-done
}

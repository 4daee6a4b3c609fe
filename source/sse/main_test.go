package sse

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/millracetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// config returns a feed's configuration with the defaults.
func config(url string) Config {
	var c Config
	c.SetDefaults()
	c.URL = url
	return c
}

// eager reconnects without waiting.
func eager() float64 { return 0 }

// running is a source that runs in the background of a test.
type running struct {
	*millracetest.Recorder
	logs   *logs
	cancel context.CancelFunc
	done   chan error
}

// run starts a source, which the end of the test stops.
func run(t *testing.T, c Config, o Options, from millrace.Cursor) *running {
	t.Helper()
	r := &running{Recorder: millracetest.NewRecorder(), logs: new(logs), done: make(chan error, 1)}
	if o.Random == nil {
		o.Random = eager
	}
	o.Name = "feed"
	o.Logger = slog.New(slog.NewTextHandler(r.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	ctx, cancel := context.WithCancel(t.Context())
	r.cancel = cancel
	s := New(c, o)
	go func() { r.done <- s.Run(ctx, millrace.Resume{Cursor: from}, r) }()
	t.Cleanup(func() { _ = r.stop() })
	return r
}

// stop ends the source and returns what Run returned.
func (r *running) stop() error {
	r.cancel()
	return r.ended()
}

// ended waits for the end of Run.
func (r *running) ended() error {
	err := <-r.done
	r.done <- err // for the next one who asks
	return err
}

// data waits for n events and returns the data of all that have come.
func (r *running) data(t *testing.T, n int) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := r.Wait(ctx, n); err != nil {
		t.Fatalf("%v\n%s", err, r.logs)
	}
	var data []string
	for _, e := range r.Events() {
		data = append(data, string(e.Data))
	}
	return data
}

// logs keeps what was logged.
type logs struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// wireless is a network inside the process, for tests on a fake clock.
type wireless struct {
	conns  chan net.Conn
	closed chan struct{}
}

// serve runs a server of h on a network of its own and returns a way to it.
func serve(t *testing.T, h http.Handler) *http.Transport {
	t.Helper()
	n := &wireless{make(chan net.Conn), make(chan struct{})}
	server := &http.Server{Handler: h, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(n) })
	transport := &http.Transport{DialContext: n.dial, DisableCompression: true}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		_ = server.Close()
		serving.Wait()
	})
	return transport
}

func (n *wireless) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case n.conns <- theirs:
		return ours, nil
	case <-n.closed:
		return nil, errors.New("connection refused")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (n *wireless) Accept() (net.Conn, error) {
	select {
	case c := <-n.conns:
		return c, nil
	case <-n.closed:
		return nil, io.EOF
	}
}

func (n *wireless) Close() error {
	select {
	case <-n.closed:
	default:
		close(n.closed)
	}
	return nil
}

func (n *wireless) Addr() net.Addr { return &net.UnixAddr{Name: "wireless"} }

package apigateway

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"io"
	"iter"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
	"go.uber.org/goleak"

	"github.com/millrace/millrace"
)

func TestMain(m *testing.M) {
	flag.Parse()
	goleak.VerifyTestMain(m)
}

var update = flag.Bool("update", false, "write the golden files")

// golden compares with testdata/NAME.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s:\n%s\nwant\n%s", name, got, want)
	}
}

// configured returns a configuration with its defaults.
func configured(set func(*Config)) Config {
	var c Config
	c.SetDefaults()
	if set != nil {
		set(&c)
	}
	return c
}

func newAPI(t *testing.T, path string, c Config, o Options) *API {
	t.Helper()
	if o.Client == nil {
		transport := &http.Transport{}
		t.Cleanup(transport.CloseIdleConnections)
		o.Client = &http.Client{Transport: transport}
	}
	a, err := New(path, c, o)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// answering starts an integration that answers every event with answer(event).
func answering(t *testing.T, answer http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(answer)
	t.Cleanup(s.Close)
	return s.URL
}

// alphabet is a source of random bytes that are always the same.
type alphabet struct{ next byte }

func (a *alphabet) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = a.next
		a.next++
	}
	return len(p), nil
}

// server is a small gateway: real WebSockets before one API. It is what the room gateway is in the
// program, without streams.
type server struct {
	url       string
	api       *API
	deliverer *Deliverer

	arrived chan string // ids of connections

	mu      sync.Mutex
	clients map[string]*client
	ended   chan struct{} // closed and replaced when a connection is gone and $disconnect knows
	running sync.WaitGroup
	living  context.Context
}

type client struct {
	info Info
	key  string // query parameter VehicleID
	conn net.Conn
	// out bounds what waits for the client; when it is full Send fails with Unavailable.
	out    chan ws.Frame
	full   bool
	code   int
	reason string
}

// newServer serves an endpoint at path.
func newServer(t *testing.T, path string, c Config, o Options) *server {
	t.Helper()
	return newServerAt(t, httptest.NewUnstartedServer(nil), path, c, o)
}

// newServerAt serves an endpoint by a server whose address is known already.
func newServerAt(t *testing.T, h *httptest.Server, path string, c Config, o Options) *server {
	t.Helper()
	s := &server{
		clients: map[string]*client{}, living: t.Context(), arrived: make(chan string, 100), ended: make(chan struct{}),
	}
	o.Connections = s
	s.api = newAPI(t, path, c, o)
	s.deliverer = NewDeliverer(s.api)
	h.Config.Handler = s
	h.Start()
	s.url = h.URL
	t.Cleanup(func() {
		s.mu.Lock()
		all := slices.Collect(maps.Values(s.clients))
		s.mu.Unlock()
		for _, c := range all {
			_ = c.conn.Close()
		}
		s.running.Wait()
		h.Close()
	})
	return s
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case Managing([]*API{s.api}, r) != nil:
		s.api.ServeManagement(w, r)
		return
	case r.Header.Get("Upgrade") == "":
		w.WriteHeader(http.StatusUpgradeRequired)
		return
	}
	ip, _, _ := net.SplitHostPort(r.RemoteAddr)
	info := Info{ID: NewConnectionID(), ConnectedAt: time.Now(), SourceIP: ip, UserAgent: r.UserAgent(), Host: r.Host}
	d, _ := s.api.Connect(r.Context(), r, info)
	if !d.Allowed {
		maps.Copy(w.Header(), d.Header)
		w.WriteHeader(d.Status)
		_, _ = w.Write(d.Body)
		return
	}
	upgrader := ws.HTTPUpgrader{Protocol: func(p string) bool { return p == d.Subprotocol }}
	conn, _, _, err := upgrader.Upgrade(r, w)
	if err != nil {
		return
	}
	c := &client{info: info, key: r.URL.Query().Get("VehicleID"), conn: conn, out: make(chan ws.Frame, 16), code: 1006}
	s.mu.Lock()
	s.clients[info.ID] = c
	s.mu.Unlock()
	s.arrived <- info.ID
	s.running.Go(func() { s.serve(c) })
}

func (s *server) serve(c *client) {
	done := make(chan struct{})
	var writing sync.WaitGroup
	writing.Go(func() {
		for {
			select {
			case f := <-c.out:
				if ws.WriteFrame(c.conn, f) != nil || f.Header.OpCode == ws.OpClose {
					return
				}
			case <-done:
				return
			}
		}
	})
	code, reason := s.read(c)
	s.mu.Lock()
	delete(s.clients, c.info.ID)
	if c.code != 1006 {
		code, reason = c.code, c.reason
	}
	s.mu.Unlock()
	close(done)
	_ = c.conn.Close()
	writing.Wait()
	_ = s.deliverer.Deliver(context.WithoutCancel(s.living), c.info, code, reason)
	s.mu.Lock()
	close(s.ended)
	s.ended = make(chan struct{})
	s.mu.Unlock()
}

// gone waits until a connection is gone.
func (s *server) gone(t *testing.T, id string) {
	t.Helper()
	for {
		s.mu.Lock()
		_, there := s.clients[id]
		ended := s.ended
		s.mu.Unlock()
		if !there {
			return
		}
		select {
		case <-ended:
		case <-time.After(time.Minute):
			t.Fatalf("%s is still there", id)
		}
	}
}

// stall makes a connection's buffer look full.
func (s *server) stall(id string, full bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clients[id].full = full
}

func (s *server) read(c *client) (code int, reason string) {
	for {
		body, kind, err := wsutil.ReadClientData(c.conn)
		if closed, ok := errors.AsType[wsutil.ClosedError](err); ok {
			return int(closed.Code), closed.Reason
		}
		if err != nil {
			return 1006, ""
		}
		reply, closing, _ := s.api.Message(context.Background(), c.info, body, kind == ws.OpBinary)
		if closing != 0 {
			_ = s.Close(c.info.ID, closing, "")
			continue
		}
		if reply != nil {
			c.out <- ws.NewTextFrame(reply)
		}
	}
}

func (s *server) find(id string) (*client, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.clients[id]; c != nil {
		return c, nil
	}
	return nil, millrace.Errorf(millrace.NotFound, "find connection", "there is no %s", id)
}

func (s *server) Send(_ context.Context, id string, data []byte) error {
	c, err := s.find(id)
	if err != nil {
		return err
	}
	s.mu.Lock()
	out := c.out
	if c.full {
		out = nil // takes nothing
	}
	s.mu.Unlock()
	select {
	case out <- ws.NewTextFrame(data):
		return nil
	default:
		return millrace.Errorf(millrace.Unavailable, "send", "the buffer is full")
	}
}

func (s *server) Info(id string) (Info, error) {
	c, err := s.find(id)
	if err != nil {
		return Info{}, err
	}
	return c.info, nil
}

func (s *server) All() iter.Seq[Info] {
	return func(yield func(Info) bool) {
		s.mu.Lock()
		all := slices.Collect(maps.Values(s.clients))
		s.mu.Unlock()
		for _, c := range all {
			if !yield(c.info) {
				return
			}
		}
	}
}

func (s *server) SendAll(ctx context.Context, data []byte) (sent, failed int) {
	for i := range s.All() {
		if s.Send(ctx, i.ID, data) == nil {
			sent++
		} else {
			failed++
		}
	}
	return sent, failed
}

func (s *server) SendKey(ctx context.Context, key string, data []byte) (sent int, err error) {
	s.mu.Lock()
	all := slices.Collect(maps.Values(s.clients))
	s.mu.Unlock()
	for _, c := range all {
		if c.key == key && s.Send(ctx, c.info.ID, data) == nil {
			sent++
		}
	}
	return sent, nil
}

func (s *server) Close(id string, code int, reason string) error {
	c, err := s.find(id)
	if err != nil {
		return err
	}
	s.mu.Lock()
	c.code, c.reason = code, reason
	s.mu.Unlock()
	c.out <- ws.NewCloseFrame(ws.NewCloseFrameBody(ws.StatusCode(code), reason))
	return nil
}

// received returns the request that a server makes of what came over the wire.
func received(t testing.TB, wire string) *http.Request {
	t.Helper()
	var got *http.Request
	server := &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		got = r
	})}
	near, far := net.Pipe()
	l := &oneListener{conn: far, done: make(chan struct{})}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(l) })
	_ = near.SetDeadline(time.Now().Add(10 * time.Second))
	go func() { _, _ = io.WriteString(near, wire) }()
	response, err := http.ReadResponse(bufio.NewReader(near), nil)
	if err != nil || got == nil {
		t.Fatalf("the server does not take %q: %v, %v", wire, response, err)
	}
	_ = near.Close()
	_ = server.Close()
	serving.Wait()
	return got.WithContext(t.Context())
}

// oneListener accepts one connection.
type oneListener struct {
	mu   sync.Mutex
	conn net.Conn
	done chan struct{}
	once sync.Once
}

func (l *oneListener) Accept() (net.Conn, error) {
	l.mu.Lock()
	conn := l.conn
	l.conn = nil
	l.mu.Unlock()
	if conn != nil {
		return conn, nil
	}
	<-l.done
	return nil, net.ErrClosed
}

func (l *oneListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *oneListener) Addr() net.Addr { return &net.TCPAddr{} }

package gateway_test

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
	"github.com/millrace/millrace/gateway"
	"github.com/millrace/millrace/millracetest"
	"github.com/millrace/millrace/stream/memory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must come.
const patience = 20 * time.Second

// writer appends events to a stream, as a producer does.
type writer struct {
	t      testing.TB
	stream millrace.Stream
	parts  []millrace.Partition

	mu    sync.Mutex
	after map[string]millrace.Position
	flush uint64
}

func newWriter(t testing.TB, s millrace.Stream) *writer {
	t.Helper()
	parts, err := s.Partitions(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return &writer{t: t, stream: s, parts: parts, after: map[string]millrace.Position{}}
}

// append stores events, one block for each partition that they fall into.
func (w *writer) append(events ...millrace.Event) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.flush++
	for _, p := range w.parts {
		var b block.Builder
		for _, e := range events {
			if e.Time.IsZero() {
				e.Time = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
			}
			if p.Contains(millrace.HashKey(e.Key)) {
				if err := b.Add(&e); err != nil {
					w.t.Error(err)
					return
				}
			}
		}
		if b.Len() == 0 {
			continue
		}
		encoded, err := b.Encode(nil, millrace.Header{Producer: "test", Flush: w.flush, Commit: true})
		if err == nil {
			w.after[p.Name], err = w.stream.Append(context.Background(), p.Name, w.after[p.Name], encoded)
		}
		if err != nil {
			w.t.Error(err)
			return
		}
	}
}

// put appends one event with this key and data.
func (w *writer) put(key, data string) {
	w.t.Helper()
	w.append(millrace.Event{Key: key, Type: "crossing", Data: []byte(data)})
}

// appendRaw appends one event of a type.
func (w *writer) appendRaw(kind, key, data string) {
	w.t.Helper()
	w.append(millrace.Event{Key: key, Type: kind, Data: []byte(data)})
}

// server is a gateway that runs.
type server struct {
	t       testing.TB
	address string
	stop    func() error // ends it and waits
}

// serve runs a gateway with one endpoint /vehicles over a stream, until the test ends or stop is called.
func serve(t testing.TB, s millrace.Stream, change func(*gateway.Config, *gateway.Options)) *server {
	t.Helper()
	return serveOn(t, listen(t), s, change)
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// serveOn is serve on a listener.
func serveOn(t testing.TB, l net.Listener, s millrace.Stream, change func(*gateway.Config, *gateway.Options)) *server {
	t.Helper()
	return serveKeeping(t, l, s, nil, change)
}

// serveKeeping is serveOn for a test that needs the gateway itself.
func serveKeeping(
	t testing.TB, l net.Listener, s millrace.Stream, kept **gateway.Gateway, change func(*gateway.Config, *gateway.Options),
) *server {
	t.Helper()
	var c gateway.Config
	c.SetDefaults()
	c.Endpoints = map[string]gateway.Endpoint{"/vehicles": {From: "crossings", Key: "query:VehicleID"}}
	o := gateway.Options{Streams: map[string]millrace.Stream{"crossings": s}}
	if change != nil {
		change(&c, &o)
	}
	g, err := gateway.New(c, o)
	if err != nil {
		t.Fatal(err)
	}
	if kept != nil {
		*kept = g
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx, l) }()
	stop := sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return &server{t: t, address: l.Addr().String(), stop: stop}
}

// client is a WebSocket with a deadline.
type client struct {
	*millracetest.WebSocket
	t testing.TB
}

// dial opens a WebSocket; protocol "" is none.
func (s *server) dial(t testing.TB, path, protocol string) *client {
	t.Helper()
	w, err := s.tryDial(path, protocol)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	t.Cleanup(func() { _ = w.Close() })
	_ = w.Conn.SetDeadline(time.Now().Add(patience))
	c := &client{WebSocket: w, t: t}
	if strings.Contains(protocol, "millrace.v1") {
		c.hello()
	}
	return c
}

// hello reads the message with which a connection of the subprotocol begins.
func (c *client) hello() {
	c.t.Helper()
	if hello := c.next(); !strings.HasPrefix(hello, `{"hello":{"connection":"`) {
		c.t.Fatalf("the first message is %s", hello)
	}
}

func (s *server) tryDial(path, protocol string) (*millracetest.WebSocket, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	header := http.Header{}
	if protocol != "" {
		header.Set("Sec-WebSocket-Protocol", protocol)
	}
	return millracetest.DialWebSocket(ctx, "ws://"+s.address+path, header)
}

// next returns the next message.
func (c *client) next() string {
	c.t.Helper()
	_, payload, err := c.Read()
	if err != nil {
		c.t.Fatalf("read: %v", err)
	}
	return string(payload)
}

// want reads messages and compares them.
func (c *client) want(messages ...string) {
	c.t.Helper()
	for _, want := range messages {
		if got := c.next(); got != want {
			c.t.Fatalf("got  %s\nwant %s", got, want)
		}
	}
}

// closed reads until the server closes, and returns its close frame.
func (c *client) closed() *millracetest.Closed {
	c.t.Helper()
	for {
		_, _, err := c.Read()
		var closed *millracetest.Closed
		switch {
		case errors.As(err, &closed):
			return closed
		case err != nil:
			c.t.Fatalf("read: %v, want a close frame", err)
		}
	}
}

// message is an SSE event as a browser dispatches it, or, without data, the id that it remembers.
type message struct{ id, kind, data string }

// events is a client of an event stream.
type events struct {
	t        testing.TB
	response *http.Response
	in       *bufio.Reader
	id       string
	retry    string
	comments int
}

// listen opens an event stream.
func (s *server) listen(t testing.TB, path string, header map[string]string) *events {
	t.Helper()
	response := s.get(t, http.MethodGet, path, header, "text/event-stream")
	if response.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s", path, response.Status)
	}
	return &events{t: t, response: response, in: bufio.NewReader(response.Body)}
}

// get makes a request whose response's body ends with the test.
func (s *server) get(t testing.TB, method, path string, header map[string]string, accept string) *http.Response {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	request, err := http.NewRequestWithContext(ctx, method, "http://"+s.address+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if accept != "" {
		request.Header.Set("Accept", accept)
	}
	for name, value := range header {
		request.Header.Set(name, value)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	response, err := transport.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = response.Body.Close() })
	return response
}

// read returns the next event or id without data; ok is false at the end of the stream.
func (e *events) read() (m message, ok bool) {
	e.t.Helper()
	m.kind, m.id = "message", e.id
	hasData, hasID := false, false
	for {
		line, err := e.in.ReadString('\n')
		if err != nil {
			return message{}, false
		}
		line = strings.TrimSuffix(line, "\n")
		if strings.Contains(line, "\r") {
			e.t.Errorf("a line holds a CR: %q", line)
		}
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case line == "" && (hasData || hasID):
			m.data = strings.TrimSuffix(m.data, "\n")
			e.id = m.id
			return m, true
		case line == "":
			m.kind = "message"
		case name == "":
			e.comments++
		case name == "id":
			m.id, hasID = value, true
		case name == "event":
			m.kind = value
		case name == "data":
			m.data, hasData = m.data+value+"\n", true
		case name == "retry":
			e.retry = value
		default:
			e.t.Errorf("unknown field in %q", line)
		}
	}
}

// next returns the next event that has data.
func (e *events) next() message {
	e.t.Helper()
	for {
		m, ok := e.read()
		if !ok {
			e.t.Fatal("the event stream has ended")
		}
		if m.data != "" || m.kind != "message" {
			return m
		}
	}
}

func newStream(partitions int) *memory.Stream {
	return memory.New("crossings", memory.Options{Partitions: partitions})
}

func newStreamNamed(name string) *memory.Stream { return memory.New(name, memory.Options{}) }

func newRecorder() *httptest.ResponseRecorder { return httptest.NewRecorder() }

func newStreamAt(partitions int, clock *millracetest.Clock) *memory.Stream {
	return memory.New("crossings", memory.Options{Partitions: partitions, Now: clock.Now})
}

func errorAs[T error](err error, target *T) bool { return errors.As(err, target) }

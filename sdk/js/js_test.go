package js_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
	"github.com/millrace/millrace/gateway"
	"github.com/millrace/millrace/gateway/auth"
	"github.com/millrace/millrace/millracetest"
	"github.com/millrace/millrace/sdk/js"
	"github.com/millrace/millrace/stream/memory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const secret = "a secret that is thirty-two bytes long, or more"

// TestNode runs the package's own tests in Node, against a gateway that they can write to and restart.
func TestNode(t *testing.T) {
	node, err := exec.LookPath("node")
	if err != nil {
		t.Skip("there is no Node here")
	}
	version, err := exec.CommandContext(t.Context(), node, "--version").Output()
	if err != nil {
		t.Skipf("Node does not run: %v", err)
	}
	var major int
	if _, err := fmt.Sscanf(string(version), "v%d.", &major); err != nil || major < 20 {
		t.Skipf("Node %s is too old; the package takes 20 and later", strings.TrimSpace(string(version)))
	}
	files, err := filepath.Glob("test/*.test.js")
	if err != nil || len(files) == 0 {
		t.Fatal("there are no tests")
	}
	for _, socket := range []string{"own", "platform"} { // which WebSocket they connect with
		t.Run(socket, func(t *testing.T) {
			t.Parallel()
			args := []string{"--test", "--test-reporter=spec"}
			if socket == "platform" && major < 22 {
				args = append([]string{"--experimental-websocket"}, args...)
			}
			r := newRig(t)
			control := httptest.NewServer(r)
			defer control.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute) // a promise that never settles is told
			defer cancel()
			command := exec.CommandContext(ctx, node, append(args, files...)...)
			command.Env = append(os.Environ(), "MILLRACE_GATEWAY="+r.address, "MILLRACE_CONTROL="+control.URL,
				"MILLRACE_SECRET="+secret, "MILLRACE_WEBSOCKET="+socket)
			output, err := command.CombinedOutput()
			if err != nil {
				t.Errorf("%v\n%s", err, output)
			}
			for lines := bufio.NewScanner(strings.NewReader(string(output))); lines.Scan(); {
				if strings.HasPrefix(lines.Text(), "ℹ pass") || strings.HasPrefix(lines.Text(), "ℹ fail") {
					t.Log(lines.Text())
				}
			}
		})
	}
}

// What a browser loads is there, and names nothing that is not.
func TestFiles(t *testing.T) {
	entries, err := js.Files.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	embedded := map[string]bool{"node-websocket.js": true} // Node alone loads it, and says so by import()
	for _, e := range entries {
		embedded[e.Name()] = true
	}
	all, err := filepath.Glob("*.js")
	if err != nil || len(all) != len(embedded) {
		t.Errorf("there are %q, and %v are accounted for", all, embedded)
	}
	for name := range embedded {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.SplitSeq(string(text), "\n") {
			_, from, found := strings.Cut(line, ` from "./`)
			if strings.HasPrefix(line, "import ") && found && !embedded[strings.TrimSuffix(from, `";`)] {
				t.Errorf("%s: %s", name, line)
			}
		}
	}
}

// The lock file pins what the type check uses, and names no host to fetch it from.
func TestLockFile(t *testing.T) {
	text, err := os.ReadFile("package-lock.json")
	if err != nil {
		t.Fatal(err)
	}
	var lock struct {
		Packages map[string]struct{ Version, Resolved, Integrity string }
	}
	if err := json.Unmarshal(text, &lock); err != nil {
		t.Fatal(err)
	}
	for name, p := range lock.Packages {
		if p.Resolved != "" || name != "" && (p.Version == "" || p.Integrity == "") {
			t.Errorf("%s: %+v", name, p)
		}
	}
}

// rig is a gateway over a stream in memory, and what tests in another process do to them:
//
//	POST /put      {"key","type","data","deleted"}..., one event each
//	POST /trim     everything that is there passes its retention
//	POST /stop     {"how":"drain"}, or "cut": the connections break as if the process had died
//	POST /start    on the same address
type rig struct {
	t       *testing.T
	mux     *http.ServeMux
	stream  *memory.Stream
	parts   []millrace.Partition
	clock   *millracetest.Clock
	address string

	mu    sync.Mutex
	after map[string]millrace.Position
	flush uint64
	stop  func()
	conns *breakable
}

func newRig(t *testing.T) *rig {
	clock := millracetest.NewClock()
	clock.Set(time.Now())
	r := &rig{
		t: t, mux: http.NewServeMux(), clock: clock, after: map[string]millrace.Position{}, address: "127.0.0.1:0",
		stream: memory.New("events", memory.Options{Partitions: 3, Now: clock.Now, Retention: memory.Retention{Age: time.Hour}}),
	}
	var err error
	if r.parts, err = r.stream.Partitions(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.start()
	t.Cleanup(func() { r.end("drain") })
	r.mux.HandleFunc("POST /put", r.put)
	r.mux.HandleFunc("POST /trim", func(http.ResponseWriter, *http.Request) {
		clock.Advance(2 * time.Hour)
		if err := r.stream.Trim(context.Background()); err != nil {
			t.Error(err)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, p := range r.parts { // trimming writes what the producer's newest block is anew
			last, err := r.stream.Last(context.Background(), p.Name, "test")
			if err != nil {
				t.Error(err)
			}
			r.after[p.Name] = last.At
		}
	})
	r.mux.HandleFunc("POST /stop", func(_ http.ResponseWriter, request *http.Request) { r.end(request.URL.Query().Get("how")) })
	r.mux.HandleFunc("POST /start", func(http.ResponseWriter, *http.Request) { r.start() })
	return r
}

func (r *rig) ServeHTTP(w http.ResponseWriter, request *http.Request) { r.mux.ServeHTTP(w, request) }

// start serves the gateway.
func (r *rig) start() {
	r.mu.Lock()
	defer r.mu.Unlock()
	var c gateway.Config
	c.SetDefaults()
	c.Ping = 500 * time.Millisecond
	jwt := &auth.JWT{Issuer: "tests", Audience: []string{"millrace"}, Keys: []auth.Key{{Alg: "HS256", Secret: secret}}}
	jwt.SetDefaults()
	jwt.Leeway = 0
	c.Endpoints = map[string]gateway.Endpoint{
		"/live":       {Messages: true},
		"/events":     {From: "events", Key: "query:key", Location: &gateway.Location{Lat: "lat", Lon: "lon"}},
		"/events/{k}": {From: "events"},
		"/guarded":    {From: "events", Auth: &auth.Config{JWT: jwt, Token: auth.Token{Message: true}}},
	}
	g, err := gateway.New(c, gateway.Options{Streams: map[string]millrace.Stream{"events": r.stream}})
	if err != nil {
		r.t.Error(err)
		return
	}
	var l net.Listener
	for range 100 { // somebody else may have the port for a moment
		if l, err = net.Listen("tcp", r.address); err == nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err != nil {
		r.t.Error(err)
		return
	}
	if r.conns == nil { // the first time
		r.address = l.Addr().String()
	}
	r.conns = &breakable{Listener: l}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx, r.conns) }()
	r.stop = func() {
		cancel()
		if err := <-ended; err != nil {
			r.t.Error(err)
		}
	}
}

func (r *rig) end(how string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stop == nil {
		return
	}
	if how == "cut" {
		r.conns.cut()
	}
	r.stop()
	r.stop = nil
}

// put appends events, one block for each partition that they fall into.
func (r *rig) put(w http.ResponseWriter, request *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var events []millrace.Event
	for lines := json.NewDecoder(request.Body); ; {
		var e struct {
			Key, Type string
			Data      json.RawMessage
			Deleted   bool
		}
		if err := lines.Decode(&e); err == io.EOF {
			break
		} else if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		events = append(events, millrace.Event{Key: e.Key, Type: e.Type, Data: e.Data, Deleted: e.Deleted, Time: r.clock.Now()})
	}
	r.flush++
	for _, p := range r.parts {
		var b block.Builder
		for _, e := range events {
			if p.Contains(millrace.HashKey(e.Key)) {
				if err := b.Add(&e); err != nil {
					r.t.Error(err)
				}
			}
		}
		if b.Len() == 0 {
			continue
		}
		encoded, err := b.Encode(nil, millrace.Header{Producer: "test", Flush: r.flush, Commit: true})
		if err == nil {
			r.after[p.Name], err = r.stream.Append(request.Context(), p.Name, r.after[p.Name], encoded)
		}
		if err != nil {
			r.t.Error(err)
		}
	}
}

// breakable is a listener whose connections can be broken.
type breakable struct {
	net.Listener
	mu     sync.Mutex
	conns  []*net.TCPConn
	broken bool
}

func (b *breakable) Accept() (net.Conn, error) {
	for {
		c, err := b.Listener.Accept()
		tcp, ok := c.(*net.TCPConn)
		if !ok {
			return c, err
		}
		b.mu.Lock()
		broken := b.broken
		b.conns = append(b.conns, tcp)
		b.mu.Unlock()
		if !broken {
			return c, err
		}
		reset(tcp)
	}
}

// cut breaks all connections, and every one that comes.
func (b *breakable) cut() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.broken = true
	for _, c := range b.conns {
		reset(c)
	}
}

func reset(c *net.TCPConn) {
	_ = c.SetLinger(0) // fails if it is closed
	c.Close()
}

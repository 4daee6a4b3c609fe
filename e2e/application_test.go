package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/gateway"
	"github.com/millrace/millrace/millracetest"
)

// application is a function behind $connect and $disconnect of an API Gateway endpoint. It notes what it hears,
// and goes on when the program is killed.
type application struct {
	server *httptest.Server
	answer func(connectionEvent) int // status; over 500 it is an exception. nil: 200. Set before anything calls

	mu      sync.Mutex
	heard   map[string]*heard // by connection id
	changed chan struct{}     // closed and replaced with each call
}

// heard is what an application knows of a connection.
type heard struct {
	connects, disconnects int // calls, also those whose answer came too late
	denied                bool
	code                  int // of the last $disconnect
}

// connectionEvent is the part of an event that applications look at.
type connectionEvent struct {
	RequestContext struct {
		EventType, ConnectionID string
		DisconnectStatusCode    int
	}
}

func newApplication(t *testing.T, answer func(connectionEvent) int) *application {
	t.Helper()
	a := &application{answer: answer, heard: map[string]*heard{}, changed: make(chan struct{})}
	a.server = httptest.NewServer(a)
	t.Cleanup(a.server.Close)
	return a
}

// ServeHTTP implements http.Handler as Lambda's runtime does.
func (a *application) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var e connectionEvent
	if err := json.NewDecoder(r.Body).Decode(&e); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	a.mu.Lock()
	h := a.heard[e.RequestContext.ConnectionID]
	if h == nil {
		h = &heard{}
		a.heard[e.RequestContext.ConnectionID] = h
	}
	if e.RequestContext.EventType == "CONNECT" {
		h.connects++
	}
	a.mu.Unlock()
	status := http.StatusOK
	if a.answer != nil {
		status = a.answer(e)
	}
	a.mu.Lock()
	switch {
	case e.RequestContext.EventType == "CONNECT":
		h.denied = status == http.StatusForbidden
	case status < http.StatusInternalServerError:
		h.disconnects++
		h.code = e.RequestContext.DisconnectStatusCode
	}
	close(a.changed)
	a.changed = make(chan struct{})
	a.mu.Unlock()
	if status >= http.StatusInternalServerError {
		w.Header().Set("X-Amz-Function-Error", "Unhandled")
		_, _ = io.WriteString(w, `{"errorMessage":"it has raised"}`)
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]int{"statusCode": status})
}

// await waits until what the application has heard is enough.
func (a *application) await(t *testing.T, what string, enough func(map[string]*heard) bool) {
	t.Helper()
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for {
		a.mu.Lock()
		done, changed := enough(a.heard), a.changed
		a.mu.Unlock()
		if done {
			return
		}
		select {
		case <-changed:
		case <-timeout.C:
			t.Fatalf("the application does not hear %s; it has heard %+v", what, a.count())
		}
	}
}

// tally adds up what an application has heard.
type tally struct {
	Connects    int // connections that it was asked about, and did not deny
	Denied      int
	Disconnects int // connections whose end it was told
	Repeats     int // further calls for the same end
	Unheard     int // ends of connections that it was never asked about
	Missing     int // connections that it was asked about, and whose end it was not told
}

func (a *application) count() (n tally) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, h := range a.heard {
		switch {
		case h.denied:
			n.Denied++
		case h.connects > 0:
			n.Connects++
		default:
			n.Unheard++
		}
		switch {
		case h.disconnects > 0:
			n.Disconnects++
			n.Repeats += h.disconnects - 1
		case !h.denied:
			n.Missing++
		}
	}
	return n
}

// dial opens a WebSocket of the program, which ends with the test.
func dial(t *testing.T, p *program, path, protocol string) *millracetest.WebSocket {
	t.Helper()
	w, err := tryDial(t.Context(), p, path, protocol)
	if err != nil {
		t.Fatalf("connect to %s: %v", path, err)
	}
	t.Cleanup(func() { _ = w.Close() })
	return w
}

func tryDial(ctx context.Context, p *program, path, protocol string) (*millracetest.WebSocket, error) {
	header := http.Header{}
	if protocol != "" {
		header.Set("Sec-WebSocket-Protocol", protocol)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return millracetest.DialWebSocket(ctx, "ws://"+p.gateway+path, header)
}

// read returns the next message of a connection.
func read(t *testing.T, w *millracetest.WebSocket) string {
	t.Helper()
	_ = w.Conn.SetReadDeadline(time.Now().Add(patience)) // fails only where reading does
	_, payload, err := w.Read()
	if err != nil {
		t.Fatalf("read: %v", err)
	}
	return string(payload)
}

// readClose returns the close frame that comes next.
func readClose(t *testing.T, w *millracetest.WebSocket) *millracetest.Closed {
	t.Helper()
	_ = w.Conn.SetReadDeadline(time.Now().Add(patience))
	_, payload, err := w.Read()
	closed, ok := errors.AsType[*millracetest.Closed](err)
	if !ok {
		t.Fatalf("it is not closed: %q, %v", payload, err)
	}
	return closed
}

// connections is what the admin listener says of who is connected.
func (p *program) connections(query string) []gateway.Connected {
	p.t.Helper()
	var list struct{ Connections []gateway.Connected }
	if body := p.get("/connections" + query); json.Unmarshal([]byte(body), &list) != nil {
		p.t.Fatalf("/connections%s: %s", query, body)
	}
	return list.Connections
}

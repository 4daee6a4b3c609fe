package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/millracetest"
)

// client is a client of an endpoint that comes back by position whenever its connection ends, as the
// page's script does. It goes by the protocol alone.
type client struct {
	place string // in the books
	path  string // of the endpoint, with the keys
	sse   bool
	take  func(m message)
	ended func(code int, retry string) // hears how the gateway ends connections; retry is what it tells SSE clients before. May be nil

	since   string // the newest id; before there is one, a time before everything
	mu      sync.Mutex
	strange []string // gaps, frames that are none, refusals
	resumed int      // connections that began with an id
}

// message is an event as a client gets it.
type message struct {
	id, key, kind, data string // key is known to WebSocket clients only
}

const beforeEverything = "2000-01-01T00:00:00Z"

// follow starts a client, which ends with the test or when stop is called. stop waits for it, fails the test
// if anything strange came, and may be called again.
func follow(t *testing.T, p *pipeline, c *client) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	if c.since == "" {
		c.since = beforeEverything // otherwise it goes on where it was stopped
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			c.connect(ctx, p)
		}
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		<-done
		for _, s := range c.strange {
			t.Errorf("client %q: %s", c.place, s)
		}
	})
	t.Cleanup(stop)
	return stop
}

// connect follows one connection to its end.
func (c *client) connect(ctx context.Context, p *pipeline) {
	program := p.serving(ctx)
	if program == nil {
		return
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", program.gateway)
	if err != nil { // it has been killed meanwhile, or it drains
		select {
		case <-program.ended:
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
		}
		return
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	if c.since != beforeEverything {
		c.mu.Lock()
		c.resumed++
		c.mu.Unlock()
	}
	if c.sse {
		err = c.followSSE(ctx, conn, program)
	} else {
		err = c.followWebSocket(ctx, conn, program)
	}
	if refused, ok := errors.AsType[*millracetest.Refused](err); ok && refused.Status != http.StatusServiceUnavailable {
		c.wonder("%v", err)
	}
}

func (c *client) wonder(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.strange) < 10 {
		c.strange = append(c.strange, fmt.Sprintf(format, args...))
	}
}

func (c *client) url(scheme string, program *program, since string) string {
	u, err := url.Parse(scheme + "://" + program.gateway + c.path)
	if err != nil {
		panic(err) // the test's own
	}
	q := u.Query()
	if since != "" {
		q.Set("since", since)
	}
	u.RawQuery = q.Encode()
	return u.String()
}

func (c *client) followWebSocket(ctx context.Context, conn net.Conn, program *program) error {
	w, err := millracetest.OpenWebSocket(ctx, conn, c.url("ws", program, c.since), http.Header{"Sec-Websocket-Protocol": {"millrace.v1"}})
	if err != nil {
		return err
	}
	for {
		_, payload, err := w.Read()
		if err != nil {
			if closed, ok := errors.AsType[*millracetest.Closed](err); ok && c.ended != nil {
				c.ended(int(closed.Code), "")
			}
			return err
		}
		var frame struct {
			ID, Key, Type, Time string
			Data, Gap, Hello    json.RawMessage
		}
		err = json.Unmarshal(payload, &frame)
		if frame.Hello != nil {
			continue
		}
		if err != nil || frame.ID == "" {
			c.wonder("the frame %s: %v", payload, err)
			return errors.New("not understood")
		}
		if frame.Gap != nil {
			c.wonder("a gap: %s", frame.Gap)
		}
		if frame.Data != nil {
			c.take(message{frame.ID, frame.Key, frame.Type, string(frame.Data)})
		}
		c.since = frame.ID
	}
}

func (c *client) followSSE(ctx context.Context, conn net.Conn, program *program) error {
	since, last := "", c.since
	if last == beforeEverything {
		since, last = last, ""
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url("http", program, since), nil)
	if err != nil {
		return err
	}
	request.Header.Set("Accept", "text/event-stream")
	if last != "" {
		request.Header.Set("Last-Event-ID", last)
	}
	if err := request.Write(conn); err != nil {
		return err
	}
	in := bufio.NewReader(conn)
	response, err := http.ReadResponse(in, request)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return &millracetest.Refused{Status: response.StatusCode}
	}
	m, lines, retry := message{}, 0, ""
	for body := bufio.NewReader(response.Body); ; {
		line, err := body.ReadString('\n')
		if err != nil {
			return err // an event that is not complete is none
		}
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		value = strings.TrimPrefix(value, " ")
		switch name {
		case "id":
			m.id = value
		case "event":
			m.kind = value
		case "retry":
			retry = value
		case "data":
			if lines++; lines > 1 {
				m.data += "\n"
			}
			m.data += value
		}
		if line != "\n" {
			continue
		}
		switch {
		case m.kind == "millrace.gap":
			c.wonder("a gap: %s", m.data)
		case m.kind == "millrace.close" && c.ended != nil:
			var last struct{ Code int }
			if err := json.Unmarshal([]byte(m.data), &last); err != nil {
				c.wonder("the last event %s: %v", m.data, err)
			}
			c.ended(last.Code, retry)
		case lines > 0 && m.kind != "millrace.close":
			c.take(m)
		}
		if m.id != "" {
			c.since = m.id
		}
		if lines > 0 {
			retry = "" // of what comes last, not of the beginning
		}
		m, lines = message{}, 0
	}
}

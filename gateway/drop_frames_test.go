package gateway

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/gobwas/ws"

	"github.com/millrace/millrace/gateway/websocket"
)

// policied returns subscriptions to endpoints with these policies, on one connection. They are named by their
// numbers.
func policied(o *outlet, f form, policies ...string) []*subscription {
	c := &connection{form: f}
	m := NewMetrics(nil)
	var all []*subscription
	for i, slow := range policies {
		e := &endpoint{path: fmt.Sprint("/", i), config: Endpoint{Slow: slow}}
		e.measure(m)
		s := &subscription{c: c, endpoint: e, dialect: dialect{form: f}}
		if f == v1 {
			s.name = fmt.Sprint(i)
		}
		all = append(all, s)
	}
	o.form = f
	return all
}

// cargoOf is the cargo of events with these keys; one that begins with "-" has left an area.
func cargoOf(s *subscription, keys ...string) *cargo {
	if !s.endpoint.drops() {
		return nil
	}
	c := &cargo{s: s, batch: &batch{}}
	for i, key := range keys {
		key, left := strings.CutPrefix(key, "-")
		c.batch.events = len(keys)
		c.batch.keyring.text = append(c.batch.keyring.text, key...)
		c.batch.ends = append(c.batch.ends, len(c.batch.keyring.text))
		if c.events = append(c.events, int32(i)); left {
			c.events[i] = ^c.events[i]
		}
	}
	return c
}

// said is what a client is told in the tests of dropping.
type said struct {
	Sub     string
	N       int // numbers everything that is sent
	Key     string
	Pad     string
	Dropped *struct{ Events int }
}

func sayFrame(f form, what said, size int) []byte {
	what.Pad = strings.Repeat("x", size)
	text, _ := json.Marshal(what)
	switch f {
	case v1:
		return append(websocket.AppendHeader(nil, ws.OpText, len(text)), text...)
	case sse:
		return append(append([]byte("data: "), text...), "\n\n"...)
	default:
		return append(websocket.AppendHeader(nil, ws.OpText, len(text)), text...)
	}
}

// hear splits what a client has got into messages; closed says that a close frame was the last.
func hear(t *testing.T, f form, in io.Reader, pause func()) (all []said, closed bool) {
	t.Helper()
	r := bufio.NewReader(in)
	for {
		pause()
		var text []byte
		var what said
		if f == sse {
			event, err := r.ReadString('\n')
			if err != nil {
				return all, closed
			}
			name := ""
			if cut, found := strings.CutPrefix(event, "event: "); found {
				name = strings.TrimSpace(cut)
				event, _ = r.ReadString('\n')
			}
			data, found := strings.CutPrefix(event, "data: ")
			if end, err := r.ReadString('\n'); err != nil || end != "\n" || !found {
				t.Fatalf("an event is cut: %q, then %q, %v", event, end, err)
			}
			if text = []byte(data); name == droppedEvent {
				text = fmt.Appendf(nil, `{"dropped":%s}`, data)
			} else if name == closeEvent {
				closed = true
				continue
			}
		} else {
			h, err := ws.ReadHeader(r)
			if err != nil {
				return all, closed
			}
			text = make([]byte, h.Length)
			if _, err := io.ReadFull(r, text); err != nil {
				t.Fatalf("a frame is cut: %v", err)
			}
			switch h.OpCode {
			case ws.OpClose:
				closed = true
				continue
			case ws.OpPing:
				what.Dropped = &struct{ Events int }{}
				if _, err := fmt.Sscanf(string(text), "dropped=%d", &what.Dropped.Events); err != nil {
					t.Fatalf("ping %q: %v", text, err)
				}
				all = append(all, what)
				continue
			}
		}
		if err := json.Unmarshal(text, &what); err != nil || closed {
			t.Fatalf("%.100q: %v; after the end: %v", text, err, closed)
		}
		what.Pad = ""
		all = append(all, what)
	}
}

package apigateway

import (
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
)

// A connection's life over a real socket: $connect, messages, what closes it, $disconnect.
func TestConnectionLife(t *testing.T) {
	var mu sync.Mutex
	var heard []string // EVENT ID CODE
	app := answering(t, func(w http.ResponseWriter, r *http.Request) {
		var e event
		if err := json.NewDecoder(r.Body).Decode(&e); err != nil {
			t.Error(err)
		}
		line := e.Context.EventType + " " + e.Context.ConnectionID
		if e.Context.DisconnectStatusCode != nil {
			line += " " + jsonOf(*e.Context.DisconnectStatusCode) + " " + *e.Context.DisconnectReason
		}
		mu.Lock()
		heard = append(heard, line)
		mu.Unlock()
		switch {
		case e.Context.EventType == eventConnect && e.Query["token"] == "bad":
			_, _ = io.WriteString(w, `{"statusCode":401}`)
		case e.Context.EventType == eventConnect:
			_, _ = io.WriteString(w, `{"statusCode":200,"headers":{"Sec-WebSocket-Protocol":"chat"}}`)
		case e.Body != nil:
			_, _ = io.WriteString(w, `{"statusCode":200,"body":`+jsonOf("echo "+*e.Body)+`}`)
		}
	})
	route := Integration{HTTP: app}
	s := newServer(t, "/prod", configured(func(c *Config) {
		c.Routes = map[string]Integration{"$connect": route, "$disconnect": route, "$default": route}
		c.RouteResponses = true
	}), Options{})
	url := "ws" + strings.TrimPrefix(s.url, "http") + "/prod"

	if _, _, _, err := ws.Dial(t.Context(), url+"?token=bad"); err != ws.StatusError(401) { //nolint:errorlint // returned bare
		t.Errorf("denied with %v", err)
	}
	if response, err := http.Get(s.url + "/prod"); err != nil || response.StatusCode != http.StatusUpgradeRequired {
		t.Errorf("%v, %v", response, err)
	} else {
		response.Body.Close()
		http.DefaultClient.CloseIdleConnections()
	}
	for _, tt := range []struct {
		frame  ws.Frame
		code   int
		reason string
	}{
		{ws.NewBinaryFrame([]byte("x")), 1003, ""},
		{ws.NewTextFrame(make([]byte, 128<<10+1)), 1009, ""},
		{ws.NewCloseFrame(ws.NewCloseFrameBody(4000, "bye")), 4000, "bye"},
		{ws.NewCloseFrame(nil), 1005, "Client-side close frame status not set"},
	} {
		d := ws.Dialer{Protocols: []string{"other", "chat"}}
		conn, _, handshake, err := d.Dial(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(time.Minute))
		if handshake.Protocol != "chat" {
			t.Errorf("subprotocol %q", handshake.Protocol)
		}
		id := <-s.arrived
		if err := wsutil.WriteClientText(conn, []byte("hi")); err != nil {
			t.Fatal(err)
		}
		if got := (socket{conn}).read(t); got != "echo hi" {
			t.Errorf("reply %q", got)
		}
		if err := ws.WriteFrame(conn, ws.MaskFrame(tt.frame)); err != nil {
			t.Fatal(err)
		}
		if tt.frame.Header.OpCode != ws.OpClose {
			if code, _ := (socket{conn}).closed(t); code != tt.code {
				t.Errorf("closed with %d, want %d", code, tt.code)
			}
		}
		conn.Close()
		s.gone(t, id)
		s.running.Wait()
		mu.Lock()
		mine := slices.DeleteFunc(slices.Clone(heard), func(h string) bool { return !strings.Contains(h, id) })
		mu.Unlock()
		if want := []string{"CONNECT " + id, "MESSAGE " + id, "DISCONNECT " + id + " " + jsonOf(tt.code) + " " + tt.reason}; !slices.Equal(mine, want) {
			t.Errorf("heard %q, want %q", mine, want)
		}
	}
}

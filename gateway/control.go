package gateway

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gobwas/ws"

	"github.com/millrace/millrace/gateway/websocket"
)

// Connected describes a connection as the admin listener shows it.
type Connected struct {
	ID            string       `json:"id"`
	Endpoint      string       `json:"endpoint"`
	Protocol      string       `json:"protocol"`
	Remote        string       `json:"remote,omitempty"`
	Subject       string       `json:"subject,omitempty"`
	ConnectedAt   time.Time    `json:"connected_at"`
	Queued        int          `json:"queued"` // bytes that wait for its socket
	Subscriptions []Subscribed `json:"subscriptions"`
}

// Subscribed describes a subscription.
type Subscribed struct {
	Name     string   `json:"name,omitempty"`
	Endpoint string   `json:"endpoint"`
	Keys     []string `json:"keys,omitempty"` // none: every key
	Prefix   string   `json:"prefix,omitempty"`
	Filter   string   `json:"filter,omitempty"`
	Live     bool     `json:"live"` // nothing is left to replay
}

// defaultPage is how many connections a listing shows unless it is asked for more.
const defaultPage = 1000

// Control shows who is connected to what, and disconnects clients, for the admin listener:
//
//	GET    /connections[?endpoint=&subject=&key=&limit=]   {"connections":[Connected...],"total":N}, by id
//	GET    /connections/ID                                 Connected
//	DELETE /connections/ID[?code=&reason=]                 204
//	DELETE /connections?endpoint=&subject=&key=            {"disconnected":N}; one of the three at least
//
// code is a close code that may be sent (default 1000), reason has up to 123 bytes.
func (g *Gateway) Control() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /connections", g.list)
	mux.HandleFunc("DELETE /connections", g.disconnectMany)
	mux.HandleFunc("GET /connections/{id}", func(w http.ResponseWriter, r *http.Request) {
		if c := g.found(w, r); c != nil {
			writeJSON(w, c.describe())
		}
	})
	mux.HandleFunc("DELETE /connections/{id}", func(w http.ResponseWriter, r *http.Request) {
		e, err := endingOf(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if c := g.found(w, r); c != nil {
			c.end(e)
			w.WriteHeader(http.StatusNoContent)
		}
	})
	return mux
}

func (g *Gateway) found(w http.ResponseWriter, r *http.Request) *connection {
	c := g.connection(r.PathValue("id"))
	if c == nil {
		http.Error(w, "there is no such connection", http.StatusNotFound)
	}
	return c
}

// chosen returns the connections that a request's parameters describe, by id.
func (g *Gateway) chosen(r *http.Request) (chosen []*connection) {
	q := r.URL.Query()
	for _, c := range g.all() {
		if (!q.Has("endpoint") || q.Get("endpoint") == c.endpoint.path) &&
			(!q.Has("subject") || q.Get("subject") == c.subject()) &&
			(!q.Has("key") || c.watches(q.Get("key"))) {
			chosen = append(chosen, c)
		}
	}
	slices.SortFunc(chosen, func(a, b *connection) int { return cmp.Compare(a.id, b.id) })
	return chosen
}

func (g *Gateway) list(w http.ResponseWriter, r *http.Request) {
	limit := defaultPage
	if text := r.URL.Query().Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 {
			http.Error(w, fmt.Sprintf("limit=%.20q is no number", text), http.StatusBadRequest)
			return
		}
		limit = n
	}
	chosen := g.chosen(r)
	shown := make([]Connected, 0, min(limit, len(chosen)))
	for _, c := range chosen[:min(limit, len(chosen))] {
		shown = append(shown, c.describe())
	}
	writeJSON(w, map[string]any{"connections": shown, "total": len(chosen)})
}

func (g *Gateway) disconnectMany(w http.ResponseWriter, r *http.Request) {
	e, err := endingOf(r)
	q := r.URL.Query()
	if err == nil && !q.Has("endpoint") && !q.Has("subject") && !q.Has("key") {
		err = fmt.Errorf("say whom: endpoint=, subject= or key=")
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	chosen := g.chosen(r)
	for _, c := range chosen {
		c.end(e)
	}
	writeJSON(w, map[string]int{"disconnected": len(chosen)})
}

// endingOf reads how a connection is to end.
func endingOf(r *http.Request) (ending, error) {
	e := ending{code: ws.StatusNormalClosure, reason: r.URL.Query().Get("reason")}
	if text := r.URL.Query().Get("code"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || !websocket.IsClosingCode(n) {
			return e, fmt.Errorf("code=%.20q is no close code that may be sent: %s", text, websocket.ClosingCodes)
		}
		e.code = ws.StatusCode(n)
	}
	if len(e.reason) > ws.MaxControlFramePayloadSize-2 {
		return e, fmt.Errorf("the reason has %d bytes, a close frame takes %d", len(e.reason), ws.MaxControlFramePayloadSize-2)
	}
	e.reason = strings.ToValidUTF8(e.reason, "")
	return e, nil
}

func (c *connection) subject() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.who.identity.Subject
}

// watches says whether a key is among those that the connection has named.
func (c *connection) watches(key string) bool {
	return slices.ContainsFunc(c.subscriptions(), func(s *subscription) bool { return s.names(key) })
}

func (c *connection) describe() Connected {
	r := c.record()
	d := Connected{
		ID: r.Connection, Endpoint: r.Endpoint, Protocol: r.Protocol, Remote: r.Remote, Subject: r.Subject,
		ConnectedAt: r.Connected, Subscriptions: []Subscribed{},
	}
	d.Queued, _ = c.out.backlog()
	for _, s := range c.subscriptions() {
		s.feed.mu.Lock()
		live := s.live
		s.feed.mu.Unlock()
		d.Subscriptions = append(d.Subscriptions, Subscribed{
			Name: s.name, Endpoint: s.endpoint.path, Keys: s.keys, Prefix: s.prefix, Filter: s.filterText(), Live: live,
		})
	}
	return d
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(v) // the client may have gone
}

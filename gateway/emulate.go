package gateway

import (
	"context"
	"iter"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/gobwas/ws"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/gateway/apigateway"
	"github.com/millrace/millrace/gateway/websocket"
)

// apiClient is what a connection to an API Gateway endpoint has besides.
type apiClient struct {
	info   apigateway.Info
	active atomic.Int64 // Unix ns of the last message in either direction
}

// describe returns what is known of the client at this moment.
func (a *apiClient) describe() apigateway.Info {
	info := a.info
	info.LastActiveAt = time.Unix(0, a.active.Load()).UTC()
	return info
}

func (c *connection) beActive() { c.api.active.Store(c.gateway.now().UnixNano()) }

// askConnect enters the connection into the journal, and asks $connect. Only when it has allowed the connection
// is that one known to the management API. It returns false if it has answered the request.
func (g *Gateway) askConnect(a *arrival) bool {
	c := a.c
	c.api = &apiClient{info: apigateway.Info{
		ID: c.id, ConnectedAt: c.begun.UTC(), SourceIP: c.remote.String(), UserAgent: a.r.UserAgent(), Host: a.r.Host,
	}}
	if id := c.who.identity; id.Subject != "" || len(id.Claims) > 0 {
		c.api.info.Authorizer = map[string]any{"principalId": id.Subject}
		maps.Copy(c.api.info.Authorizer, id.Claims)
	}
	c.beActive()
	if err := g.presence.connected(a.r.Context(), c.record(), true); err != nil {
		g.logger.Warn("gateway: a connection cannot be entered into the journal", "endpoint", c.endpoint.path, "error", err)
		g.timeAnew(a.w)
		g.refuse(a.w, http.StatusServiceUnavailable, "the connection cannot be entered into the journal at the moment")
		g.retract(a)
		return false
	}
	d, err := c.endpoint.api.Connect(a.r.Context(), a.r, c.api.info)
	if err != nil {
		g.logger.Warn("gateway: $connect has failed", "endpoint", c.endpoint.path, "connection", c.id, "error", err)
	}
	if d.Allowed {
		if d.Subprotocol != "" {
			a.further += "Sec-WebSocket-Protocol: " + d.Subprotocol + "\r\n"
		}
		return true
	}
	// A client that was denied has no $disconnect; whoever was asked and gave no answer may have kept it.
	r := c.record()
	if r.Code, r.Reason = int(statusAbnormal), "denied"; err == nil {
		r.API = nil
	}
	g.tell(g.life, departure{r, g.now()})
	g.metrics.refused.WithLabelValues(strconv.Itoa(d.Status)).Inc()
	g.timeAnew(a.w)
	h := a.w.Header()
	maps.Copy(h, d.Header)
	a.w.WriteHeader(d.Status)
	_, _ = a.w.Write(d.Body) // the client may have gone
	return false
}

// timeAnew lets the time for a response begin anew: whoever was asked before it may have taken longer than the server
// lets a response take. (The deadline for reading has gone with the request, and both go when a socket is taken over.)
func (g *Gateway) timeAnew(w http.ResponseWriter) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(g.pageTimeout())) // fails where there is none
}

// integrate hands a client's message to the route that it chooses, and waits for that, so that the messages of
// one client are taken in order.
func (c *connection) integrate(kind ws.OpCode, payload []byte) {
	c.beActive()
	ctx, cancel := context.WithCancel(c.gateway.life)
	defer cancel()
	reply, closing, err := c.endpoint.api.Message(ctx, c.api.describe(), payload, kind == ws.OpBinary)
	if err != nil {
		c.gateway.logger.Warn("gateway: an integration has failed", "endpoint", c.endpoint.path, "connection", c.id, "error", err)
	}
	if len(reply) > 0 {
		c.answer(reply)
		c.beActive()
	}
	switch closing {
	case 0:
	case apigateway.CloseUnsupported:
		c.end(ending{code: ws.StatusUnsupportedData, reason: "binary messages are not supported", cut: cutProtocol})
	default:
		c.end(ending{code: ws.StatusCode(closing), reason: "the message is too large", cut: cutProtocol})
	}
}

// overdue says why an API Gateway connection has lasted long enough, "" if it has not.
func (a *apiClient) overdue(l apigateway.Limits, now time.Time) string {
	switch {
	case l.Duration > 0 && now.Sub(a.info.ConnectedAt) > l.Duration:
		return "Connection duration limit exceeded"
	case l.Idle > 0 && now.UnixNano()-a.active.Load() > int64(l.Idle):
		return "Going away"
	default:
		return ""
	}
}

// clients implements apigateway.Connections: the connections of one endpoint.
type clients struct {
	gateway  *Gateway
	endpoint *endpoint
}

// find returns an endpoint's connection.
func (cs clients) find(id string) (*connection, error) {
	if c := cs.gateway.connection(id); c != nil && c.endpoint == cs.endpoint {
		return c, nil
	}
	return nil, millrace.Errorf(millrace.NotFound, "find a connection", "there is no connection %.40q", id)
}

// Send queues data as a text frame.
func (cs clients) Send(_ context.Context, id string, data []byte) error {
	c, err := cs.find(id)
	if err != nil {
		return err
	}
	return c.post(frameOf(data), false)
}

// frameOf is the frame that all of an endpoint's connections get: none of them compresses.
func frameOf(data []byte) []byte {
	return append(websocket.AppendHeader(make([]byte, 0, len(data)+10), ws.OpText, len(data)), data...)
}

// post hands over a frame from outside of the streams.
func (c *connection) post(frame []byte, shared bool) error {
	const op = "post to a connection"
	switch c.out.send(frame, shared || len(frame) > c.out.limit) {
	case gone:
		return millrace.Errorf(millrace.NotFound, op, "the connection is gone")
	case refused:
		return millrace.Errorf(millrace.Unavailable, op, "the client's buffer is full")
	case sent, queued:
		c.beActive()
	}
	return nil
}

// Info describes a connection.
func (cs clients) Info(id string) (apigateway.Info, error) {
	c, err := cs.find(id)
	if err != nil {
		return apigateway.Info{}, err
	}
	return c.api.describe(), nil
}

// Close ends a connection.
func (cs clients) Close(id string, code int, reason string) error {
	c, err := cs.find(id)
	if err != nil {
		return err
	}
	c.end(ending{code: ws.StatusCode(code), reason: reason})
	return nil
}

// All yields the endpoint's connections.
func (cs clients) All() iter.Seq[apigateway.Info] {
	return func(yield func(apigateway.Info) bool) {
		for _, c := range cs.gateway.all() {
			if c.endpoint == cs.endpoint && !yield(c.api.describe()) {
				return
			}
		}
	}
}

// SendKey queues data as a text frame for all that have subscribed to a key.
func (cs clients) SendKey(ctx context.Context, key string, data []byte) (int, error) {
	f := cs.endpoint.feed
	if f == nil || cs.endpoint.config.Key == "" {
		return 0, millrace.Errorf(millrace.Invalid, "post to a key", "the endpoint has no subscribe.key")
	}
	var all []*connection
	f.mu.Lock()
	if g := f.keys[key]; g != nil {
		for _, m := range g.members {
			if m.s.endpoint == cs.endpoint {
				all = append(all, m.s.c)
			}
		}
	}
	f.mu.Unlock()
	sent, _ := postAll(context.WithoutCancel(ctx), all, data) // whoever posts to a key need not wait for the count
	return sent, nil
}

// SendAll queues data as a text frame for all, as long as somebody waits for the counts.
func (cs clients) SendAll(ctx context.Context, data []byte) (sent, failed int) {
	all := slices.DeleteFunc(cs.gateway.all(), func(c *connection) bool { return c.endpoint != cs.endpoint })
	return postAll(ctx, all, data)
}

// postAll posts one frame to all, until ctx ends.
func postAll(ctx context.Context, all []*connection, data []byte) (sent, failed int) {
	frame := frameOf(data)
	for _, c := range all {
		switch {
		case ctx.Err() != nil:
			return sent, failed
		case c.post(frame, true) == nil:
			sent++
		default:
			failed++
		}
	}
	return sent, failed
}

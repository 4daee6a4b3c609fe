package gateway

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/gateway/apigateway"
	"github.com/millrace/millrace/gateway/websocket"
)

// arrival is a request on its way to become a connection.
type arrival struct {
	w   http.ResponseWriter
	r   *http.Request
	key string // that its path names
	c   *connection

	extension string // of WebSocket, that was agreed on; "" for none

	first   *subscription // that the request asks for; nil: none, or not yet
	catchUp *replay       // that first begins with; nil: none
	further string        // lines for the head of the response
}

// connect makes a connection of a request. key is what its path names.
func (g *Gateway) connect(w http.ResponseWriter, r *http.Request, e *endpoint, key string, f form) {
	if e.api != nil {
		f = plain // whatever subprotocols the client knows: its $connect chooses
	}
	a := &arrival{w: w, r: r, key: key, c: &connection{
		id: apigateway.NewConnectionID(), gateway: g, endpoint: e, form: f,
		begun: g.now(), remote: g.config.Listener.RemoteAddr(r),
	}}
	if e.api != nil {
		a.c.in.Limit, a.c.in.FrameLimit = int32(e.api.Limits().Message), int32(e.api.Limits().Frame)
	}
	if f != v1 && e.feed == nil && e.api == nil {
		g.refuse(w, http.StatusBadRequest, "a client subscribes here by messages: connect a WebSocket with the subprotocol %s", subprotocol)
		return
	}
	if g.config.Compression && f.websocket() && e.api == nil {
		a.extension = websocket.NegotiateDeflate(r.Header)
		a.c.in.Deflate = a.extension != ""
	}
	if !g.reserve() {
		g.refuse(w, http.StatusServiceUnavailable, "there is no room for another connection at the moment")
		return
	}
	if !g.establish(a) {
		g.unreserve() // last: the gateway may end then
	}
}

// establish makes a connection of an arrival for which there is room. It returns false if none has come about, which
// everyone who was told of it knows then.
func (g *Gateway) establish(a *arrival) bool {
	if !g.identify(a) {
		return false
	}
	if a.ask() && g.announce(a) {
		if g.takeOver(a) {
			return true
		}
		g.retract(a)
	}
	a.c.limits.Release()
	return false
}

// ask prepares the subscription that the request asks for. It returns false if it has answered the request.
func (a *arrival) ask() bool {
	c := a.c
	if c.waits() || c.endpoint.feed == nil {
		return true
	}
	if err := a.subscribe(a.r.Context()); err != nil {
		c.gateway.refuseWish(a.w, err)
		return false
	}
	return true
}

// subscribe makes the subscription that the request asks for, and whatever it begins with.
func (a *arrival) subscribe(ctx context.Context) error {
	c := a.c
	want, err := c.wishOf(a.r, a.key)
	if err != nil {
		return err
	}
	a.first, a.catchUp, a.further, err = c.begin(ctx, c.endpoint, "", want)
	return err
}

// begin makes a subscription, counts it, and finds what it begins with: r is nil if it begins with what comes from now
// on, and further is what the head of a response says of a gap. It fails with Invalid, with TooLarge, and with
// Unavailable if the stream cannot be read, which is logged: why is nothing for clients.
func (c *connection) begin(ctx context.Context, e *endpoint, name string, w wish) (s *subscription, r *replay, further string, err error) {
	if s, err = c.subscription(e, name, w); err != nil {
		return nil, nil, "", err
	}
	if err = c.limits.Subscribe(1); err != nil {
		return nil, nil, "", err
	}
	if w.since.live() {
		return s, nil, "", nil
	}
	if r, further, err = c.gateway.resume(ctx, s); err != nil {
		c.limits.Unsubscribe(1)
		c.gateway.logger.Warn("gateway: a client cannot resume", "endpoint", e.path, "client", c.remote.String(), "connection", c.id, "error", err)
		return nil, nil, "", millrace.Errorf(millrace.Unavailable, "resume", "%s", unavailable)
	}
	return s, r, further, nil
}

// unavailable is what clients are told of a stream that fails.
const unavailable = "the stream cannot be read at the moment"

// takeOver makes a connection of the socket under a request. It returns false if that failed; there is nothing
// left to be answered then.
func (g *Gateway) takeOver(a *arrival) bool {
	c := a.c
	conn, buffered, err := http.NewResponseController(a.w).Hijack()
	if err != nil {
		g.refuse(a.w, http.StatusInternalServerError, "this connection cannot be taken over: %v", err)
		return false
	}
	before, _ := buffered.Peek(buffered.Reader.Buffered()) // what is there can be peeked at
	before = slices.Clone(before)
	var head []byte
	if c.form == sse {
		head = sseHead(a.w.Header())
	} else {
		protocol := ""
		if c.form == v1 {
			protocol = subprotocol
		}
		head = websocket.Head(a.r, protocol, a.extension, corsLines(a.w.Header())+a.further)
	}
	if c.form == v1 {
		head = c.appendHello(head)
	}
	c.conn = conn
	giveUpAfter(conn, 2*g.config.Ping)
	c.out = outlet{
		conn: conn, raw: rawConn(conn), form: c.form, limit: int(c.endpoint.queue(g.config)),
		flows: &g.flows, done: c.flushed,
	}
	now := g.flows.clock.Load()
	c.heard.Store(now)
	c.out.wrote = now
	if c.waits() {
		c.waiting.arrival = *a
		c.waiting.arrival.w = nil
	}
	if !g.admit(c) { // the gateway has begun to drain
		c.out.close()
		return false
	}
	c.open(a.first, head, before, a.catchUp)
	return true
}

// wishOf reads what a request asks for. It fails with Invalid, and with Denied if the key that the client may see
// is not claimed.
func (c *connection) wishOf(r *http.Request, key string) (w wish, err error) {
	e := c.endpoint
	parameter, inQuery := strings.CutPrefix(e.config.Key, "query:")
	if !inQuery {
		parameter = ""
	}
	if e.api != nil {
		// Other parameters belong to the application.
		if keys := r.URL.Query()[parameter]; parameter != "" && len(keys) > 0 {
			err = w.setKeys(keys)
		}
		return w, err
	}
	w, err = parseWish(r.URL.RawQuery, parameter, c.form == sse, r.Header.Get("Last-Event-ID"))
	if err == nil && e.inPath() {
		err = w.setKeys([]string{key})
	}
	if err == nil {
		err = c.bind(e, &w)
	}
	return w, err
}

// subscription returns a subscription to an endpoint that has not begun yet. It fails with Invalid if the
// endpoint cannot give what is asked for.
func (c *connection) subscription(e *endpoint, name string, w wish) (*subscription, error) {
	switch {
	case w.since.latest && !e.config.latest():
		return nil, wrongWish("since=latest is not offered by %s", e.path)
	case w.area != nil && e.areas == nil:
		return nil, wrongWish("areas are not offered by %s", e.path)
	case w.area != nil && c.form == plain:
		return nil, wrongWish("an area needs the subprotocol %s or an event stream: a plain connection cannot be told that an object has left", subprotocol)
	}
	s := &subscription{c: c, endpoint: e, feed: e.feed, wish: w, parts: e.feed.partsOf(w.keys)}
	s.dialect = dialect{form: c.form.over(len(s.parts)), name: name, deflated: c.in.Deflate}
	return s, nil
}

// refuseWish answers a request whose wish cannot be met.
func (g *Gateway) refuseWish(w http.ResponseWriter, err error) {
	switch millrace.CodeOf(err) {
	case millrace.Invalid:
		g.refuse(w, http.StatusBadRequest, "%v", cause(err))
	case millrace.Denied:
		g.refuse(w, http.StatusForbidden, "%v", cause(err))
	case millrace.TooLarge:
		w.Header().Set("Retry-After", "10")
		g.refuse(w, http.StatusTooManyRequests, "%v", cause(err))
	default:
		g.refuse(w, http.StatusServiceUnavailable, unavailable)
	}
}

// cause is an error without what was being done, which the client knows.
func cause(err error) error {
	if known, ok := err.(*millrace.Error); ok && known.Err != nil { //nolint:errorlint // only what is said at the top
		return known.Err
	}
	return err
}

// corsLines are the header lines of a response that opens a WebSocket, which differ from those of an
// ordinary response.
func corsLines(h http.Header) string {
	var lines strings.Builder
	for _, name := range []string{"Access-Control-Allow-Origin", "Vary"} {
		if value := h.Get(name); value != "" {
			fmt.Fprintf(&lines, "%s: %s\r\n", name, value) // without a line break: it came in a header
		}
	}
	return lines.String()
}

package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/table"
)

// ServeHTTP serves the endpoints, and the page for every other path.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e, key := g.route(r)
	if e == nil {
		if g.page != nil {
			g.page.ServeHTTP(w, r)
			return
		}
		http.NotFound(w, r)
		return
	}
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if !g.checkOrigin(w, r) {
		return
	}
	switch {
	case r.Method == http.MethodOptions:
		preflight(w)
	case r.Method != http.MethodGet:
		w.Header().Set("Allow", "GET, OPTIONS")
		g.refuse(w, http.StatusMethodNotAllowed, "an endpoint takes GET, not %.20q", r.Method)
	case wantsWebSocket(r):
		if status, problem := checkHandshake(r); status != 0 {
			w.Header().Set("Sec-WebSocket-Version", "13")
			g.refuse(w, status, "%s", problem)
			return
		}
		g.connect(w, r, e, key, chooseSubprotocol(r))
	case acceptsSSE(r):
		g.connect(w, r, e, key, sse)
	default:
		w.Header().Set("Upgrade", "websocket")
		w.Header().Set("Connection", "Upgrade")
		g.refuse(w, http.StatusUpgradeRequired, "this is an endpoint of Millrace: connect a WebSocket to it "+
			"(ws://%s%s), or ask for Server-Sent Events with the header \"Accept: text/event-stream\"", r.Host, e.path)
	}
}

// refuse answers a request that gets no connection.
func (g *Gateway) refuse(w http.ResponseWriter, status int, format string, args ...any) {
	g.metrics.refused.WithLabelValues(strconv.Itoa(status)).Inc()
	if status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "2")
	}
	http.Error(w, fmt.Sprintf(format, args...), status)
}

// connect makes a connection of a request. key is what its path names.
func (g *Gateway) connect(w http.ResponseWriter, r *http.Request, e *endpoint, key string, f form) {
	c := &connection{id: newConnectionID(), gateway: g, endpoint: e, form: f}
	var first *subscription
	var catchUp *replay
	further := ""
	if e.feed != nil {
		want, err := e.wishOf(r, key, f)
		if err == nil {
			first, err = c.subscription(e, "", want)
		}
		if err == nil && !want.since.live() {
			catchUp, further, err = g.resume(r.Context(), first)
		}
		if err != nil {
			g.refuseWish(w, r, e, err)
			return
		}
	} else if f != v1 {
		g.refuse(w, http.StatusBadRequest, "a client subscribes here by messages: connect a WebSocket with the subprotocol %s", subprotocol)
		return
	}
	if !g.reserve() {
		g.refuse(w, http.StatusServiceUnavailable, "there is no room for another connection at the moment")
		return
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		g.unreserve()
		g.refuse(w, http.StatusInternalServerError, "this connection cannot be taken over: %v", err)
		return
	}
	before, _ := buffered.Peek(buffered.Reader.Buffered()) // what is there can be peeked at
	before = slices.Clone(before)
	var head []byte
	if f == sse {
		head = sseHead(w.Header())
	} else {
		head = webSocketHead(r, f, corsLines(w.Header())+further)
	}
	if f == v1 {
		head = c.appendHello(head)
	}
	c.conn = conn
	giveUpAfter(conn, 2*g.config.Ping)
	c.out = outlet{
		conn: conn, raw: rawConn(conn), form: f, limit: int(e.queue(g.config)),
		flows: &g.flows, done: c.flushed,
	}
	now := g.flows.clock.Load()
	c.heard.Store(now)
	c.out.wrote = now
	if !g.admit(c) { // the gateway has begun to drain
		c.out.close()
		return
	}
	c.open(first, head, before, catchUp)
}

// wishOf reads what a request asks for.
func (e *endpoint) wishOf(r *http.Request, key string, f form) (wish, error) {
	parameter, inQuery := strings.CutPrefix(e.config.Key, "query:")
	if !inQuery {
		parameter = ""
	}
	w, err := parseWish(r.URL.RawQuery, parameter, f == sse, r.Header.Get("Last-Event-ID"))
	if err == nil && e.inPath() {
		err = w.setKeys([]string{key})
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
	s.dialect = dialect{form: c.form.over(len(s.parts)), name: name, deflated: c.deflated}
	return s, nil
}

// refuseWish answers a request whose wish cannot be met.
func (g *Gateway) refuseWish(w http.ResponseWriter, r *http.Request, e *endpoint, err error) {
	if millrace.CodeOf(err) == millrace.Invalid {
		g.refuse(w, http.StatusBadRequest, "%v", cause(err))
		return
	}
	g.logger.Warn("gateway: a client cannot resume", "endpoint", e.path, "client", r.RemoteAddr, "error", err)
	g.refuse(w, http.StatusServiceUnavailable, "the stream cannot be read at the moment")
}

// cause is an error without what was being done, which the client knows.
func cause(err error) error {
	if inner := errors.Unwrap(err); inner != nil {
		return inner
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

// resumeTimeout bounds looking up where a client wants to begin.
const resumeTimeout = 5 * time.Second

// resume finds the positions from which a subscription is to be brought to the live edge. For a plain
// connection, which has no frame to say a gap, further is a header line that says it.
func (g *Gateway) resume(ctx context.Context, s *subscription) (r *replay, further string, err error) {
	ctx, cancel := context.WithTimeout(ctx, resumeTimeout)
	defer cancel()
	f, from := s.feed, s.since
	r = newReplay(s)
	r.notBefore = from.stored
	s.since = since{} // it holds much memory, and is not needed any more
	if from.latest {
		r.fresh = true
		r.rows, r.at = f.snapshot(s)
		for i := range r.confirmed {
			r.confirmed[i] = true
		}
		return r, "", nil
	}
	for _, i := range s.parts {
		name := f.parts[i].Name
		if from.places != nil {
			r.at[i] = from.places[name] // none: a partition that the client knows nothing of, from its start
		} else if r.at[i], err = seek(ctx, f.stream, name, from.stored); err != nil {
			return nil, "", err
		}
		if s.form != plain {
			continue
		}
		gap, err := firstGap(ctx, f.stream, name, r.at[i])
		if err != nil {
			return nil, "", err
		}
		if gap != nil {
			r.at[i], r.confirmed[i] = gap.First, true
			s.endpoint.gaps.Inc()
			further += fmt.Sprintf("Millrace-Gap: after=%q, first=%q, reason=%q\r\n",
				positionID(name, gap.After), positionID(name, gap.First), gap.Reason)
		}
	}
	return r, further, nil
}

// snapshot returns the rows of the table from which a subscription chooses, and the places of that moment.
func (f *feed) snapshot(s *subscription) (rows []*table.Row, at []millrace.Position) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.parts {
		at = append(at, p.at)
	}
	if len(s.keys) == 0 {
		return f.table.AppendRows(nil), at
	}
	for _, key := range s.keys {
		if row := f.table.Get(key); row != nil {
			rows = append(rows, row)
		}
	}
	return rows, at
}

// seek returns the position after which the blocks stored at t or later come. If none is kept that is
// older than t, that is the very start of the partition: what came after t may have been trimmed,
// and reading from the start says so.
func seek(ctx context.Context, s millrace.Stream, partition string, t time.Time) (millrace.Position, error) {
	at, err := s.Seek(ctx, partition, t)
	if err != nil {
		return at, err
	}
	first, _, err := s.Bounds(ctx, partition)
	if err != nil || at.Compare(first) <= 0 {
		return millrace.Position{}, err
	}
	return at, nil
}

// firstGap returns the gap with which reading after at begins, nil if it begins with none.
func firstGap(ctx context.Context, s millrace.Stream, partition string, at millrace.Position) (*millrace.Gap, error) {
	_, end, err := s.Bounds(ctx, partition)
	if err != nil || at == end || beginsAfter(at, end) {
		return nil, err
	}
	for _, err := range s.Read(ctx, partition, at) {
		if gap, ok := errors.AsType[*millrace.Gap](err); ok {
			return gap, nil
		}
		return nil, err
	}
	return nil, nil
}

package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace"
)

// reservedParameters are the parameters of the query string that have a meaning at every endpoint.
var reservedParameters = []string{"since", "lastEventId"}

// maxKeys bounds the keys of one connection.
const maxKeys = 100

// wish is what a client asks for: which keys, and from where on.
type wish struct {
	keys  []string // none: every key
	since since
}

// parseWish reads an endpoint's query string. It fails with Invalid.
//
// A parameter that names the key but for the case of its letters is refused, since the client would
// get every key; others that are not known are ignored. An empty key is a key like any other, and an
// empty since is none.
func parseWish(rawQuery, parameter string, sse bool, lastEventID string) (wish, error) {
	const op = "read the query string"
	values, err := url.ParseQuery(rawQuery)
	if err != nil {
		return wish{}, millrace.Errorf(millrace.Invalid, op, "%w", err)
	}
	for name, given := range values {
		if name != parameter && parameter != "" && strings.EqualFold(name, parameter) {
			return wish{}, millrace.Errorf(millrace.Invalid, op, "the parameter is written %s, not %.40q", parameter, name)
		}
		if slices.Contains(reservedParameters, name) && len(given) > 1 {
			return wish{}, millrace.Errorf(millrace.Invalid, op, "the parameter %s is there %d times", name, len(given))
		}
	}
	var w wish
	if parameter != "" {
		for _, key := range values[parameter] {
			w.keys = append(w.keys, strings.Clone(key)) // lets go of the request
		}
		slices.Sort(w.keys)
		if w.keys = slices.Compact(w.keys); len(w.keys) > maxKeys {
			return wish{}, millrace.Errorf(millrace.Invalid, op, "%d keys are asked for, a connection takes %d", len(w.keys), maxKeys)
		}
	}
	from := values.Get("since")
	if sse {
		// The header is newer than the URL, which an EventSource keeps when it comes back; lastEventId is
		// for scripts that cannot set the header.
		for _, newer := range []string{values.Get("lastEventId"), lastEventID} {
			if newer != "" {
				from = newer
			}
		}
	}
	w.since, err = parseSince(from)
	return w, err
}

// ServeHTTP serves the endpoints, and the page for every other path.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e := g.endpoints[r.URL.Path]
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
		g.connect(w, r, e, chooseSubprotocol(r))
	case acceptsSSE(r):
		g.connect(w, r, e, sse)
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

// connect makes a connection of a request.
func (g *Gateway) connect(w http.ResponseWriter, r *http.Request, e *endpoint, f form) {
	want, err := parseWish(r.URL.RawQuery, e.parameter, f == sse, r.Header.Get("Last-Event-ID"))
	if err != nil {
		g.refuse(w, http.StatusBadRequest, "%v", errors.Unwrap(err))
		return
	}
	c := &connection{gateway: g, endpoint: e}
	c.sub = subscription{c: c, feed: e.feed, keys: want.keys, parts: e.feed.partsOf(want.keys)}
	c.form = f.over(len(c.sub.parts))
	var catchUp *replay
	further := ""
	if !want.since.live() {
		catchUp, further, err = g.resume(r.Context(), c, want.since)
		if err != nil {
			g.logger.Warn("gateway: a client cannot resume", "endpoint", e.path, "client", r.RemoteAddr, "error", err)
			g.refuse(w, http.StatusServiceUnavailable, "the stream cannot be read at the moment")
			return
		}
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
		extension := ""
		if g.config.Compression {
			extension = negotiateDeflate(r.Header)
		}
		c.in.deflate = extension != ""
		head = webSocketHead(r, f, extension, corsLines(w.Header())+further)
	}
	c.conn = conn
	giveUpAfter(conn, 2*g.config.Ping)
	c.out = outlet{
		conn: conn, raw: rawConn(conn), form: c.form, limit: int(g.config.Queue),
		flows: &g.flows, done: c.flushed,
	}
	now := g.flows.clock.Load()
	c.heard.Store(now)
	c.out.wrote = now
	ctx := context.Background() // outlives the request
	if catchUp != nil {
		e.replays.Inc()
		ctx, c.stop = context.WithCancel(ctx)
	}
	if !g.admit(c) { // the gateway has begun to drain
		c.out.close()
		if c.stop != nil {
			c.stop()
		}
		return
	}
	c.open(ctx, head, before, catchUp)
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

// resume finds the positions from which a connection is to be brought to the live edge. For a plain
// connection, which has no frame to say a gap, further is a header line that says it.
func (g *Gateway) resume(ctx context.Context, c *connection, from since) (r *replay, further string, err error) {
	ctx, cancel := context.WithTimeout(ctx, resumeTimeout)
	defer cancel()
	f := c.endpoint.feed
	r = &replay{
		c: c, s: &c.sub, feed: f, slots: g.slots, notBefore: from.stored,
		at: make([]millrace.Position, len(f.parts)), confirmed: make([]bool, len(f.parts)),
	}
	for _, i := range c.sub.parts {
		name := f.parts[i].Name
		if from.places != nil {
			r.at[i] = from.places[name] // none: a partition that the client knows nothing of, from its start
		} else if r.at[i], err = seek(ctx, f.stream, name, from.stored); err != nil {
			return nil, "", err
		}
		if c.form != plain {
			continue
		}
		gap, err := firstGap(ctx, f.stream, name, r.at[i])
		if err != nil {
			return nil, "", err
		}
		if gap != nil {
			r.at[i], r.confirmed[i] = gap.First, true
			c.endpoint.gaps.Inc()
			further += fmt.Sprintf("Millrace-Gap: after=%q, first=%q, reason=%q\r\n",
				positionID(name, gap.After), positionID(name, gap.First), gap.Reason)
		}
	}
	return r, further, nil
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

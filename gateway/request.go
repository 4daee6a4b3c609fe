package gateway

import (
	"fmt"
	"net/http"
	"strconv"

	"github.com/millrace/millrace/gateway/apigateway"
)

// ServeHTTP serves the endpoints, and the page for every other path.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if api := apigateway.Managing(g.apis, r); api != nil {
		api.ServeManagement(w, r)
		return
	}
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
	if !g.checkOrigin(w, r, e) {
		return
	}
	switch {
	case r.Method == http.MethodOptions:
		preflight(w, e)
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
	case e.api == nil && acceptsSSE(r):
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

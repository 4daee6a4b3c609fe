package gateway

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/millrace/millrace/gateway/apigateway"
	"github.com/millrace/millrace/gateway/auth"
)

// endpoint is a path that serves a feed.
type endpoint struct {
	path      string
	config    Endpoint
	feed      *feed        // nil: a connection to it has no subscription to begin with
	auth      *auth.Config // nil: everyone may connect
	guard     *auth.Guard
	api       *apigateway.API       // nil: it is of another kind
	deliverer *apigateway.Deliverer // of api
	areas     *areas                // nil: areas cannot be asked for
	lag       prometheus.Observer
	gaps      prometheus.Counter
	dropped   prometheus.Counter
	replays   prometheus.Counter
	traffic   [formsCount]traffic
}

// traffic is what an endpoint hands out in one form.
type traffic struct {
	connections   prometheus.Gauge
	connects      prometheus.Counter
	events, bytes prometheus.Counter

	eventsNow, bytesNow int // of this pass; guarded by feed.mu
}

// inPath says whether the path of a request names the key.
func (e *endpoint) inPath() bool { return strings.Contains(e.path, "{") }

// queue returns the bound of what waits for a connection to the endpoint, in bytes.
func (e *endpoint) queue(c Config) int64 {
	if e.config.Queue > 0 {
		return e.config.Queue
	}
	return c.Queue
}

// route returns the endpoint that serves a request, nil if there is none, and the key that its path names.
func (g *Gateway) route(r *http.Request) (e *endpoint, key string) {
	if e := g.endpoints[r.URL.Path]; e != nil && !e.inPath() {
		return e, ""
	}
	for _, e := range g.patterns {
		if key, ok := matchPath(e.path, r.URL.EscapedPath()); ok {
			return e, key
		}
	}
	return nil, ""
}

// matchPath compares an escaped path with a pattern, one segment of which is {NAME}, and returns what stands
// there.
func matchPath(pattern, escaped string) (key string, ok bool) {
	for {
		want, restOfPattern, morePattern := strings.Cut(pattern, "/")
		have, rest, more := strings.Cut(escaped, "/")
		segment, err := url.PathUnescape(have)
		switch {
		case err != nil, more != morePattern:
			return "", false
		case strings.HasPrefix(want, "{"):
			if segment == "" {
				return "", false
			}
			key = segment
		case segment != want:
			return "", false
		}
		if !more {
			return key, true
		}
		pattern, escaped = restOfPattern, rest
	}
}

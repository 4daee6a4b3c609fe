package gateway

import (
	"net/http"
	"net/url"
	"strings"
)

// originAllowed says whether a page of this origin may connect: it is in the list, or it was served
// from the very host that it connects to. Comparison is exact; there are no patterns. The scheme of
// the own host is not compared, since TLS may end in front of the gateway.
func (g *Gateway) originAllowed(origin, host string) bool {
	if g.anyOrigin {
		return true
	}
	if g.origins[strings.ToLower(origin)] {
		return true
	}
	u, err := url.Parse(origin)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && host != "" &&
		origin == u.Scheme+"://"+u.Host && strings.EqualFold(withPort(u.Host, u.Scheme), withPort(host, u.Scheme))
}

// withPort adds the scheme's own port to a host that names none.
func withPort(host, scheme string) string {
	u := url.URL{Host: host}
	switch {
	case u.Port() != "":
		return host
	case scheme == "https":
		return host + ":443"
	default:
		return host + ":80"
	}
}

// checkOrigin answers a request from a page that may not connect, and says with CORS headers that one
// that may, may read. It returns false if the request is answered.
func (g *Gateway) checkOrigin(w http.ResponseWriter, r *http.Request, e *endpoint) bool {
	w.Header().Add("Vary", "Origin")
	origin := r.Header.Get("Origin")
	if origin == "" {
		return true
	}
	if len(r.Header.Values("Origin")) > 1 || !g.originAllowed(origin, r.Host) {
		g.refuse(w, http.StatusForbidden, "pages of the origin %.200q may not connect; gateway.origins lists those that may", origin)
		return false
	}
	w.Header().Set("Access-Control-Allow-Origin", origin)
	if e.auth != nil && e.auth.UsesCookie() {
		w.Header().Set("Access-Control-Allow-Credentials", "true")
	}
	return true
}

// preflight answers a browser that asks whether a script may send Last-Event-ID, or its token.
func preflight(w http.ResponseWriter, e *endpoint) {
	h := w.Header()
	headers := "Last-Event-ID, Cache-Control"
	if e.auth != nil {
		headers += ", " + e.auth.TokenHeader()
	}
	h.Set("Access-Control-Allow-Methods", "GET")
	h.Set("Access-Control-Allow-Headers", headers)
	h.Set("Access-Control-Max-Age", "600")
	w.WriteHeader(http.StatusNoContent)
}

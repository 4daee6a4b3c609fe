package gateway

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/gobwas/ws"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/gateway/auth"
	"github.com/millrace/millrace/gateway/limit"
)

// statusUnauthorized is the close code of a connection that may not go on: its token has expired, or none came.
const statusUnauthorized ws.StatusCode = 4001

// tokenTimeout is how long a connection waits for its first message to bring the token.
const tokenTimeout = 10 * time.Second

// who is whose a connection is.
type who struct {
	guard    *auth.Guard
	identity auth.Identity
}

// waiting is a connection whose first message has yet to say who it is.
type waiting struct{ arrival arrival }

// waits says whether the connection has yet to say who it is. Called by its own goroutine.
func (c *connection) waits() bool { return c.waiting != nil }

// identify finds out who makes a request, and counts the connection. It returns false if it has answered
// the request.
func (g *Gateway) identify(a *arrival) bool {
	c := a.c
	c.who = &who{guard: c.endpoint.guard}
	if c.form == v1 && c.who.guard.AwaitsMessage(a.r) {
		c.waiting = &waiting{}
		c.expires.Store(g.now().Add(tokenTimeout).UnixNano())
	} else {
		identity, err := c.who.guard.Check(a.r.Context(), a.r, c.remote)
		if err != nil {
			g.deny(a.w, err)
			return false
		}
		c.admitted(identity)
	}
	var err error
	if c.limits, err = g.limits.Admit(c.remote, c.who.identity.Key); err != nil {
		a.w.Header().Set("Retry-After", "10")
		g.refuse(a.w, http.StatusTooManyRequests, "%v", err)
		return false
	}
	return true
}

// deny answers a request that may not become a connection.
func (g *Gateway) deny(w http.ResponseWriter, err error) {
	status, reason := http.StatusForbidden, "this is not allowed"
	if denied, ok := errors.AsType[*auth.Denied](err); ok {
		status, reason = denied.Status, denied.Reason
		if challenge := denied.Challenge(); challenge != "" {
			w.Header().Set("WWW-Authenticate", challenge)
		}
	}
	g.logger.Debug("gateway: a client is turned away", "status", status, "error", err)
	g.refuse(w, status, "%s", reason)
}

// bind lets a client see no other keys than those that its token claims, where the endpoint demands that. It
// fails with Denied.
func (c *connection) bind(e *endpoint, w *wish) error {
	claim, bound := strings.CutPrefix(e.config.Key, "claim:")
	if !bound {
		return nil
	}
	claimed, ok := c.who.identity.Claim(claim)
	if !ok {
		return millrace.Errorf(millrace.Denied, "subscribe", "the token does not claim %s, which says what may be seen", claim)
	}
	var mine wish
	if err := mine.setKeys(claimed); err != nil {
		return err
	}
	if w.prefix != "" {
		return wrongWish("the token says which keys may be seen; a prefix does not go with that")
	}
	for _, key := range w.keys {
		if !mine.names(key) {
			return millrace.Errorf(millrace.Denied, "subscribe", "the token does not claim the key %.100q", key)
		}
	}
	if len(w.keys) == 0 {
		w.keys = mine.keys
	}
	return nil
}

// mayUse says whether a connection may subscribe to another endpoint than its own: to one that everyone may
// use, or that asks for what the connection has shown already.
func (c *connection) mayUse(e *endpoint) bool { return e.guard.Open() || e.guard == c.who.guard }

// authenticate takes the token that a first message brings, and begins what the request asked for.
func (c *connection) authenticate(token string) error {
	if !c.waits() {
		return millrace.Errorf(millrace.Conflict, "authenticate", "the connection is authenticated already")
	}
	g, a := c.gateway, &c.waiting.arrival
	ctx, cancel := context.WithTimeout(context.Background(), tokenTimeout)
	defer cancel()
	identity, err := c.who.guard.CheckToken(ctx, token, a.r, c.remote)
	if err == nil {
		err = c.limits.Identify(identity.Key)
	}
	if err != nil {
		// What would be 429 or 503 if the token stood in the request is no fault of the token.
		e := ending{code: statusUnauthorized, reason: "this is not allowed", cut: cutUnauthorized}
		if denied, ok := errors.AsType[*auth.Denied](err); ok {
			if e.reason = denied.Reason; denied.Status == http.StatusServiceUnavailable {
				e.code, e.cut = statusTryAgainLater, cutUnavailable
			}
		} else if many, ok := errors.AsType[*limit.TooMany](err); ok {
			e.code, e.reason = statusTryAgainLater, many.Error()
		}
		g.logger.Debug("gateway: a client is turned away", "error", err)
		c.end(e)
		return nil
	}
	c.admitted(identity)
	c.answer(append(appendJSONString([]byte(`{"authenticated":{"subject":`), []byte(identity.Subject)), "}}"...))
	waited := c.waiting
	c.waiting = nil
	if c.endpoint.feed == nil {
		return nil
	}
	a = &waited.arrival
	if err := a.subscribe(ctx); err != nil {
		return err
	}
	c.start(a.first, a.catchUp)
	return nil
}

// admitted notes who a connection belongs to, and when that ends.
func (c *connection) admitted(identity auth.Identity) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.who = &who{guard: c.who.guard, identity: identity}
	c.expires.Store(unixNano(identity.Expires))
}

// unixNano is 0 for no time.
func unixNano(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

// throttle waits until a message may be looked at: nothing is read meanwhile, so the client has to wait, too. It
// returns false if the connection is closing: then nothing that it says counts any more.
func (c *connection) throttle() bool {
	may := c.limits.Message
	for !c.out.isClosing() {
		wait, ok := may(c.gateway.now())
		if ok {
			return true
		}
		time.Sleep(min(wait, time.Second))
		may = c.limits.Retry // it counts once, however long it waits
	}
	return false
}

package gateway

import (
	"context"
	"fmt"
	"time"

	"github.com/gobwas/ws"

	"github.com/millrace/millrace/gateway/websocket"
)

// pinger looks at all connections from time to time: it keeps the quiet ones open, tells them how far
// they have come, and cuts those that are silent or stalled.
func (g *Gateway) pinger(ctx context.Context) {
	interval := max(time.Millisecond, g.config.Ping/16)
	tick := time.NewTicker(interval)
	defer tick.Stop()
	last := time.Now()
	var all, quiet []*connection
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		// Time in which this program did not run does not count: it could not hear anyone either.
		passed := min(time.Since(last), 2*interval)
		last = time.Now()
		now := g.flows.clock.Add(int64(passed))
		g.mu.Lock()
		all = append(all[:0], g.connections...)
		g.mu.Unlock()
		quiet = quiet[:0]
		for _, c := range all {
			if g.look(c, now) {
				quiet = append(quiet, c)
			}
		}
		for _, c := range quiet {
			for _, s := range c.subscriptions() {
				s.feed.progress(s)
			}
		}
		clear(all)
		clear(quiet)
	}
}

var (
	pingFrame    = websocket.AppendHeader(nil, ws.OpPing, 0)
	commentFrame = []byte(comment)
)

// look judges one connection, and returns whether it is a quiet one that has just been pinged.
func (g *Gateway) look(c *connection, now int64) bool {
	interval := int64(g.config.Ping)
	waiting, wrote := c.out.backlog()
	busy := c.busy.Load() // before heard, which is set before busy ends
	heard := c.heard.Load()
	if expires := c.expires.Load(); expires != 0 || c.api != nil {
		wall := g.now()
		if expires != 0 && wall.UnixNano() > expires {
			c.end(ending{code: statusUnauthorized, reason: "the token has expired, or none has come", cut: cutUnauthorized})
			return false
		}
		if c.api != nil {
			if reason := c.api.overdue(c.endpoint.api.Limits(), wall); reason != "" {
				c.end(ending{code: ws.StatusGoingAway, reason: reason})
				return false
			}
		}
	}
	switch {
	case waiting > 0 && now-wrote > 2*interval:
		c.end(ending{
			code: statusTryAgainLater, reason: fmt.Sprintf("stalled: no byte was taken for %s", 2*g.config.Ping),
			cut: cutStalled, drop: true,
		})
		return false
	case c.form.websocket() && !busy && now-heard > 2*interval+interval/4:
		c.end(ending{
			code: ws.StatusPolicyViolation, reason: fmt.Sprintf("silent: no pong for %s", 2*g.config.Ping),
			cut: cutSilent, drop: true,
		})
		return false
	}
	quietSince := wrote
	if c.form.websocket() {
		quietSince = min(heard, wrote)
	}
	if now-max(quietSince, c.pinged) < interval || waiting > 0 {
		return false
	}
	c.pinged = now
	if c.form.websocket() {
		c.out.send(pingFrame, false)
	} else {
		c.out.send(commentFrame, false)
	}
	return true
}

package apigateway

import (
	"context"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace"
)

// Deliverer tells $disconnect of connections that are gone until it has been told. What is durable of
// it is the gateway's: a journal of the connections that are open, from which it delivers again after
// a crash.
type Deliverer struct {
	api     *API
	slots   chan struct{} // one for each call in flight
	waiting atomic.Int64
}

// Bounds of a Deliverer.
const (
	deliveries  = 64      // calls in flight
	maxWaiting  = 1 << 14 // deliveries that are not done, by default; each is a goroutine of the gateway
	leastPause  = time.Second
	longestWait = time.Minute
)

// NewDeliverer returns the Deliverer of an endpoint. It starts nothing.
func NewDeliverer(a *API) *Deliverer {
	return &Deliverer{api: a, slots: make(chan struct{}, deliveries)}
}

// Deliver calls $disconnect until it answers: at once, then after 1 s, 2 s and so on up to a minute
// (somewhat less each, so that deliveries do not stay in step), for Config.DisconnectRetry. It returns
// nil when the matter is settled: delivered, or given up for good, which is logged and counted. The
// journal may forget the connection then. It fails with Unavailable when ctx ends, or when too many
// others wait: the journal keeps the connection, and it is to be delivered later or after a restart. So
// it may be delivered twice, but not lost.
func (d *Deliverer) Deliver(ctx context.Context, c Info, code int, reason string) error {
	const op = "deliver $disconnect"
	a := d.api
	if a.routes[routeDisconnect] == nil {
		return nil
	}
	if d.waiting.Add(1) > a.maxWaiting {
		d.waiting.Add(-1)
		return millrace.Errorf(millrace.Unavailable, op, "%d connections wait for it already", a.maxWaiting)
	}
	gauge := a.metrics.waiting.WithLabelValues(a.metrics.endpoint)
	gauge.Inc()
	defer func() { d.waiting.Add(-1); gauge.Dec() }()

	settled := func(o string) { a.metrics.disconnects.WithLabelValues(a.metrics.endpoint, o).Inc() }
	begun := time.Now()
	for try, pause := 1, leastPause; ; try, pause = try+1, min(2*pause, longestWait) {
		err := d.once(ctx, c, code, reason)
		switch {
		case err == nil:
			settled("delivered")
			return nil
		case ctx.Err() != nil:
			return millrace.Errorf(millrace.Unavailable, op, "%w", context.Cause(ctx))
		case millrace.CodeOf(err) == millrace.Denied:
			settled("refused")
			a.logger.Warn("gateway: $disconnect refuses to hear of a connection's end", "connection", c.ID, "error", err)
			return nil
		case time.Since(begun)+pause > a.retry:
			settled("given_up")
			a.logger.Error("gateway: $disconnect was never told of a connection's end", "connection", c.ID,
				"tries", try, "for", time.Since(begun).Round(time.Second), "error", err)
			return nil
		case try == 1:
			a.logger.Warn("gateway: $disconnect failed; it is tried again", "connection", c.ID, "error", err)
		}
		timer := time.NewTimer(pause - rand.N(pause/4))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return millrace.Errorf(millrace.Unavailable, op, "%w", context.Cause(ctx))
		}
	}
}

// Room is how many more deliveries may wait at this moment.
func (d *Deliverer) Room() int { return int(max(0, d.api.maxWaiting-d.waiting.Load())) }

func (d *Deliverer) once(ctx context.Context, c Info, code int, reason string) error {
	select {
	case d.slots <- struct{}{}:
		defer func() { <-d.slots }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return d.api.Disconnect(ctx, c, code, reason)
}

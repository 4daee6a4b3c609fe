package gateway

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gobwas/ws"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/gateway/limit"
	"github.com/millrace/millrace/gateway/websocket"
	"github.com/millrace/millrace/listener"
)

// connection is one client. Its only goroutine of its own reads what the client sends; whoever has
// something for the client hands it to the outlet and goes on. (A replay has a goroutine until it has
// caught up, an outlet one for as long as something waits in it.)
type connection struct {
	id       string
	gateway  *Gateway
	endpoint *endpoint // that it connected to
	form     form      // plain, v1 or sse
	conn     net.Conn
	out      outlet
	in       websocket.Inbound
	index    int // in gateway.connections, guarded by gateway.mu

	begun   time.Time
	remote  netip.Addr        // the client's address; the zero Addr if it has none
	limits  *limit.Connection // what it takes of its owner's share
	waiting *waiting          // for the message that says who it is; nil: it is known. Of the goroutine that reads
	expires atomic.Int64      // Unix ns, when it may not go on any more; 0: never
	api     *apiClient        // of an API Gateway endpoint; nil for others

	mu    sync.Mutex      // a leaf: nothing else is locked under it
	subs  []*subscription // changed by the goroutine that reads, after open
	who   *who
	final *ending // how it ends; nil before that

	cut      atomic.Pointer[ending] // why the gateway has cut it, if it has
	heard    atomic.Int64           // when the client last sent something, by the coarse clock
	busy     atomic.Bool            // a message is being attended to: nothing can be heard until heard is set again
	pinged   int64                  // when it was last pinged; of the pinger
	peerDone atomic.Bool            // nothing is expected from the client any more: it has sent its close frame
	small    [64]byte               // read buffer: what clients send is mostly pongs of six bytes
}

// How long a client has, once it has been sent a close frame, to take it and to answer. One that is
// cut because it is slow has to work its way through what its socket holds first.
const (
	closeTimeout = 3 * time.Second
	slowTimeout  = 30 * time.Second
	headTimeout  = 10 * time.Second
)

// open lets the connection take part in its feed, if it has a subscription to begin with, writes the response's
// head, and starts the goroutine that reads. A client that has seen the head gets every event from then on: so
// the head follows the joining, and frames that are handed over in between follow the head. before is what
// the client has sent already.
func (c *connection) open(s *subscription, head, before []byte, r *replay) {
	switch {
	case s == nil:
		c.out.begin(head)
	case r == nil:
		c.keep(s)
		s.feed.joinLive(s, head)
	default:
		c.keep(s)
		c.out.begin(head)
		c.replay(s, r)
	}
	if c.out.raw == nil {
		_ = c.conn.SetWriteDeadline(time.Now().Add(headTimeout)) // fails only if conn is closed
		if _, err := c.conn.Write(head); err != nil {
			c.out.close()
		}
		_ = c.conn.SetWriteDeadline(time.Time{})
		c.out.start()
	}
	go c.read(before)
}

// keep takes a subscription in.
func (c *connection) keep(s *subscription) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.subs = append(c.subs, s)
}

// replay brings a subscription to the live edge, in a goroutine of its own.
func (c *connection) replay(s *subscription, r *replay) {
	ctx, stop := context.WithCancel(context.Background()) // outlives the request
	s.stop = func() {                                     // and the replay does not join after this
		stop()
		<-r.done
	}
	s.endpoint.replays.Inc()
	c.gateway.metrics.replaying.Inc()
	c.gateway.flows.running.Go(func() {
		defer c.gateway.metrics.replaying.Dec()
		defer stop()
		r.run(ctx)
	})
}

// subscriptions returns those of this moment.
func (c *connection) subscriptions() []*subscription {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.subs)
}

// read reads until the client is gone, and then takes the connection apart.
func (c *connection) read(before []byte) {
	defer c.gone()
	deaf := !c.form.websocket() // what SSE clients send has no meaning
	var large []byte
	for b := before; ; {
		if !deaf && len(b) > 0 {
			ended, v := c.in.Feed(b, c)
			if v != nil {
				c.peerDone.Store(true)
				c.end(ending{code: v.Code, reason: v.Reason, cut: cutProtocol})
			}
			deaf = ended
		}
		b = c.small[:]
		if c.in.Want() > len(b) && !deaf {
			if large == nil {
				large = make([]byte, 4<<10)
			}
			b = large
		} else {
			large = nil
		}
		n, err := c.conn.Read(b)
		if err != nil {
			return
		}
		b = b[:n]
		c.heard.Store(c.gateway.flows.clock.Load())
	}
}

// gone is called when the socket is closed, by whichever side.
func (c *connection) gone() {
	c.out.close()
	for _, s := range c.subscriptions() {
		s.end()
	}
	c.mu.Lock()
	final := c.final
	c.mu.Unlock()
	if final == nil {
		final = &ending{code: statusAbnormal}
	}
	c.gateway.departing(c, *final)
	c.limits.Release()
	if e := c.cut.Load(); e != nil { // logged here, where nobody waits
		c.gateway.logger.Info("gateway: connection cut", "endpoint", c.endpoint.path, "protocol", c.form.protocol(),
			"client", c.conn.RemoteAddr().String(), "reason", string(e.cut), "detail", e.reason)
	}
	c.gateway.forget(c)
}

// ending is why a connection ends.
type ending struct {
	code    ws.StatusCode
	reason  string
	cut     cutReason     // counted; "" if the client, or the end of the gateway, is the reason
	drop    bool          // what waits for the client is dropped
	timeout time.Duration // default closeTimeout
}

// end sends the client a close frame, or an SSE client an event that says the same, and closes the
// connection when the client has answered it, or some time has passed. Of several calls the first
// counts. It never waits, and may be called under feed.mu.
func (c *connection) end(e ending) {
	var last []byte
	if c.form.websocket() {
		last = websocket.AppendClose(nil, e.code, e.reason)
	} else {
		last = appendSSEClose(nil, int(e.code), e.reason)
	}
	if e.timeout == 0 {
		e.timeout = closeTimeout
	}
	c.mu.Lock()
	if c.final == nil {
		c.final = &e
	}
	c.mu.Unlock()
	if !c.out.finish(last, e.drop, time.Now().Add(e.timeout)) { // then read calls gone, at the latest
		return
	}
	if e.cut != "" {
		c.gateway.metrics.cut.WithLabelValues(string(e.cut)).Inc()
		c.cut.Store(&e)
	}
}

// flushed is called when the last byte is with the socket. Unless a WebSocket's client has yet to
// answer the close frame (RFC 6455, section 7.1.1), which one that broke the protocol need not, the
// sending side is closed; read goes on until the client has closed its own, since closing a socket
// with unread bytes would take back what was sent.
func (c *connection) flushed() {
	if c.form.websocket() && !c.peerDone.Load() {
		return
	}
	// Only of a bare socket is closing one side sure not to wait: TLS has a last word to send.
	if tcp := listener.Socket(c.conn); tcp == nil || tcp.CloseWrite() != nil {
		abort(c.conn)
	}
}

// cutSlow ends a connection whose queue would pass its bound. What waits is dropped: the client
// resumes from the last event that it has got.
func (c *connection) cutSlow() {
	waiting, _ := c.out.backlog()
	c.end(ending{
		code:   statusTryAgainLater,
		reason: fmt.Sprintf("too slow: %d bytes were waiting, the limit is %d; resume from the last id", waiting, c.out.limit),
		cut:    cutSlow, drop: true, timeout: slowTimeout,
	})
}

// end ends a subscription; whatever is being replayed to it stops.
func (s *subscription) end() {
	if s.stop != nil {
		s.stop()
	}
	s.feed.leave(s)
}

// tellGap says that events are gone, as well as the form allows; put hands it over.
func (s *subscription) tellGap(id []byte, partition string, gap *millrace.Gap, put func([]byte, bool) verdict) {
	s.endpoint.gaps.Inc()
	if s.form == plain {
		s.c.end(ending{
			code:   statusGap,
			reason: fmt.Sprintf("gap (%s): events are gone before they could be sent; connect again", gap.Reason),
			cut:    cutGap,
		})
		return
	}
	if put(s.appendGap(nil, string(id), partition, gap), false) == refused {
		s.c.cutSlow()
	}
}

// Ping implements websocket.Receiver.
func (c *connection) Ping(payload []byte) {
	pong := append(websocket.AppendHeader(make([]byte, 0, 2+len(payload)), ws.OpPong, len(payload)), payload...)
	if c.out.send(pong, false) == refused {
		c.cutSlow()
	}
}

// Pong implements websocket.Receiver. That something came is noted already.
func (c *connection) Pong([]byte) {}

// CloseFrame implements websocket.Receiver: answers with the same code, unless this is the answer.
func (c *connection) CloseFrame(code ws.StatusCode) {
	c.peerDone.Store(true)
	c.end(ending{code: code})
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	if c.out.finished {
		c.flushed()
	}
}

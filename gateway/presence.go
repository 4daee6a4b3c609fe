package gateway

import (
	"context"
	"encoding/json"
	"time"

	"github.com/gobwas/ws"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/gateway/apigateway"
	"github.com/millrace/millrace/producer"
	"github.com/millrace/millrace/table"
)

// Presence says where events about connections go.
type Presence struct {
	// Into is a stream. Each connection that comes writes an event of type connect with its id as key; when it is
	// gone, one of type disconnect, which ends the key. So the newest event of each key (latest: true at an
	// endpoint) is who is connected, and queries and archives can use them all. If this program dies, the
	// events of type disconnect of all who were connected are written by its next start.
	Into string `yaml:"into"`
}

// presence is the journal of connections: what it says of one that came is durable before $connect is called, and
// what it says of one that is gone is written after $disconnect has been delivered. So after a crash the
// connections that it has open are those that $disconnect has yet to be told of.
type presence struct {
	into millrace.Stream
	feed *feed // keeps the table of those that are connected
	out  *producer.Producer
}

// presenceProducer is the name of the journal's producer.
const presenceProducer = "gateway/connections"

// record is the data of a presence event.
type record struct {
	Connection string    `json:"connection"`
	Endpoint   string    `json:"endpoint"`
	Protocol   string    `json:"protocol"`
	Remote     string    `json:"remote,omitempty"`
	Subject    string    `json:"subject,omitempty"`
	Connected  time.Time `json:"connected_at"`
	// Of a disconnect.
	Code   int    `json:"code,omitempty"` // of the close frame; 1006: there was none
	Reason string `json:"reason,omitempty"`
	// API is what $disconnect is told; only of endpoints of this kind.
	API *apigateway.Info `json:"api,omitempty"`
}

// statusAbnormal is how a connection ends that has no close frame (RFC 6455, section 7.4.1).
const statusAbnormal ws.StatusCode = 1006

// open takes the producer over; run must run next.
func (p *presence) open(ctx context.Context, o Options) (err error) {
	p.out, err = producer.Open(ctx, producer.Config{
		Name: presenceProducer, Into: p.into, Dead: o.Dead, Metrics: o.ProducerMetrics, Step: o.Step, Logger: o.Logger,
	})
	return err
}

// record describes the connection.
func (c *connection) record() record {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := record{
		Connection: c.id, Endpoint: c.endpoint.path, Protocol: c.form.protocol(),
		Subject: c.who.identity.Subject, Connected: c.begun.UTC(),
	}
	if c.remote.IsValid() {
		r.Remote = c.remote.String()
	}
	if c.api != nil {
		r.Protocol, r.API = "apigateway", &c.api.info
	}
	return r
}

// connected writes that a connection is coming; durable says to wait until that is durable.
func (p *presence) connected(ctx context.Context, r record, durable bool) error {
	if err := p.emit(ctx, r, "connect", r.Connected); err != nil || !durable {
		return err
	}
	return p.out.Flush(ctx)
}

// gone writes that a connection is gone.
func (p *presence) gone(ctx context.Context, r record, at time.Time) error {
	return p.emit(ctx, r, "disconnect", at)
}

func (p *presence) emit(ctx context.Context, r record, kind string, at time.Time) error {
	data, err := json.Marshal(r)
	if err != nil {
		return millrace.Errorf(millrace.Internal, "encode a presence event", "%w", err)
	}
	return p.out.Emit(ctx, []millrace.Event{{
		ID: r.Connection + "#" + kind, Key: r.Connection, Type: kind, Time: at, Deleted: kind == "disconnect", Data: data,
	}}, "")
}

// left returns what the journal has open of an earlier life.
func (p *presence) left() (records []record) {
	p.feed.mu.Lock()
	rows := p.feed.table.AppendRows(nil)
	p.feed.mu.Unlock()
	table.Sort(rows)
	for _, row := range rows {
		var r record
		if row.Event.Type == "connect" && json.Unmarshal(row.Event.Data, &r) == nil && r.Connection == row.Event.Key {
			records = append(records, r)
		}
	}
	return records
}

// settle ends what an earlier life has left: it tells $disconnect, and then the journal.
func (g *Gateway) settle(ctx context.Context, records []record) {
	if len(records) == 0 {
		return
	}
	g.logger.Info("gateway: connections of an earlier run are gone", "connections", len(records))
	for _, r := range records {
		r.Code, r.Reason = int(statusAbnormal), "the gateway has died"
		g.tell(ctx, departure{r, time.Now()})
	}
}

// departure is the end of a connection, which those concerned have yet to be told of.
type departure struct {
	record record
	at     time.Time
}

// mostPostponed bounds the departures that wait for a place among those that are being told, some 500 bytes each. Beyond
// it they are left for the next start.
const mostPostponed = 1 << 17

// tell tells those concerned without waiting for them, or later if too many are being told already.
func (g *Gateway) tell(ctx context.Context, d departure) {
	if e := g.endpoints[d.record.Endpoint]; d.record.API != nil && e != nil && e.api != nil && e.deliverer.Room() == 0 {
		g.postpone(d)
		return
	}
	g.departures.Go(func() { g.depart(ctx, d) })
}

// postpone keeps a departure for tellPostponed.
func (g *Gateway) postpone(d departure) {
	g.mu.Lock()
	fits := len(g.postponed) < mostPostponed
	if fits {
		g.postponed = append(g.postponed, d)
	}
	g.mu.Unlock()
	if !fits {
		g.overflow.Do(func() {
			g.logger.Error("gateway: so many ends of connections wait for $disconnect that further ones are left for the next start",
				"waiting", mostPostponed)
		})
	}
}

// tellPostponed tells what was postponed, as there is room, until ctx ends. What is left then is told after the next
// start.
func (g *Gateway) tellPostponed(ctx context.Context) {
	const every = 250 * time.Millisecond
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		g.mu.Lock()
		all := g.postponed
		g.postponed = nil
		g.mu.Unlock()
		for _, d := range all {
			g.tell(g.life, d) // or postpones it again
		}
	}
}

// depart tells $disconnect, if there is one, and the journal that a connection is gone. What cannot be told
// before ctx ends is left for the next start.
func (g *Gateway) depart(ctx context.Context, d departure) {
	r := d.record
	if e := g.endpoints[r.Endpoint]; r.API != nil && e != nil && e.api != nil {
		if err := e.deliverer.Deliver(ctx, *r.API, r.Code, r.Reason); err != nil {
			if ctx.Err() == nil {
				g.postpone(d)
				return
			}
			g.logger.Debug("gateway: $disconnect is left for the next start", "connection", r.Connection, "error", err)
			return
		}
	}
	if err := g.presence.gone(ctx, r, d.at); err != nil && ctx.Err() == nil {
		g.logger.Warn("gateway: the end of a connection is not written", "connection", r.Connection, "error", err)
	}
}

// announce writes that a connection comes, and asks $connect. It returns false if it has answered the request.
func (g *Gateway) announce(a *arrival) bool {
	c := a.c
	if c.endpoint.api != nil {
		return g.askConnect(a)
	}
	if g.presence == nil {
		return true
	}
	if err := g.presence.connected(a.r.Context(), c.record(), false); err != nil {
		g.refuse(a.w, 503, "the connection cannot be entered into the journal at the moment")
		return false
	}
	return true
}

// retract writes that an announced connection has not come about.
func (g *Gateway) retract(a *arrival) {
	g.departing(a.c, ending{code: statusAbnormal, reason: "the connection did not come about"})
}

// departing tells those concerned that a connection is gone, without waiting for them.
func (g *Gateway) departing(c *connection, e ending) {
	if g.presence == nil {
		return // nobody asks; endpoints of API Gateway's kind always have a journal
	}
	r := c.record()
	if r.Code, r.Reason = int(e.code), e.reason; e.code == 0 {
		r.Code = 1005 // a close frame without a code
	}
	g.tell(g.life, departure{r, g.now()})
}

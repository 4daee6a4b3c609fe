package gateway

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/millrace/millrace/gateway/apigateway"
	"github.com/millrace/millrace/gateway/auth"
	"github.com/millrace/millrace/gateway/limit"
)

// Metrics of the gateway. The label protocol is plain, millrace.v1 or sse.
type Metrics struct {
	connections  *prometheus.GaugeVec     // endpoint, protocol
	connects     *prometheus.CounterVec   // endpoint, protocol
	refused      *prometheus.CounterVec   // status
	events       *prometheus.CounterVec   // endpoint, protocol
	bytes        *prometheus.CounterVec   // endpoint, protocol
	cut          *prometheus.CounterVec   // reason
	gaps         *prometheus.CounterVec   // endpoint
	dropped      *prometheus.CounterVec   // endpoint
	replays      *prometheus.CounterVec   // endpoint
	replaying    prometheus.Gauge         //
	replayBlocks *prometheus.CounterVec   // from
	replayCache  prometheus.Gauge         //
	queued       prometheus.Gauge         //
	lag          *prometheus.HistogramVec // endpoint

	auth   *auth.Metrics
	limits *limit.Metrics
	apis   *apigateway.Metrics
}

// NewMetrics registers the gateway's metrics with reg; with nil they work unregistered.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "millrace_gateway_" + name, Help: help}, labels)
	}
	m := &Metrics{
		auth: auth.NewMetrics(reg), limits: limit.NewMetrics(reg), apis: apigateway.NewMetrics(reg),
		connections: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "millrace_gateway_connections", Help: "Clients that are connected.",
		}, []string{"endpoint", "protocol"}),
		connects: counter("connects_total", "Clients that have connected.", "endpoint", "protocol"),
		refused:  counter("refused_total", "Requests to an endpoint that got no connection, by HTTP status.", "status"),
		events:   counter("events_total", "Events handed to connections, once for each connection.", "endpoint", "protocol"),
		bytes:    counter("bytes_total", "Bytes handed to connections, framing included.", "endpoint", "protocol"),
		cut: counter("cut_total", "Connections that the gateway ended: slow (the queue was full), stalled (took no byte), "+
			"silent (no pong), protocol (malformed frames), gap (a plain connection cannot be told), unavailable (the stream), "+
			"unauthorized (the token has expired, or none came).", "reason"),
		gaps:    counter("gaps_total", "Gaps that clients were told of.", "endpoint"),
		dropped: counter("dropped_total", "Events handed to connections and dropped again: the client was too slow.", "endpoint"),
		replays: counter("replays_total", "Connections that resumed from a position or a time.", "endpoint"),
		replaying: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "millrace_gateway_replaying", Help: "Connections that have not caught up with the stream yet.",
		}),
		replayBlocks: counter("replay_blocks_total", "Blocks for connections that resume: from the stream, once for all who "+
			"need them at that time, and from the cache, once for each connection.", "from"),
		replayCache: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "millrace_gateway_replay_cache_bytes", Help: "Memory that is taken by recent blocks and what was made of them.",
		}),
		queued: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "millrace_gateway_queue_bytes", Help: "Bytes that wait for sockets, over all connections.",
		}),
		lag: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "millrace_gateway_lag_seconds",
			Help:    "From when the stream stored a block until its last event was handed to the last connection.",
			Buckets: []float64{.0002, .0005, .001, .002, .005, .01, .02, .05, .1, .25, 1, 5, 30},
		}, []string{"endpoint"}),
	}
	if reg != nil {
		reg.MustRegister(m.connections, m.connects, m.refused, m.events, m.bytes, m.cut, m.gaps, m.dropped, m.replays,
			m.replaying, m.replayBlocks, m.replayCache, m.queued, m.lag)
	}
	return m
}

// cutReason is why the gateway ended a connection.
type cutReason string

const (
	cutSlow        cutReason = "slow"
	cutStalled     cutReason = "stalled"
	cutSilent      cutReason = "silent"
	cutProtocol    cutReason = "protocol"
	cutGap         cutReason = "gap"
	cutUnavailable cutReason = "unavailable"

	cutUnauthorized cutReason = "unauthorized"
)

// Forget removes the metrics of an endpoint that is gone for good.
func (m *Metrics) Forget(endpoint string) {
	for _, vector := range []interface{ DeletePartialMatch(prometheus.Labels) int }{
		m.connections, m.connects, m.events, m.bytes, m.gaps, m.dropped, m.replays, m.lag,
	} {
		vector.DeletePartialMatch(prometheus.Labels{"endpoint": endpoint})
	}
	m.apis.Forget(endpoint)
}

// measure looks up the instances of an endpoint's metrics.
func (e *endpoint) measure(m *Metrics) {
	e.lag = m.lag.WithLabelValues(e.path)
	e.gaps = m.gaps.WithLabelValues(e.path)
	e.dropped = m.dropped.WithLabelValues(e.path)
	e.replays = m.replays.WithLabelValues(e.path)
	for f := range formsCount {
		p := f.protocol()
		e.traffic[f] = traffic{
			connections: m.connections.WithLabelValues(e.path, p),
			connects:    m.connects.WithLabelValues(e.path, p),
			events:      m.events.WithLabelValues(e.path, p),
			bytes:       m.bytes.WithLabelValues(e.path, p),
		}
	}
}

package sse

import "github.com/prometheus/client_golang/prometheus"

// Metrics are those of all SSE sources of a process; the label source is the source's name.
type Metrics struct {
	events     *prometheus.CounterVec // emitted, and rejected for their size
	bytes      *prometheus.CounterVec // of bodies as they came off the wire
	dropped    *prometheus.CounterVec // by reason: type, repeat, canary
	reconnects *prometheus.CounterVec // by reason: how the connection before ended
	alarms     *prometheus.CounterVec
	gaps       *prometheus.CounterVec
	gapSeconds *prometheus.CounterVec
	replaced   *prometheus.CounterVec
	connected  *prometheus.GaugeVec
	last       *prometheus.GaugeVec
}

// NewMetrics registers the metrics. A nil registerer leaves them unregistered but usable.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
		if reg != nil {
			reg.MustRegister(v)
		}
		return v
	}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		v := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
		if reg != nil {
			reg.MustRegister(v)
		}
		return v
	}
	return &Metrics{
		events: counter("millrace_source_events_total",
			"Events that arrived and were handed on.", "source"),
		bytes: counter("millrace_source_bytes_total",
			"Bytes of the feed as they arrived, before decompression.", "source"),
		dropped: counter("millrace_source_dropped_total",
			"Events that were dropped: type (not configured), repeat (sent again after a reconnect), canary (dropped by drop).", "source", "reason"),
		reconnects: counter("millrace_source_reconnects_total",
			"Connections that ended and were followed by another, by how they ended.", "source", "reason"),
		alarms: counter("millrace_source_alarms_total",
			"Answers that need a person: 401, 403, 404, 410, a wrong content type and the like.", "source"),
		gaps: counter("millrace_source_gaps_total",
			"Times without a feed that cannot resume: what it sent meanwhile is lost.", "source"),
		gapSeconds: counter("millrace_source_gap_seconds_total",
			"How long these times were together.", "source"),
		replaced: counter("millrace_source_replaced_connections_total",
			"Connections that were replaced before their end, at max_connection.", "source"),
		connected: gauge("millrace_source_connected",
			"1 while the feed is connected.", "source"),
		last: gauge("millrace_source_last_event_timestamp_seconds",
			"When the newest event arrived.", "source"),
	}
}

// Forget removes the metrics of a source that is gone for good.
func (m *Metrics) Forget(source string) {
	for _, vector := range []interface{ DeletePartialMatch(prometheus.Labels) int }{
		m.events, m.bytes, m.dropped, m.reconnects, m.alarms, m.gaps, m.gapSeconds, m.replaced, m.connected, m.last,
	} {
		vector.DeletePartialMatch(prometheus.Labels{"source": source})
	}
}

// instruments are the metrics of one source.
type instruments struct {
	events, bytes, wrongType, repeats, canaries, alarms prometheus.Counter
	gaps, gapSeconds, replaced                          prometheus.Counter
	reconnects                                          *prometheus.CounterVec
	connected, last                                     prometheus.Gauge
}

func (m *Metrics) of(source string) instruments {
	return instruments{
		events:     m.events.WithLabelValues(source),
		bytes:      m.bytes.WithLabelValues(source),
		wrongType:  m.dropped.WithLabelValues(source, "type"),
		repeats:    m.dropped.WithLabelValues(source, "repeat"),
		canaries:   m.dropped.WithLabelValues(source, "canary"),
		gaps:       m.gaps.WithLabelValues(source),
		gapSeconds: m.gapSeconds.WithLabelValues(source),
		replaced:   m.replaced.WithLabelValues(source),
		alarms:     m.alarms.WithLabelValues(source),
		reconnects: m.reconnects.MustCurryWith(prometheus.Labels{"source": source}),
		connected:  m.connected.WithLabelValues(source),
		last:       m.last.WithLabelValues(source),
	}
}

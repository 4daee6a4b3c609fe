package query

import "github.com/prometheus/client_golang/prometheus"

// Metrics are shared by all queries of a process, told apart by the label query.
type Metrics struct {
	events, results, late, rejected, replayed, snapshots *prometheus.CounterVec
	gaps                                                 *prometheus.CounterVec
	lag, keys, snapshotBytes                             *prometheus.GaugeVec
}

// NewMetrics returns metrics registered with reg; with nil they count unseen.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, append([]string{"query"}, labels...))
	}
	gauge := func(name, help string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, []string{"query", "partition"})
	}
	m := &Metrics{
		events:        counter("millrace_query_events_total", "Events evaluated, those replayed not among them."),
		results:       counter("millrace_query_results_total", "Results emitted."),
		late:          counter("millrace_query_late_total", "Events ignored because a later one of their key had come before."),
		rejected:      counter("millrace_query_rejected_total", "Events that could not be processed and became dead letters."),
		replayed:      counter("millrace_query_replayed_events_total", "Events read again to restore the state after a start."),
		snapshots:     counter("millrace_query_snapshots_total", "Snapshots saved."),
		gaps:          counter("millrace_query_gaps_total", "Gaps in the input.", "reason"),
		lag:           gauge("millrace_query_lag_seconds", "From when the newest evaluated block was stored until it was evaluated."),
		keys:          gauge("millrace_query_keys", "Keys in the state."),
		snapshotBytes: gauge("millrace_query_snapshot_bytes", "Size of the newest snapshot."),
	}
	if reg != nil {
		reg.MustRegister(m.events, m.results, m.late, m.rejected, m.replayed, m.snapshots, m.gaps, m.lag, m.keys, m.snapshotBytes)
	}
	return m
}

// Forget removes the metrics of a query that is gone for good.
func (m *Metrics) Forget(query string) {
	for _, vector := range []interface{ DeletePartialMatch(prometheus.Labels) int }{
		m.events, m.results, m.late, m.rejected, m.replayed, m.snapshots, m.gaps, m.lag, m.keys, m.snapshotBytes,
	} {
		vector.DeletePartialMatch(prometheus.Labels{"query": query})
	}
}

// instruments are one task's metrics.
type instruments struct {
	events, results, late, rejected, replayed, snapshots prometheus.Counter
	gaps                                                 *prometheus.CounterVec
	lag, keys, snapshotBytes                             prometheus.Gauge
}

func (m *Metrics) of(query, partition string) instruments {
	return instruments{
		events:        m.events.WithLabelValues(query),
		results:       m.results.WithLabelValues(query),
		late:          m.late.WithLabelValues(query),
		rejected:      m.rejected.WithLabelValues(query),
		replayed:      m.replayed.WithLabelValues(query),
		snapshots:     m.snapshots.WithLabelValues(query),
		gaps:          m.gaps.MustCurryWith(prometheus.Labels{"query": query}),
		lag:           m.lag.WithLabelValues(query, partition),
		keys:          m.keys.WithLabelValues(query, partition),
		snapshotBytes: m.snapshotBytes.WithLabelValues(query, partition),
	}
}

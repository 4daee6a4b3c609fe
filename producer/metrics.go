package producer

import "github.com/prometheus/client_golang/prometheus"

// Metrics are shared by all producers of a process, told apart by the label producer.
type Metrics struct {
	events, bytes, flushes  *prometheus.CounterVec
	letters                 *prometheus.CounterVec
	retries, recovered      *prometheus.CounterVec
	appends                 *prometheus.HistogramVec
	queueEvents, queueBytes *prometheus.GaugeVec
}

// NewMetrics returns metrics registered with reg; with nil they count unseen.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	labels := []string{"producer"}
	counter := func(name, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	gauge := func(name, help string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
	}
	m := &Metrics{
		events:    counter("millrace_producer_events_total", "Events that became durable, dead letters not among them."),
		bytes:     counter("millrace_producer_bytes_total", "Bytes that became durable, before compression."),
		flushes:   counter("millrace_producer_flushes_total", "Flushes committed."),
		retries:   counter("millrace_producer_retries_total", "Appends tried again after a failure or an unknown outcome."),
		recovered: counter("millrace_producer_recovered_total", "Events not written again because an earlier life had written them."),
		letters:   counter("millrace_dead_letters_total", "Inputs that became dead letters."),
		appends: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "millrace_producer_append_seconds",
			Help:    "From handing a block to the stream until it is durable, retries included.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2, 18), // 0.1 ms to 13 s
		}, labels),
		queueEvents: gauge("millrace_producer_queue_events", "Events gathered and not yet durable."),
		queueBytes:  gauge("millrace_producer_queue_bytes", "Bytes gathered and not yet durable."),
	}
	if reg != nil {
		reg.MustRegister(m.events, m.bytes, m.flushes, m.retries, m.recovered, m.letters, m.appends, m.queueEvents, m.queueBytes)
	}
	return m
}

// Forget removes the metrics of a producer that is gone for good.
func (m *Metrics) Forget(producer string) {
	for _, vector := range []interface{ DeletePartialMatch(prometheus.Labels) int }{
		m.events, m.bytes, m.flushes, m.letters, m.retries, m.recovered, m.appends, m.queueEvents, m.queueBytes,
	} {
		vector.DeletePartialMatch(prometheus.Labels{"producer": producer})
	}
}

// instruments are one producer's metrics.
type instruments struct {
	events, bytes, flushes, retries, recovered, letters prometheus.Counter
	appends                                             prometheus.Observer
	queueEvents, queueBytes                             prometheus.Gauge
}

func (m *Metrics) of(producer string) instruments {
	return instruments{
		events:      m.events.WithLabelValues(producer),
		bytes:       m.bytes.WithLabelValues(producer),
		flushes:     m.flushes.WithLabelValues(producer),
		retries:     m.retries.WithLabelValues(producer),
		recovered:   m.recovered.WithLabelValues(producer),
		letters:     m.letters.WithLabelValues(producer),
		appends:     m.appends.WithLabelValues(producer),
		queueEvents: m.queueEvents.WithLabelValues(producer),
		queueBytes:  m.queueBytes.WithLabelValues(producer),
	}
}

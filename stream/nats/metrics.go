package nats

import "github.com/prometheus/client_golang/prometheus"

// Metrics of an engine's streams, by stream.
type Metrics struct {
	appendSeconds *prometheus.HistogramVec
	appendBytes   *prometheus.CounterVec
	blocks        *prometheus.CounterVec
	events        *prometheus.CounterVec
	bytes         *prometheus.GaugeVec
	trimmed       *prometheus.CounterVec
	full          *prometheus.CounterVec
	lost          *prometheus.CounterVec
	free          prometheus.Gauge
}

// NewMetrics returns metrics registered with reg, or unregistered if reg is nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	stream := []string{"stream"}
	counter := func(name, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "millrace_stream_" + name, Help: help}, stream)
	}
	m := &Metrics{
		appendSeconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "millrace_stream_append_seconds",
			Help:    "Time from an append to its durable acknowledgement.",
			Buckets: prometheus.ExponentialBuckets(100e-6, 2, 16), // 0.1 ms to 3.3 s
		}, stream),
		appendBytes: counter("append_bytes_total", "Bytes of the blocks appended."),
		blocks:      counter("blocks_total", "Blocks appended."),
		events:      counter("events_total", "Events in the blocks appended."),
		bytes: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "millrace_stream_bytes", Help: "Bytes stored.",
		}, stream),
		trimmed: counter("trimmed_blocks_total", "Blocks dropped by retention."),
		full:    counter("full_total", "Appends refused because the stream or the disk was full."),
		lost:    counter("lost_ranges_total", "Ranges of blocks that readers found missing: damage to the store."),
		free: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "millrace_stream_disk_free_bytes", Help: "Free space of the embedded engine's file system.",
		}),
	}
	if reg != nil {
		reg.MustRegister(m.appendSeconds, m.appendBytes, m.blocks, m.events, m.bytes, m.trimmed, m.full, m.lost, m.free)
	}
	return m
}

// Forget removes the metrics of a stream that is not open any more.
func (m *Metrics) Forget(stream string) {
	for _, vector := range []interface{ DeletePartialMatch(prometheus.Labels) int }{
		m.appendSeconds, m.appendBytes, m.blocks, m.events, m.bytes, m.trimmed, m.full, m.lost,
	} {
		vector.DeletePartialMatch(prometheus.Labels{"stream": stream})
	}
}

// streamMetrics are those of one stream.
type streamMetrics struct {
	appendSeconds                                    prometheus.Observer
	appendBytes, blocks, events, trimmed, full, lost prometheus.Counter
	bytes                                            prometheus.Gauge
}

func (m *Metrics) of(stream string) streamMetrics {
	return streamMetrics{
		appendSeconds: m.appendSeconds.WithLabelValues(stream),
		appendBytes:   m.appendBytes.WithLabelValues(stream),
		blocks:        m.blocks.WithLabelValues(stream),
		events:        m.events.WithLabelValues(stream),
		trimmed:       m.trimmed.WithLabelValues(stream),
		full:          m.full.WithLabelValues(stream),
		lost:          m.lost.WithLabelValues(stream),
		bytes:         m.bytes.WithLabelValues(stream),
	}
}

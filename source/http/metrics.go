package httpsource

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are those of all HTTP sources of a process; the label source is the source's name, and "" for
// requests that reach none.
type Metrics struct {
	requests   *prometheus.CounterVec // by code
	events     *prometheus.CounterVec // durable
	rejected   *prometheus.CounterVec // inputs answered with a reason
	duplicates *prometheus.CounterVec // requests recognised by their keys
	bytes      *prometheus.CounterVec // of bodies as they were sent
	inFlight   *prometheus.GaugeVec
	keys       *prometheus.GaugeVec
	seconds    *prometheus.HistogramVec
}

// NewMetrics registers the metrics. A nil registerer leaves them unregistered but usable.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, append([]string{"source"}, labels...))
	}
	gauge := func(name, help string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, []string{"source"})
	}
	m := &Metrics{
		requests:   counter("millrace_http_requests_total", "Requests answered, by status code.", "code"),
		events:     counter("millrace_http_events_total", "Events that were posted and became durable."),
		rejected:   counter("millrace_http_rejected_total", "Inputs that were wrong and answered with a reason."),
		duplicates: counter("millrace_http_duplicates_total", "Requests that were recognised as sent before."),
		bytes:      counter("millrace_http_bytes_total", "Bytes of bodies as they were sent, before decompression."),
		inFlight:   gauge("millrace_http_in_flight", "Requests that are being read or wait until they are durable."),
		keys:       gauge("millrace_http_idempotency_keys", "Idempotency keys that are remembered."),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "millrace_http_seconds",
			Help:    "From a request's headers to its answer.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 17), // 0.5 ms to 33 s
		}, []string{"source"}),
	}
	if reg != nil {
		reg.MustRegister(m.requests, m.events, m.rejected, m.duplicates, m.bytes, m.inFlight, m.keys, m.seconds)
	}
	return m
}

// Forget removes the metrics of a source that is gone for good.
func (m *Metrics) Forget(source string) {
	for _, vector := range []interface{ DeletePartialMatch(prometheus.Labels) int }{
		m.requests, m.events, m.rejected, m.duplicates, m.bytes, m.inFlight, m.keys, m.seconds,
	} {
		vector.DeletePartialMatch(prometheus.Labels{"source": source})
	}
}

// instruments are the metrics of one source.
type instruments struct {
	requests                            *prometheus.CounterVec
	ok                                  prometheus.Counter // requests of code 200
	events, rejected, duplicates, bytes prometheus.Counter
	inFlight, keys                      prometheus.Gauge
	seconds                             prometheus.Observer
}

func (m *Metrics) of(source string) instruments {
	requests := m.requests.MustCurryWith(prometheus.Labels{"source": source})
	return instruments{
		requests:   requests,
		ok:         requests.WithLabelValues("200"),
		events:     m.events.WithLabelValues(source),
		rejected:   m.rejected.WithLabelValues(source),
		duplicates: m.duplicates.WithLabelValues(source),
		bytes:      m.bytes.WithLabelValues(source),
		inFlight:   m.inFlight.WithLabelValues(source),
		keys:       m.keys.WithLabelValues(source),
		seconds:    m.seconds.WithLabelValues(source),
	}
}

func (i *instruments) answered(code int) {
	if code == 200 {
		i.ok.Inc()
		return
	}
	i.requests.WithLabelValues(strconv.Itoa(code)).Inc()
}

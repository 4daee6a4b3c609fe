package apigateway

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics of all API Gateway endpoints of a gateway.
type Metrics struct {
	calls       *prometheus.CounterVec   // endpoint, route, outcome
	seconds     *prometheus.HistogramVec // endpoint, route
	inFlight    *prometheus.GaugeVec     // endpoint
	unrouted    *prometheus.CounterVec   // endpoint
	management  *prometheus.CounterVec   // endpoint, operation, status
	disconnects *prometheus.CounterVec   // endpoint, outcome
	waiting     *prometheus.GaugeVec     // endpoint
}

// NewMetrics registers the metrics with reg; with nil they work unregistered.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	const prefix = "millrace_gateway_apigateway_"
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: prefix + name, Help: help}, labels)
	}
	gauge := func(name, help string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: prefix + name, Help: help}, []string{"endpoint"})
	}
	m := &Metrics{
		calls: counter("integrations_total", "Calls of integrations: ok, denied ($connect refused the connection), "+
			"failed (no answer, or one that says so), timeout.", "endpoint", "route", "outcome"),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: prefix + "integration_seconds", Help: "How long calls of integrations took, waiting for their turn included.",
			Buckets: []float64{.001, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"endpoint", "route"}),
		inFlight: gauge("integrations_in_flight", "Calls of integrations that are under way."),
		unrouted: counter("unrouted_total", "Messages that no route took.", "endpoint"),
		management: counter("management_total", "Requests to the management API, by operation (post, get, delete, list, "+
			"post_key, post_all, other) and HTTP status.", "endpoint", "operation", "status"),
		disconnects: counter("disconnects_total", "Ends of connections that $disconnect was told of (delivered), refused "+
			"to hear of (refused), or never heard of in all the time that there was (given_up).", "endpoint", "outcome"),
		waiting: gauge("disconnects_waiting", "Ends of connections that $disconnect has not been told of yet."),
	}
	if reg != nil {
		reg.MustRegister(m.calls, m.seconds, m.inFlight, m.unrouted, m.management, m.disconnects, m.waiting)
	}
	return m
}

// Forget removes the metrics of an endpoint that is gone for good.
func (m *Metrics) Forget(endpoint string) {
	for _, vector := range []interface{ DeletePartialMatch(prometheus.Labels) int }{
		m.calls, m.seconds, m.inFlight, m.unrouted, m.management, m.disconnects, m.waiting,
	} {
		vector.DeletePartialMatch(prometheus.Labels{"endpoint": endpoint})
	}
}

// outcome of a call of an integration.
type outcome string

const (
	outcomeOK      outcome = "ok"
	outcomeDenied  outcome = "denied"
	outcomeFailed  outcome = "failed"
	outcomeTimeout outcome = "timeout"
)

// measures are the metrics of one endpoint.
type measures struct {
	*Metrics
	endpoint string
}

func (m *Metrics) of(endpoint string) *measures { return &measures{Metrics: m, endpoint: endpoint} }

// routeMeasures are the metrics of one route. Routes come from the configuration, so there are few.
type routeMeasures struct {
	outcomes map[outcome]prometheus.Counter
	seconds  prometheus.Observer
	inFlight prometheus.Gauge
}

func (m *measures) route(key string) *routeMeasures {
	r := &routeMeasures{
		outcomes: map[outcome]prometheus.Counter{},
		seconds:  m.seconds.WithLabelValues(m.endpoint, key), inFlight: m.inFlight.WithLabelValues(m.endpoint),
	}
	for _, o := range []outcome{outcomeOK, outcomeDenied, outcomeFailed, outcomeTimeout} {
		r.outcomes[o] = m.calls.WithLabelValues(m.endpoint, key, string(o))
	}
	return r
}

func (r *routeMeasures) called(o outcome, took time.Duration) {
	r.outcomes[o].Inc()
	r.seconds.Observe(took.Seconds())
}

func (m *measures) managed(operation string, status int) {
	m.management.WithLabelValues(m.endpoint, operation, strconv.Itoa(status)).Inc()
}

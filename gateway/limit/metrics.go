package limit

import "github.com/prometheus/client_golang/prometheus"

// Metrics of limits.
type Metrics struct {
	limited *prometheus.CounterVec // what, scope
}

// NewMetrics registers the metrics with reg; with nil they work unregistered.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{limited: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "millrace_gateway_limited_total",
		Help: "What was refused for a limit (what: connections, subscriptions, messages), by whose it is (scope: connection, address, token).",
	}, []string{"what", "scope"})}
	if reg != nil {
		reg.MustRegister(m.limited)
	}
	return m
}

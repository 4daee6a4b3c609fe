package auth

import "github.com/prometheus/client_golang/prometheus"

// Metrics of who may connect.
type Metrics struct {
	decisions *prometheus.CounterVec // result, kind
	refreshes *prometheus.CounterVec // result
	keys      prometheus.Gauge
	asked     prometheus.Histogram
	cached    prometheus.Counter
}

// Kinds of decisions.
const (
	kindKey      = "key"
	kindJWT      = "jwt"
	kindCallback = "callback"
	kindNone     = "none" // there was no token, or none that could be looked at
)

// NewMetrics registers the metrics with reg; with nil they work unregistered.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "millrace_gateway_auth_total",
			Help: "Clients that were let in or not (result: allowed, denied, unavailable), by what decided (kind: key, jwt, callback, none).",
		}, []string{"result", "kind"}),
		refreshes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "millrace_gateway_auth_jwks_refreshes_total", Help: "Fetches of a key set, by result: ok, failed.",
		}, []string{"result"}),
		keys: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "millrace_gateway_auth_jwks_keys", Help: "Keys in use of the key set that was fetched last.",
		}),
		asked: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "millrace_gateway_auth_callback_seconds", Help: "How long the callback took to answer, or not to.",
			Buckets: []float64{.001, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}),
		cached: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "millrace_gateway_auth_callback_cached_total", Help: "Questions to the callback that an earlier answer has settled.",
		}),
	}
	if reg != nil {
		reg.MustRegister(m.decisions, m.refreshes, m.keys, m.asked, m.cached)
	}
	return m
}

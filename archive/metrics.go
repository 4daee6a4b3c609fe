package archive

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics of all archives, by name.
type Metrics struct {
	events, objects, bytes *prometheus.CounterVec
	errors, retries        *prometheus.CounterVec
	gaps, undecodable      *prometheus.CounterVec
	lag                    *lagCollector
}

// NewMetrics returns the metrics, registered if reg is not nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "millrace", Subsystem: "archive", Name: name, Help: help,
		}, append([]string{"archive"}, labels...))
		if reg != nil {
			reg.MustRegister(c)
		}
		return c
	}
	m := &Metrics{
		events:  counter("events_total", "Events archived."),
		objects: counter("objects_total", "Objects put, error objects included."),
		bytes: counter("bytes_total", "Bytes archived: in, as encoded before compression, and out, as stored.",
			"direction"),
		errors:      counter("errors_total", "Failures of the object store, the stream or the state, each try counted."),
		retries:     counter("retries_total", "Tries after a failure."),
		gaps:        counter("gaps_total", "Ranges of positions that were gone before they could be archived."),
		undecodable: counter("undecodable_blocks_total", "Blocks that did not decode; their bytes are in error objects."),
		lag: &lagCollector{
			desc: prometheus.NewDesc("millrace_archive_lag_seconds",
				"Age of the oldest event that was read and is not archived; 0 if there is none.", []string{"archive"}, nil),
			archives: map[string]*lag{},
		},
	}
	if reg != nil {
		reg.MustRegister(m.lag)
	}
	return m
}

func (m *Metrics) start(archive string, now func() time.Time) {
	m.lag.mu.Lock()
	m.lag.archives[archive] = &lag{now: now, oldest: map[string]time.Time{}}
	m.lag.mu.Unlock()
	// Shown from the start, as zeros.
	for _, c := range []*prometheus.CounterVec{m.events, m.objects, m.errors, m.retries, m.gaps, m.undecodable} {
		c.WithLabelValues(archive)
	}
	m.bytes.WithLabelValues(archive, "in")
	m.bytes.WithLabelValues(archive, "out")
}

func (m *Metrics) stop(archive string) {
	m.lag.mu.Lock()
	defer m.lag.mu.Unlock()
	delete(m.lag.archives, archive)
}

// Forget removes the metrics of an archive that is gone for good.
func (m *Metrics) Forget(archive string) {
	for _, vector := range []interface{ DeletePartialMatch(prometheus.Labels) int }{
		m.events, m.objects, m.bytes, m.errors, m.retries, m.gaps, m.undecodable,
	} {
		vector.DeletePartialMatch(prometheus.Labels{"archive": archive})
	}
}

// lagCollector computes lags when they are asked for, so that they grow while nothing moves.
type lagCollector struct {
	desc     *prometheus.Desc
	mu       sync.Mutex
	archives map[string]*lag
}

type lag struct {
	now    func() time.Time
	oldest map[string]time.Time // by partition; missing where there is none
}

// set says when the oldest event was stored that a partition has not archived; zero if there is none.
func (c *lagCollector) set(archive, partition string, oldest time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.archives[archive]
	switch {
	case l == nil: // Run has ended
	case oldest.IsZero():
		delete(l.oldest, partition)
	default:
		l.oldest[partition] = oldest
	}
}

// Describe implements prometheus.Collector.
func (c *lagCollector) Describe(ch chan<- *prometheus.Desc) { ch <- c.desc }

// Collect implements prometheus.Collector.
func (c *lagCollector) Collect(ch chan<- prometheus.Metric) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, l := range c.archives {
		var most time.Duration
		for _, oldest := range l.oldest {
			most = max(most, l.now().Sub(oldest))
		}
		ch <- prometheus.MustNewConstMetric(c.desc, prometheus.GaugeValue, most.Seconds(), name)
	}
}

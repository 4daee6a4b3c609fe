package main

import (
	"runtime"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/millrace/millrace/archive"
	"github.com/millrace/millrace/gateway"
	"github.com/millrace/millrace/producer"
	"github.com/millrace/millrace/query"
	httpsource "github.com/millrace/millrace/source/http"
	"github.com/millrace/millrace/source/sse"
	"github.com/millrace/millrace/stream/nats"
)

// measures are the metrics of all rooms, each made once in the life of the program.
type measures struct {
	feeds     *sse.Metrics
	posts     *httpsource.Metrics
	producers *producer.Metrics // of sources and queries
	streams   *nats.Metrics
	queries   *query.Metrics
	archives  *archive.Metrics
	gateway   *gateway.Metrics
	stages    *stageMetrics
	reloads   *reloadMetrics
}

func newMeasures(reg prometheus.Registerer) measures {
	return measures{
		feeds: sse.NewMetrics(reg), posts: httpsource.NewMetrics(reg), producers: producer.NewMetrics(reg),
		streams: nats.NewMetrics(reg), queries: query.NewMetrics(reg), archives: archive.NewMetrics(reg),
		gateway: gateway.NewMetrics(reg), stages: newStageMetrics(reg), reloads: newReloadMetrics(reg),
	}
}

// stageMetrics say how the stages are, by name.
type stageMetrics struct {
	running  *prometheus.GaugeVec
	failures *prometheus.CounterVec
}

func newStageMetrics(reg prometheus.Registerer) *stageMetrics {
	m := &stageMetrics{
		running: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "millrace_stage_running", Help: "1 while the stage runs, 0 while it does not.",
		}, []string{"stage"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "millrace_stage_failures_total", Help: "How often the stage has failed and was started again.",
		}, []string{"stage"}),
	}
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "millrace_build_info", Help: "1, with the version as labels.",
	}, []string{"version", "go"})
	build.WithLabelValues(buildVersion(), runtime.Version()).Set(1)
	if reg != nil {
		reg.MustRegister(m.running, m.failures, build)
	}
	return m
}

// expect shows a stage that is about to start; what was only planned would look like one that is down.
func (m *stageMetrics) expect(stage string) {
	m.running.WithLabelValues(stage)
	m.failures.WithLabelValues(stage)
}

// forget removes a stage that is gone for good.
func (m *stageMetrics) forget(stage string) {
	m.running.DeleteLabelValues(stage)
	m.failures.DeleteLabelValues(stage)
}

// reloadMetrics say how reloading went.
type reloadMetrics struct {
	total      *prometheus.CounterVec
	successful prometheus.Gauge
	last       prometheus.Gauge
}

// The results of a reload.
const (
	reloadOK      = "ok"      // also where nothing had changed
	reloadRefused = "refused" // everything goes on as before
)

func newReloadMetrics(reg prometheus.Registerer) *reloadMetrics {
	m := &reloadMetrics{
		total: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "millrace_reloads_total", Help: "Reloads of the configuration: ok, or refused because of a mistake in it.",
		}, []string{"result"}),
		successful: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "millrace_config_last_reload_successful", Help: "1 if the newest reload, or the start, took the configuration.",
		}),
		last: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "millrace_config_last_reload_success_timestamp_seconds", Help: "When a configuration was taken last.",
		}),
	}
	m.total.WithLabelValues(reloadOK)
	m.total.WithLabelValues(reloadRefused)
	m.successful.Set(1)
	m.last.SetToCurrentTime()
	if reg != nil {
		reg.MustRegister(m.total, m.successful, m.last)
	}
	return m
}

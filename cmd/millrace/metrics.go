package main

import (
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
)

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

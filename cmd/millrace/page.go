package main

import (
	"encoding/json"
	"net/http"
	"os"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/millrace/millrace/config"
	"github.com/millrace/millrace/console"
)

// page returns what the gateway serves at /: the live map over the first fence query whose input has an
// endpoint, nil if the configuration asks for no page.
func page(c *config.Config, streets json.RawMessage, metrics prometheus.Gatherer) http.Handler {
	if c.Gateway == nil || c.Gateway.Page != "map" {
		return nil
	}
	m := console.Map{Title: "Millrace", Streets: streets, Counters: console.DefaultCounters()}
	for _, q := range sorted(c.Queries) {
		f := q.Query.Fence
		if f == nil {
			continue
		}
		m.Positions, m.PositionsParameter = endpointOf(c, q.Query.From)
		m.Crossings, m.CrossingsParameter = endpointOf(c, q.Query.Into)
		m.Lat, m.Lon = f.Lat, f.Lon
		if fences, err := os.ReadFile(f.Fences); err == nil && json.Valid(fences) {
			m.Fences = fences
		}
		if m.Positions != "" {
			break
		}
	}
	return m.Handler(metrics)
}

// endpointOf returns the first endpoint that serves a stream, and its query parameter.
func endpointOf(c *config.Config, stream string) (route, parameter string) {
	for route, e := range sorted(c.Gateway.Endpoints) {
		if e.From == stream {
			return route, strings.TrimPrefix(e.Key, "query:")
		}
	}
	return "", ""
}

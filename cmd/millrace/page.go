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

// page returns what the gateway serves at /, nil if the configuration asks for no page.
func page(c *config.Config, metrics prometheus.Gatherer) http.Handler {
	if c.Gateway == nil || c.Gateway.Page != "map" {
		return nil
	}
	return liveMap(c).Handler(metrics)
}

// liveMap describes the map over the first fence query whose input has an endpoint.
func liveMap(c *config.Config) console.Map {
	m := console.Map{Title: "Millrace", Counters: console.DefaultCounters()}
	for _, q := range sorted(c.Queries) {
		f := q.Query.Fence
		if f == nil {
			continue
		}
		m.Positions, m.Crossings = endpointOf(c, q.Query.From), endpointOf(c, q.Query.Into)
		if e, ok := c.Gateway.Endpoints[m.Positions]; ok {
			m.Latest = e.Latest || e.Location != nil
		}
		m.Lat, m.Lon = f.Lat, f.Lon
		if fences, err := os.ReadFile(f.Fences); err == nil && json.Valid(fences) {
			m.Fences = fences
		}
		if m.Positions != "" {
			break
		}
	}
	m.Connect = m.Positions
	if m.Connect == "" {
		m.Connect = m.Crossings
	}
	for route, e := range sorted(c.Gateway.Endpoints) {
		if e.Messages && e.Auth == nil {
			m.Connect = route // without a stream of its own nothing is sent that the page has not asked for
			break
		}
	}
	return m
}

// endpointOf returns the first endpoint that serves every key of a stream, "" if there is none.
func endpointOf(c *config.Config, stream string) string {
	for route, e := range sorted(c.Gateway.Endpoints) {
		if e.From == stream && !strings.Contains(route, "{") && !strings.HasPrefix(e.Key, "claim:") {
			return route
		}
	}
	return ""
}

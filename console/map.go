// Package console is what a browser sees: the live map. Its pages need no framework, no build step and
// nothing from another host.
package console

import (
	"embed"
	"encoding/json"
	"io/fs"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/millrace/millrace/sdk/js"
)

//go:embed static
var static embed.FS

// Map describes what the live map shows.
type Map struct {
	// Title of the page.
	Title string `json:"title"`
	// Positions is the endpoint whose events move things; Crossings the one whose events are a fence
	// query's results. Either may be "": then that part of the page stays empty.
	Positions string `json:"positions"`
	Crossings string `json:"crossings"`
	// Connect is the endpoint that the page connects to, and subscribes to the others from.
	Connect string `json:"connect"`
	// Latest says that Positions can begin with the newest event of each key, so that the map is complete at once.
	Latest bool `json:"latest"`
	// Lat and Lon are dotted paths to the position in the events of Positions.
	Lat string `json:"lat"`
	Lon string `json:"lon"`
	// Fences and Streets are GeoJSON FeatureCollections, drawn below what moves; nil if there are none.
	Fences  json.RawMessage `json:"fences,omitempty"`
	Streets json.RawMessage `json:"streets,omitempty"`
	// Counters are the sums that the page shows, in this order.
	Counters []Counter `json:"counters"`
	// Demo adds what shows that nothing is lost when the program dies; nil for none.
	Demo *Demo `json:"demo,omitempty"`
}

// Demo describes a panel with a ledger of events, and a button that kills the program.
type Demo struct {
	// Kill is where the button posts to.
	Kill string `json:"kill"`
	// Kills is where {"kills":N} says how often the program has been killed and has come back.
	Kills string `json:"kills"`
	// Number is the member of the data of Positions that numbers each key's events, without a gap.
	Number string `json:"number"`
}

// Counter is the sum of a metric over all its labels.
type Counter struct {
	Name   string `json:"name"`
	Metric string `json:"-"`
}

// DefaultCounters are what the pipeline counts, in the order in which an event passes.
func DefaultCounters() []Counter {
	return []Counter{
		{"events in", "millrace_source_events_total"},
		{"stored", "millrace_producer_events_total"},
		{"archived", "millrace_archive_events_total"},
		{"crossings", "millrace_query_results_total"},
		{"clients", "millrace_gateway_connections"},
	}
}

// Handler serves the page at /, its parts below /map/, the client's modules below /map/sdk/, and the counters at
// /map/counters.
func (m Map) Handler(metrics prometheus.Gatherer) http.Handler {
	files, err := fs.Sub(static, "static")
	if err != nil {
		panic(err) // the folder is embedded
	}
	setup, err := json.Marshal(m)
	if err != nil {
		panic(err) // Fences and Streets were read as JSON
	}
	sums := &sums{metrics: metrics, counters: m.Counters}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { http.ServeFileFS(w, r, files, "map.html") })
	mux.Handle("GET /map/", http.StripPrefix("/map/", http.FileServerFS(files)))
	mux.Handle("GET /map/sdk/", http.StripPrefix("/map/sdk/", http.FileServerFS(js.Files)))
	mux.HandleFunc("GET /map/setup.json", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, setup) })
	mux.HandleFunc("GET /map/counters", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, sums.read()) })
	mux.HandleFunc("GET /favicon.ico", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	return secured(mux)
}

// secured allows the page its own files and connections, and nobody to put it into a frame.
func secured(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-cache")
		next.ServeHTTP(w, r)
	})
}

func writeJSON(w http.ResponseWriter, b []byte) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b) // the client may have gone
}

// sums gathers at most a few times a second, however many pages ask.
type sums struct {
	metrics  prometheus.Gatherer
	counters []Counter

	mu   sync.Mutex
	at   time.Time
	text []byte
}

func (s *sums) read() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.at) < 250*time.Millisecond {
		return s.text
	}
	families, _ := s.metrics.Gather() // what could be gathered is shown
	byName := map[string]float64{}
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			byName[family.GetName()] += value(metric)
		}
	}
	values := make([]float64, len(s.counters))
	for i, c := range s.counters {
		values[i] = byName[c.Metric]
	}
	s.text, _ = json.Marshal(values)
	s.at = time.Now()
	return s.text
}

func value(m *dto.Metric) float64 {
	switch {
	case m.GetCounter() != nil:
		return m.GetCounter().GetValue()
	case m.GetGauge() != nil:
		return m.GetGauge().GetValue()
	}
	return 0
}

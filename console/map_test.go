package console

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

func get(t *testing.T, h http.Handler, path string) (*http.Response, string) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	body, err := io.ReadAll(w.Result().Body)
	if err != nil {
		t.Fatal(err)
	}
	return w.Result(), string(body)
}

func TestPageNamesOnlyItsOwnFiles(t *testing.T) {
	h := Map{Title: "a city"}.Handler(prometheus.NewRegistry())
	response, page := get(t, h, "/")
	if response.StatusCode != http.StatusOK || !strings.Contains(response.Header.Get("Content-Security-Policy"), "default-src 'none'") {
		t.Fatalf("%s, policy %q", response.Status, response.Header.Get("Content-Security-Policy"))
	}
	paths := []string{"/map/view.js", "/map/ledger.js", "/map/sdk/index.js", "/map/sdk/client.js"}
	for _, match := range regexp.MustCompile(`(?:src|href)="([^"]+)"`).FindAllStringSubmatch(page, -1) {
		paths = append(paths, match[1])
	}
	if len(paths) < 6 {
		t.Fatalf("found only %q", paths)
	}
	for _, path := range paths {
		if response, body := get(t, h, path); response.StatusCode != http.StatusOK || body == "" {
			t.Errorf("%s: %s", path, response.Status)
		}
	}
	if strings.Contains(page, "://") {
		t.Error("the page names another host")
	}
	if response, _ := get(t, h, "/elsewhere"); response.StatusCode != http.StatusNotFound {
		t.Errorf("/elsewhere: %s", response.Status)
	}
}

func TestSetupAndCounters(t *testing.T) {
	registry := prometheus.NewRegistry()
	in := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "in_total"}, []string{"source"})
	clients := prometheus.NewGauge(prometheus.GaugeOpts{Name: "clients"})
	registry.MustRegister(in, clients)
	in.WithLabelValues("a").Add(3)
	in.WithLabelValues("b").Add(4)
	clients.Set(2)
	h := Map{
		Title: "a city", Positions: "/positions", Fences: json.RawMessage(`{"type":"FeatureCollection"}`),
		Counters: []Counter{{"in", "in_total"}, {"clients", "clients"}, {"none", "absent"}},
	}.Handler(registry)

	if _, body := get(t, h, "/map/counters"); body != "[7,2,0]" {
		t.Errorf("counters %s", body)
	}
	var setup struct {
		Positions string
		Fences    struct{ Type string }
		Counters  []struct{ Name, Metric string }
	}
	if _, body := get(t, h, "/map/setup.json"); json.Unmarshal([]byte(body), &setup) != nil ||
		setup.Positions != "/positions" || setup.Fences.Type != "FeatureCollection" || setup.Counters[0].Name != "in" {
		t.Errorf("setup %s", body)
	}
}

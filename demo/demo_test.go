package demo

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"
)

var noon = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

func TestCityIsAFunctionOfSeedAndTime(t *testing.T) {
	a, b, other := NewCity(1, 40), NewCity(1, 60), NewCity(2, 40)
	differs := false
	for v := range 40 {
		for minute := range 30 {
			at := noon.Add(time.Duration(minute) * time.Minute)
			if !reflect.DeepEqual(a.Report(v, at), b.Report(v, at)) {
				t.Fatalf("vehicle %d is elsewhere in a city with more vehicles", v)
			}
			differs = differs || a.Report(v, at).At != other.Report(v, at).At
		}
	}
	if !differs {
		t.Error("another seed gives the same city")
	}
}

// TestVehiclesDrive checks that nobody jumps: a report a second later is as far as the speed says.
func TestVehiclesDrive(t *testing.T) {
	c := NewCity(1, 50)
	for v := range c.Vehicles() {
		last := c.Report(v, noon)
		moved := 0.0
		for s := 1; s <= 1200; s++ {
			r := c.Report(v, noon.Add(time.Duration(s)*time.Second))
			metres := distance(last.At, r.At)
			if metres > 25 {
				t.Fatalf("vehicle %s jumps %.0f m from %v to %v", r.Vehicle, metres, last, r)
			}
			moved += metres
			last = r
		}
		if moved < 1000 {
			t.Errorf("vehicle %d moved %.0f m in 20 minutes", v+1, moved)
		}
	}
}

func TestGeoJSON(t *testing.T) {
	c := NewCity(1, 1)
	for name, b := range map[string][]byte{"depots": c.Depots(), "streets": c.Streets()} {
		var list struct {
			Type     string
			Features []struct{ Geometry struct{ Type string } }
		}
		if err := json.Unmarshal(b, &list); err != nil || list.Type != "FeatureCollection" || len(list.Features) < 2 {
			t.Errorf("%s: %v, %d features of a %q", name, err, len(list.Features), list.Type)
		}
	}
}

// read takes n events from a feed, in order, as id and vehicle.
func read(t *testing.T, feed http.Handler, lastID string, n int) (ids []string, vehicles []string) {
	t.Helper()
	server := httptest.NewServer(feed)
	defer server.Close()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Last-Event-ID", lastID)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if got := response.Header.Get("Content-Type"); got != "text/event-stream" {
		t.Fatalf("%s, %s", response.Status, got)
	}
	lines := bufio.NewScanner(response.Body)
	for len(vehicles) < n && lines.Scan() {
		if id, ok := strings.CutPrefix(lines.Text(), "id: "); ok {
			ids = append(ids, id)
		}
		if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
			var report struct {
				Vehicle  string `json:"vehicle_id"`
				Lat, Lon float64
				Time     time.Time
			}
			if err := json.Unmarshal([]byte(data), &report); err != nil || report.Time.IsZero() || report.Lat == 0 || report.Lon == 0 {
				t.Fatalf("%s: %v", data, err)
			}
			vehicles = append(vehicles, report.Vehicle)
		}
	}
	return ids, vehicles
}

func TestFeedResumesExactly(t *testing.T) {
	feed := &Feed{City: NewCity(1, 7), Rate: 50, Now: func() time.Time { return noon }}
	start := feed.number(noon.Add(-time.Minute))
	lastID := string(feed.appendID(nil, start))
	for _, want := range []int64{300, 1, 600} { // each a connection of its own
		ids, vehicles := read(t, feed, lastID, int(want))
		for i, id := range ids {
			n := start + int64(i) + 1
			if expect := fmt.Sprintf("7x50-%d", n); id != expect {
				t.Fatalf("event %d has id %s, want %s", i, id, expect)
			}
			if expect := fmt.Sprint(n%7 + 1); vehicles[i] != expect {
				t.Fatalf("event %d is of vehicle %s, want %s", i, vehicles[i], expect)
			}
		}
		lastID, start = ids[len(ids)-1], start+want
	}
}

func TestFeedOfAnotherRateResumesAtTheSameTime(t *testing.T) {
	before := &Feed{City: NewCity(1, 7), Rate: 50}
	after := &Feed{City: NewCity(1, 9), Rate: 70}
	n := before.number(noon)
	m, err := after.parseID(string(before.appendID(nil, n)))
	if err != nil {
		t.Fatal(err)
	}
	if d := after.time(m).Sub(before.time(n)); d < -time.Second/10 || d > time.Second/10 {
		t.Errorf("resumes %s away", d)
	}
}

func TestFeedRefusesForeignIDs(t *testing.T) {
	feed := &Feed{City: NewCity(1, 7), Rate: 50}
	for _, id := range []string{"x", "7x50", "7x50-", "7x50--1", "0x0-1", "ax50-1"} {
		request := httptest.NewRequest(http.MethodGet, "/", nil)
		request.Header.Set("Last-Event-ID", id)
		w := httptest.NewRecorder()
		feed.ServeHTTP(w, request)
		if w.Code != http.StatusBadRequest {
			t.Errorf("id %q: status %d", id, w.Code)
		}
	}
}

func BenchmarkFeed(b *testing.B) {
	feed := &Feed{City: NewCity(1, 100), Rate: 1000}
	n := feed.number(noon)
	var text []byte
	b.ReportAllocs()
	for i := range b.N {
		text = feed.append(text[:0], n+int64(i))
	}
	b.SetBytes(int64(len(text)))
}

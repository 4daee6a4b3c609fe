package e2e

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"testing"
	"time"
)

// point is a place in degrees.
type point struct{ lat, lon float64 }

// area is a fence as the tests know it: polygons, each with an outer ring and holes, whose rings are not
// closed.
type area struct {
	id, name   string // at most one of them
	properties string // compact JSON
	polygons   [][][]point
}

// called is what the fence is called in results.
func (a *area) called(number int) string {
	switch {
	case a.id != "":
		return a.id
	case a.name != "":
		return a.name
	default:
		return strconv.Itoa(number)
	}
}

// contains is the brute force: every edge of every ring, with a ray to the north.
func (a *area) contains(p point) bool {
	inside := false
	for _, rings := range a.polygons {
		for _, ring := range rings {
			for i, from := range ring {
				to := ring[(i+1)%len(ring)]
				if from.lon > p.lon == (to.lon > p.lon) {
					continue
				}
				if from.lat+(p.lon-from.lon)/(to.lon-from.lon)*(to.lat-from.lat) > p.lat {
					inside = !inside
				}
			}
		}
	}
	return inside
}

// geoJSON writes fences as the configuration names them.
func geoJSON(fences []area) string {
	var features []any
	for _, f := range fences {
		var polygons [][][][2]float64
		for _, rings := range f.polygons {
			var polygon [][][2]float64
			for _, ring := range rings {
				var closed [][2]float64
				for i := range len(ring) + 1 {
					p := ring[i%len(ring)]
					closed = append(closed, [2]float64{p.lon, p.lat})
				}
				polygon = append(polygon, closed)
			}
			polygons = append(polygons, polygon)
		}
		feature := map[string]any{
			"type": "Feature", "properties": json.RawMessage(f.properties),
			"geometry": map[string]any{"type": "MultiPolygon", "coordinates": polygons},
		}
		if len(polygons) == 1 {
			feature["geometry"] = map[string]any{"type": "Polygon", "coordinates": polygons[0]}
		}
		if f.id != "" {
			feature["id"] = f.id
		}
		features = append(features, feature)
	}
	text, err := json.Marshal(map[string]any{"type": "FeatureCollection", "features": features})
	if err != nil {
		panic(err) // plain values
	}
	return string(text)
}

// ring returns n corners around a centre, whose distances in degrees alternate between the radii.
func ring(centre point, n int, radii ...float64) []point {
	corners := make([]point, n)
	for i := range corners {
		at, r := 2*math.Pi*(float64(i)+0.37)/float64(n), radii[i%len(radii)]
		// Half a step beside every place that a vehicle reports, so that none lies on a corner.
		corners[i] = point{round(centre.lat+r*math.Sin(at), 1e6) + 5e-7, round(centre.lon+r*math.Cos(at), 1e6) + 5e-7}
	}
	return corners
}

func round(v, parts float64) float64 { return math.Round(v*parts) / parts }

// town returns fences of every shape: convex, stars, with a hole, in two parts, one over another; called by
// id, by name and by number.
func town() []area {
	var fences []area
	for i := range 12 {
		centre := point{40 + 0.05*float64(i%4), 20 + 0.06*float64(i/4)}
		a := area{properties: fmt.Sprintf(`{"name":"depot %d","zone":%d}`, i, i%3), name: fmt.Sprintf("depot %d", i)}
		switch i % 4 {
		case 0:
			a.id = fmt.Sprintf("d-%d", i)
			a.name = ""
			a.polygons = [][][]point{{ring(centre, 6, 0.012)}}
		case 1:
			a.polygons = [][][]point{{ring(centre, 14, 0.016, 0.006)}}
		case 2:
			a.polygons = [][][]point{{ring(centre, 9, 0.018), ring(centre, 5, 0.007)}}
		default:
			a.properties, a.name = `{}`, ""
			a.polygons = [][][]point{
				{ring(centre, 4, 0.008)},
				{ring(point{centre.lat + 0.02, centre.lon + 0.02}, 7, 0.009), ring(point{centre.lat + 0.02, centre.lon + 0.02}, 3, 0.003)},
			}
		}
		fences = append(fences, a)
	}
	return append(fences, area{id: "centre \"old\"", properties: `{"über":[1,2.50]}`, polygons: [][][]point{{ring(point{40.07, 20.06}, 16, 0.05, 0.045)}}})
}

// patrol is the other program: it takes positions in the order of the feed and says what crossings there
// must be.
type patrol struct {
	fences []area
	keys   map[string]*whereabouts
}

type whereabouts struct {
	at     time.Time
	inside []bool
}

func newPatrol(fences []area) *patrol {
	return &patrol{fences: fences, keys: map[string]*whereabouts{}}
}

// move takes a position and returns the crossings that it makes, as the results' data. lat and lon are JSON
// numbers.
func (p *patrol) move(key, lat, lon string, at time.Time) []string {
	k := p.keys[key]
	if k == nil {
		k = &whereabouts{inside: make([]bool, len(p.fences))}
		p.keys[key] = k
	} else if at.Before(k.at) {
		return nil // late
	}
	k.at = at
	here := point{number(lat), number(lon)}
	inside := make([]bool, len(p.fences))
	for i := range p.fences {
		inside[i] = p.fences[i].contains(here)
	}
	var crossings []string
	for _, transition := range []string{"exit", "enter"} {
		for i := range p.fences {
			if inside[i] != k.inside[i] && inside[i] == (transition == "enter") {
				crossings = append(crossings, fmt.Sprintf(`{"key":%s,"fence":%s,"transition":%q,"time":%q,"lat":%s,"lon":%s,"properties":%s}`,
					quote(key), quote(p.fences[i].called(i)), transition, at.UTC().Format(time.RFC3339Nano), lat, lon, p.fences[i].properties))
			}
		}
	}
	k.inside = inside
	return crossings
}

func number(text string) float64 {
	v, err := strconv.ParseFloat(text, 64)
	if err != nil {
		panic(err) // the tests' own
	}
	return v
}

func quote(s string) string {
	b, _ := json.Marshal(s) // strings can always be written
	return string(b)
}

// TestPatrol makes sure that the town is worth patrolling.
func TestPatrol(t *testing.T) {
	p := newPatrol([]area{{id: "a", properties: `{}`, polygons: [][][]point{{ring(point{0, 0}, 4, 2), ring(point{0, 0}, 4, 1)}}}})
	begin := time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)
	got := ""
	for i, lat := range []string{"9", "1.2", "1.3", "0", "-1.2", "5"} {
		for _, c := range p.move("k", lat, "0.05", begin.Add(time.Duration(i)*time.Second)) {
			got += c[len(`{"key":"k","fence":"a","transition":"`):][:2]
		}
	}
	if got != "enexenex" {
		t.Errorf("crossings %q, want in and out twice", got)
	}
	if late := p.move("k", "1.2", "0.05", begin); late != nil {
		t.Errorf("a late position made %q", late)
	}
}

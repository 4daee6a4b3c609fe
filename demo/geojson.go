package demo

import (
	"encoding/json"
	"math"
)

type collection struct {
	Type     string    `json:"type"`
	Features []feature `json:"features"`
}

type feature struct {
	Type       string         `json:"type"`
	ID         string         `json:"id,omitempty"`
	Properties map[string]any `json:"properties"`
	Geometry   geometry       `json:"geometry"`
}

type geometry struct {
	Type        string `json:"type"`
	Coordinates any    `json:"coordinates"`
}

// Depots returns the fences as a GeoJSON FeatureCollection.
func (c *City) Depots() []byte {
	list := collection{Type: "FeatureCollection"}
	for _, d := range c.depots {
		polygons := make([][][][2]float64, len(d.rings))
		for i, rings := range d.rings {
			for _, ring := range rings {
				polygons[i] = append(polygons[i], coordinates(ring))
			}
		}
		g := geometry{"MultiPolygon", polygons}
		if len(polygons) == 1 {
			g = geometry{"Polygon", polygons[0]}
		}
		list.Features = append(list.Features, feature{"Feature", d.id, map[string]any{"name": d.name}, g})
	}
	return marshal(list)
}

// Streets returns the street map as a GeoJSON FeatureCollection of one MultiLineString for the avenues
// and one for the rest.
func (c *City) Streets() []byte {
	var lines [2][][][2]float64
	for from, streets := range c.streets {
		for _, s := range streets {
			if s.to < from {
				continue // drawn from the other end
			}
			kind := 0
			if s.avenue {
				kind = 1
			}
			lines[kind] = append(lines[kind], coordinates([]Point{c.crossings[from], c.crossings[s.to]}))
		}
	}
	list := collection{Type: "FeatureCollection"}
	for kind, name := range []string{"street", "avenue"} {
		list.Features = append(list.Features, feature{
			Type: "Feature", Properties: map[string]any{"kind": name},
			Geometry: geometry{"MultiLineString", lines[kind]},
		})
	}
	return marshal(list)
}

// coordinates are longitude first, to seven digits: a centimetre.
func coordinates(points []Point) [][2]float64 {
	out := make([][2]float64, len(points))
	for i, p := range points {
		out[i] = [2]float64{degrees(p.Lon), degrees(p.Lat)}
	}
	return out
}

func degrees(v float64) float64 { return math.Round(v*1e7) / 1e7 }

func marshal(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // plain values of ours
	}
	return b
}

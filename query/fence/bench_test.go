package fence

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
)

// city returns n polygons of 32 vertices and 100 to 500 m radius in a city of 50 km, as GeoJSON.
func city(n int, seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	const degree = 111_320.0 // metres
	const lat0 = 39.9
	var b strings.Builder
	b.WriteString(`{"type":"FeatureCollection","features":[`)
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		x, y := 116+r.Float64()*50_000/degree/0.767, lat0+r.Float64()*50_000/degree
		radius := 100 + 400*r.Float64()
		fmt.Fprintf(&b, `{"type":"Feature","id":%d,"properties":{"name":"fence %d"},"geometry":{"type":"Polygon","coordinates":[[`, i, i)
		var first string
		for v := range 32 {
			a, d := 2*math.Pi*float64(v)/32, radius*(0.8+0.2*r.Float64())/degree
			p := fmt.Sprintf("[%.7f,%.7f]", x+d*math.Cos(a)/0.767, y+d*math.Sin(a))
			if v == 0 {
				first = p
			}
			b.WriteString(p + ",")
		}
		b.WriteString(first + `]]}}`)
	}
	b.WriteString("]}")
	return []byte(b.String())
}

type vehicle struct {
	lat, lon, heading float64
	track             track
}

// drive moves a vehicle by metres.
func (v *vehicle) drive(r *rand.Rand, metres float64) {
	v.heading += r.NormFloat64() * 0.1
	v.lat += metres / 111_320 * math.Sin(v.heading)
	v.lon += metres / 111_320 / 0.767 * math.Cos(v.heading)
	if v.lat < 39.9 || v.lat > 40.35 || v.lon < 116 || v.lon > 116.58 {
		v.heading += math.Pi
	}
}

// BenchmarkGeometry is what a position costs once it is parsed: 10,000 vehicles that drive 15 m from one
// position to the next, or jump anywhere.
func BenchmarkGeometry(b *testing.B) {
	for _, n := range []int{1000, 20_000} {
		set, err := Parse(city(n, 7))
		if err != nil {
			b.Fatal(err)
		}
		for _, mode := range []string{"driving", "jumping"} {
			b.Run(fmt.Sprintf("%s/fences=%d", mode, n), func(b *testing.B) {
				r := rand.New(rand.NewPCG(1, 2))
				vehicles := make([]vehicle, 10_000)
				for i := range vehicles {
					vehicles[i] = vehicle{lat: 39.9 + r.Float64()*0.45, lon: 116 + r.Float64()*0.58, heading: r.Float64() * 6}
				}
				// Positions are made beforehand, so that only the fences are measured.
				type position struct{ lat, lon float64 }
				positions := make([]position, 50*len(vehicles))
				for i := range positions {
					v := &vehicles[i%len(vehicles)]
					if mode == "jumping" {
						v.lat, v.lon = 39.9+r.Float64()*0.45, 116+r.Float64()*0.58
					} else {
						v.drive(r, 15)
					}
					positions[i] = position{v.lat, v.lon}
				}
				var found []uint32
				transitions := 0
				for b.Loop() {
					for i, p := range positions {
						t := &vehicles[i%len(vehicles)].track
						var same bool
						found, t.cell, same = set.find(found[:0], p.lat, p.lon, t.cell)
						if !same && !equal(found, t.inside) {
							t.inside = append(t.inside[:0], found...)
							transitions++
						}
					}
				}
				b.ReportMetric(float64(b.N*len(positions))/b.Elapsed().Seconds(), "positions/s")
				b.ReportMetric(float64(transitions)/float64(b.N*len(positions)), "transitions/position")
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}

func BenchmarkLoad(b *testing.B) {
	for _, n := range []int{1000, 20_000} {
		data := city(n, 7)
		b.Run(fmt.Sprintf("fences=%d", n), func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Parse(data); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

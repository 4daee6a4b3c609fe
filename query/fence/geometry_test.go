package fence

import (
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"slices"
	"testing"
)

// area is the oracle: the rings as they are in the file, and a test of them that shares nothing with the
// package. Its arithmetic is exact.
type area [][][]point // polygon, ring, position

type areas []area

func (a area) contains(p point) bool {
	for _, polygon := range a {
		inside := false
		for i, ring := range polygon {
			if in := ringContains(ring, p); i == 0 {
				inside = in
			} else if in {
				inside = false
			}
		}
		if inside {
			return true
		}
	}
	return false
}

// ringContains is the definition: the ray to the east crosses an odd number of edges. An edge counts with
// its lower end and without its upper end, and where the point lies on it or east of it, it does not.
func ringContains(ring []point, p point) bool {
	rat := func(v float64) *big.Rat { return new(big.Rat).SetFloat64(v) }
	inside := false
	for i := 1; i < len(ring); i++ {
		a, b := ring[i-1], ring[i]
		if (a.y <= p.y) == (b.y <= p.y) {
			continue
		}
		if a.x <= p.x && b.x <= p.x {
			continue
		}
		if a.x > p.x && b.x > p.x {
			inside = !inside
			continue
		}
		// Where the edge is at the point's height: a.x + (p.y-a.y) * (b.x-a.x) / (b.y-a.y).
		x := new(big.Rat).Sub(rat(b.x), rat(a.x))
		x.Mul(x, new(big.Rat).Sub(rat(p.y), rat(a.y)))
		x.Quo(x, new(big.Rat).Sub(rat(b.y), rat(a.y)))
		x.Add(x, rat(a.x))
		if x.Cmp(rat(p.x)) > 0 {
			inside = !inside
		}
	}
	return inside
}

func (a areas) geojson() string {
	type geometry struct {
		Type        string           `json:"type"`
		Coordinates [][][][2]float64 `json:"coordinates"`
	}
	type feature struct {
		Type     string   `json:"type"`
		Geometry geometry `json:"geometry"`
	}
	features := []feature{}
	for _, area := range a {
		g := geometry{Type: "MultiPolygon"}
		for _, polygon := range area {
			var rings [][][2]float64
			for _, ring := range polygon {
				var line [][2]float64
				for _, p := range ring {
					line = append(line, [2]float64{p.x, p.y})
				}
				rings = append(rings, line)
			}
			g.Coordinates = append(g.Coordinates, rings)
		}
		features = append(features, feature{"Feature", g})
	}
	b, _ := json.Marshal(map[string]any{"type": "FeatureCollection", "features": features})
	return string(b)
}

// set parses the areas.
func (a areas) set(t testing.TB) *Set {
	t.Helper()
	s, err := Parse([]byte(a.geojson()))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (a areas) find(p point) []uint32 {
	var found []uint32
	for i := range a {
		if a[i].contains(p) {
			found = append(found, uint32(i))
		}
	}
	return found
}

// star is a ring around a centre that does not cross itself, with corners on a grid of quarters so that
// points often lie on corners and edges. Now and then a corner is there twice, or two are in line.
func star(r *rand.Rand, x, y, radius float64) []point {
	corners := 3 + r.IntN(12)
	var ring []point
	for i := range corners {
		a := 2 * math.Pi * (float64(i) + r.Float64()*0.8) / float64(corners)
		d := radius * (0.4 + 0.6*r.Float64())
		p := point{math.Round((x+d*math.Cos(a))*4) / 4, math.Round((y+d*math.Sin(a))*4) / 4}
		ring = append(ring, p)
		if r.IntN(8) == 0 {
			ring = append(ring, p)
		}
	}
	if r.IntN(2) == 0 {
		slices.Reverse(ring)
	}
	return append(ring, ring[0])
}

// rectangle is a ring with its corners there.
func rectangle(x0, y0, x1, y1 float64) []point {
	return []point{{x0, y0}, {x1, y0}, {x1, y1}, {x0, y1}, {x0, y0}}
}

// randomFences are in a field of 16 by 16: stars, rectangles with holes, and several of these.
func randomFences(r *rand.Rand, n int) areas {
	var fences areas
	for len(fences) < n {
		var a area
		for range 1 + r.IntN(3)/2*2 {
			x, y := math.Floor(r.Float64()*16), math.Floor(r.Float64()*16)
			switch r.IntN(3) {
			case 0:
				ring := star(r, x, y, 1+4*r.Float64())
				if b := boxOf(ring); b.x0 == b.x1 || b.y0 == b.y1 {
					continue
				}
				a = append(a, [][]point{ring})
			case 1: // a frame, and sometimes what fills it
				w := float64(2 + r.IntN(4))
				a = append(a, [][]point{rectangle(x, y, x+w, y+w), rectangle(x+0.5, y+0.5, x+w-1, y+w-0.5)})
				if r.IntN(3) == 0 {
					a = append(a, [][]point{rectangle(x+0.5, y+0.5, x+w-1, y+w-0.5)})
				}
			default:
				a = append(a, [][]point{rectangle(x, y, x+0.25*float64(1+r.IntN(8)), y+0.25*float64(1+r.IntN(8)))})
			}
		}
		if len(a) > 0 {
			fences = append(fences, a)
		}
	}
	return fences
}

// TestContains compares the fences around points, many of them on borders and corners, with the oracle.
func TestContains(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for round := range 12 {
		fences := randomFences(r, 1+r.IntN(60))
		set := fences.set(t)
		var last cell
		var inside []uint32
		for range 500 {
			p := point{float64(r.IntN(100))/4 - 4, float64(r.IntN(100))/4 - 4}
			if r.IntN(3) == 0 {
				p = point{r.Float64()*24 - 4, r.Float64()*24 - 4}
			}
			want := fences.find(p)
			if got := set.Find(nil, p.y, p.x); !equal(got, want) {
				t.Fatalf("round %d: at %v: %v, want %v\n%s", round, p, got, want, fences.geojson())
			}
			// The same with the cell remembered from the previous point.
			found, now, same := set.find(nil, p.y, p.x, last)
			if !same {
				inside = found
			}
			if last = now; !equal(inside, want) {
				t.Fatalf("round %d: at %v, remembering: %v, want %v\n%s", round, p, inside, want, fences.geojson())
			}
		}
	}
}

// TestSharedBorder divides a square into random triangles and squares: each point of it, also on the borders
// and corners in between, is in exactly one.
func TestSharedBorder(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	const n = 6
	var grid [n + 1][n + 1]point
	for i := range grid {
		for j := range grid[i] {
			p := point{float64(i) * 0.7, float64(j) * 0.7} // not exact in binary
			if i > 0 && i < n && j > 0 && j < n {
				p.x += r.Float64() * 0.3
				p.y += r.Float64() * 0.3
			}
			grid[i][j] = p
		}
	}
	var fences areas
	for i := range n {
		for j := range n {
			a, b, c, d := grid[i][j], grid[i+1][j], grid[i+1][j+1], grid[i][j+1]
			switch r.IntN(3) {
			case 0:
				fences = append(fences, area{{{a, b, c, d, a}}})
			case 1:
				fences = append(fences, area{{{a, b, c, a}}}, area{{{c, d, a, c}}})
			default:
				fences = append(fences, area{{{d, a, b, d}}}, area{{{b, c, d, b}}})
			}
		}
	}
	set := fences.set(t)
	check := func(p point) {
		inside := p.x >= 0 && p.y >= 0 && p.x < grid[n][0].x && p.y < grid[0][n].y
		if got := set.Find(nil, p.y, p.x); inside && len(got) != 1 || !inside && len(got) != 0 {
			t.Fatalf("at %v: in %v", p, got)
		}
	}
	for i := range n {
		for j := range n {
			a, b := grid[i][j], grid[i+r.IntN(2)][j+1]
			check(a)
			for range 200 { // points on an edge, as near as rounding lets them be
				f := r.Float64()
				check(point{a.x + f*(b.x-a.x), a.y + f*(b.y-a.y)})
			}
			for range 200 {
				check(point{r.Float64() * 4.2, r.Float64() * 4.2})
			}
		}
	}
}

// TestTranslation moves fences and points together: nothing may change, at whatever place on earth, also
// across the antimeridian, where the fence is cut in two as RFC 7946 says.
func TestTranslation(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	move := func(a area, dx, dy float64) area {
		var moved area
		for _, polygon := range a {
			var rings [][]point
			for _, ring := range polygon {
				var line []point
				for _, p := range ring {
					line = append(line, point{p.x + dx, p.y + dy})
				}
				rings = append(rings, line)
			}
			moved = append(moved, rings)
		}
		return moved
	}
	for range 10 {
		fences := randomFences(r, 20)
		here := fences.set(t)
		for _, by := range []point{{100, 40}, {-160, -60}, {-8.5, 64.25}, {164 - 8, -80}} {
			var moved areas
			for _, a := range fences {
				moved = append(moved, move(a, by.x, by.y))
			}
			there := moved.set(t)
			for range 200 {
				p := point{float64(r.IntN(80)) / 4, float64(r.IntN(80)) / 4}
				if got, want := there.Find(nil, p.y+by.y, p.x+by.x), here.Find(nil, p.y, p.x); !equal(got, want) {
					t.Fatalf("%v moved by %v: %v, want %v", p, by, got, want)
				}
			}
		}
	}

	// A hexagon from 170 to -170 degrees, cut; the same around 0, whole.
	whole := areas{{{{{-10, 0}, {-5, -8}, {5, -8}, {10, 0}, {5, 8}, {-5, 8}, {-10, 0}}}}}.set(t)
	cut := areas{{
		{{{170, 0}, {175, -8}, {180, -8}, {180, 8}, {175, 8}, {170, 0}}},
		{{{-180, -8}, {-175, -8}, {-170, 0}, {-175, 8}, {-180, 8}, {-180, -8}}},
	}}.set(t)
	for range 5000 {
		p := point{float64(r.IntN(96))/4 - 12, float64(r.IntN(80))/4 - 10}
		x := p.x + 180
		if x > 180 {
			x -= 360
		}
		if got, want := cut.Find(nil, p.y, x), whole.Find(nil, p.y, p.x); !equal(got, want) {
			t.Fatalf("%v beyond the antimeridian at %v: %v, want %v", p, x, got, want)
		}
	}
	if len(cut.Find(nil, 0, 180)) != 1 || len(cut.Find(nil, 0, -180)) != 1 {
		t.Error("the antimeridian itself is not in the fence that crosses it")
	}
	earth := areas{{{rectangle(-180, -90, 180, 90)}}}.set(t)
	for _, p := range []point{{0, 90}, {180, 90}, {-180, -90}, {180, 0}, {0, -90}} {
		if len(earth.Find(nil, p.y, p.x)) != 1 {
			t.Errorf("%v is not on earth", p)
		}
	}
}

// TestHugeAndTiny: a country, cities and parking lots together, a border with 100,000 corners, and 1,000
// times the same area. The index stays small and right.
func TestHugeAndTiny(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 12))
	var fences areas
	coast := []point{}
	for i := range 100_000 {
		a := 2 * math.Pi * float64(i) / 100_000
		d := 20 + r.Float64()*0.5
		coast = append(coast, point{d * math.Cos(a), d * math.Sin(a)})
	}
	fences = append(fences, area{{append(coast, coast[0])}}, area{{rectangle(-180, -90, 180, 90), rectangle(-30, -30, 30, 30)}})
	for range 1000 {
		a := 2 * math.Pi * r.Float64()
		x, y, d := 20.25*math.Cos(a), 20.25*math.Sin(a), math.Pow(10, -1-6*r.Float64())
		fences = append(fences, area{{rectangle(x, y, x+d, y+d)}})
	}
	for range 1000 {
		fences = append(fences, area{{rectangle(50, 50, 50.001, 50.001)}})
	}
	set := fences.set(t)
	x := set.index
	if entries := len(x.nodes) + len(x.leaves) + len(x.covers) + len(x.fences) + len(x.borders); entries > 4*budget*len(fences) {
		t.Errorf("%d fences have an index of %d entries", len(fences), entries)
	}
	edges := 0
	for _, p := range x.polygons {
		edges += len(p.edges)
	}
	if edges > 5*(len(coast)+4*len(fences)) {
		t.Errorf("%d copies of edges", edges)
	}
	for i := range 1500 {
		p := point{x: r.Float64()*50 - 25, y: r.Float64()*50 - 25}
		if i%2 == 0 { // near a lot
			lot := fences[2+r.IntN(2000)][0][0]
			p = point{lot[0].x + (r.Float64()*2-0.5)*(lot[1].x-lot[0].x), lot[0].y + (r.Float64()*2-0.5)*(lot[2].y-lot[1].y)}
		}
		var want []uint32
		for j := range x.polygons {
			if q := &x.polygons[j]; q.contains(p.x, p.y) {
				want = append(want, q.fence)
			}
		}
		if got := set.Find(nil, p.y, p.x); !equal(got, want) {
			t.Fatalf("at %v: %v, want %v", p, got, want)
		}
	}
}

func ExampleSet_Find() {
	set, err := Parse([]byte(`{
		"type": "Feature", "id": "depot",
		"geometry": {"type": "Polygon", "coordinates": [[[8.5, 47.3], [8.6, 47.3], [8.6, 47.4], [8.5, 47.4], [8.5, 47.3]]]}
	}`))
	if err != nil {
		panic(err)
	}
	for _, i := range set.Find(nil, 47.35, 8.55) {
		fmt.Println(set.Fence(int(i)).ID)
	}
	// Output: depot
}

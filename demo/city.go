// Package demo is a small simulated city whose vehicles drive and report where they are. Everything
// about it is a function of the seed and the time, so a feed of it goes on after a restart as if it
// had never stopped, and any past moment can be replayed.
package demo

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sort"
	"time"
)

// Point is a place in degrees.
type Point struct{ Lat, Lon float64 }

// The city lies around this point; its blocks are about this many metres wide.
const (
	centreLat   = 45.0
	centreLon   = 9.0
	blockMetres = 260.0
	columns     = 19
	rows        = 13

	metresPerDegree = 111_320.0
)

// City is a street map, depots, and vehicles on closed tours.
type City struct {
	crossings []Point // of streets
	streets   [][]street
	depots    []depot
	tours     []tour
}

// street leads from one crossing to another.
type street struct {
	to     int
	metres float64
	speed  float64 // metres per second
	avenue bool
}

type depot struct {
	id, name string
	rings    [][][]Point // polygons, each a shell and its holes
	gate     int         // the crossing where vehicles call
}

// tour is the closed route of one vehicle.
type tour struct {
	line  string
	stops []stop
	// period is how long one round takes; phase is where in it the vehicle was at the Unix epoch.
	period, phase float64 // seconds
}

// stop is a point on a tour and when in the round the vehicle passes it, in seconds. Two stops at
// one place are a pause.
type stop struct {
	at   Point
	when float64
}

// Report is one position of one vehicle.
type Report struct {
	Vehicle  string // "1", "2", ...
	Line     string
	At       Point
	SpeedKMH float64
	Heading  float64 // degrees clockwise from north
	Time     time.Time
}

// NewCity builds the city of a seed with a number of vehicles.
func NewCity(seed uint64, vehicles int) *City {
	c := &City{}
	random := rand.New(rand.NewPCG(seed, 1))
	c.layStreets(random)
	c.placeDepots()
	for v := range vehicles {
		// A generator of its own for each vehicle: more vehicles leave the others where they are.
		c.tours = append(c.tours, c.planTour(rand.New(rand.NewPCG(seed, uint64(v)+100)), v))
	}
	return c
}

// Vehicles returns how many there are.
func (c *City) Vehicles() int { return len(c.tours) }

// Report says where a vehicle (counted from 0) is at a time.
func (c *City) Report(vehicle int, at time.Time) Report {
	t := c.tours[vehicle]
	since := float64(at.Unix()) + float64(at.Nanosecond())/1e9 // keeps microseconds, enough for a bus
	when := math.Mod(since+t.phase, t.period)
	i := sort.Search(len(t.stops), func(i int) bool { return t.stops[i].when > when }) - 1
	i = max(0, min(i, len(t.stops)-2))
	a, b := t.stops[i], t.stops[i+1]
	part := (when - a.when) / (b.when - a.when)
	r := Report{
		Vehicle: fmt.Sprint(vehicle + 1),
		Line:    t.line,
		At:      Point{a.at.Lat + (b.at.Lat-a.at.Lat)*part, a.at.Lon + (b.at.Lon-a.at.Lon)*part},
		Time:    at,
	}
	if metres := distance(a.at, b.at); metres > 0 {
		r.SpeedKMH = metres / (b.when - a.when) * 3.6
		r.Heading = bearing(a.at, b.at)
	}
	return r
}

// layStreets makes a grid that has grown: crossings a little off, some streets missing, every fourth
// an avenue.
func (c *City) layStreets(random *rand.Rand) {
	for row := range rows {
		for column := range columns {
			x := (float64(column) - float64(columns-1)/2 + (random.Float64()-0.5)*0.45) * blockMetres
			y := (float64(row) - float64(rows-1)/2 + (random.Float64()-0.5)*0.45) * blockMetres
			// A slow bend keeps long streets from looking ruled.
			y += 120 * math.Sin(x/900)
			c.crossings = append(c.crossings, offset(Point{centreLat, centreLon}, x, y))
		}
	}
	c.streets = make([][]street, len(c.crossings))
	for row := range rows {
		for column := range columns {
			here := row*columns + column
			edge := row == 0 || row == rows-1 || column == 0 || column == columns-1
			if column+1 < columns {
				c.connect(random, here, here+1, row%4 == 2, edge)
			}
			if row+1 < rows {
				c.connect(random, here, here+columns, column%4 == 2, edge)
			}
		}
	}
}

func (c *City) connect(random *rand.Rand, a, b int, avenue, edge bool) {
	// Avenues and the outer ring are whole, so that every crossing can be reached.
	if random.Float64() < 0.14 && !avenue && !edge {
		return
	}
	s := street{metres: distance(c.crossings[a], c.crossings[b]), speed: 8.5, avenue: avenue}
	if avenue {
		s.speed = 14
	}
	s.to = b
	c.streets[a] = append(c.streets[a], s)
	s.to = a
	c.streets[b] = append(c.streets[b], s)
}

// placeDepots lays the fences: polygons around crossings, one of two parts, one with a courtyard
// where no street leads.
func (c *City) placeDepots() {
	for i, d := range []struct {
		name        string
		column, row int
		radius      float64
		corners     int
	}{
		{"North Depot", 4, 11, 210, 6},
		{"Harbour Yard", 16, 10, 240, 7},
		{"Central Station", 9, 6, 260, 8},
		{"Market Square", 5, 6, 150, 5},
		{"West Works", 1, 5, 200, 6},
		{"South Depot", 6, 1, 220, 6},
		{"Airport Loop", 17, 2, 250, 9},
		{"University", 12, 8, 170, 5},
		{"Twin Garages", 12, 3, 120, 6},
	} {
		gate := d.row*columns + d.column
		shell := around(c.crossings[gate], d.radius, d.corners, float64(i))
		polygons := [][][]Point{{shell}}
		switch d.name {
		case "Central Station":
			courtyard := around(offset(c.crossings[gate], d.radius*0.45, d.radius*0.45), 45, 5, 1)
			slices.Reverse(courtyard) // holes run the other way round
			polygons = [][][]Point{{shell, courtyard}}
		case "Twin Garages":
			polygons = append(polygons, [][]Point{around(c.crossings[gate+2], d.radius, d.corners, 2)})
		}
		c.depots = append(c.depots, depot{id: fmt.Sprintf("depot-%d", i+1), name: d.name, rings: polygons, gate: gate})
	}
}

// planTour strings some crossings and depots together and drives the shortest way between them.
func (c *City) planTour(random *rand.Rand, vehicle int) tour {
	places := []int{c.depots[vehicle%len(c.depots)].gate}
	for range 4 + random.IntN(3) {
		if random.Float64() < 0.5 {
			places = append(places, c.depots[random.IntN(len(c.depots))].gate)
		} else {
			places = append(places, random.IntN(len(c.crossings)))
		}
	}
	t := tour{line: fmt.Sprint(1 + vehicle%len(c.depots))}
	temper := 0.85 + 0.3*random.Float64() // some drivers are faster
	t.stops = []stop{{at: c.crossings[places[0]]}}
	for i, from := range places {
		to := places[(i+1)%len(places)]
		if from == to {
			continue
		}
		for _, s := range c.route(from, to) {
			t.period += s.metres / (s.speed * temper)
			t.stops = append(t.stops, stop{c.crossings[s.to], t.period})
		}
		t.period += 8 + 12*random.Float64() // passengers get on
		t.stops = append(t.stops, stop{c.crossings[to], t.period})
	}
	t.phase = random.Float64() * t.period
	return t
}

// route returns the quickest streets from one crossing to another (Dijkstra; a few hundred crossings
// need no heap).
func (c *City) route(from, to int) []street {
	cost := make([]float64, len(c.crossings))
	via := make([]int, len(c.crossings)) // where we came from
	by := make([]street, len(c.crossings))
	done := make([]bool, len(c.crossings))
	for i := range cost {
		cost[i] = math.Inf(1)
	}
	cost[from] = 0
	for !done[to] {
		here := -1
		for i := range cost {
			if !done[i] && !math.IsInf(cost[i], 1) && (here < 0 || cost[i] < cost[here]) {
				here = i
			}
		}
		done[here] = true // the outer ring connects everything, so there always is one
		for _, s := range c.streets[here] {
			if next := cost[here] + s.metres/s.speed; next < cost[s.to] {
				cost[s.to], via[s.to], by[s.to] = next, here, s
			}
		}
	}
	var way []street
	for at := to; at != from; at = via[at] {
		way = append(way, by[at])
	}
	slices.Reverse(way)
	return way
}

// around returns a closed ring of corners about a point, not quite regular.
func around(p Point, radius float64, corners int, turn float64) []Point {
	ring := make([]Point, 0, corners+1)
	for i := range corners {
		angle := 2*math.Pi*float64(i)/float64(corners) + turn
		r := radius * (0.85 + 0.15*math.Cos(3*angle+turn))
		ring = append(ring, offset(p, r*math.Cos(angle), r*math.Sin(angle)))
	}
	return append(ring, ring[0])
}

// offset moves a point by metres east and north; on the scale of a city the earth is flat.
func offset(p Point, east, north float64) Point {
	return Point{
		Lat: p.Lat + north/metresPerDegree,
		Lon: p.Lon + east/(metresPerDegree*math.Cos(centreLat*math.Pi/180)),
	}
}

func distance(a, b Point) float64 { // metres
	east, north := span(a, b)
	return math.Hypot(east, north)
}

func bearing(a, b Point) float64 {
	east, north := span(a, b)
	return math.Mod(math.Atan2(east, north)*180/math.Pi+360, 360)
}

func span(a, b Point) (east, north float64) {
	return (b.Lon - a.Lon) * metresPerDegree * math.Cos(centreLat*math.Pi/180), (b.Lat - a.Lat) * metresPerDegree
}

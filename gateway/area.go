package gateway

import (
	"math"

	"github.com/tidwall/rtree"

	"github.com/millrace/millrace/block"
	"github.com/millrace/millrace/jsonpath"
	"github.com/millrace/millrace/table"
)

// area is a part of the earth: a box between parallels and meridians, or a circle. It is immutable.
type area struct {
	west, south, east, north float64 // degrees; west > east: across the 180th meridian
	lat, lon, radius         float64 // of a circle, radius in metres; 0: a box
}

// earthRadius is the mean radius in metres.
const earthRadius = 6371008.8

// point is a place on earth, in degrees.
type point struct{ lat, lon float64 }

func (p point) valid() bool { // NaN is not
	return p.lat >= -90 && p.lat <= 90 && p.lon >= -180 && p.lon <= 180
}

// newBox fails with Invalid.
func newBox(west, south, east, north float64) (*area, error) {
	if !(point{south, west}).valid() || !(point{north, east}).valid() || south > north {
		return nil, wrongWish("the box %g,%g,%g,%g is not WEST,SOUTH,EAST,NORTH in degrees with SOUTH below NORTH", west, south, east, north)
	}
	return &area{west: west, south: south, east: east, north: north}, nil
}

// newCircle fails with Invalid.
func newCircle(lat, lon, radius float64) (*area, error) {
	if !(point{lat, lon}).valid() || !(radius > 0) || radius > math.Pi*earthRadius {
		return nil, wrongWish("the circle %g,%g,%g is not LAT,LON in degrees and a radius in metres up to half the way around the earth",
			lat, lon, radius)
	}
	a := &area{lat: lat, lon: lon, radius: radius, west: -180, east: 180}
	angle := radius / earthRadius // of the circle, seen from the centre of the earth
	degrees := angle * 180 / math.Pi
	a.south, a.north = max(-90, lat-degrees), min(90, lat+degrees)
	if lat-degrees > -90 && lat+degrees < 90 { // no pole inside
		// The meridians that touch the circle.
		dlon := math.Asin(min(1, math.Sin(angle)/math.Cos(lat*math.Pi/180))) * 180 / math.Pi
		a.west, a.east = wrap(lon-dlon), wrap(lon+dlon)
	}
	return a, nil
}

func wrap(lon float64) float64 {
	switch {
	case lon < -180:
		return lon + 360
	case lon > 180:
		return lon - 360
	default:
		return lon
	}
}

// contains says whether p lies inside; on the border is inside.
func (a *area) contains(p point) bool {
	if a.radius > 0 {
		return distance(a.lat, a.lon, p.lat, p.lon) <= a.radius
	}
	if p.lat < a.south || p.lat > a.north {
		return false
	}
	if a.west <= a.east {
		return p.lon >= a.west && p.lon <= a.east
	}
	return p.lon >= a.west || p.lon <= a.east
}

// distance is the length of the great circle between two points, in metres (haversine).
func distance(lat1, lon1, lat2, lon2 float64) float64 {
	const rad = math.Pi / 180
	s1, s2 := math.Sin((lat2-lat1)*rad/2), math.Sin((lon2-lon1)*rad/2)
	h := s1*s1 + math.Cos(lat1*rad)*math.Cos(lat2*rad)*s2*s2
	return 2 * earthRadius * math.Asin(math.Sqrt(min(1, h)))
}

// boxes calls do with the one or two boxes that cover the area.
func (a *area) boxes(do func(least, most [2]float64)) {
	if a.west <= a.east {
		do([2]float64{a.south, a.west}, [2]float64{a.north, a.east})
		return
	}
	do([2]float64{a.south, a.west}, [2]float64{a.north, 180})
	do([2]float64{a.south, -180}, [2]float64{a.north, a.east})
}

// Location says where the position of an event's object stands in its data.
type Location struct {
	// Lat and Lon are dotted paths of numbers, or texts of numbers, in degrees.
	Lat string `yaml:"lat"`
	Lon string `yaml:"lon"`
}

// locator finds positions in events.
type locator struct {
	paths *jsonpath.Set
	found [2]jsonpath.Value
}

func newLocator(l Location) (*locator, error) {
	paths, err := jsonpath.Compile(l.Lat, l.Lon)
	if err != nil {
		return nil, err
	}
	return &locator{paths: paths}, nil
}

// locate returns the position in an event's data; ok is false if it has none.
func (l *locator) locate(data []byte) (p point, ok bool) {
	if l.paths.Find(data, l.found[:]) != nil {
		return point{}, false
	}
	var haveLat, haveLon bool
	p.lat, haveLat = l.found[0].Float()
	p.lon, haveLon = l.found[1].Float()
	return p, haveLat && haveLon && p.valid()
}

// locateSafely is locate for whoever does not hold the feed's lock.
func (as *areas) locateSafely(data []byte) (point, bool) {
	l := locator{paths: as.paths}
	return l.locate(data)
}

// areas are the subscriptions of a feed that watch areas, by where they are. The positions of all objects are in
// the feed's table, so nothing is kept for each subscription: an event moves its object from where the
// table has it to where the event says, and whoever watches the one place or the other is told.
type areas struct {
	location Location
	*locator
	tree  rtree.RTreeG[*subscription]
	count int
}

func newAreas(l Location) (*areas, error) {
	locator, err := newLocator(l)
	if err != nil {
		return nil, err
	}
	return &areas{location: l, locator: locator}, nil
}

func (as *areas) insert(s *subscription) {
	s.area.boxes(func(least, most [2]float64) { as.tree.Insert(least, most, s) })
	as.count++
}

func (as *areas) remove(s *subscription) {
	s.area.boxes(func(least, most [2]float64) { as.tree.Delete(least, most, s) })
	as.count--
}

// at calls do for everyone who watches a place.
func (as *areas) at(p point, do func(s *subscription)) {
	at := [2]float64{p.lat, p.lon}
	as.tree.Search(at, at, func(_, _ [2]float64, s *subscription) bool {
		if s.area.contains(p) {
			do(s)
		}
		return true
	})
}

// move notes an event for those who watch the place where its object is now, and that it has left for those
// who watch the place where it was; sight.go says what they are told. previous is its row before the event, nil
// if there was none.
func (f *feed) move(p *part, as *areas, previous *table.Row, r *block.Reader, at, i int) {
	key := r.Key(i)
	before, was := point{}, false
	if previous != nil {
		before, was = as.locate(previous.Event.Data)
	}
	now, is := as.locate(r.Data(i))
	deleted := r.Deleted(i)
	if deleted { // it ends where it was
		now, is = before, was
	}
	concerned := func(s *subscription) bool {
		return s.wantsKey(key) && (s.ahead == nil || s.passed(p.index, p.batch.position(at)))
	}
	leave := func(s *subscription) {
		p.batch.writeLeft(s.rendering, at, r, i)
		f.note(s, ^int32(at))
	}
	if is {
		as.at(now, func(s *subscription) {
			switch {
			case !concerned(s):
			case p.batch.passes(s.filtered, at, r, i):
				p.batch.write(s.rendering, at, r, i)
				f.note(s, int32(at))
			case deleted:
				leave(s)
			}
		})
	}
	if was && (!is || now != before) {
		as.at(before, func(s *subscription) {
			if (!is || !s.area.contains(now)) && concerned(s) {
				leave(s)
			}
		})
	}
}

// replaceArea gives a subscription another area. If the client is still being brought up to date, that waits
// for its end; of several the last counts. The replay that is returned, if any, is the caller's to run.
func (f *feed) replaceArea(s *subscription, a *area) (*replay, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if a == nil || s.area == nil {
		return nil, wrongMessage("update replaces the area of a subscription that has one")
	}
	s.c.answer(append(appendJSONString([]byte(`{"updated":`), []byte(s.name)), '}')) // before any of it
	if s.next = a; !s.live {
		return nil, nil //nolint:nilnil // there is one already
	}
	return f.changeArea(s), nil
}

// changeArea returns the replay that shows a client its next area: what has left its view, what has come into
// it, and then what happens. mu is held.
func (f *feed) changeArea(s *subscription) *replay {
	f.remove(s)
	r := newReplay(s)
	r.unknown, r.before = outside, s.area
	s.area, s.next = s.next, nil
	r.begins(f.rowsFor(s), f.places())
	return r
}

// Package fence is the geofence query: it follows where keys (vehicles) are, and reports each time that
// one enters or leaves a fence.
//
// # Fences
//
// Load reads them from GeoJSON into a Set, which answers which fences contain a point. See geometry.go
// for what inside means to the last bit.
//
// # Transitions
//
// An Operator takes the events of one partition in stream order. Per key, whose positions it takes in
// event time:
//
//   - inside now and not before is an enter, the reverse an exit; a key's first position inside a fence is
//     an enter;
//   - a position older than the key's newest is late: it is ignored and counted, since it tells nothing of
//     where the key is now. Equal times are not late and are taken in stream order;
//   - at one position exits come before enters, each in the order of the fences in the file;
//   - an event that says that its key has ended (Event.Deleted) ends its stays: an exit from each fence
//     the key is in, at its last known place, with the time of that event. So enters and exits of a key
//     and a fence always alternate and a count of who is inside comes back to zero; a key that goes out of
//     service inside a fence would stay in it for ever otherwise. Then the key is forgotten; if it
//     comes again that is its first position.
//
// All that the operator remembers of a key is the time and the place of its newest position, some 150
// bytes, until the key ends; which fences it is in follows from them. So a snapshot fits any fences: after the file was changed, transitions are
// those that the next positions make between the new fences. The change itself moves nobody and reports
// nothing.
package fence

import (
	"encoding/json"
	"io"
	"math"
	"os"
	"strconv"

	"github.com/millrace/millrace"
)

// Set is a fixed set of fences with an index. It may be used concurrently.
type Set struct {
	fences []Fence
	index  *index
}

// Fence is a named area.
type Fence struct {
	// ID is the feature's id as text, or its name property, or its number in the file from 0.
	ID string
	// Properties are the feature's, as compact JSON, {} if it has none. It must not be changed.
	Properties json.RawMessage
	quoted     []byte // ID as JSON
}

// Load reads a GeoJSON file. It fails with Invalid, saying where and what to do, if the file is not what
// Parse takes, and with NotFound or Unavailable if it can't be read.
func Load(path string) (*Set, error) {
	op := "load fences " + strconv.Quote(path)
	f, err := os.Open(path)
	if err != nil {
		code := millrace.Unavailable
		if os.IsNotExist(err) {
			code = millrace.NotFound
		}
		return nil, millrace.Errorf(code, op, "%w", err)
	}
	defer f.Close() //nolint:errcheck // only read from
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, millrace.Errorf(millrace.Unavailable, op, "%w", err)
	}
	s, err := Parse(data)
	if err != nil {
		return nil, millrace.Errorf(millrace.Invalid, op, "%w", err)
	}
	return s, nil
}

// Parse reads GeoJSON (RFC 7946): a FeatureCollection, a Feature, or a geometry, of Polygons and
// MultiPolygons. It fails with Invalid.
func Parse(data []byte) (*Set, error) {
	features, err := parse(data)
	if err != nil {
		return nil, err
	}
	s := &Set{fences: make([]Fence, len(features))}
	var polygons []polygon
	var rings [][][]point
	for i, f := range features {
		s.fences[i] = Fence{ID: f.id, Properties: f.properties, quoted: appendText(nil, []byte(f.id))}
		for _, p := range f.polygons {
			polygons = append(polygons, newPolygon(uint32(i), p))
			rings = append(rings, p)
		}
	}
	if len(polygons) >= math.MaxInt32/2 {
		return nil, invalid("%d polygons are too many", len(polygons))
	}
	s.index = newIndex(polygons, rings)
	return s, nil
}

// Len returns the number of fences.
func (s *Set) Len() int { return len(s.fences) }

// Fence returns the i-th fence of the file.
func (s *Set) Fence(i int) Fence { return s.fences[i] }

// Find appends the numbers of the fences that contain a point to dst, in the order of the file. The
// latitude is between -90 and 90, the longitude between -180 and 180.
func (s *Set) Find(dst []uint32, lat, lon float64) []uint32 {
	dst, _, _ = s.find(dst, lat, lon, cell{})
	return dst
}

// find is index.find for a point anywhere. Fences do not have their east and north borders, and nothing
// is beyond 180 and 90 degrees: the antimeridian counts as -180, and the north pole as just short of it.
func (s *Set) find(dst []uint32, lat, lon float64, last cell) (fences []uint32, now cell, same bool) {
	if lon >= 180 {
		lon = -180
	}
	if lat >= 90 {
		lat = math.Nextafter(90, 0)
	}
	return s.index.find(dst, lon, lat, last)
}

package fence

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace/millrace"
)

const (
	square     = `[[0,0],[4,0],[4,4],[0,4],[0,0]]`
	hole       = `[[1,1],[1,2],[2,2],[2,1],[1,1]]`
	squareArea = `{"type":"Polygon","coordinates":[` + square + `]}`
)

func TestParse(t *testing.T) {
	for name, test := range map[string]struct {
		in   string
		want string // of each fence id=properties
	}{
		"a polygon":         {squareArea, `0={}`},
		"a multipolygon":    {`{"type":"MultiPolygon","coordinates":[[` + square + `,` + hole + `]]}`, `0={}`},
		"a feature":         {`{"type":"Feature","id":"depot","properties":{"a": [1, 2]},"geometry":` + squareArea + `}`, `depot={"a":[1,2]}`},
		"no fences":         {`{"type":"FeatureCollection","features":[]}`, ``},
		"a byte order mark": {"\ufeff" + squareArea, `0={}`},
		"altitudes, white space, other members": {` { "bbox" : [0,0,4,4], "type" : "Polygon" , "coordinates" : [ [ [ 0 , 0 , 12 ] ,
			[ 4e0 , 0.0 ] , [4,4,1,2] , [ -0, 4 ] , [0,0] ] ] } `, `0={}`},
		"names": {
			`{"type":"FeatureCollection","features":[
			{"type":"Feature","id":"a","properties":{"name":"x"},"geometry":` + squareArea + `},
			{"type":"Feature","id":7.50,"properties":null,"geometry":` + squareArea + `},
			{"type":"Feature","properties":{"name":"Süd \"1\"","n":1},"geometry":` + squareArea + `},
			{"type":"Feature","id":null,"properties":{"name":12},"geometry":` + squareArea + `},
			{"type":"Feature","id":"","properties":{"name":""},"geometry":` + squareArea + `},
			{"type":"Feature","properties":{"name":["x"]},"geometry":` + squareArea + `},
			{"type":"Feature","geometry":` + squareArea + `}]}`,
			`a={"name":"x"} 7.50={} Süd "1"={"name":"Süd \"1\"","n":1} 12={"name":12} 4={"name":""} 5={"name":["x"]} 6={}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			set, err := Parse([]byte(test.in))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for i := range set.Len() {
				f := set.Fence(i)
				got = append(got, f.ID+"="+string(f.Properties))
			}
			if s := strings.Join(got, " "); s != test.want {
				t.Errorf("got  %s\nwant %s", s, test.want)
			}
		})
	}
}

func TestParseErrors(t *testing.T) {
	collection := func(features ...string) string {
		return `{"type":"FeatureCollection","features":[` + strings.Join(features, ",") + `]}`
	}
	polygon := func(coordinates string) string { return `{"type":"Polygon","coordinates":` + coordinates + `}` }
	named := func(geometry string) string { return `{"type":"Feature","id":"depot","geometry":` + geometry + `}` }
	good := `{"type":"Feature","geometry":` + squareArea + `}`
	for name, test := range map[string]struct{ in, want string }{
		"empty":                 {" \n", "is empty: expected a GeoJSON FeatureCollection"},
		"no JSON":               {"{\n \"type\": \"FeatureCollection\",\n \"ü\": x}", `line 3, column 7: no JSON: invalid character 'x' looking for beginning of value`},
		"cut short":             {"{\n\"type\"", `line 2, column 6: no JSON: unexpected end of JSON input`},
		"two values":            {"{}{}", `line 1, column 3: no JSON: invalid character '{' after top-level value`},
		"not UTF-8":             {"{\"type\":\"\xff\"}", "is not UTF-8 text"},
		"deep":                  {strings.Repeat("[", 65), "line 1, column 65: nested more than 64 levels deep"},
		"an array":              {"[1]", `expected a GeoJSON object with a "type", found an array`},
		"a string":              {`"` + strings.Repeat("é", 50) + `"`, `expected a GeoJSON object with a "type", found "ééééééééééééééééééééééééééééé...`},
		"other JSON":            {`{"depots": []}`, `is no GeoJSON: "type" must be FeatureCollection, Feature, Polygon or MultiPolygon, found nothing`},
		"type no string":        {`{"type": 12}`, `is no GeoJSON: "type" must be FeatureCollection, Feature, Polygon or MultiPolygon, found 12`},
		"another type":          {`{"type":"Topology"}`, `"Topology" is no type of GeoJSON: expected FeatureCollection, Feature, Polygon or MultiPolygon`},
		"no features":           {`{"type":"FeatureCollection"}`, `"features" of a FeatureCollection must be an array, found nothing`},
		"features no array":     {`{"type":"FeatureCollection","features":{}}`, `"features" of a FeatureCollection must be an array, found an object`},
		"feature no object":     {collection(good, `null`), `feature 1: expected a GeoJSON object with a "type", found null`},
		"geometry as feature":   {collection(squareArea), `feature 0: "type" must be Feature, found "Polygon"`},
		"point":                 {collection(good, named(`{"type":"Point","coordinates":[1,2]}`)), `feature 1 ("depot"): a fence needs a Polygon or a MultiPolygon, found a Point: draw its area`},
		"line":                  {`{"type":"LineString","coordinates":[]}`, `a fence needs a Polygon or a MultiPolygon, found a LineString: draw its area`},
		"no geometry":           {collection(named(`null`)), `feature 0 ("depot"): has no geometry: give it a Polygon or a MultiPolygon, or remove it`},
		"feature as geometry":   {collection(named(good)), `feature 0 ("depot"): a geometry must be a Polygon or a MultiPolygon, found a Feature`},
		"id":                    {collection(`{"type":"Feature","id":{"a":1},"geometry":` + squareArea + `}`), `feature 0: "id" must be a string or a number, found an object`},
		"properties":            {collection(`{"type":"Feature","properties":[],"geometry":` + squareArea + `}`), `feature 0: "properties" must be an object or null, found an array`},
		"large properties":      {collection(`{"type":"Feature","properties":{"a":"` + strings.Repeat("x", 1<<20) + `"},"geometry":` + squareArea + `}`), `feature 0: "properties" has 1048584 bytes, and every result would carry them: the limit is 1048576`},
		"one name":              {collection(named(squareArea), good, named(squareArea)), `features 0 and 2 are both called "depot": give each an id of its own`},
		"name is a number":      {collection(good, `{"type":"Feature","id":0,"geometry":`+squareArea+`}`), `features 0 and 1 are both called "0": give each an id of its own`},
		"no coordinates":        {`{"type":"Polygon"}`, `a Polygon's coordinates must be an array, found nothing`},
		"coordinates no array":  {polygon(`"0 0"`), `a Polygon's coordinates must be an array, found "0 0"`},
		"no rings":              {polygon(`[]`), `the polygon has no rings`},
		"no polygons":           {`{"type":"MultiPolygon","coordinates":[]}`, `the MultiPolygon has no polygons`},
		"a ring too few levels": {polygon(square), `ring 0: position 0: a position must be an array, found 0`},
		"a level too many":      {polygon(`[[` + square + `]]`), `ring 0: position 0: expected a number, found an array`},
		"three positions":       {polygon(`[[[0,0],[1,1],[0,0]]]`), `ring 0: has 3 positions; a closed ring needs at least 4`},
		"an open ring":          {polygon(`[` + square + `,[[1,1],[1,2],[2,2.5],[2,1]]]`), `ring 1: is not closed: its last position [2, 1] must repeat its first [1, 1]`},
		"no area":               {polygon(`[[[0,1],[1,1],[2,1],[0,1]]]`), `ring 0: encloses no area: all its positions lie on one line, or in one point, at [0, 1]`},
		"one number":            {polygon(`[[[0,0],[1]]]`), `ring 0: position 1: has 1 numbers; a position is [longitude, latitude]`},
		"a string as number":    {polygon(`[[[0,"0"]]]`), `ring 0: position 0: expected a number, found "0"`},
		"latitude":              {polygon(`[[[0,0],[39.9,116.4]]]`), `ring 0: position 1: the latitude 116.4 is not between -90 and 90 (GeoJSON writes the longitude first, in degrees)`},
		"longitude":             {collection(named(`{"type":"MultiPolygon","coordinates":[[` + square + `],[[[180.5,1]]]]}`)), `feature 0 ("depot"): polygon 1: ring 0: position 0: the longitude 180.5 is not between -180 and 180 (in degrees; cut an area at the antimeridian into two polygons)`},
		"a huge number":         {polygon(`[[[0,1e999]]]`), `ring 0: position 0: the number 1e999 is out of range`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse([]byte(test.in))
			if err == nil || err.Error() != test.want {
				t.Errorf("got  %v\nwant %s", err, test.want)
			}
			if millrace.CodeOf(err) != millrace.Invalid {
				t.Errorf("the code is %s", millrace.CodeOf(err))
			}
		})
	}
}

func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "depots.geojson")
	if _, err := Load(path); millrace.CodeOf(err) != millrace.NotFound || !strings.Contains(err.Error(), path) {
		t.Errorf("a missing file: %v", err)
	}
	if err := os.WriteFile(path, []byte(squareArea), 0o600); err != nil {
		t.Fatal(err)
	}
	if set, err := Load(path); err != nil || set.Len() != 1 {
		t.Errorf("%v, %v", set, err)
	}
	if err := os.WriteFile(path, []byte(squareArea[:20]), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); millrace.CodeOf(err) != millrace.Invalid || !strings.Contains(err.Error(), `depots.geojson": line 1, column `) {
		t.Errorf("a broken file: %v", err)
	}
	if _, err := Load(t.TempDir()); millrace.CodeOf(err) != millrace.Unavailable {
		t.Errorf("a directory: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		squareArea,
		`{"type":"MultiPolygon","coordinates":[[` + square + `,` + hole + `],[[[9,9],[9,10],[10,9],[9,9]]]]}`,
		`{"type":"FeatureCollection","features":[{"type":"Feature","id":1,"properties":{"name":"x"},"geometry":` + squareArea + `}]}`,
		`{"type":"Feature","geometry":{"type":"Polygon","coordinates":[[[0,0],[1e-300,0],[0,1],[0,0]]]}}`,
		`{"type":"Polygon","coordinates":[[[-180,-90],[180,-90],[180,90],[-180,90],[-180,-90]]]}`,
		`{"type":"Polygon","coordinates":[[[0,0],[0,0],[4,4],[0,0],[3,1],[0,0]]]}`,
		"{\n\"type\": x", `[`, `{"type":"Polygon","coordinates":"\`, `{"type":"Polygon","coordinates":[[[0,"\\"`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1<<16 {
			return
		}
		set, err := Parse(data)
		if err != nil {
			if millrace.CodeOf(err) != millrace.Invalid || len(err.Error()) > 1000 {
				t.Fatalf("%s: %v", millrace.CodeOf(err), err)
			}
			return
		}
		for i := range set.Len() {
			f := set.Fence(i)
			var object map[string]any
			if err := json.Unmarshal(f.Properties, &object); err != nil || bytes.ContainsAny(f.Properties, "\n") {
				t.Fatalf("properties %q: %v", f.Properties, err)
			}
			var id string
			if err := json.Unmarshal(f.quoted, &id); err != nil || id != f.ID {
				t.Fatalf("id %q is quoted as %s", f.ID, f.quoted)
			}
		}
		// Every corner, and what lies around it, is answered as without an index.
		for i := range set.index.polygons {
			b := set.index.polygons[i].box
			for _, p := range []point{{b.x0, b.y0}, {b.x1, b.y1}, {(b.x0 + b.x1) / 2, (b.y0 + b.y1) / 2}} {
				var want []uint32
				for j := range set.index.polygons {
					if q := &set.index.polygons[j]; q.contains(p.x, p.y) && (len(want) == 0 || want[len(want)-1] != q.fence) {
						want = append(want, q.fence)
					}
				}
				if got, _, _ := set.index.find(nil, p.x, p.y, cell{}); !equal(got, want) {
					t.Fatalf("at %v: fences %v, want %v", p, got, want)
				}
			}
		}
	})
}

package fence

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/millrace/millrace"
)

// Bounds on what is read, so that a wrong file is refused before it fills the memory.
const (
	maxFile       = 512 << 20
	maxDepth      = 64
	maxProperties = 1 << 20 // every result carries its feature's properties
)

// feature is one fence as the file has it.
type feature struct {
	id         string
	properties []byte      // compact JSON, an object
	polygons   [][][]point // polygon, ring, position; the first ring is the outer one, the others are holes
}

// point is a position in degrees; x is the longitude.
type point struct{ x, y float64 }

// parse reads GeoJSON. Every failure is Invalid and says where: a line and column for what is no JSON,
// the feature, polygon, ring and position (all counted from 0, as JSON tools do) for the rest.
func parse(data []byte) ([]feature, error) {
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	if err := checkJSON(data); err != nil {
		return nil, err
	}
	top, err := decodeObject(data)
	if err != nil {
		return nil, err
	}
	switch top.kind {
	case "FeatureCollection":
		var list []json.RawMessage
		if !isArray(top.Features) || json.Unmarshal(top.Features, &list) != nil {
			return nil, invalid(`"features" of a FeatureCollection must be an array, found %s`, describe(top.Features))
		}
		features := make([]feature, 0, len(list))
		for i, raw := range list {
			f, err := parseFeature(raw, i)
			switch {
			case err != nil && f.id != "":
				return nil, fmt.Errorf("feature %d (%q): %w", i, short(f.id), err)
			case err != nil:
				return nil, fmt.Errorf("feature %d: %w", i, err)
			}
			features = append(features, f)
		}
		return features, checkIDs(features)
	case "Feature":
		f, err := parseFeature(data, 0)
		return []feature{f}, err
	default:
		polygons, err := parseGeometry(top)
		return []feature{{id: "0", properties: []byte("{}"), polygons: polygons}}, err
	}
}

// checkJSON refuses what is not UTF-8, nested too deeply, or no JSON.
func checkJSON(data []byte) error {
	if len(data) > maxFile {
		return invalid("%d bytes are over the limit of %d", len(data), maxFile)
	}
	if !utf8.Valid(data) {
		return invalid("is not UTF-8 text")
	}
	var quoted bool
	depth := 0
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case c == '"':
			quoted = !quoted
		case c == '\\' && quoted:
			i++
		case quoted:
		case c == '[', c == '{':
			if depth++; depth > maxDepth {
				return invalid("%s: nested more than %d levels deep", lineColumn(data, i), maxDepth)
			}
		case c == ']', c == '}':
			depth--
		}
	}
	var whole json.RawMessage
	err := json.Unmarshal(data, &whole)
	var syntax *json.SyntaxError
	switch {
	case err == nil:
		return nil
	case len(bytes.TrimSpace(data)) == 0:
		return invalid("is empty: expected a GeoJSON FeatureCollection")
	case errors.As(err, &syntax):
		return invalid("%s: no JSON: %v", lineColumn(data, int(syntax.Offset)-1), syntax)
	default:
		return invalid("no JSON: %v", err)
	}
}

// lineColumn of a byte, both from 1, the column in characters.
func lineColumn(data []byte, offset int) string {
	offset = max(0, min(offset, len(data)))
	before := data[:offset]
	start := bytes.LastIndexByte(before, '\n') + 1
	return fmt.Sprintf("line %d, column %d", bytes.Count(before, []byte{'\n'})+1, utf8.RuneCount(before[start:])+1)
}

// object is any GeoJSON object.
type object struct {
	kind        string
	Type        json.RawMessage `json:"type"`
	Features    json.RawMessage `json:"features"`
	ID          json.RawMessage `json:"id"`
	Properties  json.RawMessage `json:"properties"`
	Geometry    json.RawMessage `json:"geometry"`
	Coordinates json.RawMessage `json:"coordinates"`
}

func decodeObject(raw []byte) (object, error) {
	var o object
	if err := json.Unmarshal(raw, &o); err != nil || !startsWith(raw, '{') {
		return o, invalid(`expected a GeoJSON object with a "type", found %s`, describe(raw))
	}
	if json.Unmarshal(o.Type, &o.kind) != nil || o.kind == "" {
		return o, invalid(`is no GeoJSON: "type" must be FeatureCollection, Feature, Polygon or MultiPolygon, found %s`, describe(o.Type))
	}
	return o, nil
}

// parseFeature returns the feature, with an error perhaps only its name.
func parseFeature(raw []byte, number int) (feature, error) {
	o, err := decodeObject(raw)
	if err != nil {
		return feature{}, err
	}
	if o.kind != "Feature" {
		return feature{}, invalid(`"type" must be Feature, found %q`, short(o.kind))
	}
	var f feature
	if f.properties, err = compactProperties(o.Properties); err != nil {
		return f, err
	}
	if f.id, err = name(o.ID, f.properties); err != nil {
		return f, err
	}
	if f.id == "" {
		f.id = strconv.Itoa(number)
	}
	if absent(o.Geometry) {
		return f, invalid("has no geometry: give it a Polygon or a MultiPolygon, or remove it")
	}
	geometry, err := decodeObject(o.Geometry)
	if err == nil {
		f.polygons, err = parseGeometry(geometry)
	}
	return f, err
}

// name is the feature's id or its name property, "" if it has neither. Numbers are kept as written.
func name(id json.RawMessage, properties []byte) (string, error) {
	var named struct {
		Name json.RawMessage `json:"name"`
	}
	_ = json.Unmarshal(properties, &named) // an object, as was checked
	for i, raw := range []json.RawMessage{id, named.Name} {
		var text string
		switch {
		case absent(raw):
		case startsWith(raw, '"'):
			_ = json.Unmarshal(raw, &text) // a string of the JSON that was checked
		case isNumber(raw):
			text = string(bytes.TrimSpace(raw))
		case i == 0:
			return "", invalid(`"id" must be a string or a number, found %s`, describe(raw))
		}
		if text != "" {
			return text, nil
		}
	}
	return "", nil
}

// compactProperties returns the properties as compact JSON; {} if there are none, so that a result's
// properties are always an object.
func compactProperties(raw json.RawMessage) ([]byte, error) {
	switch {
	case absent(raw):
		return []byte("{}"), nil
	case !startsWith(raw, '{'):
		return nil, invalid(`"properties" must be an object or null, found %s`, describe(raw))
	}
	var b bytes.Buffer
	_ = json.Compact(&b, raw) // part of the JSON that was checked
	if b.Len() > maxProperties {
		return nil, invalid(`"properties" has %d bytes, and every result would carry them: the limit is %d`, b.Len(), maxProperties)
	}
	return slices.Clip(b.Bytes()), nil
}

// checkIDs refuses two fences of one name: a result could not say which it means.
func checkIDs(features []feature) error {
	first := make(map[string]int, len(features))
	for i, f := range features {
		if j, found := first[f.id]; found {
			return invalid("features %d and %d are both called %q: give each an id of its own", j, i, short(f.id))
		}
		first[f.id] = i
	}
	return nil
}

func parseGeometry(o object) ([][][]point, error) {
	c := coordinates{data: o.Coordinates}
	var polygons [][][]point
	var err error
	switch o.kind {
	case "Polygon":
		var rings [][]point
		rings, err = c.polygon()
		polygons = [][][]point{rings}
	case "MultiPolygon":
		err = c.list("a MultiPolygon's coordinates", func(i int) error {
			rings, err := c.polygon()
			if err != nil {
				return fmt.Errorf("polygon %d: %w", i, err)
			}
			polygons = append(polygons, rings)
			return nil
		})
	case "Point", "MultiPoint", "LineString", "MultiLineString", "GeometryCollection":
		return nil, invalid("a fence needs a Polygon or a MultiPolygon, found a %s: draw its area", o.kind)
	case "FeatureCollection", "Feature":
		return nil, invalid("a geometry must be a Polygon or a MultiPolygon, found a %s", o.kind)
	default:
		return nil, invalid("%q is no type of GeoJSON: expected FeatureCollection, Feature, Polygon or MultiPolygon", short(o.kind))
	}
	if err == nil && len(polygons) == 0 {
		err = invalid("the MultiPolygon has no polygons")
	}
	return polygons, err
}

// coordinates reads nested arrays of numbers. The data is valid JSON; a missing member is empty data.
type coordinates struct {
	data []byte
	at   int
}

// polygon is an array of rings.
func (c *coordinates) polygon() ([][]point, error) {
	var rings [][]point
	err := c.list("a Polygon's coordinates", func(i int) error {
		ring, err := c.ring()
		if err != nil {
			return fmt.Errorf("ring %d: %w", i, err)
		}
		rings = append(rings, ring)
		return nil
	})
	if err == nil && len(rings) == 0 {
		err = invalid("the polygon has no rings")
	}
	return rings, err
}

// ring is a closed line of four or more positions (RFC 7946, 3.1.6). Either direction is taken.
func (c *coordinates) ring() ([]point, error) {
	var ring []point
	err := c.list("a ring", func(i int) error {
		p, err := c.position()
		if err != nil {
			return fmt.Errorf("position %d: %w", i, err)
		}
		ring = append(ring, p)
		return nil
	})
	switch {
	case err != nil:
		return nil, err
	case len(ring) < 4:
		return nil, invalid("has %d positions; a closed ring needs at least 4", len(ring))
	case ring[0] != ring[len(ring)-1]:
		return nil, invalid("is not closed: its last position %v must repeat its first %v", ring[len(ring)-1], ring[0])
	}
	box := boxOf(ring)
	if box.x1-box.x0 < margin || box.y1-box.y0 < margin {
		return nil, invalid("encloses no area: all its positions lie on one line, or in one point, at %v", ring[0])
	}
	return slices.Clip(ring), nil
}

// position is an array of a longitude, a latitude, and perhaps more (an altitude), which is ignored.
func (c *coordinates) position() (point, error) {
	var p point
	n := 0
	err := c.list("a position", func(int) error {
		v, err := c.number()
		switch n {
		case 0:
			p.x = v
		case 1:
			p.y = v
		}
		n++
		return err
	})
	switch {
	case err != nil:
		return p, err
	case n < 2:
		return p, invalid("has %d numbers; a position is [longitude, latitude]", n)
	case p.y < -90 || p.y > 90:
		return p, invalid("the latitude %v is not between -90 and 90 (GeoJSON writes the longitude first, in degrees)", p.y)
	case p.x < -180 || p.x > 180:
		return p, invalid("the longitude %v is not between -180 and 180 (in degrees; cut an area at the antimeridian into two polygons)", p.x)
	}
	return p, nil
}

// list reads an array, calling element at the start of each of its elements.
func (c *coordinates) list(what string, element func(i int) error) error {
	c.space()
	if c.at >= len(c.data) || c.data[c.at] != '[' {
		return invalid("%s must be an array, found %s", what, describe(c.data[c.at:]))
	}
	c.at++
	for i := 0; ; i++ {
		c.space()
		if c.data[c.at] == ']' {
			c.at++
			return nil
		}
		if err := element(i); err != nil {
			return err
		}
		c.space()
		if c.data[c.at] == ',' {
			c.at++
		}
	}
}

func (c *coordinates) number() (float64, error) {
	c.space()
	rest := c.data[c.at:]
	if !isNumber(rest) {
		return 0, invalid("expected a number, found %s", describe(rest))
	}
	n := 0
	for n < len(rest) && strings.IndexByte("+-.0123456789eE", rest[n]) >= 0 {
		n++
	}
	v, err := strconv.ParseFloat(string(rest[:n]), 64)
	if err != nil {
		return 0, invalid("the number %s is out of range", short(string(rest[:n])))
	}
	c.at += n
	return v, nil
}

func (c *coordinates) space() {
	for c.at < len(c.data) && strings.IndexByte(" \t\r\n", c.data[c.at]) >= 0 {
		c.at++
	}
}

func (p point) String() string {
	return "[" + strconv.FormatFloat(p.x, 'f', -1, 64) + ", " + strconv.FormatFloat(p.y, 'f', -1, 64) + "]"
}

func startsWith(raw []byte, c byte) bool {
	raw = bytes.TrimLeft(raw, " \t\r\n")
	return len(raw) > 0 && raw[0] == c
}

func isArray(raw []byte) bool { return startsWith(raw, '[') }

func isNumber(raw []byte) bool {
	raw = bytes.TrimLeft(raw, " \t\r\n")
	return len(raw) > 0 && (raw[0] == '-' || raw[0] >= '0' && raw[0] <= '9')
}

func absent(raw []byte) bool {
	raw = bytes.TrimSpace(raw)
	return len(raw) == 0 || string(raw) == "null"
}

// describe names a JSON value for an error.
func describe(raw []byte) string {
	raw = bytes.TrimLeft(raw, " \t\r\n")
	switch {
	case len(raw) == 0:
		return "nothing"
	case raw[0] == '{':
		return "an object"
	case raw[0] == '[':
		return "an array"
	case raw[0] == '"':
		end := 1
		for end < len(raw) && raw[end] != '"' {
			if raw[end] == '\\' {
				end++
			}
			end++
		}
		return short(string(raw[:min(end+1, len(raw))]))
	default:
		return short(string(bytes.TrimRight(raw[:len(raw)-len(bytes.TrimLeft(raw, "+-.0123456789eEtrufalsn"))], " ")))
	}
}

// short cuts what an error quotes.
func short(s string) string {
	const most = 60
	if len(s) <= most {
		return s
	}
	cut := most
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "..."
}

func invalid(format string, args ...any) error {
	return &millrace.Error{Code: millrace.Invalid, Err: fmt.Errorf(format, args...)}
}

package fence

import (
	"strings"

	"github.com/millrace/millrace/jsonpath"
)

// Config describes a geofence query.
type Config struct {
	// Fences is the path of a GeoJSON file (RFC 7946): a FeatureCollection, a Feature or a geometry, of
	// Polygons and MultiPolygons with holes. A fence is called after its feature's id, or its name
	// property, or its number in the file (from 0).
	Fences string `yaml:"fences,path"`
	// Lat and Lon are dotted paths to the position in an event's JSON data, numbers in degrees. An event
	// in which one of them is missing, not a number or out of range becomes a dead letter.
	Lat string `yaml:"lat"`
	Lon string `yaml:"lon"`
	// Detect lists the transitions to report: enter, exit. Default both.
	Detect []string `yaml:"detect"`
	// Key is a dotted path to another key than the event's own; on a stream of one partition only.
	Key string `yaml:"key"`
}

// SetDefaults sets what the configuration may leave out.
func (c *Config) SetDefaults() { c.Detect = []string{enter, exit} }

// The transitions.
const (
	enter = "enter"
	exit  = "exit"
)

// Validate reports what is wrong, each problem with the dotted path of its key. It does not look at the
// file: Load does.
func (c *Config) Validate(problem func(path, format string, args ...any)) {
	if c.Fences == "" {
		problem("fences", "is missing: name a GeoJSON file")
	}
	for _, field := range []struct{ name, path, example string }{
		{"lat", c.Lat, "attributes.latitude"},
		{"lon", c.Lon, "attributes.longitude"},
		{"key", c.Key, ""},
	} {
		switch {
		case field.path != "":
			if _, err := jsonpath.Compile(field.path); err != nil {
				problem(field.name, "%q: %v", field.path, err)
			}
		case field.example != "":
			problem(field.name, "is missing: give the dotted path to the position, such as %s", field.example)
		}
	}
	if c.Lat != "" && c.Lat == c.Lon {
		problem("lon", "%q is the same path as lat", c.Lon)
	}
	if len(c.Detect) == 0 {
		problem("detect", "is empty: list enter, exit or both")
	}
	seen := map[string]bool{}
	for _, name := range c.Detect {
		switch {
		case seen[name]:
			problem("detect", "%q is listed twice", name)
		case name == enter, name == exit:
		case name == "inside", name == "outside", name == "cross", name == "dwell":
			problem("detect", "%q is not supported yet: use enter and exit", name)
		default:
			problem("detect", "%q is no transition: %s", name, suggest(name))
		}
		seen[name] = true
	}
}

// suggest guesses which transition was meant.
func suggest(name string) string {
	lower := strings.ToLower(strings.TrimSpace(name))
	switch {
	case strings.HasPrefix(lower, "en"), strings.HasPrefix(lower, "in"), strings.HasPrefix(lower, "arriv"):
		return "did you mean enter?"
	case strings.HasPrefix(lower, "ex"), strings.HasPrefix(lower, "out"), strings.HasPrefix(lower, "lea"),
		strings.HasPrefix(lower, "depart"):
		return "did you mean exit?"
	default:
		return "use enter and exit"
	}
}

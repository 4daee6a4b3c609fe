package fence

// Config describes a geofence query.
type Config struct {
	// Fences is the path of a GeoJSON file: a FeatureCollection of Polygons and MultiPolygons.
	Fences string `yaml:"fences,path"`
	// Lat and Lon are dotted paths to the position in an event's JSON data, in degrees.
	Lat string `yaml:"lat"`
	Lon string `yaml:"lon"`
	// Detect lists the transitions to report: enter, exit. Default both.
	Detect []string `yaml:"detect"`
	// Key is a dotted path to another key than the event's own; on a stream of one partition only.
	Key string `yaml:"key"`
}

// SetDefaults sets what the configuration may leave out.
func (c *Config) SetDefaults() { c.Detect = []string{"enter", "exit"} }

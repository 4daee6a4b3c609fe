package archive

import "time"

// Config describes one archive. Where the objects go (to:) is the business of the configuration as a
// whole, since it names another room.
type Config struct {
	// From is the stream that is archived.
	From string `yaml:"from"`
	// Prefix of every object's key; !{timestamp:PATTERN} is replaced by the time at which the oldest
	// event of the object was stored, in UTC, by java.time's pattern letters.
	Prefix string `yaml:"prefix"`
	// ErrorPrefix of the objects that hold what could not be archived.
	ErrorPrefix string `yaml:"error_prefix"`
	Buffer      Buffer `yaml:"buffer"`
	// Compression of the objects: none or gzip.
	Compression string `yaml:"compression"`
	// Format: ndjson (each event's data on a line; what is not JSON as a JSON string) or raw (the data,
	// one after the other, as they are).
	Format string `yaml:"format"`
}

// Buffer says when an object is cut; whichever comes first.
type Buffer struct {
	// Size of the object before compression, in bytes. Default 5MiB.
	Size int64 `yaml:"size,size"`
	// Interval since the oldest event of the object was stored. Default 60s.
	Interval time.Duration `yaml:"interval"`
}

// SetDefaults sets what the configuration may leave out.
func (c *Config) SetDefaults() {
	c.Buffer = Buffer{Size: 5 << 20, Interval: 60 * time.Second}
	c.Compression, c.Format = "gzip", "ndjson"
}

package archive

import (
	"slices"
	"strings"
	"time"
)

// Config describes one archive. Where the objects go (to:) is the business of the configuration as a
// whole, since it names another room.
type Config struct {
	// From is the stream that is archived. Required.
	From string `yaml:"from"`
	// Prefix of every object's key. !{timestamp:PATTERN} is replaced by the time at which the oldest
	// event of the object was stored, in UTC, by the letters of java.time's DateTimeFormatter (yyyy MM
	// dd HH mm ss SSS D E a ...; text in single quotes); !{millrace:random-string} by 11 random letters
	// and digits. Without a timestamp yyyy/MM/dd/HH/ is appended. At most 512 characters when
	// evaluated. The object's name follows: STREAM_PARTITION_FIRST_LAST.ndjson.gz, with the positions of
	// the first and the last event, so that names sort in stream order within a prefix.
	Prefix string `yaml:"prefix"`
	// ErrorPrefix of the objects that say what could not be archived: one JSON line each with stream,
	// partition, after, to, type, reason and, of a block that does not decode, stored and raw (base64).
	// The same expressions, and !{millrace:error-output-type}, which becomes gap or undecodable; it must be
	// there where Prefix has expressions. Default
	// errors/!{millrace:error-output-type}/!{timestamp:yyyy/MM/dd}/.
	ErrorPrefix string `yaml:"error_prefix"`
	Buffer      Buffer `yaml:"buffer"`
	// Compression of the objects: none or gzip. Default gzip.
	Compression string `yaml:"compression"`
	// Format: ndjson or raw. Default ndjson.
	//
	// ndjson writes each event's data on a line of its own. JSON is kept byte for byte, but for JSON
	// with line breaks, which is compacted; other text becomes a JSON string, and bytes that are no UTF-8
	// the JSON string "data:application/octet-stream;base64,...". The end of a key without data is null.
	//
	// raw writes the data one after the other as they are, with nothing between them.
	Format string `yaml:"format"`
}

// Buffer says when an object is cut; whichever comes first.
type Buffer struct {
	// Size of the object before compression, in bytes: the event that reaches it is the object's last, so
	// that an object is larger by less than one event, also while the archive catches up. An
	// object is put together in memory, one for each partition. 1 to 128MiB. Default 5MiB.
	Size int64 `yaml:"size,size"`
	// Interval since the oldest event of the object was stored; also a stream that has gone quiet is
	// archived then. An archive that catches up makes the same cuts by the times at which the events
	// were stored. 0 to 24h; 0 waits for nothing, and makes many small objects. Default 60s.
	Interval time.Duration `yaml:"interval"`
}

const (
	formatNDJSON = "ndjson"
	formatRaw    = "raw"

	compressionNone = "none"
	compressionGzip = "gzip"

	defaultErrorPrefix = "errors/!{millrace:error-output-type}/!{timestamp:yyyy/MM/dd}/"

	maxSize     = 128 << 20
	maxInterval = 24 * time.Hour
)

// SetDefaults sets what the configuration may leave out.
func (c *Config) SetDefaults() {
	c.ErrorPrefix = defaultErrorPrefix
	c.Buffer = Buffer{Size: 5 << 20, Interval: 60 * time.Second}
	c.Compression, c.Format = compressionGzip, formatNDJSON
}

// Validate reports every problem with the path of its key.
func (c *Config) Validate(problem func(path, format string, args ...any)) {
	if c.From == "" {
		problem("from", "an archive needs the name of a stream")
	}
	if _, _, key, err := parsePrefixes(c); err != nil {
		problem(key, "%v", err)
	}
	if c.Buffer.Size < 1 || c.Buffer.Size > maxSize {
		problem("buffer.size", "%d bytes must be between 1 and 128MiB: an object is put together in memory", c.Buffer.Size)
	}
	if c.Buffer.Interval < 0 || c.Buffer.Interval > maxInterval {
		problem("buffer.interval", "%s must be between 0 and 24h", c.Buffer.Interval)
	}
	oneOf(problem, "compression", c.Compression, compressionNone, compressionGzip)
	oneOf(problem, "format", c.Format, formatNDJSON, formatRaw)
}

func oneOf(problem func(path, format string, args ...any), path, value string, choices ...string) {
	if !slices.Contains(choices, value) {
		problem(path, "%q must be %s", value, strings.Join(choices, " or "))
	}
}

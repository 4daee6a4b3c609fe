// Package config reads the YAML file that describes a whole Millrace and hands each room its part.
//
// A configuration is wrong or right as a whole: Load returns every problem at once, each with its place
// in the file, the path of the key, the value, and what to write instead. Nothing is guessed: unknown
// and repeated keys, wrong types, names of streams that nobody declared, streams that feed themselves
// are problems.
//
// # Values
//
//   - Durations are written like 500ms, 60s, 1h30m, 24h, 7d. A number needs its unit, except 0.
//   - Sizes are written like 64KiB, 5MiB, 10GiB (powers of 1024), 5MB (powers of 1000), or as a plain
//     number of bytes.
//   - Paths are relative to the directory of the configuration file, not to the working directory.
//   - Names of streams, sources, queries and archives have 1 to 64 lower-case letters, digits, hyphens
//     and underscores, and begin with a letter or digit.
//   - In every text value ${env:NAME} stands for an environment variable and ${file:PATH} for the
//     contents of a file without its trailing newline. They are expanded once: what they bring in is
//     not looked at again. What they bring in is never printed, neither in problems nor by Print.
//     $${ stands for a ${ that is meant literally. ${request.PATH} is no reference and stays as it is,
//     for route selection expressions of API Gateway.
//   - Anchors, aliases and merge keys (<<) may be used; tags and several documents may not.
package config

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/millrace/millrace/admin"
	"github.com/millrace/millrace/archive"
	"github.com/millrace/millrace/gateway"
	"github.com/millrace/millrace/mapping"
	"github.com/millrace/millrace/query"
	httpsource "github.com/millrace/millrace/source/http"
	"github.com/millrace/millrace/source/sse"
	"github.com/millrace/millrace/stream/nats"
)

// DeadStream is the stream that takes dead letters. It exists without being declared; declaring it
// changes its retention. Archives and endpoints may read it.
const DeadStream = "dead"

// maxFile bounds a configuration file and each file that a value names, in bytes.
const maxFile = 1 << 20

// Config is a whole configuration.
type Config struct {
	// DataDir holds the embedded streams and all state. Default ./data, beside the configuration file.
	DataDir string `yaml:"data_dir,path"`
	// Engine holds the streams: embedded (the default) or nats.
	Engine nats.Config `yaml:"engine"`
	// Streams by name. Every stream that something reads or writes is declared here.
	Streams map[string]nats.StreamConfig `yaml:"streams"`
	// Sources bring events in.
	Sources map[string]Source `yaml:"sources"`
	// Queries read streams and append results to streams.
	Queries map[string]Query `yaml:"queries"`
	// Archives write streams into objects.
	Archives map[string]Archive `yaml:"archives"`
	// Gateway serves streams to browsers and phones. None if absent.
	Gateway *gateway.Config `yaml:"gateway"`
	// Admin serves health and metrics. None if absent.
	Admin *admin.Config `yaml:"admin"`
	// DrainTimeout bounds the orderly end after SIGINT or SIGTERM. Default 30s.
	DrainTimeout time.Duration `yaml:"drain_timeout"`

	places map[string]place  // where each key stands
	hidden map[string]string // by path: the text before expansion of values that hold ${env:} or ${file:}
	file   string
}

// Source is one feed: its kind (sse or http), how its inputs become events, and where they go.
type Source struct {
	// SSE reads a feed of Server-Sent Events.
	SSE *sse.Config `yaml:"sse"`
	// HTTP takes what is posted to /ingest/STREAM.
	HTTP *httpsource.Config `yaml:"http"`
	// Mapping stands beside the kind: split, key, time.
	Mapping mapping.Config `yaml:",inline"`
	// Into is the stream that takes the events. Required.
	Into string `yaml:"into"`
}

// ApplyPreset sets what the preset of the feed says and the file does not.
func (s *Source) ApplyPreset(set func(key string) bool) {
	if s.SSE != nil {
		s.SSE.ApplyMapping(&s.Mapping, set)
	}
}

// Query is one continuous query.
type Query struct {
	// Query stands at the top: from, into, fence.
	Query query.Config `yaml:",inline"`
	// SQL is reserved.
	SQL string `yaml:"sql"`
}

// Archive is one archive: what (from, prefix, format and so on) and where to.
type Archive struct {
	// Archive stands at the top.
	Archive archive.Config `yaml:",inline"`
	// To says where the objects go.
	To To `yaml:"to"`
}

// To is an object store.
type To struct {
	// Disk is a directory, created if it is not there.
	Disk string `yaml:"disk,path"`
}

// SetDefaults sets what the configuration may leave out.
func (c *Config) SetDefaults() {
	c.DataDir = "data"
	c.DrainTimeout = 30 * time.Second
}

// Load reads a configuration file. env looks up environment variables (os.LookupEnv). A file that is
// wrong fails with Problems; one that cannot be read with the error of the operating system.
func Load(path string, env func(string) (string, bool)) (*Config, error) {
	text, err := readBounded(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	return Parse(path, text, env)
}

// Parse reads a configuration from text. name is the file's name in problems, and paths are relative to
// its directory. It fails with Problems.
func Parse(name string, text []byte, env func(string) (string, bool)) (*Config, error) {
	d := newDecoder(name, filepath.Dir(name), env)
	c := &Config{file: name}
	if root, ok := d.parse(text); ok && d.document(root, c) {
		d.check(c)
	}
	if len(d.problems) > 0 {
		return nil, d.problems.Sorted()
	}
	c.places, c.hidden = d.places, d.hidden
	return c, nil
}

// Problem returns a problem that was found later (a fence file that is no GeoJSON), at the place of a
// key in the file, as precisely as the file has it.
func (c *Config) Problem(path, format string, args ...any) Problem {
	at := nearest(c.places, path)
	return Problem{File: c.file, Line: at.line, Column: at.column, Path: path, Message: fmt.Sprintf(format, args...)}
}

// readBounded reads a file, which must be no directory, of at most maxFile bytes.
func readBounded(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return nil, &os.PathError{Op: "open", Path: path, Err: fmt.Errorf("is a directory")}
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = &os.PathError{Op: "read", Path: path, Err: fmt.Errorf("is larger than %d bytes", maxFile)}
	}
	return text, err
}

package nats

import (
	"cmp"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Config chooses the engine.
type Config struct {
	// Embedded runs a JetStream server inside the process. The default.
	Embedded *Embedded `yaml:"embedded"`
	// NATS connects to an external server or cluster.
	NATS *External `yaml:"nats"`
}

// Embedded is a JetStream server inside the process, under data_dir, without any open port.
type Embedded struct {
	// Reserve is the free disk space in bytes below which appends are refused, so that the producers
	// push back before the disk is full. Default 64MiB.
	Reserve int64 `yaml:"reserve,size"`
}

// External is a NATS server or cluster with JetStream.
type External struct {
	// URL of the server, nats://host:port; several are separated by commas.
	URL string `yaml:"url"`
	// Credentials is the path of a credentials file; none if absent.
	Credentials string `yaml:"credentials,path"`
	// Replicas of each stream. Default 1.
	Replicas int `yaml:"replicas"`
}

// StreamConfig describes one stream.
type StreamConfig struct {
	// Partitions is their number; it cannot be changed later. Default 1.
	Partitions int       `yaml:"partitions"`
	Retention  Retention `yaml:"retention"`
}

// Retention says how long blocks are kept. Blocks that an archive or a query still needs are kept
// longer, until twice Bytes; then appends are refused until it has caught up.
type Retention struct {
	// Age of the oldest block. 0 = unlimited. Default 24h.
	Age time.Duration `yaml:"age"`
	// Bytes of the whole stream, all partitions together. 0 = unlimited. Default 10GiB.
	Bytes int64 `yaml:"bytes,size"`
}

// SetDefaults sets what the configuration may leave out, and leaves alone what is set.
func (c *Config) SetDefaults() {
	if c.NATS == nil && c.Embedded == nil {
		c.Embedded = &Embedded{}
	}
	if c.Embedded != nil {
		c.Embedded.Reserve = cmp.Or(c.Embedded.Reserve, defaultReserve)
	}
	if c.NATS != nil {
		c.NATS.Replicas = cmp.Or(c.NATS.Replicas, 1)
	}
}

// Validate reports what is wrong, each with the path of the key.
func (c *Config) Validate(problem func(path, format string, args ...any)) {
	if c.Embedded != nil && c.NATS != nil {
		problem("nats", "an engine is either embedded or nats: remove one of the two")
	}
	if e := c.Embedded; e != nil && e.Reserve < 0 {
		problem("embedded.reserve", "%d is negative: give the free space to keep, such as 64MiB", e.Reserve)
	}
	n := c.NATS
	if n == nil {
		return
	}
	if n.URL == "" {
		problem("nats.url", "it is missing: give the server's address, such as nats://localhost:4222")
	}
	for part := range strings.SplitSeq(n.URL, ",") {
		u, err := url.Parse(strings.TrimSpace(part))
		switch {
		case n.URL == "":
		case err != nil:
			problem("nats.url", "it is no URL: give the server's address, such as nats://localhost:4222")
		case u.Host == "" || !slices.Contains([]string{"nats", "tls", "ws", "wss"}, u.Scheme):
			problem("nats.url", "%q is not the address of a NATS server: give one such as nats://localhost:4222", u.Redacted())
		}
	}
	if n.Replicas < 0 || n.Replicas > 5 {
		problem("nats.replicas", "%d is not possible: give 1 to 5", n.Replicas)
	}
}

// SetDefaults sets what the configuration may leave out; call it before reading the configuration,
// since 0 means unlimited.
func (c *StreamConfig) SetDefaults() {
	*c = StreamConfig{Partitions: 1, Retention: Retention{Age: 24 * time.Hour, Bytes: 10 << 30}}
}

// Validate reports what is wrong, each with the path of the key.
func (c *StreamConfig) Validate(problem func(path, format string, args ...any)) {
	if c.Partitions < 1 || c.Partitions > maxPartitions {
		problem("partitions", "%d is not possible: give 1 to %d", c.Partitions, maxPartitions)
	}
	if c.Retention.Age < 0 {
		problem("retention.age", "%s is negative: give how long to keep events, such as 24h, or 0 for ever", c.Retention.Age)
	}
	if c.Retention.Bytes < 0 {
		problem("retention.bytes", "%d is negative: give how much to keep, such as 10GiB, or 0 for all", c.Retention.Bytes)
	}
}

// maxPartitions of a stream; each is a JetStream stream and costs about 100 KiB of memory.
const maxPartitions = 256

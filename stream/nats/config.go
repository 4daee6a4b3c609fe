package nats

import "time"

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

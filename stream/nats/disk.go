package nats

import (
	"fmt"
	"sync"
	"time"
)

// disk watches the free space of a file system, so that appends stop before JetStream fails to write.
type disk struct {
	dir     string
	reserve int64
	metrics *Metrics

	mu      sync.Mutex
	free    int64
	checked time.Time
	since   int64 // bytes appended since then
}

func newDisk(dir string, reserve int64, m *Metrics) *disk {
	return &disk{dir: dir, reserve: reserve, metrics: m}
}

const (
	checkEvery = 100 * time.Millisecond
	checkBytes = 4 << 20
)

// full returns an error if less than the reserve would be free after another n bytes. It asks the
// operating system only every so often: between two looks others may fill the disk, by what fits
// into 100 ms; the reserve is there for that.
func (d *disk) full(n int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.since += int64(n)
	if now := time.Now(); now.Sub(d.checked) > checkEvery || d.since > checkBytes || d.free-d.since < d.reserve {
		free, err := freeBytes(d.dir)
		if err != nil {
			return fmt.Errorf("the free space of %q is unknown: %w", d.dir, err)
		}
		d.free, d.checked, d.since = free, now, int64(n)
		d.metrics.free.Set(float64(free))
	}
	if d.free-d.since < d.reserve {
		return fmt.Errorf("disk full: %d bytes are free at %q and engine.embedded.reserve is %d: free some space", d.free, d.dir, d.reserve)
	}
	return nil
}

// fullNow is full by what the operating system says at this moment.
func (d *disk) fullNow() error {
	d.mu.Lock()
	d.checked = time.Time{}
	d.mu.Unlock()
	return d.full(0)
}

//go:build linux

package paced

import (
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// Timeline is a file in which a server notes, for each event, when it was made and, where it has such a
// notion, when it was durable, and from which the client reads it: the two share the machine's clock.
type Timeline struct {
	memory []byte
	times  []int64 // two each
}

// timelineEvents bounds the events that a timeline has room for; the file is sparse.
const timelineEvents = 1 << 22

// OpenTimeline creates the file, or opens the one that is there. "" is no timeline: nil.
func OpenTimeline(name string) (*Timeline, error) {
	if name == "" {
		return nil, nil //nolint:nilnil // no timeline is asked for
	}
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	const size = timelineEvents * 16
	if err := f.Truncate(size); err != nil {
		return nil, err
	}
	memory, err := syscall.Mmap(int(f.Fd()), 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", name, err)
	}
	//nolint:gosec // two processes share the memory
	return &Timeline{memory: memory, times: unsafe.Slice((*int64)(unsafe.Pointer(&memory[0])), size/8)}, nil
}

// Made notes the events [from, to) as made now.
func (t *Timeline) Made(from, to int64) { t.note(from, to, 0) }

// Durable notes the events [from, to) as durable now.
func (t *Timeline) Durable(from, to int64) { t.note(from, to, 1) }

func (t *Timeline) note(from, to int64, column int) {
	if t == nil {
		return
	}
	now := time.Now().UnixNano()
	for n := from; n < min(to, timelineEvents); n++ {
		atomic.StoreInt64(&t.times[2*int(n)+column], now)
	}
}

// Of returns when an event was made and durable, in Unix nanoseconds; 0 if that is not known.
func (t *Timeline) Of(n int64) (made, durable int64) {
	if n < 0 || n >= timelineEvents {
		return 0, 0
	}
	return atomic.LoadInt64(&t.times[2*n]), atomic.LoadInt64(&t.times[2*n+1])
}

// Close ends the use of the timeline.
func (t *Timeline) Close() {
	if t != nil {
		_ = syscall.Munmap(t.memory) // nothing can be done about it
	}
}

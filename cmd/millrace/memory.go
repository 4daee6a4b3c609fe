package main

import (
	"os"
	"path"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
)

// keepToMemory makes the garbage collector keep to seven tenths of what the control group (a container's limit,
// MemoryMax of systemd) lets the process have; the rest is for what it does not see: the program, sockets, files.
// Without a limit, or with GOMEMLIMIT in the environment, nothing changes. It returns the limit in bytes, 0
// if there is none.
func keepToMemory(root string) int64 {
	if os.Getenv("GOMEMLIMIT") != "" {
		return 0
	}
	limit := groupMemory(root)
	if limit > 0 {
		debug.SetMemoryLimit(limit / 10 * 7)
	}
	return limit
}

// From how many sources or clients on memory is dearer than the collector's time. Clients come and go: they are many
// until fewer than half as many are left.
const (
	manySources = 100
	manyClients = 2000
)

// How much may be allocated between two collections, in percent of what is alive. Most of what many sources and
// clients need stays alive, and the usual 100 would double it.
const (
	usualPercent   = 100 // Go's own default
	sourcesPercent = 30  // it costs a tenth of a core more with a thousand feeds; less than 30 saves little
	clientsPercent = 50  // handing out events allocates next to nothing, so that this costs as much
)

// collector makes the garbage collector run more often where there are many sources or clients, and as usual where
// there are not (any more). With GOGC in the environment it does nothing.
type collector struct {
	mu      sync.Mutex
	sources int
	crowded bool
	percent int // as it was set; 0: it was not
}

// serve takes note of how many sources there are.
func (c *collector) serve(sources int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sources = sources
	c.set()
}

// attend takes note of how many clients there are.
func (c *collector) attend(clients int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.crowded = clients >= manyClients || c.crowded && clients >= manyClients/2
	c.set()
}

func (c *collector) set() {
	percent := usualPercent
	switch {
	case c.sources >= manySources:
		percent = sourcesPercent
	case c.crowded:
		percent = clientsPercent
	}
	if percent != c.percent && os.Getenv("GOGC") == "" {
		c.percent = percent
		debug.SetGCPercent(percent) // stops the world for a moment
	}
}

// groupMemory is the least limit of the process's control group and those around it, version 2 or 1, of the
// file system under root; 0 if there is none.
func groupMemory(root string) (limit int64) {
	groups, err := os.ReadFile(path.Join(root, "proc/self/cgroup"))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(groups)) { // NUMBER:CONTROLLERS:PATH
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		mount, file := "sys/fs/cgroup", "memory.max"
		switch {
		case parts[1] == "memory":
			mount, file = "sys/fs/cgroup/memory", "memory.limit_in_bytes"
		case parts[1] != "":
			continue
		}
		for group := path.Clean("/" + parts[2]); ; group = path.Dir(group) {
			text, err := os.ReadFile(path.Join(root, mount, group, file))
			n, wrong := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
			if err == nil && wrong == nil && n > 0 && n < 1<<50 && (limit == 0 || n < limit) { // version 1 writes no limit as a huge one
				limit = n
			}
			if group == "/" {
				break
			}
		}
	}
	return limit
}

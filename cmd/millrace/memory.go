package main

import (
	"os"
	"path"
	"runtime/debug"
	"strconv"
	"strings"
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

// manySources is from how many sources on memory is dearer than the collector's time.
const manySources = 100

// manyPercent is how much may be allocated between two collections then, in percent of what is alive. With a
// thousand feeds most of what is alive stays, so that the usual 100 would double the process; 30 costs a tenth
// of a core more, and less than 30 saves little.
const manyPercent = 30

// usualPercent is the same for fewer sources, and Go's own default.
const usualPercent = 100

// collectOften makes the garbage collector run more often where there are many sources, and as usual where there are
// not (any more). With GOGC in the environment nothing changes.
func collectOften(sources int) {
	if os.Getenv("GOGC") != "" {
		return
	}
	percent := usualPercent
	if sources >= manySources {
		percent = manyPercent
	}
	debug.SetGCPercent(percent)
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

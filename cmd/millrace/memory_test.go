package main

import (
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"testing"

	"github.com/millrace/millrace/config"
)

func TestGroupMemory(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		want  int64
	}{
		"none": {},
		"version 2": {map[string]string{
			"proc/self/cgroup": "0::/a.slice/b.service\n", "sys/fs/cgroup/a.slice/b.service/memory.max": "max\n",
			"sys/fs/cgroup/a.slice/memory.max": "268435456\n",
		}, 256 << 20},
		"a container": {map[string]string{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "1048576\n"}, 1 << 20},
		"version 1": {map[string]string{
			"proc/self/cgroup": "9:memory:/x\n8:cpu,cpuacct:/\n",
			"sys/fs/cgroup/memory/x/memory.limit_in_bytes":    "2097152\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes":      "9223372036854771712\n",
			"sys/fs/cgroup/cpu,cpuacct/memory.limit_in_bytes": "1\n",
		}, 2 << 20},
		"no limit": {map[string]string{
			"proc/self/cgroup": "9:memory:/\n0::/\nnonsense\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			for file, text := range c.files {
				if err := os.MkdirAll(filepath.Dir(filepath.Join(root, file)), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(root, file), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if got := groupMemory(root); got != c.want {
				t.Errorf("got %d, want %d", got, c.want)
			}
		})
	}
}

// How often the collector runs follows the number of sources, also up and down by reloads, unless it was said from
// outside.
func TestCollectsOftenWithManySources(t *testing.T) {
	percent := func() int {
		now := debug.SetGCPercent(usualPercent)
		debug.SetGCPercent(now)
		return now
	}
	defer debug.SetGCPercent(percent())
	p := pipelineOf(0)
	with := func(sources int) *plan {
		c := &config.Config{Sources: map[string]config.Source{}}
		for i := range sources {
			c.Sources[strconv.Itoa(i)] = config.Source{}
		}
		return &plan{config: c}
	}
	t.Setenv("GOGC", "")
	p.adopt(with(manySources))
	if got := percent(); got != sourcesPercent {
		t.Errorf("%d at the start", got)
	}
	for _, step := range []struct{ sources, want int }{{1, usualPercent}, {manySources - 1, usualPercent}, {manySources, sourcesPercent}} {
		p.apply(t.Context(), t.Context(), with(step.sources))
		if got := percent(); got != step.want {
			t.Errorf("%d with %d sources, want %d", got, step.sources, step.want)
		}
	}
	t.Setenv("GOGC", "50")
	p.apply(t.Context(), t.Context(), with(1))
	if got := percent(); got != sourcesPercent {
		t.Errorf("%d, though GOGC was set", got)
	}
}

// The same with clients, which come and go.
func TestCollectsOftenWithManyClients(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(usualPercent))
	t.Setenv("GOGC", "")
	var c collector
	for _, step := range []struct{ clients, sources, want int }{
		{0, 1, usualPercent},
		{manyClients - 1, 1, usualPercent},
		{manyClients, 1, clientsPercent},
		{manyClients / 2, 1, clientsPercent},
		{manyClients / 2, manySources, sourcesPercent},
		{manyClients / 2, 1, clientsPercent},
		{manyClients/2 - 1, 1, usualPercent},
		{manyClients - 1, 1, usualPercent},
	} {
		c.serve(step.sources)
		c.attend(step.clients)
		now := debug.SetGCPercent(usualPercent)
		debug.SetGCPercent(now)
		if now != step.want {
			t.Errorf("%d clients and %d sources: %d, want %d", step.clients, step.sources, now, step.want)
		}
	}
}

// Sources may gather less where there is less memory.
func TestSourcesBudget(t *testing.T) {
	for memory, want := range map[int64]int64{0: 32 << 20, 128 << 20: 4 << 20, 256 << 20: 8 << 20, 4 << 30: 32 << 20} {
		if got := sourcesBudget(memory); got != want {
			t.Errorf("%d of %d, want %d", got, memory, want)
		}
	}
}

package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// fill leaves so many bytes free on a volume, and returns what frees the rest again.
func fill(t *testing.T, dir string, leave int64) (release func()) {
	t.Helper()
	name := filepath.Join(dir, "ballast")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for piece := make([]byte, 64<<10); freeBytes(t, dir) > leave; {
		n := min(int64(len(piece)), freeBytes(t, dir)-leave)
		if _, err := f.Write(piece[:n]); errors.Is(err, syscall.ENOSPC) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	return func() {
		if err := os.Remove(name); err != nil {
			t.Error(err)
		}
	}
}

// A full disk: the program says so and takes in no more, loses nothing, and goes on without a restart when
// there is space again. It does so before the disk is full; and also when others take the last byte before
// it has noticed, so that the engine fails to write.
func TestDiskFull(t *testing.T) {
	for name, test := range map[string]struct {
		reserve string
		left    []int64 // bytes free
		says    string
	}{
		"the reserve is left": {"16MiB", []int64{8 << 20, 1 << 20}, "disk full"},
		"nothing is left":     {"1", []int64{0, 0}, "disk"},
	} {
		t.Run(name, func(t *testing.T) {
			volume := mountTmpfs(t, "160m")
			s := newTraffic(t, trafficOptions{vehicles: 100, dataDir: volume, reserve: test.reserve})
			s.client(s.positions, "all keys", false)
			s.client(s.crossings, "all keys", false)
			p := s.pipeline.start()
			s.report(500)
			s.awaitClients()
			for _, left := range test.left {
				stop := s.drive(50, time.Millisecond)
				release := fill(t, volume, left)
				p.logged("that the disk is full", func(l logLine) bool {
					return l.Level == "WARN" && strings.Contains(l.Error, test.says)
				})
				stop()
				s.report(1000)
				if left > 0 && s.positions.balanced([]string{"all keys"}) {
					t.Error("the program goes on storing on a full disk")
				}
				release()
				freed := time.Now()
				s.awaitClients()
				t.Logf("with %d bytes left: all had come %s after there was space again", left, time.Since(freed).Round(time.Millisecond))
			}
			if metrics := p.get("/metrics"); !strings.Contains(metrics, "full_total") {
				t.Errorf("the metrics say nothing of a full disk:\n%s", metrics)
			}
			p.end(syscall.SIGTERM)
			s.settle()
		})
	}
}

package e2e

import (
	"math/rand/v2"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// A power cut: whatever clients have seen, and every object of the archive, is still there afterwards, and
// the feed goes on without a loss or a repeat.
func TestPowerCut(t *testing.T) {
	cuts := 3
	if long {
		cuts = 20
	}
	v := newVolume(t, 512<<20)
	s := newTraffic(t, trafficOptions{vehicles: 100, dir: v.dir})
	v.sync()
	s.connectClients()
	stop := s.drive(20, 5*time.Millisecond)
	random := rand.New(rand.NewPCG(11, 0))
	for range cuts {
		p := s.pipeline.start()
		seen := s.crossings.all.NumberArrived("all keys")
		s.crossings.awaitCount(t, "all keys", seen+20) // so that something is acknowledged in every life
		moment := time.NewTimer(time.Duration(random.Int64N(int64(200 * time.Millisecond))))
		select {
		case <-moment.C:
		case <-p.ended:
			t.Fatalf("the program has ended by itself: %v", p.wait)
		}
		if err := p.command.Process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		v.cutPower()
		p.kill()
		v.unmount()
		v.mount()
		for _, b := range []string{"positions", "crossings"} {
			readArchive(t, filepath.Join(s.pipeline.dir, "archive"), b, b) // whatever is visible is whole
		}
	}
	stop()
	p := s.pipeline.start()
	s.report(500)
	s.awaitClients()
	p.end(syscall.SIGTERM)
	s.settle()
}

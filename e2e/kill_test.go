package e2e

import (
	"math/rand/v2"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace/millracetest"
)

// Killed with -9 at random moments and started again, the program loses and repeats nothing: not in the
// streams, nor in the archive, nor at clients that come back by position; and the crossings are those that
// brute force finds.
func TestKill(t *testing.T) {
	kills := 5
	if long {
		kills = 50
	}
	s := newTraffic(t, trafficOptions{
		vehicles: 300,
		// The feed is no better than others and breaks off in the middle; and clients are cut as slow all
		// the time, and come back.
		feed:  millracetest.FeedOptions{CutEvery: 100_000, Preamble: "retry: 10\n\n"},
		queue: "4KiB",
	})
	s.connectClients()
	s.report(500)
	stop := s.drive(20, 5*time.Millisecond)
	random := rand.New(rand.NewPCG(9, 0))
	for i := range kills {
		p := s.pipeline.launch()
		// When exactly it dies is up to the machine, and what is checked does not depend on it: while it
		// starts, while it begins to work, and when clients have got something of it. The feed goes on all
		// the while.
		most := 250 * time.Millisecond
		switch i % 3 {
		case 0:
			p.waitReady()
		case 2:
			s.crossings.awaitCount(t, "all keys", s.crossings.all.NumberArrived("all keys")+1)
		}
		moment := time.NewTimer(time.Duration(random.Int64N(int64(most))))
		select {
		case <-moment.C:
		case <-p.ended:
			t.Fatalf("life %d has ended by itself: %v", i, p.wait)
		}
		p.kill()
		for _, b := range []string{"positions", "crossings"} {
			readArchive(t, filepath.Join(s.pipeline.dir, "archive"), b, b) // whatever is visible is whole
		}
	}
	stop()
	p := s.pipeline.start()
	s.report(500) // the feed is live as it was
	s.awaitClients()
	p.end(syscall.SIGTERM)
	s.settle()
	resumed := 0
	for _, c := range s.clients {
		resumed += c.resumed
	}
	t.Logf("%d kills; the clients resumed %d times by position", kills, resumed)
	if resumed == 0 {
		t.Error("no client has ever resumed by position: the kills came too early to prove anything")
	}
}

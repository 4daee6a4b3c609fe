package nats_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
	"github.com/millrace/millrace/millracetest"
	"github.com/millrace/millrace/stream/nats"
)

const crowdSize = 200

// runCrowd lets many producers append side by side until it is killed. It prints producer and flush of each
// block that was acknowledged.
func runCrowd() {
	fail := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, "crowd:", err)
			os.Exit(1)
		}
	}
	ctx := context.Background()
	e, err := nats.Open(ctx, nats.Options{DataDir: os.Getenv("MILLRACE_TEST_DIR"), Logger: slog.New(slog.DiscardHandler)})
	fail(err)
	s, err := e.Stream(ctx, "crowd", nats.StreamConfig{Partitions: 1})
	fail(err)
	fmt.Println("ready")
	var printing sync.Mutex
	for i := range crowdSize {
		go func() {
			name, flush, after := fmt.Sprint("p", i), uint64(0), millrace.Position{}
			last, err := s.Last(ctx, "0", name)
			if millrace.CodeOf(err) != millrace.NotFound {
				fail(err)
				flush, after = last.Header.Flush, last.At
			}
			for {
				flush++
				var b block.Builder
				fail(b.Add(&millrace.Event{ID: fmt.Sprint(flush), Time: time.Now(), Data: noise(rand.IntN(2000))}))
				encoded, err := b.Encode(nil, millrace.Header{Producer: name, Flush: flush, Commit: true})
				fail(err)
				after, err = s.Append(ctx, "0", after, encoded)
				fail(err)
				printing.Lock()
				fmt.Printf("%d %d\n", i, flush)
				printing.Unlock()
			}
		}()
	}
	select {}
}

// TestKillCrowd kills a program whose producers' blocks share their syncs. Whatever was acknowledged is there;
// what was not is there or not, but each producer's blocks are without a gap or a repeat, and nothing is
// missing from the stream. MILLRACE_KILLS says how often; a few times if it is not set.
func TestKillCrowd(t *testing.T) {
	kills, _ := strconv.Atoi(os.Getenv("MILLRACE_KILLS"))
	if kills == 0 {
		kills = 4
	}
	dir := t.TempDir()
	acknowledged := make([]uint64, crowdSize)
	total := 0
	for range kills {
		c := startChild(t, "crowd", dir)
		if line, err := c.out.ReadString('\n'); err != nil {
			t.Fatalf("the crowd did not start: %q, %v", line, err)
		}
		timer := time.AfterFunc(100*time.Millisecond+time.Duration(rand.Int64N(int64(500*time.Millisecond))), func() { _ = c.cmd.Process.Kill() })
		for {
			line, err := c.out.ReadString('\n')
			if err != nil {
				break
			}
			var i int
			var flush uint64
			if _, err := fmt.Sscanf(line, "%d %d", &i, &flush); err != nil {
				t.Fatal(line, err)
			}
			if flush <= acknowledged[i] {
				t.Errorf("p%d: flush %d is acknowledged after %d", i, flush, acknowledged[i])
			}
			acknowledged[i] = flush
			total++
		}
		timer.Stop()
		c.kill()
	}
	e := openEngine(t, nats.Options{DataDir: dir, Logger: logger(t)})
	s, err := e.Stream(t.Context(), "crowd", nats.StreamConfig{Partitions: 1})
	if err != nil {
		t.Fatal(err)
	}
	millracetest.CheckCrowd(t, s, acknowledged)
	t.Logf("%d kills, %d blocks acknowledged", kills, total)
}

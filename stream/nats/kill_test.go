package nats_test

import (
	"bufio"
	"context"
	crand "crypto/rand"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
	"github.com/millrace/millrace/stream/nats"
)

const killProducer = "source/killed"

// runAppender appends blocks until it is killed. Their flushes are numbered, over all its lives; it
// prints each number when the block was acknowledged. Trimming runs besides.
func runAppender() {
	fail := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, "appender:", err)
			os.Exit(1)
		}
	}
	ctx := context.Background()
	e, err := nats.Open(ctx, nats.Options{DataDir: os.Getenv("MILLRACE_TEST_DIR"), Logger: slog.New(slog.DiscardHandler)})
	fail(err)
	limit, err := strconv.ParseInt(os.Getenv("MILLRACE_TEST_BYTES"), 10, 64)
	fail(err)
	s, err := e.Stream(ctx, "positions", nats.StreamConfig{Partitions: 1, Retention: nats.Retention{Bytes: limit}})
	fail(err)
	go func() { fail(s.Run(ctx)) }()

	flush, after := uint64(0), millrace.Position{}
	last, err := s.Last(ctx, "0", killProducer)
	if millrace.CodeOf(err) != millrace.NotFound {
		fail(err)
		flush, after = last.Header.Flush, last.At
	}
	out := bufio.NewWriter(os.Stdout)
	fmt.Println("ready")
	for {
		flush++
		var b block.Builder
		for i := range rand.IntN(4) + 1 {
			fail(b.Add(&millrace.Event{ID: fmt.Sprintf("%d#%d", flush, i), Data: noise(rand.IntN(2000))}))
		}
		encoded, err := b.Encode(nil, millrace.Header{Producer: killProducer, Flush: flush, Commit: true})
		fail(err)
		at, err := s.Append(ctx, "0", after, encoded)
		if millrace.CodeOf(err) == millrace.Conflict { // a trim came to the newest block
			last, err := s.Last(ctx, "0", killProducer)
			fail(err)
			at, err = s.Append(ctx, "0", last.At, encoded)
			fail(err)
		}
		fail(err)
		after = at
		fmt.Fprintln(out, flush)
		_ = out.Flush()
	}
}

// TestKill kills a program that appends, at random moments, and looks whether what was acknowledged
// is there, once and in order. MILLRACE_KILLS says how often; a few times if it is not set.
func TestKill(t *testing.T) {
	kills, _ := strconv.Atoi(os.Getenv("MILLRACE_KILLS"))
	if kills == 0 {
		kills = 4
	}
	for _, limit := range []int64{0, 50_000} {
		t.Run(fmt.Sprintf("retention=%d", limit), func(t *testing.T) {
			dir := t.TempDir()
			acknowledged := uint64(0)
			for n := 0; n < kills || acknowledged < 100; n++ {
				c := startChild(t, "appender", dir, fmt.Sprint("MILLRACE_TEST_BYTES=", limit))
				if line, err := c.out.ReadString('\n'); err != nil {
					t.Fatalf("the appender did not start: %q, %v", line, err)
				}
				timer := time.AfterFunc(time.Duration(rand.Int64N(int64(150*time.Millisecond))), func() { _ = c.cmd.Process.Kill() })
				for {
					line, err := c.out.ReadString('\n')
					if err != nil {
						break
					}
					flush, err := strconv.ParseUint(line[:len(line)-1], 10, 64)
					if err != nil {
						t.Fatal(err)
					}
					if flush <= acknowledged {
						t.Errorf("flush %d is acknowledged after %d", flush, acknowledged)
					}
					acknowledged = flush
				}
				timer.Stop()
				c.kill()
			}
			e := openEngine(t, nats.Options{DataDir: dir, Logger: logger(t)})
			s, err := e.Stream(t.Context(), "positions", nats.StreamConfig{Partitions: 1, Retention: nats.Retention{Bytes: limit}})
			if err != nil {
				t.Fatal(err)
			}
			last, err := s.Last(t.Context(), "0", killProducer)
			if err != nil || last.Header.Flush < acknowledged || last.Header.Flush > acknowledged+1 {
				t.Fatalf("the newest flush is %d, %v; %d was acknowledged", last.Header.Flush, err, acknowledged)
			}
			first, end, err := s.Bounds(t.Context(), "0")
			if err != nil || first.IsStart() != (limit == 0) {
				t.Fatalf("Bounds = %q, %q, %v", first, end, err)
			}
			blocks, flush := 0, uint64(0)
			for b, err := range s.Read(t.Context(), "0", first) {
				if err != nil {
					t.Fatal(err)
				}
				if h := b.Header; h.Events > 0 {
					if limit == 0 && h.Flush != flush+1 || flush > 0 && h.Flush != flush+1 {
						t.Errorf("flush %d comes after %d", h.Flush, flush)
					}
					flush = h.Flush
					blocks++
				}
				if b.At == end {
					break
				}
			}
			if limit == 0 && flush != last.Header.Flush {
				t.Errorf("the last flush read is %d, want %d", flush, last.Header.Flush)
			}
			t.Logf("%d kills, %d flushes acknowledged, %d blocks read: none lost, repeated or out of order", kills, acknowledged, blocks)
		})
	}
}

func noise(n int) []byte {
	b := make([]byte, n)
	_, _ = crand.Read(b) // never fails
	return b
}

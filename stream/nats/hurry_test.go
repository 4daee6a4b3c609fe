package nats_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/millracetest"
	"github.com/millrace/millrace/stream/nats"
)

// Producers that give up waiting, at any moment, and try the same block again with the same fence: each block is
// stored once and in order, whether the append that was given up had landed, lands later, or never does.
func TestHurry(t *testing.T) {
	for _, test := range []struct{ producers, flushes int }{{1, 300}, {4, 100}, {200, 6}} {
		t.Run(fmt.Sprint(test.producers), func(t *testing.T) {
			s := openStream(t, openEngine(t, nats.Options{DataDir: t.TempDir()}), millracetest.StreamOptions{Partitions: 1})
			var all sync.WaitGroup
			for i := range test.producers {
				all.Go(func() { hurry(t, s, fmt.Sprint("p", i), test.flushes) })
			}
			all.Wait()
			_, end, err := s.Bounds(t.Context(), "0")
			if err != nil {
				t.Fatal(err)
			}
			flushes := map[string]uint64{}
			for b, err := range s.Read(t.Context(), "0", millrace.Position{}) {
				if err != nil {
					t.Fatal(err)
				}
				if b.Header.Flush != flushes[b.Header.Producer]+1 {
					t.Errorf("%s has flush %d after %d", b.Header.Producer, b.Header.Flush, flushes[b.Header.Producer])
				}
				flushes[b.Header.Producer] = b.Header.Flush
				if b.At == end {
					break
				}
			}
			for i := range test.producers {
				if n := flushes[fmt.Sprint("p", i)]; n != uint64(test.flushes) {
					t.Errorf("p%d has %d flushes", i, n)
				}
			}
		})
	}
}

func hurry(t *testing.T, s millrace.Stream, name string, flushes int) {
	at, usual := millrace.Position{}, 2*time.Millisecond
	for n := 1; n <= flushes; n++ {
		encoded := encode(t, name, uint64(n), []byte(name))
		for landed := false; !landed; {
			began := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rand.Int64N(int64(2*usual))))
			next, err := s.Append(ctx, "0", at, encoded)
			cancel()
			switch millrace.CodeOf(err) {
			case millrace.Unavailable:
				usual += usual / 4 // sooner or later it is patient enough
				continue
			case millrace.Conflict:
				last, err := s.Last(t.Context(), "0", name)
				if err != nil || last.Header.Flush != uint64(n) {
					t.Errorf("%s: flush %d is refused, and the newest is %d, %v", name, n, last.Header.Flush, err)
					return
				}
				next = last.At
			default:
				if err != nil {
					t.Error(err)
					return
				}
				usual = (7*usual + time.Since(began)) / 8
			}
			at, landed = next, true
		}
	}
}

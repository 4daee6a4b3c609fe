package nats_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/stream/nats"
)

// Hundreds of producers append to one partition side by side; some of them are fenced, some give up waiting.
// Whatever was acknowledged is there, once, in each producer's order, at the position that Append has
// returned; what was refused is not; and nothing is missing in between.
func TestCrowd(t *testing.T) {
	const producers, each = 300, 8
	dir := t.TempDir()
	e, err := nats.Open(t.Context(), nats.Options{DataDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	s, err := e.Stream(t.Context(), "crowd", nats.StreamConfig{Partitions: 1})
	if err != nil {
		t.Fatal(err)
	}
	type landed struct{ producer, flush int }
	var mu sync.Mutex
	acknowledged := map[millrace.Position]landed{}
	unknown := map[landed]bool{}
	var all sync.WaitGroup
	for i := range producers {
		all.Go(func() {
			name, at := fmt.Sprint("p", i), millrace.Position{}
			for n := 1; n <= each; n++ {
				encoded := encode(t, name, uint64(n), []byte(name))
				ctx := t.Context()
				switch {
				case i%50 == 7 && n == 4: // a zombie
					if _, err := s.Append(ctx, "0", millrace.Position{}, encoded); millrace.CodeOf(err) != millrace.Conflict {
						t.Errorf("a zombie's append: %v", err)
					}
				case i%50 == 9 && n == 5: // gives up
					hurried, cancel := context.WithTimeout(ctx, time.Millisecond)
					next, err := s.Append(hurried, "0", at, encoded)
					cancel()
					if err != nil {
						mu.Lock()
						unknown[landed{i, n}] = true
						mu.Unlock()
						last, err := s.Last(ctx, "0", name)
						if err != nil {
							t.Error(err)
						}
						if next = last.At; last.Header.Flush != uint64(n) { // it may land still: wait for another's to be sure
							return
						}
					}
					at = next
					mu.Lock()
					acknowledged[at] = landed{i, n}
					mu.Unlock()
					continue
				}
				next, err := s.Append(ctx, "0", at, encoded)
				if at = next; err != nil {
					t.Errorf("%s, flush %d: %v", name, n, err)
					return
				}
				mu.Lock()
				acknowledged[at] = landed{i, n}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}

	if e, err = nats.Open(t.Context(), nats.Options{DataDir: dir}); err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if s, err = e.Stream(t.Context(), "crowd", nats.StreamConfig{Partitions: 1}); err != nil {
		t.Fatal(err)
	}
	_, end, err := s.Bounds(t.Context(), "0")
	if err != nil {
		t.Fatal(err)
	}
	flushes := make([]uint64, producers)
	for b, err := range s.Read(t.Context(), "0", millrace.Position{}) {
		if err != nil {
			t.Fatal(err)
		}
		var i int
		if _, err := fmt.Sscanf(b.Header.Producer, "p%d", &i); err != nil {
			t.Fatal(err)
		}
		l := landed{i, int(b.Header.Flush)}
		if acknowledged[b.At] != l && !unknown[l] {
			t.Errorf("%+v is at %s, where %+v was acknowledged", l, b.At, acknowledged[b.At])
		}
		delete(acknowledged, b.At)
		if b.Header.Flush != flushes[i]+1 {
			t.Errorf("%+v after flush %d", l, flushes[i])
		}
		flushes[i] = b.Header.Flush
		if b.At == end {
			break
		}
	}
	if len(acknowledged) > 0 {
		t.Errorf("%d blocks that were acknowledged are not there", len(acknowledged))
	}
}

package mapping_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
	"github.com/millrace/millrace/mapping"
	"github.com/millrace/millrace/millracetest"
	"github.com/millrace/millrace/producer"
	"github.com/millrace/millrace/stream/memory"
)

// dyingStream takes no append after the process has died.
type dyingStream struct {
	*memory.Stream
	died *atomic.Bool
}

func (s dyingStream) Append(ctx context.Context, partition string, after millrace.Position, b millrace.Block) (millrace.Position, error) {
	if s.died.Load() {
		<-ctx.Done()
		return millrace.Position{}, millrace.Errorf(millrace.Unavailable, "append", "the process is dead")
	}
	return s.Stream.Append(ctx, partition, after, b)
}

// A source that maps through a real producer and dies between any two steps of a flush leaves each
// event and each dead letter exactly once, whatever part of a call they come from.
func TestExactlyOnceOverCrashes(t *testing.T) {
	const calls = 12
	inputs := func(call int) []millrace.Event {
		id := func(n int) string { return fmt.Sprintf("%d.%d", call, n) }
		return []millrace.Event{
			input(id(0), fmt.Sprintf(`{"id":"k%d"}`, call%3)),
			input(id(1), `[{"id":"a"},{"id":"b"},{"no":1},{"id":"c"}]`),
			input(id(2), `broken`),
			input(id(3), `[{"id":"a"},`),
			input(id(4), `{"id":"last"}`),
		}
	}
	var wantEvents, wantLetters []string
	for call := range calls {
		c := strconv.Itoa(call)
		wantEvents = append(wantEvents, c+".0", c+".1#0", c+".1#1", c+".1#3", c+".4")
		wantLetters = append(wantLetters, c+".1#2", c+".2", c+".3")
	}

	for dieAt := range 40 {
		synctest.Test(t, func(t *testing.T) {
			into, dead := memory.New("into", memory.Options{Partitions: 3}), memory.New("dead", memory.Options{})
			var steps atomic.Int64 // blocks for several partitions are appended at a time
			finished := false
			for life := 0; !finished; life++ {
				var died atomic.Bool
				ctx, die := context.WithCancel(t.Context())
				p, err := producer.Open(ctx, producer.Config{
					Name: "source/test", Into: dyingStream{into, &died}, Dead: dyingStream{dead, &died}, BlockEvents: 8,
					Step: func(string) {
						if steps.Add(1) == int64(dieAt)+1 {
							died.Store(true)
							die()
						}
					},
				})
				if err != nil {
					if !died.Load() {
						t.Fatal(err)
					}
					continue
				}
				ran := make(chan error, 1)
				go func() { ran <- p.Run(ctx) }()
				from := p.Resume().Cursor
				m := mapping.New(mapping.Config{Split: true, Key: "id"}, mapping.Options{Cursor: from}, p)
				next := 0
				if from != "" {
					next, _ = strconv.Atoi(string(from))
				}
				for ; next < calls && err == nil; next++ {
					err = m.Emit(ctx, inputs(next), millrace.Cursor(strconv.Itoa(next+1)))
				}
				if err == nil {
					err = m.Flush(ctx)
				}
				finished = err == nil
				if err != nil && !died.Load() {
					t.Fatal(err)
				}
				die()
				<-ran
				if err := p.Close(); err != nil {
					t.Error(err)
				}
			}
			if got := ids(t, into, func(e millrace.Event) string { return e.ID }); !slices.Equal(got, slices.Sorted(slices.Values(wantEvents))) {
				t.Errorf("died at step %d: events %q, want %q", dieAt, got, wantEvents)
			}
			got := ids(t, dead, func(e millrace.Event) string {
				var letter producer.DeadLetter
				if err := json.Unmarshal(e.Data, &letter); err != nil {
					t.Error(err)
				}
				return letter.ID
			})
			if !slices.Equal(got, slices.Sorted(slices.Values(wantLetters))) {
				t.Errorf("died at step %d: dead letters %q, want %q", dieAt, got, wantLetters)
			}
		})
	}
}

// ids returns what name says of each event of a stream, sorted.
func ids(t *testing.T, s millrace.Stream, name func(millrace.Event) string) (list []string) {
	t.Helper()
	partitions, err := s.Partitions(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, partition := range partitions {
		err := millracetest.ReadPartition(t.Context(), s, partition.Name, func(b millrace.StoredBlock) error {
			events, err := block.Events(b.Raw)
			for _, e := range events {
				list = append(list, name(e))
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(list)
	return list
}

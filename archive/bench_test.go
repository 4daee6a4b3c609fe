package archive_test

import (
	"fmt"
	"testing"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/archive"
	"github.com/millrace/millrace/block"
	"github.com/millrace/millrace/objectstore/disk"
	"github.com/millrace/millrace/stream/memory"
)

// BenchmarkArchive archives events of 850 bytes, in blocks of 512, from memory to disk.
func BenchmarkArchive(b *testing.B) {
	const blocks, events = 200, 512
	for _, compression := range []string{"gzip", "none"} {
		b.Run(compression, func(b *testing.B) {
			bench := newBench(b, memory.Options{})
			bench.config.Compression = compression
			var builder block.Builder
			for i := range blocks {
				builder.Reset()
				for j := range events {
					n := i*events + j
					data := archive.Vehicle(n)
					if err := builder.Add(&millrace.Event{ID: fmt.Sprint(n), Key: fmt.Sprint(n % 2000), Type: "update", Data: data}); err != nil {
						b.Fatal(err)
					}
				}
				encoded, err := builder.Encode(nil, millrace.Header{Producer: "test"})
				if err != nil {
					b.Fatal(err)
				}
				bench.appendBlock("0", encoded)
			}
			var stored, objects int64
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				store, err := disk.Open(b.TempDir())
				if err != nil {
					b.Fatal(err)
				}
				bench.store, bench.state = store, memory.NewState()
				b.StartTimer()
				bench.drain()
				b.StopTimer()
				stored, objects = 0, 0
				for o, err := range store.List(b.Context(), "data/", "") {
					if err != nil {
						b.Fatal(err)
					}
					stored += o.Size
					objects++
				}
				if err := store.Close(); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
			n := float64(b.N) * blocks * events
			b.ReportMetric(n/b.Elapsed().Seconds(), "events/s")
			b.ReportMetric(float64(stored)/(blocks*events), "stored-B/event")
			b.ReportMetric(float64(objects), "objects")
		})
	}
}

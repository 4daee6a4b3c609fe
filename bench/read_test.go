package bench

import (
	"testing"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
)

// BenchmarkRead measures reading a stream from its start: from the engine, decoded, each event's key,
// time and data looked at.
func BenchmarkRead(b *testing.B) {
	const perBlock, blocks = 512, 1000
	stream := openStream(b, openEngine(b), "positions")
	var builder block.Builder
	var data []byte
	after := millrace.Position{}
	at := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	for n := range blocks {
		builder.Reset()
		for i := range perBlock {
			number := n*perBlock + i
			data = appendEvent(data[:0], number, at)
			if err := builder.Add(&millrace.Event{ID: "1", Key: "v1", Type: "message", Time: at, Data: data}); err != nil {
				b.Fatal(err)
			}
		}
		encoded, err := builder.Encode(nil, millrace.Header{Producer: "bench", Flush: uint64(n), Commit: true})
		if err != nil {
			b.Fatal(err)
		}
		if after, err = stream.Append(b.Context(), "0", after, encoded); err != nil {
			b.Fatal(err)
		}
	}

	var reader block.Reader
	bytes := 0
	b.ResetTimer()
	for range b.N {
		events := 0
		for stored, err := range stream.Read(b.Context(), "0", millrace.Position{}) {
			if err != nil {
				b.Fatal(err)
			}
			if err := reader.Reset(stored.Raw); err != nil {
				b.Fatal(err)
			}
			if err := reader.Load(block.Keys | block.Data); err != nil {
				b.Fatal(err)
			}
			for i := range reader.Len() {
				bytes += len(reader.Key(i)) + int(reader.UnixNano(i)&1) + len(reader.Data(i))
			}
			events += reader.Len()
			if events == perBlock*blocks {
				break
			}
		}
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(b.N*perBlock*blocks)/b.Elapsed().Seconds(), "events/s")
	if bytes == 0 {
		b.Fatal("nothing was read")
	}
}

package producer_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/producer"
	"github.com/millrace/millrace/stream/memory"
)

// BenchmarkEmit hands events of 850 bytes over, 64 in a call, to a stream in memory, and waits until
// they are durable. With one partition, with four, and with an append that takes as long as an fsync.
func BenchmarkEmit(b *testing.B) {
	for _, bench := range []struct {
		name       string
		partitions int
		wait       time.Duration
	}{{"partitions=1", 1, 0}, {"partitions=4", 4, 0}, {"partitions=1/append=1ms", 1, time.Millisecond}} {
		b.Run(bench.name, func(b *testing.B) {
			options := memory.Options{Partitions: bench.partitions, Retention: memory.Retention{Bytes: 64 << 20}}
			var into millrace.Stream = memory.New("into", options)
			if bench.wait > 0 {
				into = slowStream{into, bench.wait}
			}
			p, stop := open(b, producer.Config{Name: "source/bench", Into: into, Dead: memory.New("dead", memory.Options{})})
			defer stop()
			events := vehicles(4096)
			cursors := make([]millrace.Cursor, len(events)/64)
			for i := range cursors {
				cursors[i] = millrace.Cursor(strconv.Itoa(i))
			}
			ctx := b.Context()
			b.SetBytes(int64(len(events[0].Data)))
			b.ReportAllocs()
			b.ResetTimer()
			for n := 0; n < b.N; n += 64 {
				call := n / 64 % len(cursors)
				if err := p.Emit(ctx, events[call*64:(call+1)*64], cursors[call]); err != nil {
					b.Fatal(err)
				}
			}
			if err := p.Flush(ctx); err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
}

// BenchmarkCommit waits for the commit of each single event: the least latency.
func BenchmarkCommit(b *testing.B) {
	into := memory.New("into", memory.Options{Retention: memory.Retention{Bytes: 64 << 20}})
	p, stop := open(b, producer.Config{Name: "source/bench", Into: into, Dead: memory.New("dead", memory.Options{})})
	defer stop()
	events := vehicles(64)
	cursor := []byte("00")
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		cursor[0], cursor[1] = 'a'+byte(n%16), 'a'+byte(n/16%16)
		if err := p.Emit(b.Context(), events[n%64:n%64+1], millrace.Cursor(cursor)); err != nil {
			b.Fatal(err)
		}
		if err := p.Flush(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

// slowStream takes its time for an append, without using the processor.
type slowStream struct {
	millrace.Stream
	wait time.Duration
}

func (s slowStream) Append(ctx context.Context, partition string, after millrace.Position, b millrace.Block) (millrace.Position, error) {
	time.Sleep(s.wait)
	return s.Stream.Append(ctx, partition, after, b)
}

// vehicles returns events like those of a feed of vehicles, 850 bytes each.
func vehicles(n int) []millrace.Event {
	rng := rand.New(rand.NewPCG(1, 1))
	events := make([]millrace.Event, n)
	for i := range events {
		vehicle := rng.IntN(500)
		data := fmt.Sprintf(`{"id":"y%04d","type":"vehicle","attributes":{"bearing":%d,"current_status":"IN_TRANSIT_TO",`+
			`"current_stop_sequence":%d,"direction_id":%d,"label":"%04d","latitude":%.6f,"longitude":%.6f,"speed":%.1f,`+
			`"occupancy_status":"MANY_SEATS_AVAILABLE","revenue":"REVENUE","updated_at":"2026-05-0%dT%02d:%02d:%02d-04:00"},`+
			`"links":{"self":"/vehicles/y%04d"},"relationships":{"route":{"data":{"id":"%d","type":"route"}},`+
			`"stop":{"data":{"id":"%d","type":"stop"}},"trip":{"data":{"id":"%d","type":"trip"}}},"pad":"`,
			vehicle, rng.IntN(360), rng.IntN(40), rng.IntN(2), vehicle, 42+rng.Float64(), -71-rng.Float64(), rng.Float64()*20,
			1+rng.IntN(9), rng.IntN(24), rng.IntN(60), rng.IntN(60), vehicle, rng.IntN(200), rng.IntN(10000), rng.IntN(90000000))
		for len(data) < 848 {
			data += strconv.FormatUint(rng.Uint64(), 36)
		}
		events[i] = millrace.Event{
			ID: strconv.Itoa(1000000 + i), Key: fmt.Sprintf("y%04d", vehicle), Type: "update",
			Time: time.Unix(1780000000, int64(i)), Data: []byte(data[:848] + `"}`),
		}
	}
	return events
}

package bench

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/klauspost/compress/s2"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/mapping"
	"github.com/millrace/millrace/producer"
	"github.com/millrace/millrace/source/sse"
)

// ingestEvents are those of one round: some seconds' worth at the speed to reach.
const ingestEvents = 300_000

// BenchmarkIngest measures from the feed's socket to the durable stream, key and time taken from the
// data, and in the same round a bare loop that decodes, compresses, writes and syncs the same bytes to
// a file, with nothing around it. Server and client share the machine.
func BenchmarkIngest(b *testing.B) {
	f := newFeed(b, ingestEvents)
	engine := openEngine(b)
	dead := openStream(b, engine, "dead")
	var ours, bare time.Duration
	blocks := 0
	for round := 0; b.Loop(); round++ {
		into := &counted{Stream: openStream(b, engine, fmt.Sprint("positions", round)), left: ingestEvents, done: make(chan struct{})}
		ours += ingest(b, f, into, dead)
		blocks += into.blocks
		bare += bareIngest(b, f)
	}
	events := float64(b.N * ingestEvents)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(events/ours.Seconds(), "events/s")
	b.ReportMetric(events/bare.Seconds(), "bare-events/s")
	b.ReportMetric(100*bare.Seconds()/ours.Seconds(), "%-of-bare")
	b.ReportMetric(events/float64(blocks), "events/block")
}

// ingest runs a source until all the feed's events are durable.
func ingest(b *testing.B, f *feed, into *counted, dead millrace.Stream) time.Duration {
	ctx, cancel := context.WithCancel(b.Context())
	p, err := producer.Open(ctx, producer.Config{Name: "source/bench", Into: into, Dead: dead})
	if err != nil {
		b.Fatal(err)
	}
	c := sse.Config{URL: f.url()}
	c.SetDefaults()
	ended := make(chan error, 2)
	began := time.Now()
	go func() { ended <- p.Run(ctx) }()
	out := mapping.New(mapping.Config{Key: "vehicle.id", Time: "time"}, mapping.Options{}, p)
	go func() { ended <- sse.New(c, sse.Options{Name: "bench"}).Run(ctx, p.Resume(), out) }()
	select {
	case <-into.done:
	case err := <-ended:
		b.Fatalf("it ended before all events were stored: %v", err)
	case <-time.After(patience):
		b.Fatalf("the events were not stored within %s", patience)
	}
	took := time.Since(began)
	cancel()
	for range 2 {
		if err := <-ended; err != nil {
			b.Error(err)
		}
	}
	return took
}

// bareIngest is the least that an ingest with these guarantees can do.
func bareIngest(b *testing.B, f *feed) time.Duration {
	file, err := os.Create(filepath.Join(b.TempDir(), "log"))
	if err != nil {
		b.Fatal(err)
	}
	defer file.Close()
	request, err := http.NewRequestWithContext(b.Context(), http.MethodGet, f.url(), nil)
	if err != nil {
		b.Fatal(err)
	}
	began := time.Now()
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		b.Fatal(err)
	}
	defer response.Body.Close()

	// One goroutine decodes and gathers, the other writes: two buffers take turns.
	full, free := make(chan []byte), make(chan []byte, 2)
	free <- make([]byte, 0, 4<<20)
	free <- make([]byte, 0, 4<<20)
	written := make(chan error, 1)
	go func() { written <- writeLog(file, full, free) }()

	d := sse.NewDecoder(response.Body, 8<<20)
	buffer, events := <-free, 0
	for events < ingestEvents {
		if err := d.Read(); err != nil {
			b.Fatal(err)
		}
		var e sse.Event
		for d.Next(&e) {
			buffer = binary.LittleEndian.AppendUint32(buffer, uint32(len(e.Data)))
			buffer = append(buffer, e.Data...)
			events++
		}
		if len(buffer) < 2<<20 && events < ingestEvents {
			select { // hand over what there is as soon as the writer is free
			case next := <-free:
				full <- buffer
				buffer = next[:0]
			default:
			}
			continue
		}
		full <- buffer
		buffer = (<-free)[:0]
	}
	close(full)
	if err := <-written; err != nil {
		b.Fatal(err)
	}
	return time.Since(began)
}

// writeLog compresses, checks and appends buffers to a file, each synced before the next.
func writeLog(file *os.File, full <-chan []byte, free chan<- []byte) error {
	table := crc32.MakeTable(crc32.Castagnoli)
	var packed []byte
	for buffer := range full {
		packed = s2.Encode(packed[:cap(packed)], buffer)
		sum := crc32.Checksum(packed, table)
		packed = binary.LittleEndian.AppendUint32(packed, sum)
		if _, err := file.Write(packed); err != nil {
			return err
		}
		if err := datasync(file); err != nil {
			return err
		}
		free <- buffer
	}
	return nil
}

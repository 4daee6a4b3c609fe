package nats_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
	"github.com/millrace/millrace/stream/nats"
)

// vehicles makes n events of 850 bytes, which compress as positions of vehicles do.
func vehicles(b *block.Builder, r *rand.Rand, n int) {
	for range n {
		id := fmt.Sprintf("y%04d", r.IntN(2000))
		data := fmt.Sprintf(`{"type":"vehicle","id":%q,"attributes":{"bearing":%d,"carriages":[],"current_status":"IN_TRANSIT_TO",`+
			`"current_stop_sequence":%d,"direction_id":%d,"label":"%d","latitude":%.8f,"longitude":%.8f,"occupancy_status":"MANY_SEATS_AVAILABLE",`+
			`"revenue":"REVENUE","speed":%.1f,"updated_at":"2026-11-21T18:%02d:%02d-05:00"},"links":{"self":"/vehicles/%s"},"relationships":{`+
			`"route":{"data":{"id":"%d","type":"route"}},"stop":{"data":{"id":"%d","type":"stop"}},"trip":{"data":{"id":"%d","type":"trip"}}},"note":"`,
			id, r.IntN(360), r.IntN(40), r.IntN(2), r.IntN(10000), 42+r.Float64(), -71-r.Float64(), r.Float64()*20, r.IntN(60), r.IntN(60), id,
			r.IntN(200), r.IntN(90000), r.IntN(90000000))
		data += strings.Repeat("street and avenue ", 30)[:max(0, 848-len(data))] + `"}`
		if err := b.Add(&millrace.Event{ID: fmt.Sprint(r.Uint64()), Key: id, Type: "update", Time: time.Now(), Data: []byte(data)}); err != nil {
			panic(err)
		}
	}
}

func benchBlocks(b *testing.B, events, n int) []millrace.Block {
	b.Helper()
	r := rand.New(rand.NewPCG(1, 2))
	blocks := make([]millrace.Block, n)
	for i := range blocks {
		var builder block.Builder
		vehicles(&builder, r, events)
		var err error
		if blocks[i], err = builder.Encode(nil, millrace.Header{Producer: "source/bench", Flush: uint64(i + 1), Commit: true}); err != nil {
			b.Fatal(err)
		}
	}
	return blocks
}

func benchStream(b *testing.B) *nats.Stream {
	b.Helper()
	e, err := nats.Open(b.Context(), nats.Options{DataDir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = e.Close() })
	s, err := e.Stream(b.Context(), "positions", nats.StreamConfig{Partitions: 1})
	if err != nil {
		b.Fatal(err)
	}
	return s
}

func BenchmarkAppend(b *testing.B) {
	for _, events := range []int{0, 1, 512, 2048} {
		b.Run(fmt.Sprintf("events=%d", events), func(b *testing.B) {
			s := benchStream(b)
			blocks := benchBlocks(b, events, 16)
			at := millrace.Position{}
			b.SetBytes(int64(len(blocks[0].Raw)))
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				var err error
				if at, err = s.Append(b.Context(), "0", at, blocks[i%len(blocks)]); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(events*b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
}

func BenchmarkRead(b *testing.B) {
	for _, events := range []int{1, 512, 2048} {
		b.Run(fmt.Sprintf("events=%d", events), func(b *testing.B) {
			s := benchStream(b)
			blocks := benchBlocks(b, events, 16)
			n := 2000
			if events > 1 {
				n = 1 << 20 / events
			}
			at := millrace.Position{}
			for i := range n {
				var err error
				if at, err = s.Append(b.Context(), "0", at, blocks[i%len(blocks)]); err != nil {
					b.Fatal(err)
				}
			}
			b.SetBytes(int64(len(blocks[0].Raw) * n))
			b.ReportAllocs()
			for b.Loop() {
				for block, err := range s.Read(b.Context(), "0", millrace.Position{}) {
					if err != nil {
						b.Fatal(err)
					}
					if block.At == at {
						break
					}
				}
			}
			b.ReportMetric(float64(events*n*b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
}

// BenchmarkLive measures from the acknowledgement of an append to the block's arrival at a reader.
func BenchmarkLive(b *testing.B) {
	s := benchStream(b)
	blocks := benchBlocks(b, 1, 1)
	arrived := make(chan time.Time, 1)
	go func() {
		for _, err := range s.Read(b.Context(), "0", millrace.Position{}) {
			if err != nil {
				return
			}
			arrived <- time.Now()
		}
	}()
	at := millrace.Position{}
	var sum time.Duration
	for b.Loop() {
		var err error
		if at, err = s.Append(b.Context(), "0", at, blocks[0]); err != nil {
			b.Fatal(err)
		}
		acknowledged := time.Now()
		sum += (<-arrived).Sub(acknowledged)
	}
	b.ReportMetric(float64(sum.Nanoseconds())/float64(b.N), "ns-behind/op")
	runtime.KeepAlive(s)
}

// BenchmarkOpen opens an engine with a stream of 256 MiB, until its newest block is known: after a clean
// end, and after a kill, when the server scans its files.
func BenchmarkOpen(b *testing.B) {
	const size = 256 << 20
	dir, killed := b.TempDir(), b.TempDir()
	e, err := nats.Open(b.Context(), nats.Options{DataDir: dir})
	if err != nil {
		b.Fatal(err)
	}
	s, err := e.Stream(b.Context(), "positions", nats.StreamConfig{Partitions: 1})
	if err != nil {
		b.Fatal(err)
	}
	blocks := benchBlocks(b, 2048, 4)
	at := millrace.Position{}
	for i := range size / len(blocks[0].Raw) {
		if at, err = s.Append(b.Context(), "0", at, blocks[i%len(blocks)]); err != nil {
			b.Fatal(err)
		}
	}
	if err := os.CopyFS(killed, os.DirFS(dir)); err != nil { // what a kill would leave
		b.Fatal(err)
	}
	if err := e.Close(); err != nil {
		b.Fatal(err)
	}
	for name, from := range map[string]string{"clean": dir, "killed": killed} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				dir := b.TempDir()
				if err := os.CopyFS(dir, os.DirFS(from)); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				e, err := nats.Open(b.Context(), nats.Options{DataDir: dir})
				if err != nil {
					b.Fatal(err)
				}
				s, err := e.Stream(b.Context(), "positions", nats.StreamConfig{Partitions: 1})
				if err != nil {
					b.Fatal(err)
				}
				if last, err := s.Last(b.Context(), "0", "source/bench"); err != nil || last.At != at {
					b.Fatal(last.At, err)
				}
				b.StopTimer()
				_ = e.Close()
				b.StartTimer()
			}
		})
	}
}

// BenchmarkBare writes and fsyncs the same blocks to a plain file: what BenchmarkAppend is compared with.
func BenchmarkBare(b *testing.B) {
	for _, events := range []int{1, 512, 2048} {
		b.Run(fmt.Sprintf("events=%d", events), func(b *testing.B) {
			blocks := benchBlocks(b, events, 16)
			file, err := os.Create(filepath.Join(b.TempDir(), "bare"))
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(len(blocks[0].Raw)))
			for i := 0; b.Loop(); i++ {
				if _, err := file.Write(blocks[i%len(blocks)].Raw); err != nil {
					b.Fatal(err)
				}
				if err := file.Sync(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(events*b.N)/b.Elapsed().Seconds(), "events/s")
			_ = file.Close()
		})
	}
}

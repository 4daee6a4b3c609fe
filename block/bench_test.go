package block_test

import (
	"fmt"
	"testing"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
)

var sizes = []int{512, 2048}

func bytesOf(events []millrace.Event) (n int64) {
	for _, e := range events {
		n += int64(len(e.Data))
	}
	return n
}

func perSecond(b *testing.B, events int) {
	b.ReportMetric(float64(events)*float64(b.N)/b.Elapsed().Seconds(), "events/s")
}

func BenchmarkAdd(b *testing.B) {
	for _, n := range sizes {
		events := vehicles(n)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var builder block.Builder
			b.SetBytes(bytesOf(events))
			b.ReportAllocs()
			for b.Loop() {
				builder.Reset()
				for i := range events {
					if err := builder.Add(&events[i]); err != nil {
						b.Fatal(err)
					}
				}
			}
			perSecond(b, n)
		})
	}
}

func BenchmarkEncode(b *testing.B) {
	for _, n := range sizes {
		events := vehicles(n)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var builder block.Builder
			for i := range events {
				if err := builder.Add(&events[i]); err != nil {
					b.Fatal(err)
				}
			}
			var dst []byte
			b.SetBytes(bytesOf(events))
			b.ReportAllocs()
			for b.Loop() {
				encoded, err := builder.Encode(dst[:0], header)
				if err != nil {
					b.Fatal(err)
				}
				dst = encoded.Raw
			}
			perSecond(b, n)
			b.ReportMetric(float64(len(dst))/float64(n), "stored-B/event")
		})
	}
}

func BenchmarkRead(b *testing.B) {
	for _, n := range sizes {
		events := vehicles(n)
		raw := encode(b, header, events...).Raw
		for _, bench := range []struct {
			name string
			want block.Sections
		}{{"keys", block.Keys}, {"keys_and_data", block.Keys | block.Data}, {"all", block.All}} {
			b.Run(fmt.Sprint(bench.name, "/", n), func(b *testing.B) {
				var r block.Reader
				b.SetBytes(bytesOf(events))
				b.ReportAllocs()
				size := 0
				for b.Loop() {
					if err := r.Reset(raw); err != nil {
						b.Fatal(err)
					}
					if err := r.Load(bench.want); err != nil {
						b.Fatal(err)
					}
					for i := range r.Len() {
						size += len(r.Key(i)) + int(r.UnixNano(i)&1)
						if bench.want&block.Data != 0 {
							size += len(r.Data(i))
						}
						if bench.want&block.IDs != 0 {
							size += len(r.ID(i)) + len(r.Type(i))
						}
					}
				}
				if size == 0 {
					b.Fatal("nothing read")
				}
				perSecond(b, n)
			})
		}
	}
}

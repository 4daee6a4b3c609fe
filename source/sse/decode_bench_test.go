package sse

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"
)

// repeating yields the same bytes for as long as n lasts, in reads as large as asked for.
type repeating struct {
	text []byte
	at   int
	n    int64
}

func (r *repeating) Read(p []byte) (int, error) {
	if r.n <= 0 {
		return 0, io.EOF
	}
	n := copy(p, r.text[r.at:])
	n = int(min(int64(n), r.n))
	r.at = (r.at + n) % len(r.text)
	r.n -= int64(n)
	return n, nil
}

// stream returns about 1 MiB of events that make size bytes each.
func stream(size int, filler string) ([]byte, int) {
	var b bytes.Buffer
	events := 0
	for b.Len() < 1<<20 {
		head := fmt.Sprintf("id: %016d\ndata: ", events)
		if size < 100 {
			head = "data: "
		}
		room := size - len(head) - 2
		body := strings.Repeat(filler, room/len(filler)) + strings.Repeat("x", room%len(filler))
		fmt.Fprintf(&b, "%s%s\n\n", head, body)
		events++
	}
	return b.Bytes(), events
}

func BenchmarkDecode(b *testing.B) {
	for _, c := range []struct {
		name   string
		size   int
		filler string
	}{
		{"64B", 64, `{"a":1},`},
		{"850B", 850, `{"a":1},`},
		{"1400B", 1400, `{"a":1},`},
		{"1400B-hebrew", 1400, "ש"},
		{"1400B-russian", 1400, `{"текст":"Съешь же ещё этих мягких булок"},`},
	} {
		text, events := stream(c.size, c.filler)
		b.Run(c.name, func(b *testing.B) {
			b.SetBytes(int64(c.size))
			b.ReportAllocs()
			r := &repeating{text: text, n: int64(b.N) * int64(len(text)) / int64(events)}
			d := NewDecoder(r, 8<<20)
			var e Event
			got := 0
			for {
				err := d.Read()
				for d.Next(&e) {
					got++
				}
				if err != nil {
					break
				}
			}
			b.ReportMetric(float64(got)/b.Elapsed().Seconds(), "events/s")
		})
	}
}

// BenchmarkOneByte decodes one event that arrives byte by byte: a byte of 10 MiB may cost at most twice
// as much as one of 1 MiB.
func BenchmarkOneByte(b *testing.B) {
	for _, mib := range []int{1, 10} {
		b.Run(fmt.Sprintf("%dMiB", mib), func(b *testing.B) {
			b.SetBytes(int64(mib) << 20)
			for b.Loop() {
				trickle(b, mib<<20)
			}
		})
	}
}

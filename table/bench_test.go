package table

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
)

const benchKeys = 100_000

// benchTable has events of 200 bytes that compress about as JSON does, updated in another order than that in
// which their keys came.
func benchTable(b *testing.B) (*Table, []millrace.Block) {
	t, r := New(Options{}), rand.New(rand.NewPCG(1, 2))
	apply(b, t, benchBlocks(b, r), benchKeys)
	blocks := benchBlocks(b, r)
	apply(b, t, blocks, benchKeys)
	return t, blocks
}

func benchBlocks(b *testing.B, r *rand.Rand) (blocks []millrace.Block) {
	var events []millrace.Event
	for _, k := range r.Perm(benchKeys) {
		e := event(fmt.Sprintf("vehicle/%06d", k), k)
		e.Data = fmt.Appendf(nil, `{"id":%q,"position":{"lat":%.6f,"lon":%.6f},"speed":%.2f,"route":"%d",`,
			e.Key, r.Float64()*90, r.Float64()*180, r.Float64()*120, r.IntN(400))
		for len(e.Data) < 199 {
			e.Data = fmt.Appendf(e.Data, `"f%d":%d,`, len(e.Data), r.IntN(1000))
		}
		e.Data = append(e.Data[:199], '}')
		if events = append(events, e); len(events) == 500 {
			blocks = append(blocks, encode(b, events...))
			events = events[:0]
		}
	}
	return blocks
}

// apply applies n events.
func apply(b *testing.B, t *Table, blocks []millrace.Block, n int) {
	var r block.Reader
	for k := 0; n > 0; k++ {
		raw := blocks[k%len(blocks)].Raw
		if err := r.Reset(raw); err != nil {
			b.Fatal(err)
		}
		if err := r.Load(block.All); err != nil {
			b.Fatal(err)
		}
		name := millrace.BlockName("1kv0abcde", uint64(k))
		for i := 0; i < r.Len() && n > 0; i++ {
			t.Apply("0", millrace.Position{Block: name, Event: uint32(i) + 1}, &r, i)
			n--
		}
	}
}

// BenchmarkApply is an event of one of 100,000 known keys, its share of decoding included.
func BenchmarkApply(b *testing.B) {
	t, blocks := benchTable(b)
	b.ReportAllocs()
	b.ResetTimer()
	apply(b, t, blocks, b.N)
}

func BenchmarkAppendRows(b *testing.B) {
	t, _ := benchTable(b)
	var rows []*Row
	for b.Loop() {
		rows = t.AppendRows(rows[:0])
	}
}

func BenchmarkFreeze(b *testing.B) {
	t, _ := benchTable(b)
	for b.Loop() {
		t.Freeze()
	}
}

func BenchmarkSort(b *testing.B) {
	t, _ := benchTable(b)
	var rows []*Row
	for b.Loop() {
		rows = t.AppendRows(rows[:0])
		Sort(rows)
	}
}

func BenchmarkWriteTo(b *testing.B) {
	t, _ := benchTable(b)
	var n int64
	b.ReportAllocs()
	for b.Loop() {
		var err error
		if n, err = t.Freeze().WriteTo(io.Discard); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(n)/benchKeys, "bytes/row")
	b.ReportMetric(float64(benchKeys)*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
}

func BenchmarkRead(b *testing.B) {
	t, _ := benchTable(b)
	var snapshot bytes.Buffer
	if _, err := t.Freeze().WriteTo(&snapshot); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Read(bytes.NewReader(snapshot.Bytes()), Options{}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(benchKeys)*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
}

// BenchmarkMemory measures what a row takes in a table of a million keys with 200 bytes of data, beside its key,
// id, type and data.
func BenchmarkMemory(b *testing.B) {
	const keys = 1_000_000
	for b.Loop() {
		t, heap := fill(b, keys, 200, nil)
		text := int64(0)
		for _, row := range t.AppendRows(nil) {
			text += size(row) - rowBytes
		}
		b.ReportMetric(float64(heap)/keys, "bytes/row")
		b.ReportMetric(float64(heap-text)/keys, "overhead/row")
		b.ReportMetric(float64(t.Bytes())/keys, "said/row")
		runtime.KeepAlive(t)
	}
}

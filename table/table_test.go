package table

import (
	"bytes"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
)

// TestModel compares a table with a plain list of rows, over random events, bounds, clearings, snapshots and
// restarts from them.
func TestModel(t *testing.T) { rapid.Check(t, checkModel) }

func checkModel(t *rapid.T) {
	m := &model{
		maxKeys:  rapid.SampledFrom([]int{0, 0, 1, 3, 7}).Draw(t, "max keys"),
		maxBytes: rapid.SampledFrom([]int64{0, 0, 100, 700, 3000}).Draw(t, "max bytes"),
		places:   map[string]millrace.Position{},
	}
	if rapid.Bool().Draw(t, "selective") {
		m.want = func(key []byte) bool { return !bytes.HasPrefix(key, []byte("b")) }
	}
	o := Options{Of: "model", MaxKeys: m.maxKeys, MaxBytes: m.maxBytes, Want: m.want}
	table := New(o)
	numbers := map[string]uint64{} // of blocks, by partition
	var reader block.Reader
	var frozen *Snapshot
	var then *model

	// The partition of a key is the first that it was drawn with: a key lives in exactly one.
	partition := func(key string) string { return fmt.Sprint(len(key) % 3) }
	texts := rapid.SampledFrom([]string{"", "x", "update", "a longer text that takes some room", "ü"})
	keys := rapid.SampledFrom([]string{"", "a", "b", "bb", "c", "cc", "ccc", "d", "dddd", "e", "f", "ff"})
	events := rapid.Custom(func(t *rapid.T) millrace.Event {
		e := millrace.Event{
			Key: keys.Draw(t, "key"), ID: texts.Draw(t, "id"), Type: texts.Draw(t, "type"),
			Data: rapid.SliceOfN(rapid.Byte(), 0, 60).Draw(t, "data"), Deleted: rapid.IntRange(0, 4).Draw(t, "deleted") == 0,
		}
		if rapid.Bool().Draw(t, "timed") {
			e.Time = time.Unix(0, rapid.Int64Range(-1e18, 1e18).Draw(t, "time")).UTC()
		}
		for range rapid.SampledFrom([]int{0, 0, 1, 2}).Draw(t, "attributes") {
			if e.Attributes == nil {
				e.Attributes = map[string]string{}
			}
			e.Attributes[texts.Draw(t, "name")] = texts.Draw(t, "value")
		}
		return e
	})
	restore := func() {
		var b bytes.Buffer
		n, err := frozen.WriteTo(&b)
		if err != nil || n != int64(b.Len()) {
			t.Fatalf("WriteTo = %d, %v; wrote %d", n, err, b.Len())
		}
		again, err := Read(&b, o)
		if err != nil {
			t.Fatal(err)
		}
		table, m, frozen = again, then, nil
	}
	t.Repeat(map[string]func(*rapid.T){
		"apply": func(t *rapid.T) {
			all := rapid.SliceOfN(events, 1, 6).Draw(t, "events")
			for _, name := range []string{"0", "1", "2"} {
				var mine []millrace.Event
				for _, e := range all {
					if partition(e.Key) == name {
						mine = append(mine, e)
					}
				}
				if len(mine) == 0 {
					continue
				}
				var builder block.Builder
				for i := range mine {
					if err := builder.Add(&mine[i]); err != nil {
						t.Fatal(err)
					}
				}
				b, err := builder.Encode(nil, millrace.Header{Producer: "test"})
				if err != nil {
					t.Fatal(err)
				}
				if err := reader.Reset(b.Raw); err != nil {
					t.Fatal(err)
				}
				if err := reader.Load(block.All); err != nil {
					t.Fatal(err)
				}
				numbers[name]++
				// The caller's text is not the table's.
				memory := []byte(millrace.BlockName("incarnation", numbers[name]))
				for i, e := range mine {
					var before *Row
					if at := m.get(e.Key); at >= 0 {
						row := m.rows[at]
						before = &row
					}
					at := millrace.Position{Block: view(memory), Event: uint32(i) + 1}
					previous, now := table.Apply(name, at, &reader, i)
					at.Block = strings.Clone(at.Block)
					m.apply(name, at, e)
					wanted := m.want == nil || m.want([]byte(e.Key))
					if (previous != nil) != (before != nil) || (now != nil) != (wanted && !e.Deleted) {
						t.Fatalf("Apply of %+v = %+v, %+v; before: %+v", e, previous, now, before)
					}
					if before != nil {
						sameRow(t, previous, before)
					}
					if now != nil {
						sameRow(t, now, &Row{Event: e, Partition: name, At: at})
					}
				}
				clear(b.Raw)
				for i := range memory {
					memory[i] = 'x'
				}
			}
		},
		"move": func(t *rapid.T) {
			name := rapid.SampledFrom([]string{"0", "1", "2"}).Draw(t, "partition")
			numbers[name]++
			at := millrace.Position{Block: millrace.BlockName("incarnation", numbers[name])}
			table.Moved(name, at)
			m.places[name] = at
		},
		"clear": func(t *rapid.T) {
			name := rapid.SampledFrom([]string{"0", "1", "2"}).Draw(t, "partition")
			table.Clear(name)
			m.clear(name)
		},
		"freeze": func(*rapid.T) { frozen, then = table.Freeze(), m.clone() },
		"restore": func(t *rapid.T) {
			if frozen == nil {
				t.Skip("nothing is frozen")
			}
			restore()
		},
		"": func(t *rapid.T) { m.check(t, table) },
	})
}

// TestRowsStay: a row that was taken before does not change, whatever becomes of its key.
func TestRowsStay(t *testing.T) {
	table := New(Options{MaxKeys: 2})
	var r block.Reader
	apply := func(e millrace.Event, n uint32) *Row {
		load(t, &r, e)
		_, now := table.Apply("0", millrace.Position{Block: "b", Event: n}, &r, 0)
		return now
	}
	first := apply(event("a", 1), 1)
	want := *first
	apply(event("a", 2), 2)
	apply(event("b", 3), 3)
	apply(event("c", 4), 4)
	apply(deleted("b", 5), 5)
	sameRow(t, first, &want)
	if table.Get("a") != nil || table.Get("b") != nil || table.Get("c") == nil || table.Len() != 1 {
		t.Errorf("%d rows", table.Len())
	}
}

// TestAllocations: an event of a known key costs its row and the row's text; a new key its name, too.
func TestAllocations(t *testing.T) {
	var r block.Reader
	e := event("a", 1)
	e.Attributes = map[string]string{"content-type": "application/json"}
	other := event("bus", 2) // of another key, with the same attributes
	other.Attributes = e.Attributes
	load(t, &r, e, other, deleted("bus", 3), event("unwanted", 4))
	table := New(Options{Want: func(key []byte) bool { return string(key) != "unwanted" }})
	at := millrace.Position{Block: "block"}
	apply := func(i int) { table.Apply("0", at, &r, i) }
	apply(0)
	for _, tt := range []struct {
		what string
		most float64
		do   func()
	}{
		{"a known key", 2, func() { apply(0) }},
		{"a new key and its end", 3, func() { apply(1); apply(2) }},
		{"a key that nobody wants", 0, func() { apply(3) }},
		{"a look-up", 0, func() { table.Get("a") }},
		{"a move", 0, func() { table.Moved("0", at) }},
	} {
		if n := testing.AllocsPerRun(100, tt.do); n > tt.most {
			t.Errorf("%s: %v allocations, at most %v are allowed", tt.what, n, tt.most)
		}
	}
}

var raceDetector bool

// TestMemory: what Bytes says is what the rows take, and no row keeps its block.
func TestMemory(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector takes memory of its own, and a lot of time")
	}
	const keys = 20_000
	for _, length := range []int{20, 200, 1000} {
		table, heap := fill(t, keys, length, nil)
		if said := table.Bytes(); said < heap*85/100 || said > heap*115/100 {
			t.Errorf("%d bytes of data: the table says %d bytes, and takes %d", length, said, heap)
		}
		runtime.KeepAlive(table)
	}
	table, heap := fill(t, keys, 200, func(k int) string { return fmt.Sprintf("00-%032d-%016d-01", k, k) })
	if said := table.Bytes(); said < heap*85/100 || said > heap*115/100 {
		t.Errorf("attributes of each its own: the table says %d bytes, and takes %d", said, heap)
	}
	runtime.KeepAlive(table)
	table, heap = fill(t, keys, 200, func(int) string { return "application/json" })
	if said := table.Bytes(); said < heap || heap > keys*520 {
		t.Errorf("attributes that are the same: the table says %d bytes, and takes %d", said, heap)
	}
	runtime.KeepAlive(table)
}

// fill returns a table of so many keys with data of so many bytes, each updated twice, and the memory that it
// takes. If attribute is given each event has one.
func fill(t testing.TB, keys, length int, attribute func(k int) string) (*Table, int64) {
	data := bytes.Repeat([]byte("x"), length)
	var before, after runtime.MemStats
	var r block.Reader
	var events []millrace.Event
	runtime.GC()
	runtime.ReadMemStats(&before)
	table := New(Options{})
	for round := range uint64(2) {
		for i := 0; i < keys; i += 500 {
			events = events[:0]
			for k := i; k < min(i+500, keys); k++ {
				e := event(fmt.Sprintf("vehicle/%07d", k), k)
				e.Data = data
				if attribute != nil {
					e.Attributes = map[string]string{"attribute": attribute(k)}
				}
				events = append(events, e)
			}
			load(t, &r, events...)
			name := millrace.BlockName("1kv0abcde", round*uint64(keys)+uint64(i))
			for k := range events {
				table.Apply("0", millrace.Position{Block: name, Event: uint32(k) + 1}, &r, k)
			}
		}
	}
	r, events = block.Reader{}, nil
	runtime.GC()
	runtime.ReadMemStats(&after)
	return table, int64(after.HeapAlloc) - int64(before.HeapAlloc)
}

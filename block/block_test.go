package block_test

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/s2"
	"pgregory.net/rapid"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
)

var update = flag.Bool("update", false, "write the golden files anew")

// The blocks under testdata, as hex dumps. Whatever reads and writes blocks later must take them as
// they are: streams are full of such bytes.
var golden = []struct {
	file   string
	exact  bool // the encoder makes the same bytes; where S2 is involved, only its authors know
	header millrace.Header
	events []millrace.Event
}{
	{"empty.hex", true, millrace.Header{Producer: "query/crossings/0"}, []millrace.Event{}},
	{"plain.hex", true, header, []millrace.Event{
		{ID: "a#0", Key: "k1", Type: "add", Time: time.Unix(1784021213, 123456789).UTC(), Attributes: map[string]string{"n": "v", "e": ""}, Data: []byte(`{"x":1}`)},
		{ID: "a#1", Key: "", Type: "", Deleted: true},
	}},
	{"compressed.hex", false, header, vehicles(3)},
}

func TestGolden(t *testing.T) {
	for _, g := range golden {
		t.Run(g.file, func(t *testing.T) {
			file := filepath.Join("testdata", g.file)
			encoded := encode(t, g.header, g.events...)
			if *update {
				if err := os.WriteFile(file, []byte(hex.Dump(encoded.Raw)), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			dump, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if g.exact && hex.Dump(encoded.Raw) != string(dump) {
				t.Errorf("the layout has changed: streams that exist hold\n%s\nand now it is\n%s", dump, hex.Dump(encoded.Raw))
			}
			check(t, undump(t, string(dump)), g.header, g.events)
			check(t, encoded.Raw, g.header, g.events)
		})
	}
}

func undump(t *testing.T, dump string) (raw []byte) {
	t.Helper()
	for line := range strings.Lines(dump) {
		if len(line) < 60 {
			continue
		}
		b, err := hex.DecodeString(strings.ReplaceAll(line[8:60], " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		raw = append(raw, b...)
	}
	return raw
}

// check decodes a block in every way and compares.
func check(t interface {
	Helper()
	Fatalf(format string, args ...any)
}, raw []byte, h millrace.Header, events []millrace.Event,
) {
	t.Helper()
	h.Events = uint32(len(events))
	got, err := block.ParseHeader(raw)
	if err != nil || !reflect.DeepEqual(got, h) {
		t.Fatalf("ParseHeader: %+v (%v), want %+v", got, err, h)
	}
	decoded, err := block.Events(raw)
	if err != nil || !equal(decoded, events) {
		t.Fatalf("Events: %+v (%v), want %+v", decoded, err, events)
	}
	var r block.Reader
	if err := r.Reset(raw); err != nil {
		t.Fatalf("Reset: %v", err)
	}
	if got := r.Header(); !reflect.DeepEqual(got, h) {
		t.Fatalf("Header: %+v, want %+v", got, h)
	}
	for _, section := range []block.Sections{block.Data, block.Attributes, block.Keys | block.Data, block.IDs} {
		if err := r.Load(section); err != nil {
			t.Fatalf("Load %b: %v", section, err)
		}
	}
	for i, want := range events {
		e := millrace.Event{
			ID: string(r.ID(i)), Key: string(r.Key(i)), Type: string(r.Type(i)), Time: r.Time(i), Deleted: r.Deleted(i), Data: r.Data(i),
			Attributes: maps.Collect(r.Attributes(i)),
		}
		if !equal([]millrace.Event{e}, []millrace.Event{want}) {
			t.Fatalf("event %d: %+v, want %+v", i, e, want)
		}
	}
}

func equal(a, b []millrace.Event) bool {
	if len(a) != len(b) {
		return false
	}
	for i, x := range a {
		y := b[i]
		if x.ID != y.ID || x.Key != y.Key || x.Type != y.Type || !x.Time.Equal(y.Time) || x.Deleted != y.Deleted ||
			!bytes.Equal(x.Data, y.Data) || !maps.Equal(x.Attributes, y.Attributes) {
			return false
		}
	}
	return true
}

// randomEvents draws events as a feed might never send them.
func randomEvents(t *rapid.T) []millrace.Event {
	text := rapid.OneOf(rapid.StringN(0, 12, -1), rapid.SampledFrom([]string{"", "bus-1", "update", strings.Repeat("long ", 100)}))
	data := rapid.OneOf(rapid.SliceOfN(rapid.Byte(), 0, 200), rapid.Map(text, func(s string) []byte { return []byte(strings.Repeat(s, 20)) }))
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) millrace.Event {
		e := millrace.Event{ID: text.Draw(t, "id"), Key: text.Draw(t, "key"), Type: text.Draw(t, "type"), Deleted: rapid.Bool().Draw(t, "deleted"), Data: data.Draw(t, "data")}
		if rapid.Bool().Draw(t, "timed") {
			e.Time = time.Unix(rapid.Int64Range(-9214560000, 9214646399).Draw(t, "seconds"), rapid.Int64Range(0, 999999999).Draw(t, "nanoseconds")).UTC()
		}
		if rapid.IntRange(0, 3).Draw(t, "with attributes") == 0 {
			e.Attributes = rapid.MapOfN(text, text, 0, 3).Draw(t, "attributes")
		}
		return e
	}), 0, 40).Draw(t, "events")
}

func TestRoundTrip(t *testing.T) {
	var b block.Builder // kept, as producers keep it
	rapid.Check(t, func(t *rapid.T) {
		h := millrace.Header{
			Producer: rapid.StringMatching(`[!-~]{1,200}`).Draw(t, "producer"), Flush: rapid.Uint64().Draw(t, "flush"), Commit: rapid.Bool().Draw(t, "commit"),
			Cursor: millrace.Cursor(rapid.String().Draw(t, "cursor")),
		}
		copy(h.Writer[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "writer"))
		if rapid.Bool().Draw(t, "watermark") {
			h.Watermark = time.Unix(0, rapid.Int64Range(-9214560000e9, 9214646399e9).Draw(t, "watermark")).UTC()
		}
		for range rapid.IntRange(0, 3).Draw(t, "uncommitted") {
			h.Uncommitted = append(h.Uncommitted, millrace.BlockRef{Stream: rapid.String().Draw(t, "stream"), Partition: rapid.String().Draw(t, "partition"), Block: rapid.String().Draw(t, "block")})
		}
		events := randomEvents(t)
		b.Reset()
		for i := range events {
			if err := b.Add(&events[i]); err != nil {
				t.Fatalf("%v", err)
			}
		}
		before := []byte("what was there before")
		encoded, err := b.Encode(bytes.Clone(before), h)
		if err != nil {
			t.Fatalf("%v", err)
		}
		check(t, encoded.Raw, h, events)
		again, err := b.Encode(nil, h)
		if err != nil || !bytes.Equal(again.Raw, encoded.Raw) || !reflect.DeepEqual(again.Header, encoded.Header) {
			t.Fatalf("encoding again: %v", err)
		}
		if b.Len() != len(events) {
			t.Fatalf("Len is %d, want %d", b.Len(), len(events))
		}
	})
}

func TestEncodeAppends(t *testing.T) {
	dst := []byte("before")
	b, err := block.Empty(header)
	if err != nil {
		t.Fatal(err)
	}
	var builder block.Builder
	encoded, err := builder.Encode(dst, header)
	if err != nil || !bytes.Equal(encoded.Raw, b.Raw) || string(dst) != "before" {
		t.Errorf("%x, %v", encoded.Raw, err)
	}
	check(t, b.Raw, header, nil)
}

func TestEveryFlippedBitIsNoticed(t *testing.T) {
	for _, g := range golden {
		raw := encode(t, g.header, g.events...).Raw
		for i := range len(raw) * 8 {
			raw[i/8] ^= 1 << (i % 8)
			if _, err := block.Events(raw); millrace.CodeOf(err) != millrace.Invalid {
				t.Errorf("%s: bit %d of byte %d of %d flipped: %v", g.file, i%8, i/8, len(raw), err)
			}
			raw[i/8] ^= 1 << (i % 8)
		}
	}
}

func TestEveryTruncationIsNoticed(t *testing.T) {
	for _, g := range golden {
		raw := encode(t, g.header, g.events...).Raw
		for n := range raw {
			if _, err := block.Events(raw[:n:n]); millrace.CodeOf(err) != millrace.Invalid {
				t.Errorf("%s: the first %d of %d bytes: %v", g.file, n, len(raw), err)
			}
		}
		if _, err := block.Events(append(raw, 0)); millrace.CodeOf(err) != millrace.Invalid {
			t.Errorf("%s: one byte more: %v", g.file, err)
		}
	}
}

// What later versions may add is skipped, or refused where they say so.
func TestUnknownParts(t *testing.T) {
	events := []millrace.Event{
		{ID: "i", Key: "k", Type: "t", Time: time.Unix(0, 5)},
		{ID: "j", Key: "ll", Time: time.Unix(0, 6), Deleted: true, Data: []byte("{}")},
	}
	check(t, assemble(2, named, plain()...), millrace.Header{Producer: "p"}, events)

	extra := part{77, 200, 0, []byte("a column of the future"), 1 << 31}
	for i := range 4 {
		parts := append(append(plain()[:i:i], extra), plain()[i:]...)
		check(t, assemble(2, field(named, 9, "a field of the future"), parts...), millrace.Header{Producer: "p"}, events)
		parts[i].flags = 1
		if err := new(block.Reader).Reset(assemble(2, named, parts...)); millrace.CodeOf(err) != millrace.Invalid || !strings.Contains(err.Error(), "section 77 is required") {
			t.Errorf("required section: %v", err)
		}
	}
	if _, err := block.ParseHeader(assemble(2, field(named, 9|1<<16, ""), plain()...)); millrace.CodeOf(err) != millrace.Invalid || !strings.Contains(err.Error(), "field 65545 is required") {
		t.Errorf("required field: %v", err)
	}
	later := assemble(2, named, plain()...)
	later[3] = '2'
	if _, err := block.ParseHeader(later); millrace.CodeOf(err) != millrace.Invalid || !strings.Contains(err.Error(), `a block of version "2"`) {
		t.Errorf("later version: %v", err)
	}
}

// Blocks whose checksums are right and whose contents are not.
func TestMalformed(t *testing.T) {
	change := func(i int, p part) []part {
		parts := plain()
		parts[i] = p
		return parts
	}
	s2Text := s2.Encode(nil, bytes.Repeat([]byte("text "), 100))
	for _, test := range []struct {
		want string
		raw  []byte
	}{
		{"are no block", nil},
		{"are no block", []byte("{}")},
		{"are no block", bytes.Repeat([]byte{0}, 64)},
		{"the producer's name is missing", assemble(0, nil)},
		{`the producer's name "a b" is malformed`, assemble(0, field(nil, 1, "a b"))},
		{`the producer's name "" is malformed`, assemble(0, field(nil, 1, ""))},
		{"the flush number is malformed", assemble(0, field(named, 2, "\x80"))},
		{"the flush number is malformed", assemble(0, field(named, 2, ""))},
		{"the watermark is malformed", assemble(0, field(named, 4, "\x80"))},
		{"an uncommitted block's name is malformed", assemble(0, field(named, 5, "\x01a\x01b"))},
		{"a field's tag is malformed", assemble(0, append(bytes.Clone(named), 0x80))},
		{"field 3 is malformed", assemble(0, append(bytes.Clone(named), 3, 9, 'x'))},
		{"events are over the limit", assemble(block.MaxEvents+1, named, plain()...)},
		{"section 1 is missing", assemble(2, named)},
		{"section 4 is missing", assemble(2, named, plain()[:2]...)},
		{"section 1 has 28 bytes, 300 events need 3638", assemble(300, named, plain()...)},
		{"the key offsets decrease at event 1", assemble(2, named, change(0, part{1, 0, 0, numbers([]int64{5, 6}, []uint32{3, 1}, "\x02kll"), -1})...)},
		{"the key column has 2 bytes and its offsets end at 3", assemble(2, named, change(0, part{1, 0, 0, numbers([]int64{5, 6}, []uint32{1, 3}, "\x02kl"), -1})...)},
		{"the key column has 4 bytes and its offsets end at 3", assemble(2, named, change(0, part{1, 0, 0, numbers([]int64{5, 6}, []uint32{1, 3}, "\x02klll"), -1})...)},
		{"the ids have 200 bytes, and 3 are there", assemble(2, named, change(1, part{2, 0, 0, numbers(nil, []uint32{1, 200, 1, 1}, "ijt"), -1})...)},
		{"the id offsets decrease at event 1", assemble(2, named, change(1, part{2, 0, 0, numbers(nil, []uint32{3, 2, 1, 1}, "ijt"), -1})...)},
		{"the type column has 1 bytes and its offsets end at 2", assemble(2, named, change(1, part{2, 0, 0, numbers(nil, []uint32{1, 2, 1, 2}, "ijt"), -1})...)},
		{"the attributes of event 0 are malformed", assemble(2, named, append(plain(), part{3, 0, 0, numbers(nil, []uint32{3, 3}, "\x01a\x05"), -1})...)},
		{"the attributes of event 1 are malformed", assemble(2, named, append(plain(), part{3, 0, 0, numbers(nil, []uint32{0, 1}, "\x05"), -1})...)},
		{"the attributes column has 1 bytes and its offsets end at 0", assemble(2, named, append(plain(), part{3, 0, 0, numbers(nil, []uint32{0, 0}, "\x05"), -1})...)},
		{"the data offsets decrease", assemble(2, named, change(2, part{4, 0, 0, numbers(nil, []uint32{math.MaxUint32, 2}, "{}"), -1})...)},
		{"section 4 has the unknown codec 9", assemble(2, named, change(2, part{4, 9, 0, s2Text, -1})...)},
		{"section 4 has 10 bytes and claims 11", assemble(2, named, change(2, part{4, 0, 0, make([]byte, 10), 11})...)},
		{"section 4 does not decompress to 499 bytes", assemble(2, named, change(2, part{4, 1, 0, s2Text, 499})...)},
		{"section 4 does not decompress to 500 bytes", assemble(2, named, change(2, part{4, 1, 0, nil, 500})...)},
		{"section 4: s2: corrupt input", assemble(2, named, change(2, part{4, 1, 0, s2Text[:len(s2Text)-1], 500})...)},
		{"section 4 has 67108865 bytes, the limit is 67108864", assemble(2, named, change(2, part{4, 1, 0, s2Text, block.MaxSection + 1})...)},
		{"3 bytes follow the last section", append(assemble(0, named), 1, 2, 3)},
	} {
		_, err := block.Events(test.raw)
		if millrace.CodeOf(err) != millrace.Invalid || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%v, want %q", err, test.want)
		}
	}
}

// A few bytes that claim to hold much make the reader allocate little.
func TestClaimsAllocateNothing(t *testing.T) {
	huge := part{4, 1, 0, s2.Encode(nil, []byte("small")), block.MaxSection}
	for name, raw := range map[string][]byte{
		"section":     assemble(2, named, append(plain()[:2], huge)...),
		"events":      assemble(block.MaxEvents, named, plain()...),
		"cursor":      assemble(0, append(bytes.Clone(named), 3, 0xff, 0xff, 0xff, 0x07)),
		"uncommitted": assemble(0, field(named, 5, "\xff\xff\xff\x07")),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := block.Events(raw)
		runtime.ReadMemStats(&after)
		if millrace.CodeOf(err) != millrace.Invalid {
			t.Errorf("%s: %v", name, err)
		}
		if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
			t.Errorf("%s: %d bytes allocated for a block of %d", name, n, len(raw))
		}
	}
}

func TestBounds(t *testing.T) {
	var b block.Builder
	if err := b.Add(&millrace.Event{Data: make([]byte, block.MaxSection)}); millrace.CodeOf(err) != millrace.TooLarge {
		t.Errorf("data of %d bytes: %v", block.MaxSection, err)
	}
	zone := time.FixedZone("", -3600)
	for _, at := range []time.Time{
		time.Date(1677, 12, 31, 23, 59, 59, 0, time.UTC), time.Date(2262, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC),
		time.Date(2261, 12, 31, 23, 0, 0, 0, zone), time.Date(1, 1, 1, 0, 0, 1, 0, time.UTC),
	} {
		if err := b.Add(&millrace.Event{Time: at}); millrace.CodeOf(err) != millrace.Invalid {
			t.Errorf("%s: %v", at, err)
		}
		if _, err := b.Encode(nil, millrace.Header{Producer: "p", Watermark: at}); millrace.CodeOf(err) != millrace.Invalid {
			t.Errorf("watermark %s: %v", at, err)
		}
	}
	if b.Len() != 0 || b.Size() != 0 {
		t.Errorf("what failed left %d events and %d bytes", b.Len(), b.Size())
	}
	for _, producer := range []string{"", "two words", "naïve", strings.Repeat("x", 201)} {
		if _, err := block.Empty(millrace.Header{Producer: producer}); millrace.CodeOf(err) != millrace.Invalid {
			t.Errorf("producer %q: %v", producer, err)
		}
	}
	if _, err := block.Empty(millrace.Header{Producer: "p", Cursor: millrace.Cursor(strings.Repeat("x", 9<<20))}); millrace.CodeOf(err) != millrace.Invalid {
		t.Errorf("cursor: %v", err)
	}
	many := make([]millrace.BlockRef, 1<<10)
	for i := range many {
		many[i].Stream = strings.Repeat("x", 1<<14)
	}
	if _, err := block.Empty(millrace.Header{Producer: "p", Uncommitted: many}); millrace.CodeOf(err) != millrace.Invalid {
		t.Errorf("uncommitted: %v", err)
	}
}

func TestSize(t *testing.T) {
	var b block.Builder
	want := 0
	for _, e := range vehicles(300) { // more than the first room before the data
		if err := b.Add(&e); err != nil {
			t.Fatal(err)
		}
		want += len(e.ID) + len(e.Key) + len(e.Type) + len(e.Data) + 29
		if b.Size() != want {
			t.Fatalf("after %d events: Size is %d, want %d", b.Len(), b.Size(), want)
		}
	}
	b.Reset()
	if b.Size() != 0 || b.Len() != 0 {
		t.Errorf("after Reset: %d events, %d bytes", b.Len(), b.Size())
	}
}

var raceDetector bool

// In steady state adding and reading allocate nothing; a block is one allocation, of its own size.
func TestAllocations(t *testing.T) {
	events := vehicles(512)
	var b block.Builder
	fill := func() {
		b.Reset()
		for i := range events {
			if err := b.Add(&events[i]); err != nil {
				t.Error(err)
			}
		}
	}
	if n := testing.AllocsPerRun(20, fill); n > 0 {
		t.Errorf("%g allocations for adding 512 events", n)
	}
	h := header
	h.Uncommitted = nil
	var raw []byte
	if n := testing.AllocsPerRun(20, func() {
		encoded, err := b.Encode(nil, h)
		if err != nil {
			t.Error(err)
		}
		raw = encoded.Raw
	}); n > 1 && !raceDetector {
		t.Errorf("%g allocations for encoding", n)
	}
	var r block.Reader
	size := 0
	if n := testing.AllocsPerRun(20, func() {
		if err := r.Reset(raw); err != nil {
			t.Error(err)
		}
		if err := r.Load(block.All); err != nil {
			t.Error(err)
		}
		var e millrace.Event
		for i := range r.Len() {
			r.Event(i, &e)
			size += len(e.ID) + len(e.Key) + len(e.Data)
			for name := range r.Attributes(i) {
				size += len(name)
			}
		}
	}); n > 0 {
		t.Errorf("%g allocations for reading", n)
	}
	if size == 0 {
		t.Error("nothing was read")
	}
}

// FuzzReader gives the reader blocks whose checksums are right, whatever else is wrong.
func FuzzReader(f *testing.F) {
	for _, g := range golden {
		f.Add(encode(f, g.header, g.events...).Raw)
	}
	f.Add(assemble(2, named, append(plain(), part{3, 0, 0, numbers(nil, []uint32{0, 4}, "\x01a\x01b"), -1}, part{9, 0, 0, []byte("x"), -1})...))
	f.Add(assemble(2, field(field(named, 5, "\x01s\x01p\x01b"), 4, "\x05"), plain()...))
	f.Fuzz(func(t *testing.T, raw []byte) {
		raw = bytes.Clone(raw)
		repair(raw)
		h, err := block.ParseHeader(raw)
		var r block.Reader
		switch resetErr := r.Reset(raw); {
		case err != nil:
			if resetErr == nil || millrace.CodeOf(err) != millrace.Invalid {
				t.Fatalf("ParseHeader says %v, Reset says %v", err, resetErr)
			}
			return
		case resetErr != nil:
			return
		}
		for i := range int(raw[14]) {
			if entry := raw[32+16*i:]; entry[10] > 15 || entry[11] > 0 {
				return // over 1 MiB, which would take its time
			}
		}
		if err := r.Load(block.All); err != nil {
			if millrace.CodeOf(err) != millrace.Invalid {
				t.Fatal(err)
			}
			return
		}
		events := make([]millrace.Event, r.Len())
		var b block.Builder
		for i := range events {
			r.Event(i, &events[i])
			if err := b.Add(&events[i]); err != nil {
				return // a time out of range
			}
		}
		encoded, err := b.Encode(nil, h)
		if err != nil {
			if h.Watermark.IsZero() {
				t.Fatal(err)
			}
			return
		}
		check(t, encoded.Raw, h, events)
	})
}

func ExampleReader() {
	var b block.Builder
	for i := range 3 {
		err := b.Add(&millrace.Event{ID: fmt.Sprint("id-", i), Key: fmt.Sprint("bus-", i%2), Time: time.Unix(1784021213, 0), Data: []byte(`{}`)})
		if err != nil {
			panic(err)
		}
	}
	encoded, err := b.Encode(nil, millrace.Header{Producer: "source/buses", Cursor: "id-2", Commit: true})
	if err != nil {
		panic(err)
	}

	var r block.Reader
	if err := r.Reset(encoded.Raw); err != nil {
		panic(err)
	}
	if err := r.Load(block.Keys); err != nil { // ids and data stay compressed
		panic(err)
	}
	for i := range r.Len() {
		fmt.Printf("%s %s\n", r.Key(i), r.Time(i).Format(time.RFC3339))
	}
	// Output:
	// bus-0 2026-07-14T09:26:53Z
	// bus-1 2026-07-14T09:26:53Z
	// bus-0 2026-07-14T09:26:53Z
}

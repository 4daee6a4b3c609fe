package table

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
	"github.com/millrace/millrace/stream/memory"
)

var update = flag.Bool("update", false, "write the golden files anew")

// goldenModel is a table's content: rows of two partitions, attributes, empty texts, an event without a time.
func goldenModel(rows int) *model {
	m := &model{places: map[string]millrace.Position{}}
	for i := range rows { // each of another key, so that there is nothing to replace
		e := event(fmt.Sprintf("k%d", i), i)
		switch i % 3 {
		case 1:
			e.Attributes = map[string]string{"content-type": "application/json", "e": ""}
		case 2:
			e = millrace.Event{Key: e.Key}
		}
		row := Row{Event: e, Partition: fmt.Sprint(i % 2)}
		row.At = millrace.Position{Block: millrace.BlockName("1kv0abcde", uint64(i/4)), Event: uint32(i%4) + 1}
		m.rows = append(m.rows, row)
		m.places[row.Partition] = row.At
	}
	m.places["1"] = millrace.Position{Block: millrace.BlockName("1kv0abcde", uint64(rows))}
	return m
}

// table puts a model into a table.
func (m *model) table(t testing.TB, o Options) *Table {
	table := New(o)
	m.applyTo(t, table)
	return table
}

func (m *model) applyTo(t testing.TB, table *Table) {
	var r block.Reader
	for rows := range slices.Chunk(m.rows, 500) {
		var events []millrace.Event
		for i := range rows {
			events = append(events, rows[i].Event)
		}
		load(t, &r, events...)
		for i := range rows {
			table.Apply(rows[i].Partition, rows[i].At, &r, i)
		}
	}
	for partition, at := range m.places {
		table.Moved(partition, at)
	}
}

func snapshotOf(t testing.TB, table *Table) []byte {
	t.Helper()
	var b bytes.Buffer
	if _, err := table.Freeze().WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestGolden: the snapshots under testdata are read for as long as this version is; what needs no compression
// is also written to the byte.
func TestGolden(t *testing.T) {
	for _, g := range []struct {
		file  string
		exact bool // where S2 is involved, only its authors know
		rows  int
	}{{"empty.hex", true, 0}, {"plain.hex", true, 2}, {"compressed.hex", false, 40}} {
		t.Run(g.file, func(t *testing.T) {
			file := filepath.Join("testdata", g.file)
			m := goldenModel(g.rows)
			written := snapshotOf(t, m.table(t, Options{Of: "positions"}))
			if *update {
				if err := os.WriteFile(file, []byte(hex.Dump(written)), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			dump, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if g.exact && hex.Dump(written) != string(dump) {
				t.Errorf("the layout has changed: snapshots that exist hold\n%s\nand now it is\n%s", dump, hex.Dump(written))
			}
			for _, snapshot := range [][]byte{undump(t, string(dump)), written} {
				table, err := Read(bytes.NewReader(snapshot), Options{Of: "positions"})
				if err != nil {
					t.Fatal(err)
				}
				m.check(t, table)
			}
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

// TestDeterministic: what a table has gone through does not show in its snapshot; only what it holds, and the
// order of the last updates.
func TestDeterministic(t *testing.T) {
	m := goldenModel(100)
	plain := snapshotOf(t, m.table(t, Options{}))
	table := New(Options{})
	var r block.Reader
	for i := range 50 { // other keys in other slots, first
		load(t, &r, event(fmt.Sprintf("k%d", 99-i), i), event("gone", i))
		table.Apply("0", millrace.Position{Block: "b", Event: 1}, &r, 0)
		table.Apply("1", millrace.Position{Block: "b", Event: 2}, &r, 1)
	}
	load(t, &r, deleted("gone", 1))
	table.Apply("0", millrace.Position{Block: "b", Event: 3}, &r, 0)
	m.applyTo(t, table)
	if !bytes.Equal(snapshotOf(t, table), plain) {
		t.Error("tables of the same content have different snapshots")
	}
	again, err := Read(bytes.NewReader(plain), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(snapshotOf(t, again), plain) {
		t.Error("a snapshot that was read and written again is another one")
	}
}

// TestManyRecords: more rows and more bytes than go into one record, and a row over the size of one.
func TestManyRecords(t *testing.T) {
	m := goldenModel(2*recordRows + 10)
	large := event("large", 1)
	large.Data = bytes.Repeat([]byte("0123456789"), 3*recordBytes/10)
	for range 3 {
		large.Key += "x"
		m.rows = append(m.rows, Row{Event: large, Partition: "0", At: millrace.Position{Block: "b", Event: 1}})
	}
	table, err := Read(bytes.NewReader(snapshotOf(t, m.table(t, Options{}))), Options{})
	if err != nil {
		t.Fatal(err)
	}
	m.check(t, table)
}

// TestTighterBounds: a table that may hold less than the snapshot keeps what was updated last.
func TestTighterBounds(t *testing.T) {
	m := goldenModel(100)
	snapshot := snapshotOf(t, m.table(t, Options{}))
	m.maxKeys = 7
	m.bound()
	table, err := Read(bytes.NewReader(snapshot), Options{MaxKeys: 7})
	if err != nil {
		t.Fatal(err)
	}
	m.check(t, table)
}

// reseal writes the checksums of a snapshot's records anew, so that what lies behind them is looked at.
func reseal(snapshot []byte) []byte {
	b := bytes.Clone(snapshot)
	if len(b) < len(magic) {
		return b
	}
	sum := crc32.Checksum(b[:len(magic)], castagnoli)
	for rest := b[len(magic):]; len(rest) >= 9; {
		length := uint64(binary.LittleEndian.Uint32(rest[1:])) + 5
		if length > uint64(len(rest)-4) {
			break
		}
		sum = crc32.Update(sum, castagnoli, rest[:length])
		binary.LittleEndian.PutUint32(rest[length:], sum)
		rest = rest[length+4:]
	}
	return b
}

// cutRecords returns the magic and the records of a snapshot.
func cutRecords(snapshot []byte) (list [][]byte) {
	list = append(list, snapshot[:len(magic)])
	for rest := snapshot[len(magic):]; len(rest) > 0; {
		length := int(binary.LittleEndian.Uint32(rest[1:])) + 9
		list, rest = append(list, rest[:length:length]), rest[length:]
	}
	return list
}

// TestDamage: no bit of a snapshot can change, and no byte be missing, unnoticed.
func TestDamage(t *testing.T) {
	snapshot := snapshotOf(t, goldenModel(40).table(t, Options{Of: "positions"}))
	refused := func(what string, damaged []byte) {
		t.Helper()
		table, err := Read(bytes.NewReader(damaged), Options{Of: "positions"})
		if table != nil || millrace.CodeOf(err) != millrace.Invalid {
			t.Fatalf("%s: Read = %v, %v", what, table, err)
		}
	}
	for i := range snapshot {
		b := bytes.Clone(snapshot)
		b[i] ^= 1 << (i % 8)
		refused(fmt.Sprintf("bit %d of byte %d", i%8, i), b)
		refused(fmt.Sprintf("cut at %d", i), snapshot[:i])
	}
	refused("a byte too much", append(bytes.Clone(snapshot), 0))
	list := cutRecords(snapshot)
	refused("without rows", bytes.Join([][]byte{list[0], list[1], list[3]}, nil))
	refused("without rows, resealed", reseal(bytes.Join([][]byte{list[0], list[1], list[3]}, nil)))
	refused("rows twice", bytes.Join([][]byte{list[0], list[1], list[2], list[2], list[3]}, nil))
	refused("rows twice, resealed", reseal(bytes.Join([][]byte{list[0], list[1], list[2], list[2], list[3]}, nil)))
	refused("head twice, resealed", reseal(bytes.Join([][]byte{list[0], list[1], list[1], list[2], list[3]}, nil)))
	refused("no head, resealed", reseal(bytes.Join([][]byte{list[0], list[2], list[3]}, nil)))

	unknown := bytes.Clone(snapshot)
	unknown[len(magic)+len(list[1])] = 9
	refused("unknown kind, resealed", reseal(unknown))
	long := bytes.Clone(snapshot)
	binary.LittleEndian.PutUint32(long[len(magic)+1:], 1<<31)
	refused("a record of 2 GiB", long)
}

// TestRefused: what the errors say.
func TestRefused(t *testing.T) {
	snapshot := snapshotOf(t, goldenModel(3).table(t, Options{Of: "positions"}))
	newer := reseal(append([]byte("MRT2"), snapshot[4:]...))
	for _, tt := range []struct {
		snapshot []byte
		of, want string
	}{
		{newer, "positions", `it is of version "2", and this program knows version "1": a later one has written it`},
		{[]byte("MRQ1....."), "positions", "it is no snapshot of a table"},
		{snapshot, "crossings", `it is of "positions", and the table is of "crossings"`},
		{nil, "", "it is cut short"},
	} {
		_, err := Read(bytes.NewReader(tt.snapshot), Options{Of: tt.of})
		if millrace.CodeOf(err) != millrace.Invalid || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Read = %v, want %s", err, tt.want)
		}
	}
	broken := errors.New("connection lost")
	_, err := Read(io.MultiReader(bytes.NewReader(snapshot[:50]), iotest.ErrReader(broken)), Options{Of: "positions"})
	if millrace.CodeOf(err) != millrace.Unavailable || !errors.Is(err, broken) {
		t.Errorf("Read of a broken reader = %v", err)
	}
}

// TestSaveLoad: versions, and what is there when nothing was saved or it is damaged.
func TestSaveLoad(t *testing.T) {
	state := memory.NewState()
	o := Options{Of: "positions"}
	if table, version, err := Load(t.Context(), state, "table/a", o); table != nil || version != 0 || millrace.CodeOf(err) != millrace.NotFound {
		t.Fatalf("Load of nothing = %v, %d, %v", table, version, err)
	}
	m := goldenModel(50)
	version, err := m.table(t, o).Freeze().Save(t.Context(), state, "table/a", 0)
	if err != nil {
		t.Fatal(err)
	}
	table, found, err := Load(t.Context(), state, "table/a", o)
	if err != nil || found != version {
		t.Fatalf("Load = %d, %v; saved %d", found, err, version)
	}
	m.check(t, table)
	if _, err := table.Freeze().Save(t.Context(), state, "table/a", 0); millrace.CodeOf(err) != millrace.Conflict {
		t.Errorf("Save over a version that is not known = %v", err)
	}
	damaged, err := state.Save(t.Context(), "table/a", version, func(w io.Writer) error {
		_, err := w.Write([]byte("nothing"))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if table, found, err := Load(t.Context(), state, "table/a", o); table != nil || found != damaged || millrace.CodeOf(err) != millrace.Invalid {
		t.Errorf("Load of damage = %v, %d, %v; want version %d", table, found, err, damaged)
	}
}

// TestFrozen: a snapshot is written while the table goes on.
func TestFrozen(t *testing.T) {
	m := goldenModel(1000)
	table := m.table(t, Options{})
	frozen := table.Freeze()
	written := make(chan []byte)
	go func() {
		var b bytes.Buffer
		_, _ = frozen.WriteTo(&b) // to a buffer
		written <- b.Bytes()
	}()
	var r block.Reader
	for i := range 1000 {
		load(t, &r, event(fmt.Sprintf("k%d", i), i+5), deleted(fmt.Sprintf("k%d", i/2), i))
		table.Apply("0", millrace.Position{Block: "later", Event: 1}, &r, 0)
		table.Apply("0", millrace.Position{Block: "later", Event: 2}, &r, 1)
	}
	again, err := Read(bytes.NewReader(<-written), Options{})
	if err != nil {
		t.Fatal(err)
	}
	m.check(t, again)
}

// FuzzLoad: any bytes are a table or an error, also behind right checksums; a table that was read is written
// and read as the same again.
func FuzzLoad(f *testing.F) {
	for _, rows := range []int{0, 2, 40} {
		f.Add(snapshotOf(f, goldenModel(rows).table(f, Options{})))
	}
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, snapshot := range [][]byte{data, reseal(data)} {
			state := memory.NewState()
			_, err := state.Save(context.Background(), "table/a", 0, func(w io.Writer) error {
				_, err := w.Write(snapshot)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			table, version, err := Load(context.Background(), state, "table/a", Options{MaxBytes: 1 << 20})
			if version != 1 {
				t.Fatalf("version %d", version)
			}
			if err != nil {
				if table != nil || millrace.CodeOf(err) != millrace.Invalid {
					t.Fatalf("Load = %v, %v", table, err)
				}
				continue
			}
			written := snapshotOf(t, table)
			again, err := Read(bytes.NewReader(written), Options{})
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(snapshotOf(t, again), written) {
				t.Fatal("the table changes when it is saved and loaded")
			}
		}
	})
}

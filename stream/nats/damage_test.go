package nats_test

import (
	"cmp"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/millracetest"
)

// storeFiles returns the files in which JetStream keeps a partition's messages, oldest first.
func storeFiles(t *testing.T, dir, partition string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "engine", "jetstream", "$G", "streams", "millrace-stream-positions-"+partition, "msgs", "*.blk"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no files of partition %s in %s: %v", partition, dir, err)
	}
	slices.SortFunc(files, func(a, b string) int { // by number
		return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b))
	})
	return files
}

// truncateStore cuts the newest file behind the message of a position, in the middle of the next one.
// A message begins with its length (4 bytes, the highest bit is a flag) and sequence (8 bytes).
func truncateStore(t *testing.T, dir, partition string, after millrace.Position) {
	t.Helper()
	_, last, err := millrace.ParseBlockName(after.Block)
	if err != nil {
		t.Fatal(err)
	}
	files := storeFiles(t, dir, partition)
	name := files[len(files)-1]
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	at := 0
	for at < len(data) && binary.LittleEndian.Uint64(data[at+4:]) <= last {
		at += int(binary.LittleEndian.Uint32(data[at:]) &^ (1 << 31))
	}
	if err := os.Truncate(name, int64(at+20)); err != nil {
		t.Fatal(err)
	}
}

// TestFlippedBit damages a message in the middle of the store. JetStream drops the rest of that file
// without a word; a reader is told.
func TestFlippedBit(t *testing.T) {
	h := newEmbedded(t, millracetest.StreamOptions{Partitions: 1})
	var at []millrace.Position
	after := millrace.Position{}
	for i := range 40 { // 20 MB, in three files
		b := encode(t, "source/a", uint64(i+1), noise(500_000))
		var err error
		if after, err = h.s.Append(t.Context(), "0", after, b); err != nil {
			t.Fatal(err)
		}
		at = append(at, after)
	}
	h.close(t)
	files := storeFiles(t, h.options.DataDir, "0")
	t.Logf("%d files", len(files))
	data, err := os.ReadFile(files[1])
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(files[1], data, 0o600); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	s := h.open(t)
	t.Logf("opened in %s", time.Since(start))
	seen := map[millrace.Position]bool{}
	last := millrace.Position{}
	gaps := 0
	for b, err := range s.Read(t.Context(), "0", millrace.Position{}) {
		var gap *millrace.Gap
		switch {
		case errors.As(err, &gap):
			gaps++
			t.Log(gap)
			if gap.After != last || gap.Reason != millrace.Truncated {
				t.Errorf("got %v after %q", gap, last)
			}
			last = gap.First
		case err != nil:
			t.Fatal(err)
		default:
			seen[b.At], last = true, b.At
		}
		if last == at[39] {
			break
		}
	}
	t.Logf("%d of %d blocks are left", len(seen), len(at))
	if gaps != 1 {
		t.Errorf("%d gaps", gaps)
	}
}

// TestTornTail cuts the newest file as it is after a kill: without the index that JetStream writes when
// it is closed, which would tell it that there was more. Sequences are then used again.
func TestTornTail(t *testing.T) {
	h := newEmbedded(t, millracetest.StreamOptions{Partitions: 1})
	var at []millrace.Position
	after := millrace.Position{}
	for i := range 10 {
		var err error
		if after, err = h.s.Append(t.Context(), "0", after, encode(t, "source/a", uint64(i+1), noise(1000))); err != nil {
			t.Fatal(err)
		}
		at = append(at, after)
	}
	h.close(t)
	truncateStore(t, h.options.DataDir, "0", at[5])
	if err := os.Remove(filepath.Join(filepath.Dir(storeFiles(t, h.options.DataDir, "0")[0]), "index.db")); err != nil {
		t.Fatal(err)
	}
	s := h.open(t)
	if _, end, err := s.Bounds(t.Context(), "0"); err != nil || end != at[5] {
		t.Errorf("the end is %q, %v; want %q", end, err, at[5])
	}
	if last, err := s.Last(t.Context(), "0", "source/a"); err != nil || last.At != at[5] {
		t.Errorf("Last = %q, %v; want %q", last.At, err, at[5])
	}
	for _, err := range s.Read(t.Context(), "0", at[9]) {
		var gap *millrace.Gap
		if !errors.As(err, &gap) || *gap != (millrace.Gap{After: at[9], First: at[5], Reason: millrace.Truncated}) {
			t.Errorf("after %q comes %v", at[9], err)
		}
		break
	}
	if _, err := s.Append(t.Context(), "0", at[9], encode(t, "source/a", 11, nil)); millrace.CodeOf(err) != millrace.Conflict {
		t.Errorf("Append after a lost block: %v", err)
	}
}

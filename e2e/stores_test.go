package e2e

import (
	"compress/gzip"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
	"github.com/millrace/millrace/millracetest"
	"github.com/millrace/millrace/stream/nats"
)

// readStreams returns the events of streams, which have so many partitions, by stream and partition, read from the
// data directory of a program that has ended.
func readStreams(t *testing.T, dataDir string, partitions map[string]int) map[string][][]millrace.Event {
	t.Helper()
	engine, err := nats.Open(t.Context(), nats.Options{DataDir: dataDir})
	if err != nil {
		t.Fatalf("open the streams that the program left: %v", err)
	}
	defer func() {
		if err := engine.Close(); err != nil {
			t.Error(err)
		}
	}()
	streams := map[string][][]millrace.Event{}
	for name, n := range partitions {
		s, err := engine.Stream(t.Context(), name, nats.StreamConfig{Partitions: n})
		if err != nil {
			t.Fatal(err)
		}
		all, err := s.Partitions(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range all {
			var events []millrace.Event
			if err := millracetest.ReadPartition(t.Context(), s, p.Name, func(b millrace.StoredBlock) error {
				some, err := block.Events(b.Raw)
				events = append(events, some...)
				return err
			}); err != nil {
				t.Fatalf("read stream %s, partition %s: %v", name, p.Name, err)
			}
			streams[name] = append(streams[name], events)
		}
	}
	return streams
}

// readArchive returns the lines of a stream's objects by partition, in the order of the objects' names. It
// fails the test where an object is not whole. The objects are named PREFIX/.../STREAM_PARTITION_FIRST_LAST.
func readArchive(t *testing.T, dir, prefix, stream string) map[string][]string {
	t.Helper()
	lines := map[string][]string{}
	err := filepath.WalkDir(filepath.Join(dir, prefix), func(path string, d fs.DirEntry, err error) error { // in lexical order
		if err != nil || d.IsDir() {
			return err
		}
		parts := strings.Split(strings.TrimPrefix(d.Name(), stream+"_"), "_")
		if len(parts) != 3 || !strings.HasSuffix(d.Name(), ".ndjson.gz") {
			t.Errorf("object %s is not named as objects are", path)
			return nil
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		z, err := gzip.NewReader(f)
		if err != nil {
			t.Errorf("object %s: %v", path, err)
			return nil
		}
		text, err := io.ReadAll(z)
		if err != nil || len(text) == 0 || text[len(text)-1] != '\n' {
			t.Errorf("object %s is not whole: %d bytes, %v", path, len(text), err)
			return nil
		}
		lines[parts[0]] = append(lines[parts[0]], strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")...)
		return nil
	})
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return lines
}

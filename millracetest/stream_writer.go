package millracetest

import (
	"context"
	"crypto/rand"
	"fmt"
	"testing"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
)

// streamWriter is one writer of a producer. Its flushes are numbered from 1.
type streamWriter struct {
	name   string
	writer [16]byte
	flush  uint64
	last   map[string]millrace.Position // by partition
}

func newStreamWriter(name string) *streamWriter {
	w := &streamWriter{name: name, last: map[string]millrace.Position{}}
	_, _ = rand.Read(w.writer[:]) // never fails
	return w
}

func (w *streamWriter) header() millrace.Header {
	return millrace.Header{
		Producer:  w.name,
		Writer:    w.writer,
		Flush:     w.flush,
		Commit:    w.flush%2 == 1,
		Cursor:    millrace.Cursor(fmt.Sprintf("%s#%d", w.name, w.flush)),
		Watermark: time.Unix(1_700_000_000, int64(w.flush)).UTC(),
		Uncommitted: []millrace.BlockRef{
			{Stream: "positions", Partition: "3", Block: fmt.Sprint("0-", w.flush)},
		},
	}
}

// encode returns the block of this flush.
func (w *streamWriter) encode(t *testing.T, events int) millrace.Block {
	var b block.Builder
	for i := range events {
		streamAdd(t, &b, fmt.Sprintf("%d#%d", w.flush, i), fmt.Appendf(nil, `{"flush":%d,"event":%d}`, w.flush, i))
	}
	return w.finish(t, &b)
}

func (w *streamWriter) encodeData(t *testing.T, data []byte) millrace.Block {
	var b block.Builder
	streamAdd(t, &b, fmt.Sprint(w.flush), data)
	return w.finish(t, &b)
}

func streamAdd(t *testing.T, b *block.Builder, id string, data []byte) {
	if err := b.Add(&millrace.Event{ID: id, Key: "k", Type: "message", Time: time.Unix(1_700_000_000, 0), Data: data}); err != nil {
		t.Error(err)
	}
}

func (w *streamWriter) finish(t *testing.T, b *block.Builder) millrace.Block {
	encoded, err := b.Encode(nil, w.header())
	if err != nil {
		t.Error(err)
	}
	return encoded
}

// block returns the block of the next flush.
func (w *streamWriter) block(t *testing.T, events int) millrace.Block {
	w.flush++
	return w.encode(t, events)
}

// append flushes; what it returns lacks the time.
func (w *streamWriter) append(t *testing.T, s millrace.Stream, partition string, events int) millrace.StoredBlock {
	t.Helper()
	b := w.block(t, events)
	return w.put(t, s, partition, b)
}

func (w *streamWriter) put(t *testing.T, s millrace.Stream, partition string, b millrace.Block) millrace.StoredBlock {
	t.Helper()
	at, err := s.Append(t.Context(), partition, w.last[partition], b)
	if err != nil {
		t.Errorf("flush %d of %s: %v", w.flush, w.name, err)
	} else if at.Event != b.Header.Events {
		t.Errorf("Append returned %q for a block of %d events", at, b.Header.Events)
	}
	w.last[partition] = at
	return millrace.StoredBlock{Block: b, At: at}
}

// readBlocks reads n blocks and fails at anything else.
func readBlocks(t *testing.T, s millrace.Stream, partition string, after millrace.Position, n int) []millrace.StoredBlock {
	t.Helper()
	ctx := streamContext(t)
	blocks := make([]millrace.StoredBlock, 0, n)
	for b, err := range s.Read(ctx, partition, after) {
		if err != nil {
			t.Errorf("reading after %q, after %d of %d blocks: %v", after, len(blocks), n, err)
			break
		}
		if blocks = append(blocks, b); len(blocks) == n {
			return blocks
		}
	}
	if len(blocks) < n {
		t.Errorf("reading after %q ended after %d of %d blocks", after, len(blocks), n)
	}
	return append(blocks, make([]millrace.StoredBlock, n-len(blocks))...)
}

// streamContext bounds a reader that would wait for ever for what does not come.
func streamContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// streamNoise does not compress.
func streamNoise(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}

func wantCode(t *testing.T, what string, err error, want millrace.Code) {
	t.Helper()
	if got := millrace.CodeOf(err); got != want {
		t.Errorf("%s: %v (%s), want %s", what, err, got, want)
	}
}

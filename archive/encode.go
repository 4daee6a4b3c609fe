package archive

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"hash"

	"github.com/klauspost/compress/gzip"
)

// objectLayout is the version of how events become an object's bytes before compression. A cut that an
// older version recorded must come out byte for byte, so a change here adds a layout beside this.
const objectLayout = 1

// gzipLevel weighs size against time: see BenchmarkArchive.
const gzipLevel = 2

// spillSize is how much an encoder gathers before it compresses.
const spillSize = 64 << 10

// encoder makes an object's bytes of events, the same bytes of the same events. It keeps its memory
// when it is reset.
type encoder struct {
	format, compression string

	events int64
	spilt  int64        // bytes before compression that sum and out have
	chunk  []byte       // those that they have not
	sum    hash.Hash    // of the bytes before compression: other versions of gzip may compress otherwise
	gzip   *gzip.Writer // into out; nil without compression
	out    bytes.Buffer
}

func newEncoder(format, compression string) *encoder {
	e := &encoder{format: format, compression: compression, sum: sha256.New()}
	if compression == compressionGzip {
		e.gzip, _ = gzip.NewWriterLevel(&e.out, gzipLevel) // fails for a bad level only
	}
	return e
}

// size is the object's size in bytes before compression.
func (e *encoder) size() int64 { return e.spilt + int64(len(e.chunk)) }

// add appends an event's data.
func (e *encoder) add(data []byte, deleted bool) {
	if e.format == formatRaw {
		e.chunk = append(e.chunk, data...)
	} else {
		e.chunk = appendLine(e.chunk, data, deleted)
	}
	e.events++
	if len(e.chunk) >= spillSize {
		e.spill()
	}
}

func (e *encoder) spill() {
	e.sum.Write(e.chunk)
	if e.gzip != nil {
		_, _ = e.gzip.Write(e.chunk) // into memory, which can't fail
	} else {
		e.out.Write(e.chunk)
	}
	e.spilt += int64(len(e.chunk))
	e.chunk = e.chunk[:0]
}

// finish returns the object's bytes, which are valid until reset, and the hexadecimal SHA-256 of what
// they are before compression.
func (e *encoder) finish() (object []byte, sum string) {
	e.spill()
	if e.gzip != nil {
		_ = e.gzip.Close()
	}
	return e.out.Bytes(), hex.EncodeToString(e.sum.Sum(nil))
}

// keepAtMost is the memory in bytes that an encoder keeps for the next object: an unusually large one
// is not worth keeping.
const keepAtMost = 16 << 20

func (e *encoder) reset() {
	e.events, e.spilt = 0, 0
	if e.chunk = e.chunk[:0]; cap(e.chunk) > keepAtMost {
		e.chunk = nil
	}
	if e.out.Reset(); e.out.Cap() > keepAtMost {
		e.out = bytes.Buffer{}
	}
	e.sum.Reset()
	if e.gzip != nil {
		e.gzip.Reset(&e.out)
	}
}

// extension of an object's name.
func extension(format, compression string) string {
	suffix := "." + format
	if compression == compressionGzip {
		suffix += ".gz"
	}
	return suffix
}

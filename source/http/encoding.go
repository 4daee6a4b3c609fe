package httpsource

import (
	"bytes"
	"errors"
	"io"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// maxWindow is what a zstd decoder must take and need not exceed (RFC 9659).
const maxWindow = 8 << 20

var errTooLarge = errors.New("too large")

// Decoders are large and slow to make.
var (
	gzips = sync.Pool{New: func() any { return new(gzip.Reader) }}
	zstds = sync.Pool{New: func() any {
		// With a concurrency of 1 it decodes in the caller and has no goroutines.
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			panic(err) // the options are constants
		}
		return d
	}}
)

// decompress appends the decompressed body to dst, at most limit bytes (errTooLarge); grow is asked before
// dst grows by that much.
func decompress(dst, body []byte, encoding string, limit int64, grow func(int64) error) ([]byte, error) {
	in := bytes.NewReader(body)
	switch encoding {
	case "gzip":
		d := gzips.Get().(*gzip.Reader)
		defer gzips.Put(d)
		if err := d.Reset(in); err != nil {
			return dst, err
		}
		return readBounded(dst, d, limit, grow)
	default: // zstd
		d := zstds.Get().(*zstd.Decoder)
		defer func() {
			_ = d.Reset(nil) // lets go of the body
			zstds.Put(d)
		}()
		if err := d.Reset(in); err != nil {
			return dst, err
		}
		return readBounded(dst, d, limit, grow)
	}
}

// readBounded appends what is read to dst until the end, at most limit bytes.
func readBounded(dst []byte, in io.Reader, limit int64, grow func(int64) error) ([]byte, error) {
	for read := int64(0); ; {
		if len(dst) == cap(dst) {
			more := max(4<<10, cap(dst))
			if err := grow(int64(more)); err != nil {
				return dst, err
			}
			bigger := make([]byte, len(dst), cap(dst)+more)
			copy(bigger, dst)
			dst = bigger
		}
		n, err := in.Read(dst[len(dst):cap(dst)])
		dst = dst[:len(dst)+n]
		if read += int64(n); read > limit {
			return dst, errTooLarge
		}
		if errors.Is(err, io.EOF) {
			return dst, nil
		}
		if err != nil {
			return dst, err
		}
	}
}

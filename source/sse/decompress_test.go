package sse

import (
	"bytes"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/millrace/millrace/millracetest"
)

var codings = []string{"gzip", "zstd", "br"}

// compressed is a body of some events, each of them flushed.
func compressed(t testing.TB, coding string, events []string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := millracetest.NewCompressor(&b, coding)
	for _, e := range events {
		if _, err := z.Write([]byte(e)); err != nil {
			t.Fatal(err)
		}
		if err := z.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// decompressed is what comes out of a body, at most limit bytes, and the error that ended it.
func decompressed(coding string, body io.Reader, limit int64) ([]byte, error) {
	r, err := decompress(&http.Response{Header: http.Header{"Content-Encoding": {coding}}}, body)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(io.LimitReader(r, limit))
}

// TestDamagedBodies: whatever byte is wrong or missing, the connection ends with an error or goes on with
// other text; nothing panics, and what the server has flushed before the damage has come.
func TestDamagedBodies(t *testing.T) {
	events := []string{"data: " + strings.Repeat("one ", 50) + "\n\n", "data: two\n\n", "data: " + strings.Repeat("3", 500) + "\n\n"}
	whole := strings.Join(events, "")
	for _, coding := range codings {
		t.Run(coding, func(t *testing.T) {
			body := compressed(t, coding, events)
			first := len(compressed(t, coding, events[:1])) // more than the first event's bytes
			for i := range body {
				got, err := decompressed(coding, bytes.NewReader(body[:i]), 1<<20)
				if err == nil && (coding != "zstd" || i > 0) || !strings.HasPrefix(whole, string(got)) { // no frame is zstd, too
					t.Errorf("cut after %d of %d bytes: %q, %v", i, len(body), got, err)
				}
				if i > first && !strings.HasPrefix(string(got), events[0]) {
					t.Errorf("cut after %d of %d bytes: the first event has not come", i, len(body))
				}
				damaged := bytes.Clone(body)
				damaged[i] ^= 1 << (i % 8)
				once, errOnce := decompressed(coding, bytes.NewReader(damaged), 1<<20)
				slow, errSlow := decompressed(coding, iotest.OneByteReader(bytes.NewReader(damaged)), 1<<20)
				if (errOnce == nil) != (errSlow == nil) || errOnce == nil && !bytes.Equal(once, slow) {
					t.Errorf("byte %d: %q, %v; byte by byte %q, %v", i, once, errOnce, slow, errSlow)
				}
			}
		})
	}
}

func FuzzDecompress(f *testing.F) {
	for i, coding := range codings {
		f.Add(uint8(i), compressed(f, coding, []string{"data: a\n\n", "data: " + strings.Repeat("b", 1000) + "\n\n"}))
		f.Add(uint8(i), compressed(f, coding, []string{strings.Repeat("data: the quick brown fox\n\n", 1000)}))
		f.Add(uint8(i), compressed(f, coding, nil))
	}
	f.Fuzz(func(t *testing.T, coding uint8, body []byte) {
		const limit = 1 << 20
		name := codings[int(coding)%len(codings)]
		whole, err := decompressed(name, bytes.NewReader(body), limit)
		slow, errSlow := decompressed(name, iotest.OneByteReader(bytes.NewReader(body)), limit)
		if (err == nil) != (errSlow == nil) || err == nil && !bytes.Equal(whole, slow) {
			t.Errorf("%s: %d bytes, %v; byte by byte %d bytes, %v", name, len(whole), err, len(slow), errSlow)
		}
	})
}

// TestMemoryOfEncodings: what a connection holds after more has come through it than the largest window.
func TestMemoryOfEncodings(t *testing.T) {
	large := func(w io.Writer, coding string) millracetest.Compressor {
		switch coding {
		case "br":
			return brotli.NewWriterOptions(w, brotli.WriterOptions{Quality: 1, LGWin: 24})
		case "zstd":
			z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(8<<20))
			if err != nil {
				t.Fatal(err)
			}
			return z
		default:
			return gzip.NewWriter(w)
		}
	}
	for coding, bound := range map[string]int64{"gzip": 100 << 10, "zstd": 17 << 20, "br": 17 << 20} {
		t.Run(coding, func(t *testing.T) {
			in, out := io.Pipe()
			var sender sync.WaitGroup
			sender.Go(func() {
				z := large(out, coding)
				event := []byte("data: " + strings.Repeat("x", 16<<10) + "\n\n")
				for i := range 20 << 20 / len(event) {
					event[6+i%1000]++
					_, _ = z.Write(event)
					_ = z.Flush()
				}
				_ = out.Close() // before z is: the memory is that of a connection that goes on
			})
			defer sender.Wait()
			held := heap()
			r, err := decompress(&http.Response{Header: http.Header{"Content-Encoding": {coding}}}, in)
			if err != nil {
				t.Fatal(err)
			}
			n, _ := io.Copy(io.Discard, r)
			sender.Wait()
			held = heap() - held
			runtime.KeepAlive(r)
			t.Logf("%d KiB after %d MiB", held>>10, n>>20)
			if held > bound {
				t.Errorf("it holds %d KiB, more than %d", held>>10, bound>>10)
			}
		})
	}
}

// heap is how many bytes live.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // pools are emptied in two steps
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

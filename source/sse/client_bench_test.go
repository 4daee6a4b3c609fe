package sse

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/millrace/millrace"
)

// counter is an emitter that only counts, and ends the source after some number of events.
type counter struct {
	events, calls, until int
	end                  context.CancelFunc
}

func (c *counter) Emit(_ context.Context, events []millrace.Event, _ millrace.Cursor) error {
	c.calls++
	if c.events += len(events); c.events >= c.until {
		c.end()
	}
	return nil
}

func (c *counter) Reject(context.Context, millrace.Rejection, millrace.Cursor) error { return nil }
func (c *counter) Flush(context.Context) error                                       { return nil }

// BenchmarkSocketToEmit reads 850-byte events from loopback, HTTP/1.1 in chunks. The server writes the
// same prepared bytes over and over, so that it costs little more than the kernel's part.
func BenchmarkSocketToEmit(b *testing.B) {
	for _, chunk := range []int{1, 16, 128} { // events
		b.Run(fmt.Sprintf("%d-in-a-chunk", chunk), func(b *testing.B) {
			var text strings.Builder
			for text.Len() < 1<<20 {
				var part strings.Builder
				for range chunk {
					head := fmt.Sprintf("id: %016d\nevent: vehicle\ndata: ", text.Len())
					part.WriteString(head + strings.Repeat("x", 850-len(head)-2) + "\n\n")
				}
				fmt.Fprintf(&text, "%x\r\n%s\r\n", part.Len(), part.String())
			}
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			defer listener.Close() //nolint:errcheck // of a benchmark
			served := make(chan struct{})
			go func() {
				defer close(served)
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				defer conn.Close() //nolint:errcheck // of a benchmark
				request := make([]byte, 4096)
				_, _ = conn.Read(request)
				_, _ = conn.Write([]byte("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"))
				body := []byte(text.String())
				for err == nil {
					_, err = conn.Write(body)
				}
			}()
			ctx, cancel := context.WithCancel(b.Context())
			out := &counter{until: b.N, end: cancel}
			b.SetBytes(850)
			b.ReportAllocs()
			b.ResetTimer()
			if err := New(config("http://"+listener.Addr().String()), Options{}).Run(ctx, millrace.Resume{}, out); err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(out.events)/b.Elapsed().Seconds(), "events/s")
			b.ReportMetric(float64(out.events)/float64(out.calls), "events/emit")
			<-served
		})
	}
}

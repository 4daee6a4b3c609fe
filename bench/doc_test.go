// Package bench measures the pipeline as a whole, real parts from socket to disk and back. Run it with
// `make bench`; what came out, on which machine, is in README.md. Times of single parts are measured by
// the benchmarks beside them.
package bench

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/stream/nats"
)

// eventSize is the size of an event's data in bytes, about that of a vehicle report.
const eventSize = 850

// appendEvent writes the n-th event's data: JSON with key and time among some twenty fields, different
// from event to event as real data is.
func appendEvent(dst []byte, n int, at time.Time) []byte {
	start := len(dst)
	dst = fmt.Appendf(dst, `{"vehicle":{"id":"v%d","label":"%d","type":"bus"},`, n%5000, 3000+n%977)
	dst = append(dst, `"time":"`...)
	dst = at.UTC().AppendFormat(dst, time.RFC3339Nano)
	dst = fmt.Appendf(dst, `","position":{"lat":%.6f,"lon":%.6f,"bearing":%d,"speed":%.1f},`,
		42+float64(n%7919)/7919, -71-float64(n%6007)/6007, n%360, float64(n%600)/10)
	dst = fmt.Appendf(dst, `"trip":{"id":"%x","route":"%d","direction":%d,"stop":"%d"},"note":"`, n*2654435761, n%211, n%2, n%9000)
	for word := uint32(n); len(dst)-start < eventSize-2; word = word*1664525 + 1013904223 {
		dst = append(dst, words[word>>27]...)
	}
	return append(dst[:start+eventSize-2], `"}`...)
}

var words = strings.Fields("waiting- for- the- light- at- north- station- platform- two- doors- open- crowded- few- seats- late- early- on- time- detour- via- bridge- closed- road- works- snow- rain- clear- depot- driver- change- out- of- ")

// feed is a server that sends the events of one client as fast as the client reads. It is as cheap as a
// server can be: the bytes are rendered before.
type feed struct {
	listener net.Listener
	text     []byte
}

// newFeed serves events numbered from 0, each with an id.
func newFeed(tb testing.TB, events int) *feed {
	tb.Helper()
	var config net.ListenConfig
	listener, err := config.Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	f := &feed{listener: listener}
	at := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	for n := range events {
		f.text = fmt.Appendf(f.text, "id: %d\ndata: ", n)
		f.text = appendEvent(f.text, n, at.Add(time.Duration(n)*time.Millisecond))
		f.text = append(f.text, "\n\n"...)
	}
	tb.Cleanup(func() { listener.Close() })
	go f.serve()
	return f
}

func (f *feed) url() string { return "http://" + f.listener.Addr().String() + "/" }

func (f *feed) serve() {
	for {
		conn, err := f.listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			if !answer(conn) {
				return
			}
			if _, err := conn.Write(f.text); err != nil {
				return
			}
			_, _ = conn.Read(make([]byte, 1)) // holds the connection until the client goes
		}()
	}
}

// answer reads a request and writes the head of an endless response.
func answer(conn net.Conn) bool {
	lines := bufio.NewReader(conn)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return false
		}
		if line == "\r\n" {
			break
		}
	}
	_, err := conn.Write([]byte("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"))
	return err == nil
}

// openEngine opens an embedded engine in a folder of the benchmark's own.
func openEngine(tb testing.TB) *nats.Engine {
	tb.Helper()
	engine, err := nats.Open(tb.Context(), nats.Options{DataDir: tb.TempDir()})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { engine.Close() })
	return engine
}

func openStream(tb testing.TB, engine *nats.Engine, name string) *nats.Stream {
	tb.Helper()
	stream, err := engine.Stream(tb.Context(), name, nats.StreamConfig{Partitions: 1})
	if err != nil {
		tb.Fatal(err)
	}
	return stream
}

// counted tells when a number of events has been appended.
type counted struct {
	millrace.Stream
	left   int
	done   chan struct{}
	blocks int
}

func (c *counted) Append(ctx context.Context, partition string, after millrace.Position, b millrace.Block) (millrace.Position, error) {
	at, err := c.Stream.Append(ctx, partition, after, b)
	if err == nil {
		c.blocks++
		c.left -= int(b.Header.Events)
		if c.left == 0 {
			close(c.done)
		}
	}
	return at, err
}

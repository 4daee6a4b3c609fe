// Package bench measures the pipeline as a whole, real parts from socket to disk and back. Run it with
// `make bench`; what came out, on which machine, is in README.md. Times of single parts are measured by
// the benchmarks beside them.
package bench

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/stream/nats"
)

// eventSize is the size of an event's data in bytes, about that of a vehicle report.
const eventSize = 850

// appendEvent writes the n-th event's data: a report as transit agencies send it, with key and time among
// some thirty fields, nested three deep, and values that differ from event to event. Its 850 bytes
// compress to about a quarter in a block.
func appendEvent(dst []byte, n int, at time.Time) []byte {
	start := len(dst)
	random := uint32(n)*2654435761 + 12345
	next := func(below int) int {
		random = random*1664525 + 1013904223
		return int(uint64(random) * uint64(below) >> 32)
	}
	vehicle := next(5000)
	dst = fmt.Appendf(dst, `{"vehicle":{"id":"y%d","label":"%d","type":"bus"},"time":"`, vehicle, 3000+vehicle)
	dst = at.UTC().AppendFormat(dst, time.RFC3339Nano)
	dst = fmt.Appendf(dst, `","attributes":{"bearing":%d,"current_status":"%s","current_stop_sequence":%d,"direction_id":%d,`+
		`"latitude":%.8f,"longitude":%.9f,"occupancy_status":"%s","speed":%.1f,"odometer":%d},`,
		next(360), statuses[next(len(statuses))], next(40), next(2),
		42+float64(next(1e8))/1e8, -71-float64(next(1e9))/1e9, occupancies[next(len(occupancies))], float64(next(600))/10, next(1e9))
	route, trip, stop := next(200), next(1e8), next(9000)
	dst = fmt.Appendf(dst, `"links":{"self":"/vehicles/y%d"},"relationships":{"route":{"data":{"id":"%d","type":"route"}},`+
		`"stop":{"data":{"id":"%d","type":"stop"}},"trip":{"data":{"id":"%d","type":"trip"}}},`, vehicle, route, stop, trip)
	dst = fmt.Appendf(dst, `"schedule":{"arrival":%d,"departure":%d,"delay":%d,"headsign":"%s via %s"},"source":"%08x%08x","padding":"`,
		1_700_000_000+next(1e7), 1_700_000_000+next(1e7), next(900)-200, places[next(len(places))], places[next(len(places))], next(1<<31-1), next(1<<31-1))
	for len(dst)-start < eventSize-2 {
		dst = append(dst, places[next(len(places))]...)
	}
	return append(dst[:start+eventSize-2], `"}`...)
}

var (
	statuses    = []string{"IN_TRANSIT_TO", "STOPPED_AT", "INCOMING_AT"}
	occupancies = []string{"MANY_SEATS_AVAILABLE", "FEW_SEATS_AVAILABLE", "STANDING_ROOM_ONLY", "FULL"}
	places      = []string{"North Station", "Harbour", "Central Square", "University", "Airport", "South Depot", "Market", "West End"}
)

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

package gateway_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"net"
	"os"
	"runtime"
	"runtime/metrics"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/gateway"
	"github.com/millrace/millrace/stream/memory"
)

// BenchmarkResume is a gateway that starts again and all its clients with it, over loopback, in one process: from
// the first dial until the last client has heard that it is live. RESUME_CLIENTS says how many there
// are in place of 200; of those that ask for every key there are a fifth.
func BenchmarkResume(b *testing.B) {
	clients := 200
	if text := os.Getenv("RESUME_CLIENTS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			b.Fatal(err)
		}
		clients = n
	}
	for _, bench := range []resuming{
		{name: "one key each", clients: clients, events: 5 * clients, perBlock: 20, keyed: true},
		{name: "one key each, small blocks", clients: clients, events: 5 * clients, perBlock: 5, keyed: true},
		{name: "one key each, spread", clients: clients, events: 5 * clients, perBlock: 20, keyed: true, spread: true},
		{name: "every key", clients: max(1, clients/5), events: clients / 5, perBlock: 20},
		{name: "every key, a small cache", clients: max(1, clients/5), events: clients / 5, perBlock: 20, cache: 1 << 20},
	} {
		b.Run(bench.name, func(b *testing.B) {
			for b.Loop() {
				bench.run(b)
			}
		})
	}
}

// resuming is clients that come back to a gateway that has just started.
type resuming struct {
	name             string
	clients          int
	events, perBlock int   // that they have missed
	keyed            bool  // each client wants one key of its own
	spread           bool  // they come back from different positions, also inside blocks
	cache            int64 // instead of the default
	together         bool  // nothing is read before all of them are there
}

// run returns how often the stream was read, and how many blocks, beside what the feed reads.
func (r *resuming) run(b testing.TB) (reads, blocks int64) {
	s := &counted{Stream: newStream(1), following: make(chan struct{}), gate: make(chan struct{})}
	if !r.together {
		close(s.gate)
	}
	w := newWriter(b, s)
	w.put("key 0", "before")
	positions := []millrace.Position{w.after["0"]}
	after := []int{0} // events before the position
	var batch []millrace.Event
	for n := range r.events {
		data := fmt.Appendf(nil, `{"n":%d,"pad":"`, n)
		data = append(append(data, bytes.Repeat([]byte("x"), 198-len(data))...), `"}`...)
		batch = append(batch, millrace.Event{Key: fmt.Sprint("key ", n%r.clients), Type: "move", Data: data})
		if len(batch) == r.perBlock || n == r.events-1 {
			w.append(batch...)
			positions, after = append(positions, w.after["0"]), append(after, n+1)
			batch = batch[:0]
		}
	}
	server := serve(b, s, func(c *gateway.Config, _ *gateway.Options) {
		if r.cache != 0 {
			c.ReplayCache = r.cache
		}
	})
	<-s.following
	peak := watchMemory()
	var threads, connected sync.WaitGroup
	if connected.Add(r.clients); r.together {
		threads.Go(func() {
			connected.Wait()
			close(s.gate)
		})
	}
	dialing := make(chan struct{}, 128)
	leave := make(chan struct{})
	live := make(chan error, r.clients)
	begun := time.Now()
	for i := range r.clients {
		at, seen := positions[0], 0
		if r.spread {
			n := 1 + i%(len(positions)-1)
			at = positions[n]
			at.Event -= uint32(i) % (at.Event + 1)
			seen = after[n] - int(positions[n].Event-at.Event)
		}
		want := r.events - seen
		path := "/vehicles?since=0_" + at.String()
		if r.keyed {
			path += fmt.Sprintf("&VehicleID=key%%20%d", i)
			want = 0
			for n := i; n < r.events; n += r.clients {
				if n >= seen {
					want++
				}
			}
		}
		threads.Go(func() {
			if err := catchUp(server.address, path, want, dialing, connected.Done, live, leave); err != nil {
				live <- err
			}
		})
	}
	for range r.clients {
		if err := <-live; err != nil {
			b.Fatal(err)
		}
	}
	took := time.Since(begun)
	memory := peak()
	close(leave)
	threads.Wait()
	if b, ok := b.(*testing.B); ok {
		b.ReportMetric(took.Seconds(), "s")
		b.ReportMetric(float64(s.blocks.Load()), "blocks-read")
		b.ReportMetric(float64(s.reads.Load()), "reads")
		b.ReportMetric(float64(memory.stacks)/float64(r.clients)/1024, "KiB-stack/client")
		b.ReportMetric(float64(memory.total)/float64(r.clients)/1024, "KiB/client")
		b.ReportMetric(0, "ns/op")
	}
	return s.reads.Load(), s.blocks.Load()
}

// catchUp reads until the client is live, and stays until it may leave.
func catchUp(address, path string, want int, dialing chan struct{}, connected func(), live chan<- error, leave <-chan struct{}) error {
	dialing <- struct{}{}
	conn, err := net.Dial("tcp", address)
	<-dialing
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	_, err = io.WriteString(conn, "GET "+path+" HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nSec-WebSocket-Protocol: millrace.v1\r\n\r\n")
	if err != nil {
		return err
	}
	var buf [4 << 10]byte
	kept, got := 0, 0
	once := sync.OnceFunc(connected)
	defer once()
	const mark, end = `"key":"`, `,"live":true}`
	for {
		n, err := conn.Read(buf[kept:])
		if err != nil {
			return fmt.Errorf("after %d of %d events: %w", got, want, err)
		}
		once()
		b := buf[:kept+n]
		isLive := bytes.Contains(b, []byte(end))
		if isLive {
			got += bytes.Count(b, []byte(mark))
			break
		}
		// What may be the beginning of a mark is looked at again.
		for {
			i := bytes.Index(b, []byte(mark))
			if i < 0 {
				break
			}
			got, b = got+1, b[i+len(mark):]
		}
		if len(b) > len(end) {
			b = b[len(b)-len(end):]
		}
		kept = copy(buf[:], b)
	}
	if got != want {
		return fmt.Errorf("%s: %d events, want %d", path, got, want)
	}
	live <- nil
	<-leave
	return nil
}

// counted is a stream that counts what is read after the first reader of a partition, which is the feed.
type counted struct {
	*memory.Stream
	following     chan struct{} // closed when the feed reads
	readers       atomic.Int64
	reads, blocks atomic.Int64
	gate          chan struct{} // others than the feed wait until it is closed; nil: they do not
}

func (c *counted) Read(ctx context.Context, partition string, after millrace.Position) iter.Seq2[millrace.StoredBlock, error] {
	if c.readers.Add(1) == 1 {
		close(c.following)
		return c.Stream.Read(ctx, partition, after)
	}
	c.reads.Add(1)
	return func(yield func(millrace.StoredBlock, error) bool) {
		if c.gate != nil {
			select {
			case <-c.gate:
			case <-ctx.Done():
			}
		}
		for b, err := range c.Stream.Read(ctx, partition, after) {
			c.blocks.Add(1)
			if !yield(b, err) {
				return
			}
		}
	}
}

type memoryUse struct{ stacks, total uint64 }

// watchMemory returns a function that ends it and returns how much memory was in use at most beyond what is in the end.
func watchMemory() (peak func() memoryUse) {
	look := func() memoryUse {
		samples := []metrics.Sample{{Name: "/memory/classes/heap/stacks:bytes"}, {Name: "/memory/classes/heap/objects:bytes"}}
		metrics.Read(samples)
		return memoryUse{stacks: samples[0].Value.Uint64(), total: samples[0].Value.Uint64() + samples[1].Value.Uint64()}
	}
	stop, ended := make(chan struct{}), make(chan memoryUse)
	go func() {
		var most memoryUse
		for {
			now := look()
			most.stacks, most.total = max(most.stacks, now.stacks), max(most.total, now.total)
			select {
			case <-stop:
				ended <- most
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	}()
	return func() memoryUse {
		close(stop)
		most := <-ended
		runtime.GC()
		rest := look()
		return memoryUse{stacks: most.stacks - min(most.stacks, rest.stacks), total: most.total - min(most.total, rest.total)}
	}
}

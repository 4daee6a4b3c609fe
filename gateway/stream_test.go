package gateway_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/gateway"
	"github.com/millrace/millrace/millracetest"
)

// bent is a stream whose readers go through a function; first says that it is the partition's first
// reader, which is the gateway's own.
type bent struct {
	millrace.Stream
	readers atomic.Int64
	read    func(ctx context.Context, first bool, blocks iter.Seq2[millrace.StoredBlock, error]) iter.Seq2[millrace.StoredBlock, error]
}

func (b *bent) Read(ctx context.Context, partition string, after millrace.Position) iter.Seq2[millrace.StoredBlock, error] {
	return b.read(ctx, b.readers.Add(1) == 1, b.Stream.Read(ctx, partition, after))
}

// Readers that fail all the time lose and repeat nothing.
func TestFlakyStream(t *testing.T) {
	s := newStream(1)
	w := newWriter(t, s)
	var readings atomic.Int64
	flaky := &bent{Stream: s, read: func(_ context.Context, _ bool, blocks iter.Seq2[millrace.StoredBlock, error]) iter.Seq2[millrace.StoredBlock, error] {
		return func(yield func(millrace.StoredBlock, error) bool) {
			n := 0
			if readings.Add(1)%3 == 0 {
				n = 3 // at once
			}
			for b, err := range blocks {
				if n++; n == 4 {
					yield(millrace.StoredBlock{}, millrace.Errorf(millrace.Unavailable, "read", "the connection is lost"))
					return
				}
				if !yield(b, err) {
					return
				}
			}
		}
	}}
	server := serve(t, flaky, func(c *gateway.Config, _ *gateway.Options) { c.ReplayCache = 0 })
	live := server.dial(t, "/vehicles", v1)
	live.live()
	const events = 12
	for n := range events {
		w.put("42", fmt.Sprint(n))
	}
	for n := range events {
		if f := live.event(); string(f.Data) != fmt.Sprint(n) {
			t.Fatalf("event %d is %+v", n, f)
		}
	}
	// A client that resumes is cut when the stream fails under it, and goes on when it comes back.
	id, cuts := "0", 0
	for n := 0; n < events; {
		c := server.dial(t, "/vehicles?since="+id, v1)
		for n < events {
			_, payload, err := c.Read()
			var closed *millracetest.Closed
			if errors.As(err, &closed) && closed.Code == 1013 {
				cuts++
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if want := fmt.Sprintf(`"data":%d}`, n); !bytes.HasSuffix(payload, []byte(want)) {
				t.Fatalf("got %s, want %s", payload, want)
			}
			id, _, _ = strings.Cut(string(payload[len(`{"id":"`):]), `"`)
			n++
		}
	}
	if cuts == 0 {
		t.Error("the stream never failed")
	}
}

// A client that has come farther than this gateway's own reader (it was connected to another one) gets
// what follows, once.
func TestAheadOfFeed(t *testing.T) {
	s := newStream(1)
	w := newWriter(t, s)
	gate := make(chan struct{})
	late := &bent{Stream: s, read: func(ctx context.Context, first bool, blocks iter.Seq2[millrace.StoredBlock, error]) iter.Seq2[millrace.StoredBlock, error] {
		return func(yield func(millrace.StoredBlock, error) bool) {
			for b, err := range blocks {
				if first {
					select {
					case <-gate:
					case <-ctx.Done():
					}
				}
				if !yield(b, err) {
					return
				}
			}
		}
	}}
	behind := serve(t, late, nil)
	// The endpoint answers only once the gateway has found the stream's end: before the first event.
	behind.dial(t, "/vehicles", v1).live()
	abreast := serve(t, s, nil)
	c := abreast.dial(t, "/vehicles", v1)
	c.live()
	var ids []string
	w.append(millrace.Event{Key: "42", Data: []byte("0")}, millrace.Event{Key: "42", Data: []byte("1")}, millrace.Event{Key: "42", Data: []byte("2")})
	for range 3 {
		ids = append(ids, c.event().ID)
	}
	for n := 3; n < 6; n++ {
		w.put("42", fmt.Sprint(n))
		ids = append(ids, c.event().ID)
	}
	var clients []*client
	for _, query := range []string{"?since=", "?VehicleID=42&since="} {
		for _, id := range ids {
			c := behind.dial(t, "/vehicles"+query+id, v1)
			c.live()
			clients = append(clients, c)
		}
	}
	close(gate)
	w.put("42", "6")
	for i, c := range clients {
		for n := i%len(ids) + 1; n <= 6; n++ {
			if f := c.event(); string(f.Data) != fmt.Sprint(n) {
				t.Errorf("client %d: got %+v, want event %d", i, f, n)
			}
		}
	}
}

// A block that cannot be read is a gap.
func TestUnreadableBlock(t *testing.T) {
	s := newStream(1)
	w := newWriter(t, s)
	damaged := &bent{Stream: s, read: func(_ context.Context, _ bool, blocks iter.Seq2[millrace.StoredBlock, error]) iter.Seq2[millrace.StoredBlock, error] {
		return func(yield func(millrace.StoredBlock, error) bool) {
			for b, err := range blocks {
				if err == nil && b.Header.Flush == 2 {
					b.Raw = bytes.Clone(b.Raw)
					b.Raw[len(b.Raw)-1] ^= 1 // in the data
				}
				if err == nil && b.Header.Flush == 3 {
					b.Raw = bytes.Clone(b.Raw)
					b.Raw[20] ^= 1 // in the head
				}
				if !yield(b, err) {
					return
				}
			}
		}
	}}
	server := serve(t, damaged, nil)
	all := server.dial(t, "/vehicles", v1)
	one := server.dial(t, "/vehicles?VehicleID=42", v1)
	e := server.listen(t, "/vehicles", nil)
	for _, c := range []*client{all, one} {
		c.live()
	}
	if _, ok := e.read(); !ok {
		t.Fatal("the event stream has ended")
	}
	for n := range 4 {
		w.put("42", fmt.Sprint(n))
	}
	for i, c := range []*client{all, one, server.dial(t, "/vehicles?since=0", v1)} {
		var got []string
		for len(got) < 4 {
			if f := c.event(); f.Gap != nil {
				got = append(got, f.Gap.Reason)
			} else {
				got = append(got, string(f.Data))
			}
		}
		if want := "[0 unreadable unreadable 3]"; fmt.Sprint(got) != want {
			t.Errorf("client %d: got %s, want %s", i, got, want)
		}
	}
	for _, want := range []string{"message", "millrace.gap", "millrace.gap", "message"} {
		m := e.next()
		if m.kind == "crossing" {
			m.kind = "message"
		}
		if m.kind != want {
			t.Errorf("got %+v, want %s", m, want)
		}
	}
}

// A stream that cannot be read for good ends the gateway, and its clients are told to come back.
func TestStreamIsGone(t *testing.T) {
	s := newStream(1)
	gone := make(chan struct{})
	broken := &bent{Stream: s, read: func(ctx context.Context, _ bool, _ iter.Seq2[millrace.StoredBlock, error]) iter.Seq2[millrace.StoredBlock, error] {
		return func(yield func(millrace.StoredBlock, error) bool) {
			select {
			case <-gone:
				yield(millrace.StoredBlock{}, millrace.Errorf(millrace.NotFound, "read", "there is no stream"))
			case <-ctx.Done():
			}
		}
	}}
	var c gateway.Config
	c.SetDefaults()
	c.Endpoints = map[string]gateway.Endpoint{"/a": {From: "crossings"}, "/b": {From: "crossings"}}
	g, err := gateway.New(c, gateway.Options{Streams: map[string]millrace.Stream{"crossings": broken}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- g.Run(t.Context(), l) }()
	server := &server{t: t, address: l.Addr().String()}
	clients := []*client{server.dial(t, "/a", ""), server.dial(t, "/b", "")}
	close(gone)
	for _, c := range clients {
		if closed := c.closed(); closed.Code != 1012 {
			t.Errorf("got %v", closed)
		}
		_ = c.Close()
	}
	if err := <-ended; millrace.CodeOf(err) != millrace.NotFound {
		t.Errorf("Run: %v", err)
	}
}

// Two endpoints of one stream see the same events; without a page all else is 404.
func TestEndpointsOfOneStream(t *testing.T) {
	s := newStream(1)
	w := newWriter(t, s)
	server := serve(t, s, func(c *gateway.Config, _ *gateway.Options) {
		c.Endpoints["/all"] = gateway.Endpoint{From: "crossings"}
		c.Endpoints["/by"] = gateway.Endpoint{From: "crossings", Key: "query:key"}
	})
	all, by := server.dial(t, "/all?key=42", ""), server.dial(t, "/by?key=42", "")
	w.put("41", "a")
	w.put("42", "b")
	all.want("a", "b")
	by.want("b")
	response := server.get(t, "GET", "/", nil, "")
	if body, _ := io.ReadAll(response.Body); response.StatusCode != 404 {
		t.Errorf("got %s %s", response.Status, body)
	}
}

// While a client catches up for the last bit, more comes live than may be held for it: it catches up
// once more, and gets everything once and in order.
func TestMoreThanIsHeld(t *testing.T) {
	s := newStream(1)
	w := newWriter(t, s)
	asked, turns := make(chan struct{}, 100), make(chan struct{})
	gated := &bent{Stream: s, read: func(ctx context.Context, first bool, blocks iter.Seq2[millrace.StoredBlock, error]) iter.Seq2[millrace.StoredBlock, error] {
		return func(yield func(millrace.StoredBlock, error) bool) {
			if !first {
				asked <- struct{}{}
				select {
				case <-turns:
				case <-ctx.Done():
				}
			}
			blocks(yield)
		}
	}}
	server := serve(t, gated, func(c *gateway.Config, _ *gateway.Options) { c.Queue, c.ReplayCache = 8<<10, 0 })
	live := server.dial(t, "/vehicles", v1)
	live.live()
	data := func(n int) string { return fmt.Sprintf(`"%d %s"`, n, strings.Repeat("x", 1000)) }
	put := func(from, to int) {
		t.Helper()
		for n := from; n < to; n++ {
			w.put("42", data(n))
			if f := live.event(); string(f.Data) != data(n) {
				t.Fatalf("got %+v", f)
			}
		}
	}
	put(0, 1)
	late := server.dial(t, "/vehicles?since=0", v1)
	<-asked // up to event 0
	put(1, 2)
	turns <- struct{}{}
	<-asked // up to event 1; what comes now is held
	put(2, 50)
	close(turns)
	for n := range 50 {
		if f := late.event(); string(f.Data) != data(n) {
			t.Fatalf("got %.40s, want event %d", f.Data, n)
		}
	}
	late.live()
	put(50, 51)
	if f := late.event(); string(f.Data) != data(50) {
		t.Fatalf("got %.40s", f.Data)
	}
}

// A stream that is closed under a client that resumes ends its connection, not its patience.
func TestStreamIsClosed(t *testing.T) {
	s := newStream(1)
	newWriter(t, s).put("42", "1")
	over := &bent{Stream: s, read: func(_ context.Context, first bool, blocks iter.Seq2[millrace.StoredBlock, error]) iter.Seq2[millrace.StoredBlock, error] {
		if first {
			return blocks
		}
		return func(func(millrace.StoredBlock, error) bool) {}
	}}
	server := serve(t, over, nil)
	if closed := server.dial(t, "/vehicles?since=0", v1).closed(); closed.Code != 1013 {
		t.Errorf("got %v", closed)
	}
}

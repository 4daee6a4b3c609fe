package gateway

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"github.com/millrace/millrace/gateway/websocket"
)

// sockets returns both ends of a connection: of one that can be written directly, or of one that
// cannot.
func sockets(t testing.TB, direct bool) (server, client net.Conn) {
	t.Helper()
	if !direct {
		server, client = net.Pipe()
	} else {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }()
		if client, err = net.Dial("tcp", l.Addr().String()); err != nil {
			t.Fatal(err)
		}
		if server, err = l.Accept(); err != nil {
			t.Fatal(err)
		}
		_ = server.(*net.TCPConn).SetWriteBuffer(8 << 10)
		_ = client.(*net.TCPConn).SetReadBuffer(64 << 10)
	}
	t.Cleanup(func() { _, _ = server.Close(), client.Close() })
	_ = client.SetDeadline(time.Now().Add(20 * time.Second))
	return server, client
}

// newOutlet returns an outlet over conn, and the balance of its gauge.
func newOutlet(conn net.Conn, f *flows, limit int) (*outlet, *atomic.Int64) {
	balance := &atomic.Int64{}
	f.queued = func(bytes int) { balance.Add(int64(bytes)) }
	o := &outlet{conn: conn, raw: rawConn(conn), form: plain, limit: limit, flows: f, opening: true}
	o.done = func() {
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.CloseWrite()
		} else {
			_ = conn.Close()
		}
	}
	return o, balance
}

func textFrame(number, size int) []byte {
	payload := fmt.Appendf(nil, "%d:", number)
	payload = append(payload, bytes.Repeat([]byte{'a' + byte(number%26)}, size)...)
	return append(websocket.AppendHeader(nil, ws.OpText, len(payload)), payload...)
}

// readAll returns the numbers of the frames that arrive, up to the end, and whether a close frame was
// the last. It reads at its own pace.
func readAll(t *testing.T, conn io.Reader, random *rand.Rand) (numbers []int, closed bool) {
	in := bufio.NewReader(conn)
	for {
		if random.IntN(4) == 0 {
			time.Sleep(time.Duration(random.IntN(300)) * time.Microsecond) // a slow client
		}
		h, err := ws.ReadHeader(in)
		if err != nil {
			if err != io.EOF { //nolint:errorlint // the exact error: not in the middle of a header
				t.Errorf("after frame %d: %v", len(numbers), err)
			}
			return numbers, closed
		}
		if closed {
			t.Error("a frame follows the close frame")
		}
		payload := make([]byte, h.Length)
		if _, err := io.ReadFull(in, payload); err != nil {
			t.Errorf("frame %d is cut: %v", len(numbers), err)
			return numbers, closed
		}
		if closed = h.OpCode == ws.OpClose; closed {
			continue
		}
		var number int
		if _, err := fmt.Sscanf(string(payload[:min(20, len(payload))]), "%d:", &number); err != nil {
			t.Errorf("frame %d is broken: %v", len(numbers), err)
		}
		if whole := textFrame(number, len(payload)-len(fmt.Sprintf("%d:", number))); !bytes.HasSuffix(whole, payload) {
			t.Errorf("frame %d is broken", number)
		}
		numbers = append(numbers, number)
	}
}

// Whatever happens, the client gets whole frames in the order in which they were taken, all of them
// unless the outlet ends by dropping what waits, and a close frame last.
func TestOutlet(t *testing.T) {
	for seed := range uint64(40) {
		direct, drop := seed%2 == 0, seed%4 < 2
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(seed, 0))
			server, client := sockets(t, direct)
			var f flows
			o, balance := newOutlet(server, &f, 4<<10)
			if (o.raw != nil) != direct && rawConn(server) != nil {
				t.Fatal("the wrong kind of socket")
			}
			var numbers []int
			var closed bool
			var reading sync.WaitGroup
			reading.Go(func() { numbers, closed = readAll(t, client, rand.New(rand.NewPCG(seed, 1))) })

			var taken []int
			for n := range 400 {
				if n == 5 {
					o.start()
				}
				size := random.IntN(300)
				if random.IntN(40) == 0 {
					size = random.IntN(60 << 10)
				}
				frame := textFrame(n, size)
				switch o.send(frame, len(frame) > 4<<10) {
				case sent, queued:
					taken = append(taken, n)
				case refused:
					time.Sleep(time.Duration(random.IntN(500)) * time.Microsecond) // others have their turn
				case gone:
					t.Error("gone")
				}
			}
			if !o.finish(websocket.AppendClose(nil, 1000, ""), drop, time.Time{}) {
				t.Error("it was closing already")
			}
			if o.finish(nil, false, time.Time{}) || o.send(textFrame(0, 0), false) != gone {
				t.Error("it is not closing")
			}
			reading.Wait()
			f.running.Wait()
			o.close()
			switch {
			case !closed:
				t.Error("no close frame")
			case !drop && !slices.Equal(numbers, taken), drop && !slices.Equal(numbers, taken[:len(numbers)]):
				t.Errorf("got %d frames of %d: %v", len(numbers), len(taken), numbers)
			case balance.Load() != 0:
				t.Errorf("the gauge is at %d", balance.Load())
			}
		})
	}
}

// What a subscription holds back follows what its replay sends, unless it is too much.
func TestHolding(t *testing.T) {
	for _, direct := range []bool{true, false} {
		server, client := sockets(t, direct)
		var f flows
		o, balance := newOutlet(server, &f, 1000)
		c := &connection{out: outlet{}}
		s := &subscription{c: c, endpoint: &endpoint{}}
		var numbers []int
		var reading sync.WaitGroup
		reading.Go(func() { numbers, _ = readAll(t, client, rand.New(rand.NewPCG(1, 1))) })
		o.start()
		s.hold()
		c.out.limit, c.out.flows = o.limit, o.flows
		s.put(textFrame(3, 100), false)
		s.put(textFrame(4, 100), false)
		o.send(textFrame(1, 100), false)
		o.send(textFrame(2, 100), false)
		held, complete := s.held, !s.spilled
		if !complete {
			t.Error("spilled")
		}
		s.drop()
		o.follow(held)
		o.send(textFrame(5, 100), false)
		<-o.await()
		s.hold()
		for range 100 {
			s.put(textFrame(-1, 100), false)
		}
		if !s.spilled || len(s.held) > 0 {
			t.Error("more than the limit was held")
		}
		s.drop()
		o.send(textFrame(6, 100), false)
		o.finish(websocket.AppendClose(nil, 1000, ""), false, time.Time{})
		reading.Wait()
		f.running.Wait()
		if !slices.Equal(numbers, []int{1, 2, 3, 4, 5, 6}) || balance.Load() != 0 {
			t.Errorf("got %v, the gauge is at %d", numbers, balance.Load())
		}
	}
}

// A socket that breaks ends the outlet, and whoever waits for it.
func TestOutletBreaks(t *testing.T) {
	for _, direct := range []bool{true, false} {
		server, client := sockets(t, direct)
		var f flows
		o, balance := newOutlet(server, &f, 1<<20)
		o.start()
		for o.send(textFrame(0, 60<<10), false) != queued {
		}
		room := o.await()
		_ = client.Close()
		for o.send(textFrame(0, 100), false) != gone {
			time.Sleep(100 * time.Microsecond) // until the kernel tells
		}
		<-room
		f.running.Wait()
		if balance.Load() != 0 {
			t.Errorf("the gauge is at %d", balance.Load())
		}
	}
}

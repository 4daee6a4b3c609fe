package gateway_test

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
	"github.com/millrace/millrace/gateway"
)

// A connection that does not come about because the gateway ends is told of before the gateway has ended, however
// long that takes.
func TestDrainWaitsForWhoDoesNotArrive(t *testing.T) {
	for name, hijack := range map[string]func(w *lateHijacker) (net.Conn, error){
		"not taken over": func(*lateHijacker) (net.Conn, error) { return nil, errors.New("no") },
		"not let in": func(w *lateHijacker) (net.Conn, error) {
			conn, _ := net.Pipe() // nothing is said
			return slowToClose{conn, w}, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				journal := newStreamNamed("connections")
				var c gateway.Config
				c.SetDefaults()
				c.Endpoints = map[string]gateway.Endpoint{"/vehicles": {From: "crossings"}}
				c.Presence = &gateway.Presence{Into: "connections"}
				ready := make(chan struct{})
				g, err := gateway.New(c, gateway.Options{
					Streams: map[string]millrace.Stream{"crossings": newStream(1), "connections": journal},
					Dead:    newStreamNamed("dead"), Ready: func() { close(ready) },
				})
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					if err := g.Run(ctx, idle{make(chan struct{})}); err != nil {
						t.Error(err)
					}
				}()
				<-ready

				w := &lateHijacker{ResponseRecorder: httptest.NewRecorder(), t: t, drain: cancel, hijack: hijack, ended: ended}
				r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/vehicles", nil)
				r.Header = http.Header{"Accept": {"text/event-stream"}}
				g.ServeHTTP(w, r)
				<-ended
				if told := typesIn(t, journal); !slices.Equal(told, []string{"connect", "disconnect"}) {
					t.Errorf("the journal has %q", told)
				}
			})
		})
	}
}

// lateHijacker is a response over whose socket is decided only when the gateway drains. Whatever is done with it then
// takes a minute.
type lateHijacker struct {
	*httptest.ResponseRecorder
	t      *testing.T
	drain  func()
	hijack func(*lateHijacker) (net.Conn, error)
	ended  chan struct{} // closed when the gateway has ended
}

func (w *lateHijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	w.drain()
	synctest.Wait()
	conn, err := w.hijack(w)
	return conn, bufio.NewReadWriter(bufio.NewReader(conn), nil), err
}

func (w *lateHijacker) Write(b []byte) (int, error) {
	w.takeTime()
	return w.ResponseRecorder.Write(b)
}

func (w *lateHijacker) takeTime() {
	time.Sleep(time.Minute)
	select {
	case <-w.ended:
		w.t.Error("the gateway has ended before the connection is settled")
	default:
	}
}

type slowToClose struct {
	net.Conn
	w *lateHijacker
}

func (c slowToClose) Close() error {
	c.w.takeTime()
	return c.Conn.Close()
}

// idle is a listener to which nobody comes.
type idle struct{ closed chan struct{} }

func (l idle) Accept() (net.Conn, error) {
	<-l.closed
	return nil, net.ErrClosed
}

func (l idle) Close() error {
	close(l.closed)
	return nil
}

func (l idle) Addr() net.Addr { return &net.TCPAddr{} }

// typesIn returns the types of all events that a stream of one partition has.
func typesIn(t *testing.T, s millrace.Stream) (types []string) {
	t.Helper()
	_, end, err := s.Bounds(t.Context(), "0")
	if err != nil {
		t.Fatal(err)
	}
	for b, err := range s.Read(t.Context(), "0", millrace.Position{}) {
		var r block.Reader
		if err == nil {
			err = r.Reset(b.Raw)
		}
		if err == nil {
			err = r.Load(block.All)
		}
		if err != nil {
			t.Fatal(err)
		}
		for i := range r.Len() {
			types = append(types, string(r.Type(i)))
		}
		if b.At == end {
			break
		}
	}
	return types
}

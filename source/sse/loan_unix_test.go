//go:build unix

package sse

import (
	"bytes"
	"io"
	"net"
	"testing"
	"time"
)

// Connections that hold on to what they have read leave the others small buffers, lose nothing, and give everything
// back, when it was read as when they are closed in the middle.
func TestLoans(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	before, small := loaned.Load(), 0
	want := bytes.Repeat([]byte("0123456789abcdef"), 2<<10)
	var conns []net.Conn
	for range largeLoaned + 20 {
		client, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		server, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := server.Write(want); err != nil {
			t.Fatal(err)
		}
		if err := server.Close(); err != nil {
			t.Fatal(err)
		}
		_ = client.SetReadDeadline(time.Now().Add(20 * time.Second))
		c := thrifty(client)
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		if len(*c.(*conn).full) < connBuffer {
			small++
		}
		conns = append(conns, c)
	}
	if n := loaned.Load(); n > largeLoaned || small < 20 {
		t.Errorf("%d large buffers are on loan, %d small ones", n, small)
	}
	for i, c := range conns {
		if i%2 == 0 {
			got, err := io.ReadAll(c)
			if err != nil || !bytes.Equal(got, want[1:]) {
				t.Fatalf("connection %d: %d bytes, %v", i, len(got), err)
			}
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("a closed connection reads")
		}
	}
	if n := loaned.Load(); n != before {
		t.Errorf("%d buffers are on loan in the end, %d at first", n, before)
	}
}

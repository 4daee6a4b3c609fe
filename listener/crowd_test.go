package listener

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"testing"
)

// CrowdVariable makes of the test's program a client with many connections: ADDRESS NUMBER TLS PROXY.
const CrowdVariable = "MILLRACE_TEST_CROWD"

// NewTestAuthority is newAuthority for tests that import what imports this package.
func NewTestAuthority(t testing.TB) *TestAuthority { return &TestAuthority{newAuthority(t)} }

// TestAuthority is an authority.
type TestAuthority struct{ a *authority }

// Files is files.
func (a *TestAuthority) Files(t testing.TB, dir string, names ...string) *TLS {
	return a.a.files(t, dir, names...)
}

// crowd opens WebSockets, says so, and keeps them until its input ends.
func crowd(instructions string) error {
	var address string
	var n int
	var encrypted, proxied bool
	if _, err := fmt.Sscan(instructions, &address, &n, &encrypted, &proxied); err != nil {
		return err
	}
	conns := make([]net.Conn, n)
	failed := make(chan error, n)
	next := make(chan int)
	var dialing sync.WaitGroup
	for range 16 {
		dialing.Go(func() {
			for i := range next {
				var err error
				if conns[i], err = join(address, encrypted, proxied); err != nil {
					failed <- err
				}
			}
		})
	}
	for i := range conns {
		next <- i
	}
	close(next)
	dialing.Wait()
	select {
	case err := <-failed:
		return err
	default:
	}
	fmt.Println("connected")
	_, _ = io.Copy(io.Discard, os.Stdin)
	for _, conn := range conns {
		conn.Close()
	}
	return nil
}

func join(address string, encrypted, proxied bool) (net.Conn, error) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	if proxied {
		if _, err := io.WriteString(conn, "PROXY TCP4 203.0.113.9 10.0.0.1 4711 443\r\n"); err != nil {
			return nil, err
		}
	}
	if encrypted {
		conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}}) //nolint:gosec // a test's
	}
	_, err = io.WriteString(conn, "GET /events HTTP/1.1\r\nHost: push.example.org\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64) "+
		"AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36\r\nAccept-Language: en-US,en;q=0.9\r\n"+
		"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	if err != nil {
		return nil, err
	}
	r := bufio.NewReader(conn)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return nil, err
		}
		if line == "\r\n" {
			return conn, nil
		}
	}
}

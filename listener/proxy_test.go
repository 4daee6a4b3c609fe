package listener

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	proxyproto "github.com/pires/go-proxyproto"
)

// header returns a PROXY header.
func header(t testing.TB, version byte, command proxyproto.ProtocolVersionAndCommand, family proxyproto.AddressFamilyAndProtocol, source, destination net.Addr, extensions ...proxyproto.TLV) string {
	t.Helper()
	h := &proxyproto.Header{
		Version: version, Command: command, TransportProtocol: family, SourceAddr: source, DestinationAddr: destination,
	}
	if err := h.SetTLVs(extensions); err != nil {
		t.Fatal(err)
	}
	b, err := h.Format()
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

var (
	client4 = &net.TCPAddr{IP: net.ParseIP("203.0.113.9").To4(), Port: 4711}
	server4 = &net.TCPAddr{IP: net.ParseIP("10.0.0.1").To4(), Port: 443}
	client6 = &net.TCPAddr{IP: net.ParseIP("2001:db8:2::9"), Port: 4711}
	server6 = &net.TCPAddr{IP: net.ParseIP("2001:db8:1::1"), Port: 443}
)

// headers by what is to become of them: the client's address, "" for the connection's own, or an error.
func headers(t testing.TB) map[string]struct{ text, want, err string } {
	long := proxyproto.TLV{Type: 0x30, Value: bytes.Repeat([]byte("x"), 3000)}
	return map[string]struct{ text, want, err string }{
		"v1":                  {text: "PROXY TCP4 203.0.113.9 10.0.0.1 4711 443\r\n", want: "203.0.113.9:4711"},
		"v1, shortest":        {text: "PROXY TCP6 :: :: 0 0\r\n", want: "[::]:0"},
		"v1, IPv6":            {text: "PROXY TCP6 2001:db8:2::9 2001:db8:1::1 4711 443\r\n", want: "[2001:db8:2::9]:4711"},
		"v1, unknown":         {text: "PROXY UNKNOWN\r\n"},
		"v1, unknown, long":   {text: "PROXY UNKNOWN ffff:f:ffff ffff:f:ffff 65535 65535\r\n"},
		"v1, too long":        {text: "PROXY UNKNOWN " + strings.Repeat("x", 200) + "\r\n", err: "107 bytes"},
		"v1, wrong address":   {text: "PROXY TCP4 203.0.113.999 10.0.0.1 4711 443\r\n", err: "invalid address"},
		"v1, wrong family":    {text: "PROXY TCP4 2001:db8:2::9 2001:db8:1::1 4711 443\r\n", err: "invalid address"},
		"v1, no CR":           {text: "PROXY TCP4 203.0.113.9 10.0.0.1 4711 443\n", err: `end with \r\n`},
		"v2":                  {text: header(t, 2, proxyproto.PROXY, proxyproto.TCPv4, client4, server4), want: "203.0.113.9:4711"},
		"v2, IPv6":            {text: header(t, 2, proxyproto.PROXY, proxyproto.TCPv6, client6, server6), want: "[2001:db8:2::9]:4711"},
		"v2, extensions":      {text: header(t, 2, proxyproto.PROXY, proxyproto.TCPv4, client4, server4, long), want: "203.0.113.9:4711"},
		"v2, local":           {text: header(t, 2, proxyproto.LOCAL, proxyproto.UNSPEC, nil, nil)},
		"v2, local, with TCP": {text: string(proxyproto.SIGV2) + "\x20\x11\x00\x00"},
		"v2, Unix": {text: header(t, 2, proxyproto.PROXY, proxyproto.UnixStream,
			&net.UnixAddr{Name: "/a", Net: "unix"}, &net.UnixAddr{Name: "/b", Net: "unix"})},
		"v2, datagrams": {text: header(t, 2, proxyproto.PROXY, proxyproto.UDPv4,
			&net.UDPAddr{IP: client4.IP, Port: 1}, &net.UDPAddr{IP: server4.IP, Port: 2}), err: "datagrams"},
		"v2, too long":      {text: string(proxyproto.SIGV2) + "\x21\x11\xff\xff", err: "length"},
		"v2, too short":     {text: string(proxyproto.SIGV2) + "\x21\x11\x00\x04aaaa", err: "length"},
		"v2, wrong version": {text: string(proxyproto.SIGV2) + "\x31\x11\x00\x00", err: "version"},
		"HTTP":              {text: "GET / HTTP/1.1\r\nHost: x\r\n\r\n", err: "does not begin"},
		"TLS":               {text: "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", err: "does not begin"},
		"almost":            {text: "PROXIES ARE HERE\r\n", err: "does not begin"},
		"nothing":           {err: "closed before"},
		"half":              {text: "PROXY TCP4 203", err: "EOF"},
		"half of v2":        {text: string(proxyproto.SIGV2) + "\x21\x11", err: "EOF"},
	}
}

// What comes behind a header stays unread, however the bytes arrive.
func TestReadHeader(t *testing.T) {
	for name, tt := range headers(t) {
		for way, reader := range map[string]func(io.Reader) io.Reader{
			"at once": func(r io.Reader) io.Reader { return r }, "by the byte": iotest.OneByteReader, "by halves": iotest.HalfReader,
			"with the error": iotest.DataErrReader,
		} {
			rest := "GET / HTTP/1.1\r\n\r\n"
			if tt.err != "" {
				rest = ""
			}
			r := reader(strings.NewReader(tt.text + rest))
			got, err := readHeader(r)
			switch {
			case tt.err != "":
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("%s, %s: %v %v, want %q", name, way, got, err, tt.err)
				}
				continue
			case err != nil:
				t.Errorf("%s, %s: %v", name, way, err)
			case tt.want == "" && got != nil, tt.want != "" && (got == nil || got.String() != tt.want):
				t.Errorf("%s, %s: %v, want %q", name, way, got, tt.want)
			}
			if left, _ := io.ReadAll(r); string(left) != rest {
				t.Errorf("%s, %s: left %q", name, way, left)
			}
		}
	}
}

func FuzzReadHeader(f *testing.F) {
	for _, h := range headers(f) {
		f.Add([]byte(h.text + "rest"))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		got, err := readHeader(r)
		if err != nil {
			return
		}
		left, _ := io.ReadAll(r)
		whole := bufio.NewReaderSize(bytes.NewReader(b), 8192)
		h, err := proxyproto.Read(whole)
		if err != nil {
			t.Fatalf("the library refuses it: %v", err)
		}
		if want, _ := io.ReadAll(whole); !bytes.Equal(left, want) {
			t.Errorf("left %q, want %q", left, want)
		}
		if got != nil && got.String() != h.SourceAddr.String() {
			t.Errorf("%s, want %s", got, h.SourceAddr)
		}
	})
}

var trustHere = Config{ProxyProtocol: true, TrustedProxies: []string{"127.0.0.0/8"}}

// get asks for / on a connection that begins with something.
func get(t testing.TB, address, first string, encrypt *tls.Config) (string, error) {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(conn, first); err != nil {
		return "", err
	}
	if encrypt != nil {
		conn = tls.Client(conn, encrypt)
	}
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
		return "", err
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return string(body), err
}

func TestProxyProtocol(t *testing.T) {
	log := &record{}
	address := serve(t, listen(t, trustHere, Options{Logger: log.logger()}), trustHere)
	stalled, err := net.Dial("tcp", address) // holds nobody up
	if err != nil {
		t.Fatal(err)
	}
	defer stalled.Close()
	for name, tt := range headers(t) {
		got, err := get(t, address, tt.text, nil)
		want, _, _ := net.SplitHostPort(tt.want)
		if want == "" {
			want = "127.0.0.1"
		}
		switch {
		case tt.err == "" && (err != nil || got != want):
			t.Errorf("%s: %q %v, want %q", name, got, err, want)
		case tt.err != "" && err == nil:
			t.Errorf("%s: is answered %q", name, got)
		}
	}
	if n := strings.Count(log.String(), "refused"); n != 1 {
		t.Errorf("%d lines in the log:\n%s", n, log)
	}
}

// With TLS the header comes before the handshake.
func TestProxyProtocolAndTLS(t *testing.T) {
	a := newAuthority(t)
	c := trustHere
	c.TLS = a.files(t, t.TempDir(), "push.example.org")
	address := serve(t, listen(t, c, Options{}), c)
	encrypt := &tls.Config{RootCAs: a.pool, ServerName: "push.example.org"}
	got, err := get(t, address, "PROXY TCP4 203.0.113.9 10.0.0.1 4711 443\r\n", encrypt)
	if err != nil || got != "203.0.113.9" {
		t.Errorf("%q %v", got, err)
	}
	if got, err := get(t, address, "", encrypt); err == nil {
		t.Errorf("without a header: %q", got)
	}
}

func TestProxyProtocolFromStrangers(t *testing.T) {
	c := Config{ProxyProtocol: true, TrustedProxies: []string{"10.0.0.0/8"}}
	log := &record{}
	address := serve(t, listen(t, c, Options{Logger: log.logger()}), c)
	for range 3 {
		if got, err := get(t, address, "PROXY TCP4 203.0.113.9 10.0.0.1 4711 443\r\n", nil); err == nil {
			t.Errorf("a stranger is answered %q", got)
		}
	}
	if n := strings.Count(log.String(), "trusted_proxies"); n != 1 {
		t.Errorf("%d lines in the log:\n%s", n, log)
	}
}

// A proxy that takes its time gets five seconds, and keeps the deadlines that the server has set.
func TestSlowHeader(t *testing.T) {
	const text = "PROXY TCP4 203.0.113.9 10.0.0.1 4711 443\r\n"
	for name, tt := range map[string]struct {
		pause time.Duration // before each byte
		ok    bool
	}{"slow": {proxyTimeout / time.Duration(len(text)+1), true}, "too slow": {proxyTimeout / time.Duration(len(text)-1), false}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, server := net.Pipe()
				defer client.Close()
				defer server.Close()
				log := &record{}
				conn := &proxied{Conn: server, refusals: &refusals{log: log.logger(), now: time.Now}}
				var writing sync.WaitGroup
				defer writing.Wait()
				writing.Go(func() {
					for _, c := range []byte(text) {
						time.Sleep(tt.pause)
						if _, err := client.Write([]byte{c}); err != nil {
							return
						}
					}
					_, _ = client.Write([]byte("rest"))
				})
				begun := time.Now()
				address := conn.RemoteAddr().String()
				b := make([]byte, 16)
				n, err := conn.Read(b)
				if tt.ok {
					if address != "203.0.113.9:4711" || string(b[:n]) != "rest" || err != nil {
						t.Errorf("%s %q %v", address, b[:n], err)
					}
					return
				}
				if failure := (*net.OpError)(nil); !errors.As(err, &failure) || !errors.Is(err, errLate) {
					t.Errorf("%q %v", b[:n], err)
				}
				if took := time.Since(begun); took != proxyTimeout {
					t.Errorf("took %s", took)
				}
				if !strings.Contains(log.String(), "within 5s") {
					t.Errorf("log: %s", log)
				}
			})
		})
	}
}

// The socket itself is there once the header has been read, with all that comes behind it, so that a server
// can write to it directly.
func TestSocket(t *testing.T) {
	l := listen(t, trustHere, Options{})
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := io.WriteString(client, "PROXY TCP4 203.0.113.9 10.0.0.1 4711 443\r\nrest"); err != nil {
		t.Fatal(err)
	}
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	tcp := Socket(conn)
	if tcp == nil {
		t.Fatal("there is no socket")
	}
	b := make([]byte, 4)
	if _, err := io.ReadFull(tcp, b); err != nil || string(b) != "rest" {
		t.Errorf("%q %v", b, err)
	}
	if _, err := conn.(syscall.Conn).SyscallConn(); err != nil {
		t.Error(err)
	}
	if Socket(tcp) != tcp {
		t.Error("a socket is none")
	}
	if Socket(tls.Server(tcp, &tls.Config{})) != nil {
		t.Error("there is a socket that writes past TLS")
	}
	if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Error(err)
	}
	if left, err := io.ReadAll(client); err != nil || len(left) > 0 {
		t.Errorf("%q %v", left, err)
	}
}

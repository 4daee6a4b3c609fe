package listener

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	proxyproto "github.com/pires/go-proxyproto"
)

// proxyTimeout is how long a proxy may take to name the client.
const proxyTimeout = 5 * time.Second

// proxyListener takes connections of trusted proxies only.
type proxyListener struct {
	net.Listener
	trusted  []netip.Prefix
	refusals refusals
}

// Accept implements net.Listener. It reads nothing.
func (l *proxyListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if contains(l.trusted, addressOf(conn.RemoteAddr())) {
			return &proxied{Conn: conn, refusals: &l.refusals}, nil
		}
		l.refusals.add(conn.RemoteAddr(), errUntrusted)
		conn.Close()
	}
}

// proxied is a connection that begins with a PROXY header. It reads exactly the header and then adds nothing
// to the connection but the client's address; see Socket.
type proxied struct {
	net.Conn
	refusals *refusals

	once   sync.Once
	client net.Addr // nil: the connection's own
	err    error    // why there is no header
}

// header reads the header if that has not been done yet.
func (c *proxied) header() error {
	c.once.Do(func() {
		timer := time.AfterFunc(proxyTimeout, func() { c.Close() }) // leaves the deadlines to whoever reads
		c.client, c.err = readHeader(c.Conn)
		if !timer.Stop() {
			c.err = errLate
		}
		if c.err == nil {
			return
		}
		if !errors.Is(c.err, errAbsent) {
			c.refusals.add(c.Conn.RemoteAddr(), c.err)
		}
		c.Close()
		// An http.Server answers nothing to this kind of error.
		c.err = &net.OpError{Op: "read", Net: "tcp", Addr: c.Conn.RemoteAddr(), Err: c.err}
	})
	return c.err
}

// RemoteAddr returns the client's address, if there is one in the header.
func (c *proxied) RemoteAddr() net.Addr {
	if c.header() == nil && c.client != nil {
		return c.client
	}
	return c.Conn.RemoteAddr()
}

// Read implements net.Conn.
func (c *proxied) Read(b []byte) (int, error) {
	if err := c.header(); err != nil {
		return 0, err
	}
	return c.Conn.Read(b)
}

// ReadFrom lets the kernel send files, as it does for the socket itself.
func (c *proxied) ReadFrom(r io.Reader) (int64, error) { return io.Copy(c.Conn, r) }

// CloseWrite ends one direction, as for the socket itself.
func (c *proxied) CloseWrite() error {
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		return tcp.CloseWrite()
	}
	return errors.ErrUnsupported
}

// SyscallConn implements syscall.Conn once the header has been read.
func (c *proxied) SyscallConn() (syscall.RawConn, error) {
	if err := c.header(); err != nil {
		return nil, err
	}
	if s, ok := c.Conn.(syscall.Conn); ok {
		return s.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}

// Why a connection is refused.
var (
	errUntrusted = errors.New("not from a trusted proxy (trusted_proxies)")
	errAbsent    = errors.New("closed before a PROXY header came") // the health checks of load balancers do so
	errLate      = errors.New("no PROXY header within 5s")
	errNoHeader  = errors.New("does not begin with a PROXY header; is the proxy told to send one?")
)

// The parts of a header (the PROXY protocol's specification, sections 2.1 and 2.2).
const (
	leastV1 = len("PROXY UNKNOWN\r\n")
	mostV1  = 107
	headV2  = 16   // signature, version and command, family, length of the rest
	restV2  = 4096 // addresses, and extensions such as a client's certificate
)

// readHeader reads a header, and not a byte more, and returns the client that it names, or nil if it names none:
// the proxy speaks for itself (LOCAL), or does not know (UNKNOWN, Unix sockets).
func readHeader(r io.Reader) (net.Addr, error) {
	// No header is shorter than the first 15 bytes.
	b := make([]byte, leastV1, mostV1)
	for n := 0; n < leastV1; {
		m, err := r.Read(b[n:])
		n += m
		if n > 0 && !bytes.HasPrefix(b[:n], proxyproto.SIGV1[:min(n, len(proxyproto.SIGV1))]) &&
			!bytes.HasPrefix(b[:n], proxyproto.SIGV2[:min(n, len(proxyproto.SIGV2))]) {
			return nil, errNoHeader
		}
		if err != nil && n < leastV1 {
			if n == 0 {
				return nil, errAbsent
			}
			return nil, fmt.Errorf("in a PROXY header: %w", err)
		}
	}
	var err error
	if b[0] == proxyproto.SIGV1[0] {
		b, err = restOfV1(r, b)
	} else {
		b, err = restOfV2(r, b)
	}
	if err != nil {
		return nil, fmt.Errorf("in a PROXY header: %w", err)
	}
	whole := bufio.NewReader(bytes.NewReader(b))
	h, err := proxyproto.Read(whole)
	switch {
	case err != nil:
		return nil, err
	case whole.Buffered() > 0:
		return nil, errors.New("a PROXY header has more bytes than it says")
	case h.Command == proxyproto.LOCAL || h.TransportProtocol == proxyproto.UNSPEC || h.TransportProtocol.IsUnix():
		return nil, nil //nolint:nilnil // the connection's own address holds
	case !h.TransportProtocol.IsStream():
		return nil, errors.New("a PROXY header speaks of datagrams")
	}
	client, ok := h.SourceAddr.(*net.TCPAddr)
	if !ok {
		return nil, errors.New("a PROXY header names no address")
	}
	return client, nil
}

// restOfV1 reads up to the end of the line, byte by byte: some 30 reads, once in a connection.
func restOfV1(r io.Reader, b []byte) ([]byte, error) {
	for b[len(b)-1] != '\n' {
		if len(b) == mostV1 {
			return nil, proxyproto.ErrVersion1HeaderTooLong
		}
		b = b[:len(b)+1]
		if _, err := io.ReadFull(r, b[len(b)-1:]); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// restOfV2 reads as many bytes as the header says.
func restOfV2(r io.Reader, b []byte) ([]byte, error) {
	b = b[:headV2]
	if _, err := io.ReadFull(r, b[leastV1:]); err != nil {
		return nil, err
	}
	length := int(binary.BigEndian.Uint16(b[headV2-2:]))
	if length > restV2 {
		return nil, proxyproto.ErrInvalidLength
	}
	b = slices.Grow(b, length)[:headV2+length]
	_, err := io.ReadFull(r, b[headV2:])
	return b, err
}

// refusals logs connections that are refused, at most once a minute: they come as fast as clients do.
type refusals struct {
	log *slog.Logger
	now func() time.Time

	mu     sync.Mutex
	logged time.Time
	quiet  int // not logged since
}

func (r *refusals) add(from net.Addr, reason error) {
	r.mu.Lock()
	now := r.now()
	if !r.logged.IsZero() && now.Sub(r.logged) < time.Minute {
		r.quiet++
		r.mu.Unlock()
		return
	}
	quiet := r.quiet
	r.logged, r.quiet = now, 0
	r.mu.Unlock()
	r.log.Warn("listener: a connection is refused", "from", from.String(), "reason", reason, "others", quiet)
}

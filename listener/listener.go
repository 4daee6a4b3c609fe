package listener

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/millrace/millrace"
)

// Options are what a listener works with beside its configuration.
type Options struct {
	// Logger hears of certificates, and of proxies that are refused; default none.
	Logger *slog.Logger
	// DataDir is where ACME stores what it gets unless the configuration says where.
	DataDir string
	// NextProtos are the protocols that are offered in a TLS handshake (ALPN). Default http/1.1: HTTP/2 has no
	// connections to take over for WebSockets.
	NextProtos []string
	// Now is the clock for looking at files again; default time.Now.
	Now func() time.Time
}

// Wrap returns a listener that accepts l's connections and does what the configuration says. It closes l with
// itself, or at once if it fails: with Invalid if the configuration or a file that it names is wrong. With ACME it
// does not wait for certificates; Close ends what gets them.
//
// Without TLS and PROXY protocol it returns l.
func Wrap(l net.Listener, c Config, o Options) (net.Listener, error) {
	wrapped, err := wrap(l, c, o)
	if err != nil {
		l.Close()
		return nil, millrace.Errorf(millrace.Invalid, "listen on "+l.Addr().String(), "%w", err)
	}
	return wrapped, nil
}

func wrap(l net.Listener, c Config, o Options) (net.Listener, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.NextProtos == nil {
		o.NextProtos = []string{"http/1.1"}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	var wrong error
	problem := func(path, format string, args ...any) {
		wrong = errors.Join(wrong, fmt.Errorf(path+": "+format, args...))
	}
	c.Validate(problem)
	if c.TLS != nil {
		c.TLS.Validate(func(path, format string, args ...any) { problem("tls."+path, format, args...) })
	}
	if wrong != nil {
		return nil, wrong
	}
	if c.ProxyProtocol {
		l = &proxyListener{Listener: l, trusted: c.trusted(), refusals: refusals{log: o.Logger, now: o.Now}}
	}
	switch {
	case c.TLS == nil:
		return l, nil
	case c.TLS.ACME != nil:
		return listenACME(l, *c.TLS, o)
	default:
		return listenFiles(l, *c.TLS, o)
	}
}

// listenFiles is TLS with a certificate from files.
func listenFiles(l net.Listener, t TLS, o Options) (net.Listener, error) {
	f, err := openFiles(t, o, nil)
	if err != nil {
		return nil, err
	}
	return tls.NewListener(l, &tls.Config{
		MinVersion: versions[t.MinVersion],
		// One configuration for all connections until the files change: a copy for each would be most of what
		// an idle connection costs.
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return f.config(), nil },
	}), nil
}

// Socket returns the socket of a connection if nothing stands between it and what is read and written: there
// is no TLS, and a PROXY header, which it waits for, has been read to its last byte and no further. Else nil.
func Socket(conn net.Conn) *net.TCPConn {
	if p, ok := conn.(*proxied); ok && p.header() == nil {
		conn = p.Conn
	}
	tcp, _ := conn.(*net.TCPConn)
	return tcp
}

// closing is a listener that ends more than itself.
type closing struct {
	net.Listener
	once sync.Once
	end  func()
}

// Close implements net.Listener.
func (c *closing) Close() error {
	err := c.Listener.Close()
	c.once.Do(c.end)
	return err
}

package sse

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/millrace/millrace"
)

// newTransport returns the source's own connections. It reads the files of the configuration; what is
// wrong with them is Invalid.
func (s *Source) newTransport() (*http.Transport, error) {
	dialer := &net.Dialer{Timeout: 30 * time.Second, KeepAlive: 15 * time.Second, ControlContext: s.control}
	t := &http.Transport{
		Proxy: http.ProxyFromEnvironment,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return thrifty(c), nil
		},
		ForceAttemptHTTP2:   true,
		TLSHandshakeTimeout: 10 * time.Second,
		IdleConnTimeout:     90 * time.Second,
		MaxIdleConns:        4,
		ReadBufferSize:      readBuffer,
		WriteBufferSize:     1 << 10, // a request is all that is written
		DisableCompression:  true,    // the source decompresses itself

		MaxResponseHeaderBytes: 256 << 10,
	}
	if s.config.Proxy != "" {
		u, err := url.Parse(s.config.Proxy)
		if err != nil {
			return nil, millrace.Errorf(millrace.Invalid, "connect", "proxy is not a URL") // the text may hold a secret
		}
		t.Proxy = http.ProxyURL(u)
	}
	var err error
	t.TLSClientConfig, err = s.config.TLS.load()
	return t, err
}

// Check reports files that can't be used, with the path of their key.
func (c *TLS) Check(problem func(path, format string, args ...any)) {
	c.read(func(key, file string, err error) {
		if failure, ok := errors.AsType[*os.PathError](err); ok {
			err = failure.Err // without the path a second time
		}
		problem(key, "%q: %v", file, err)
	})
}

// load reads the certificates; nil if none are configured.
func (c *TLS) load() (t *tls.Config, err error) {
	t = c.read(func(key, file string, wrong error) {
		if err == nil {
			err = millrace.Errorf(millrace.Invalid, "connect", "tls.%s %q: %w", key, file, wrong)
		}
	})
	if err != nil {
		return nil, err
	}
	return t, nil
}

func (c *TLS) read(wrong func(key, file string, err error)) *tls.Config {
	if c.CA == "" && c.Cert == "" {
		return nil
	}
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CA != "" {
		text, err := os.ReadFile(c.CA)
		t.RootCAs = x509.NewCertPool()
		if err == nil && !t.RootCAs.AppendCertsFromPEM(text) {
			err = errors.New("holds no certificate in PEM")
		}
		if err != nil {
			wrong("ca", c.CA, err)
		}
	}
	if c.Cert != "" {
		certificate, err := os.ReadFile(c.Cert)
		if err != nil {
			wrong("cert", c.Cert, err)
		}
		key, missing := os.ReadFile(c.Key)
		if missing != nil {
			wrong("key", c.Key, missing)
		}
		if err != nil || missing != nil {
			return t
		}
		pair, err := tls.X509KeyPair(certificate, key)
		if err != nil {
			wrong("cert", c.Cert, err)
		}
		t.Certificates = []tls.Certificate{pair}
	}
	return t
}

// # Private addresses
//
// A feed must not make the source ask something inside the network that it runs in. A redirect to
// another host is refused if the host is written as a private address, and again when it is dialled,
// by the address that its name resolves to. A feed whose own url leads to a private address is itself
// inside, and may redirect there.

var errPrivate = errors.New("the address is private")

// isPrivate says whether an address is not one of the public internet.
func isPrivate(a netip.Addr) bool {
	a = a.Unmap()
	return a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsMulticast() || a.IsUnspecified() ||
		carrierGrade.Contains(a) || nat64.Contains(a)
}

var (
	carrierGrade = netip.MustParsePrefix("100.64.0.0/10") // RFC 6598
	nat64        = netip.MustParsePrefix("64:ff9b::/32")  // RFC 6052, 8215: may stand for any IPv4 address
)

// guarded is the key of the context of a request to a host that must not be private; the value is the
// host.
type guarded struct{}

// guards says whether a target is another host than the feed's, which must not be private.
func (s *Source) guards(target *url.URL) bool {
	return !s.config.AllowPrivate && !s.inside && !strings.EqualFold(target.Hostname(), s.url.Hostname())
}

// guard returns the context for a request to a target. That of the feed's own url finds out whether the
// feed is inside.
func (s *Source) guard(ctx context.Context, target *url.URL) context.Context {
	if target == s.url || strings.EqualFold(target.Hostname(), s.url.Hostname()) {
		if s.privateHost(target.Hostname()) {
			s.inside = true
		}
		return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
			// The peer may be a proxy, which says nothing about the feed.
			if s.proxied(target) {
				return
			}
			if a, err := netip.ParseAddrPort(info.Conn.RemoteAddr().String()); err == nil && s.private(a.Addr()) {
				s.inside = true
			}
		}})
	}
	if s.guards(target) {
		return context.WithValue(ctx, guarded{}, strings.ToLower(target.Hostname()))
	}
	return ctx
}

func (s *Source) proxied(target *url.URL) bool {
	if s.own == nil || s.own.Proxy == nil {
		return false
	}
	proxy, err := s.own.Proxy(&http.Request{URL: target})
	return err == nil && proxy != nil
}

// privateHost says whether a host, as a URL has it, is private without looking it up.
func (s *Source) privateHost(host string) bool {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && s.private(a)
}

// control is called with each address before it is dialled. A proxy's is none of our concern: it is
// the one who looks the name up.
func (s *Source) control(ctx context.Context, _, address string, _ syscall.RawConn) error {
	host, _ := ctx.Value(guarded{}).(string)
	a, err := netip.ParseAddrPort(address)
	if host == "" || err != nil || !s.private(a.Addr()) {
		return nil
	}
	if s.proxied(&url.URL{Scheme: "https", Host: host}) || s.proxied(&url.URL{Scheme: "http", Host: host}) {
		return nil
	}
	return errPrivate
}

func (s *Source) refusePrivate() *ending {
	return s.refuse("redirect", "the feed redirects to a private address, which is refused: check url, or allow it with allow_private: true")
}

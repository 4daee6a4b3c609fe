package listener

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace"
)

// handshake returns the state of a new connection; with TLS 1.3 a server refuses a client's certificate only
// after the client's handshake, so it waits for a byte.
func handshake(t testing.TB, address string, c *tls.Config) (tls.ConnectionState, error) {
	t.Helper()
	conn, err := tls.Dial("tcp", address, c)
	if err != nil {
		return tls.ConnectionState{}, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
		return tls.ConnectionState{}, err
	}
	if _, err := io.ReadAll(conn); err != nil {
		return tls.ConnectionState{}, err
	}
	return conn.ConnectionState(), nil
}

func serialOf(t testing.TB, address string, c *tls.Config) string {
	t.Helper()
	state, err := handshake(t, address, c)
	if err != nil {
		t.Fatal(err)
	}
	return state.PeerCertificates[0].SerialNumber.String()
}

func TestWithoutAnything(t *testing.T) {
	bare, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer bare.Close()
	if l, err := Wrap(bare, Config{}, Options{}); l != bare || err != nil {
		t.Errorf("%v %v", l, err)
	}
}

// A certificate is replaced while clients come and go: none fails, those that are there stay, and new ones see
// the new one.
func TestReplace(t *testing.T) {
	a := newAuthority(t)
	dir := t.TempDir()
	now, log := newClock(), &record{}
	c := Config{TLS: a.files(t, dir, "push.example.org")}
	address := serve(t, listen(t, c, Options{Now: now.Now, Logger: log.logger()}), c)
	client := &tls.Config{RootCAs: a.pool, ServerName: "push.example.org", ClientSessionCache: tls.NewLRUClientSessionCache(8)}
	fresh := &tls.Config{RootCAs: a.pool, ServerName: "push.example.org"}
	old := serialOf(t, address, fresh)

	transport := &http.Transport{TLSClientConfig: fresh}
	defer transport.CloseIdleConnections()
	var dials atomic.Int32
	transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		dials.Add(1)
		return new(net.Dialer).DialContext(ctx, network, address)
	}
	request := func() {
		t.Helper()
		response, err := (&http.Client{Transport: transport}).Get("https://" + address)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, response.Body)
		response.Body.Close()
	}
	request()

	stop := make(chan struct{})
	var load sync.WaitGroup
	served := make(chan struct{})
	for range 4 {
		load.Go(func() {
			for {
				if _, err := handshake(t, address, client); err != nil {
					t.Errorf("under load: %v", err)
				}
				select {
				case <-stop:
					return
				case served <- struct{}{}:
				}
			}
		})
	}
	for range 5 {
		a.files(t, dir, "push.example.org")
		now.add(pollEvery)
		for range 8 {
			<-served
		}
	}
	close(stop)
	load.Wait()
	now.add(pollEvery)
	replaced := serialOf(t, address, fresh)
	if now.add(pollEvery); replaced == old {
		t.Error("the new certificate is not in use")
	}
	request()
	if n := dials.Load(); n != 1 {
		t.Errorf("a connection that was there was replaced; there were %d", n)
	}
	if strings.Contains(log.String(), "level=ERROR") || !strings.Contains(log.String(), "are in use") {
		t.Errorf("log: %s", log)
	}
	if state, err := handshake(t, address, client); err != nil || !state.DidResume {
		t.Errorf("a session is not resumed over a change: %v", err)
	}
}

// What is broken is said once, and what was good stays.
func TestBrokenFiles(t *testing.T) {
	a := newAuthority(t)
	dir := t.TempDir()
	now, log := newClock(), &record{}
	c := Config{TLS: a.files(t, dir, "push.example.org")}
	address := serve(t, listen(t, c, Options{Now: now.Now, Logger: log.logger()}), c)
	client := &tls.Config{RootCAs: a.pool, ServerName: "push.example.org"}
	old := serialOf(t, address, client)
	cert, key := a.issue(t, "push.example.org")
	look := func(want string) {
		t.Helper()
		for range 3 {
			now.add(pollEvery)
			if got := serialOf(t, address, client); (got == old) != (want == "old") {
				t.Errorf("another certificate than the %s one is in use", want)
			}
		}
	}
	for _, breaks := range []func(){
		func() { write(t, dir, "cert.pem", cert) }, // without its key
		func() { write(t, dir, "cert.pem", []byte("-----BEGIN")) },
		func() { write(t, dir, "cert.pem", nil) },
		func() { os.Remove(filepath.Join(dir, "cert.pem")) },
	} {
		breaks()
		look("old")
	}
	if n := strings.Count(log.String(), "can't be used"); n != 1 {
		t.Errorf("%d lines in the log:\n%s", n, log)
	}
	write(t, dir, "cert.pem", cert)
	write(t, dir, "key.pem", key)
	look("new")
	if n := strings.Count(log.String(), "are in use"); n != 1 {
		t.Errorf("%d lines in the log:\n%s", n, log)
	}
}

// Files that are replaced one after the other are not worth a line in the log.
func TestHalfOfAChange(t *testing.T) {
	a := newAuthority(t)
	dir := t.TempDir()
	now, log := newClock(), &record{}
	c := Config{TLS: a.files(t, dir, "push.example.org")}
	address := serve(t, listen(t, c, Options{Now: now.Now, Logger: log.logger()}), c)
	client := &tls.Config{RootCAs: a.pool, ServerName: "push.example.org"}
	cert, key := a.issue(t, "push.example.org")
	old := serialOf(t, address, client)
	write(t, dir, "cert.pem", cert)
	now.add(pollEvery)
	if serialOf(t, address, client) != old {
		t.Error("half of a change is in use")
	}
	write(t, dir, "key.pem", key)
	if serialOf(t, address, client) != old {
		t.Error("files are looked at with each connection")
	}
	now.add(pollEvery)
	if serialOf(t, address, client) == old || strings.Contains(log.String(), "level=ERROR") {
		t.Errorf("the whole change is not in use; log: %s", log)
	}
}

func TestMutualTLS(t *testing.T) {
	a, other := newAuthority(t), newAuthority(t)
	dir := t.TempDir()
	now := newClock()
	c := Config{TLS: a.files(t, dir, "push.example.org")}
	c.TLS.ClientCA = write(t, dir, "clients.pem", a.pem())
	address := serve(t, listen(t, c, Options{Now: now.Now}), c)
	with := func(pairs ...tls.Certificate) *tls.Config {
		return &tls.Config{
			RootCAs: a.pool, ServerName: "push.example.org", Certificates: pairs,
			ClientSessionCache: tls.NewLRUClientSessionCache(1),
		}
	}
	known := with(a.pair(t, "client"))
	for range 2 {
		if _, err := handshake(t, address, known); err != nil {
			t.Error(err)
		}
	}
	if _, err := handshake(t, address, with()); err == nil {
		t.Error("a client without a certificate is let in")
	}
	if _, err := handshake(t, address, with(other.pair(t, "client"))); err == nil {
		t.Error("a client with a certificate of another authority is let in")
	}
	write(t, dir, "clients.pem", other.pem())
	now.add(pollEvery)
	if _, err := handshake(t, address, known); err == nil {
		t.Error("a client of an authority that has been removed is let in")
	}
	if _, err := handshake(t, address, with(other.pair(t, "client"))); err != nil {
		t.Errorf("after the change: %v", err)
	}
}

func TestVersionsAndProtocols(t *testing.T) {
	a := newAuthority(t)
	for _, tt := range []struct {
		least string
		spoke uint16 // at most
		ok    bool
	}{{"1.2", tls.VersionTLS11, false}, {"1.2", tls.VersionTLS12, true}, {"1.3", tls.VersionTLS12, false}, {"1.3", tls.VersionTLS13, true}} {
		c := Config{TLS: a.files(t, t.TempDir(), "push.example.org")}
		c.TLS.MinVersion = tt.least
		address := serve(t, listen(t, c, Options{}), c)
		state, err := handshake(t, address, &tls.Config{
			RootCAs: a.pool, ServerName: "push.example.org", MinVersion: tls.VersionTLS10, MaxVersion: tt.spoke,
			NextProtos: []string{"h2", "http/1.1"},
		})
		if (err == nil) != tt.ok || tt.ok && state.NegotiatedProtocol != "http/1.1" {
			t.Errorf("at least %s, at most %x: %v %q", tt.least, tt.spoke, err, state.NegotiatedProtocol)
		}
	}
}

// A client that says nothing, or stops in the middle of its handshake, holds nobody up and is cut.
func TestStalledHandshake(t *testing.T) {
	a := newAuthority(t)
	c := Config{TLS: a.files(t, t.TempDir(), "push.example.org")}
	l := listen(t, c, Options{})
	server := &http.Server{Handler: http.NotFoundHandler(), ReadHeaderTimeout: 200 * time.Millisecond}
	server.ErrorLog = discard
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(l)
	}()
	defer func() {
		server.Close()
		<-served
	}()
	var stalled []net.Conn
	for range 20 {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, _ = conn.Write([]byte("\x16\x03\x01"))
		stalled = append(stalled, conn)
	}
	if _, err := handshake(t, l.Addr().String(), &tls.Config{RootCAs: a.pool, ServerName: "push.example.org"}); err != nil {
		t.Error(err)
	}
	for _, conn := range stalled {
		_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.ReadAll(conn); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error("a stalled client is not cut")
		}
	}
}

func TestWrapFails(t *testing.T) {
	a, dir := newAuthority(t), t.TempDir()
	good := a.files(t, dir, "push.example.org")
	noPair, empty, clients := *good, *good, *good
	noPair.Key = a.files(t, t.TempDir(), "push.example.org").Key
	empty.Cert = write(t, dir, "empty.pem", nil)
	clients.ClientCA = good.Key
	for want, c := range map[string]Config{
		"nobody may send headers":   {ProxyProtocol: true},
		"neither a network":         {TrustedProxies: []string{"proxy.example.org"}},
		"is everyone":               {TrustedProxies: []string{"::/0"}},
		"tls.cert: is missing":      {TLS: &TLS{}},
		"tls.cert: open /nowhere":   {TLS: &TLS{Cert: "/nowhere", Key: "/nowhere"}},
		"are no pair":               {TLS: &noPair},
		"empty.pem is empty":        {TLS: &empty},
		"holds no certificate":      {TLS: &clients},
		"agree_terms: true":         {TLS: &TLS{ACME: &ACME{Domains: []string{"push.example.org"}, Directory: letsEncrypt}}},
		"tls.acme.ca: open /nowher": {TLS: &TLS{ACME: &ACME{Domains: []string{"push.example.org"}, Directory: letsEncrypt, AgreeTerms: true, CA: "/nowhere"}}},
	} {
		bare, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		_, err = Wrap(bare, c, Options{DataDir: dir})
		if err == nil || !strings.Contains(err.Error(), want) || millrace.CodeOf(err) != millrace.Invalid {
			t.Errorf("%v, want %q", err, want)
		}
		if _, err := bare.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%q: the listener is not closed: %v", want, err)
		}
	}
}

func TestDomain(t *testing.T) {
	for s, want := range map[string]bool{
		"push.example.org": true, "PUSH.example.org": true, "xn--bcher-kva.example": true, "a-b.c1.example": true,
		"localhost": false, "*.example.org": false, "192.0.2.1": false, "::1": false, "example.org.": false,
		"-a.example": false, "a-.example": false, "a..b": false, "bücher.example": false, "example.org:443": false,
		strings.Repeat("a", 64) + ".org": false, strings.Repeat("a.", 130) + "org": false, "": false,
	} {
		if domain(s) != want {
			t.Errorf("%q: %t", s, !want)
		}
	}
}

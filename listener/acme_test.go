package listener

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
)

// obtained waits until a domain's certificate is served, and returns its serial number.
func obtained(t *testing.T, s *acmeServer, address, domain string) string {
	t.Helper()
	ticker := time.NewTicker(20 * time.Millisecond) // nothing says when
	defer ticker.Stop()
	late := time.After(60 * time.Second)
	for {
		state, err := handshake(t, address, &tls.Config{RootCAs: s.authority.pool, ServerName: domain})
		if err == nil {
			return state.PeerCertificates[0].SerialNumber.String()
		}
		select {
		case <-ticker.C:
		case <-late:
			s.mu.Lock()
			defer s.mu.Unlock()
			t.Fatalf("%s: %v; the authority complains: %q", domain, err, s.problems)
		}
	}
}

// A listener gets its certificates over itself, keeps them over a restart, and renews them.
func TestACME(t *testing.T) {
	s := newACMEServer(t)
	dir, log := t.TempDir(), &record{}
	c := Config{TLS: s.config(dir, "push.example.org", "other.example.org")}
	bare, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.at = bare.Addr().String()              // nobody asks before Wrap
	s.lifetime = 30*24*time.Hour + time.Hour // it is to be renewed the next time
	l, err := Wrap(bare, c, Options{DataDir: dir, Logger: log.logger()})
	if err != nil {
		t.Fatal(err)
	}
	serve(t, l, c)
	first := obtained(t, s, s.at, "push.example.org")
	if obtained(t, s, s.at, "other.example.org") == first {
		t.Error("both domains have the same certificate")
	}
	state, err := handshake(t, s.at, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // who names nobody
	if err != nil || state.PeerCertificates[0].SerialNumber.String() != first {
		t.Errorf("without a name: %v", err)
	}
	if _, err := handshake(t, s.at, &tls.Config{InsecureSkipVerify: true, ServerName: "else.example.org"}); err == nil { //nolint:gosec // likewise
		t.Error("another name has a certificate")
	}
	l.Close()

	s.mu.Lock()
	s.lifetime = 90 * 24 * time.Hour
	s.mu.Unlock()
	again := func() string {
		bare, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		s.mu.Lock()
		s.at = bare.Addr().String()
		s.mu.Unlock()
		l, err := Wrap(bare, c, Options{DataDir: dir, Logger: log.logger()})
		if err != nil {
			t.Fatal(err)
		}
		serve(t, l, c)
		serial := obtained(t, s, bare.Addr().String(), "push.example.org")
		for deadline := time.Now().Add(60 * time.Second); serial == first && time.Now().Before(deadline); {
			serial = obtained(t, s, bare.Addr().String(), "push.example.org")
		}
		l.Close()
		return serial
	}
	renewed := again()
	if renewed == first {
		t.Error("a certificate that is about to end is not renewed")
	}
	if again() != renewed {
		t.Error("a certificate is not kept")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.accounts) != 1 || len(s.problems) > 0 || len(s.validated) < 3 {
		t.Errorf("%d accounts, problems %q, validated %q", len(s.accounts), s.problems, s.validated)
	}
	for _, v := range s.validated {
		if !strings.HasPrefix(v, "tls-alpn-01 ") {
			t.Errorf("validated by %s", v)
		}
	}
	if strings.Contains(log.String(), "level=ERROR") {
		t.Errorf("log: %s", log)
	}
}

// With clients' certificates: the authority has none.
func TestACMEAndMutualTLS(t *testing.T) {
	s := newACMEServer(t)
	dir := t.TempDir()
	clients := newAuthority(t)
	c := Config{TLS: s.config(dir, "push.example.org")}
	c.TLS.ClientCA = write(t, dir, "clients.pem", clients.pem())
	c.TLS.ACME.Storage = t.TempDir()
	bare, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.at = bare.Addr().String()
	l, err := Wrap(bare, c, Options{})
	if err != nil {
		t.Fatal(err)
	}
	serve(t, l, c)
	client := &tls.Config{RootCAs: s.authority.pool, ServerName: "push.example.org", Certificates: []tls.Certificate{clients.pair(t, "client")}}
	for deadline := time.Now().Add(60 * time.Second); ; {
		if _, err = handshake(t, s.at, client); err == nil || time.Now().After(deadline) {
			break
		}
	}
	if err != nil {
		t.Error(err)
	}
	if _, err := handshake(t, s.at, &tls.Config{RootCAs: s.authority.pool, ServerName: "push.example.org"}); err == nil {
		t.Error("a client without a certificate is let in")
	}
}

// Where port 443 does not lead here.
func TestACMEOverHTTP(t *testing.T) {
	s := newACMEServer(t)
	dir := t.TempDir()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.at = free.Addr().String()
	free.Close()
	c := Config{TLS: s.config(dir, "push.example.org")}
	c.TLS.ACME.HTTPChallenge = s.at
	address := serve(t, listen(t, c, Options{DataDir: dir}), c)
	obtained(t, s, address, "push.example.org")
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.validated) != 1 || s.validated[0] != "http-01 push.example.org" {
		t.Errorf("validated %q", s.validated)
	}
}

// While the domain leads elsewhere handshakes fail, the log says so, and the end is not held up.
func TestACMEFails(t *testing.T) {
	s := newACMEServer(t)
	dir := t.TempDir()
	refused := make(chan struct{}, 16)
	log := slog.New(slog.NewTextHandler(writer(func(b []byte) {
		if strings.Contains(string(b), "level=ERROR") && strings.Contains(string(b), "push.example.org") {
			select {
			case refused <- struct{}{}:
			default:
			}
		}
	}), nil))
	elsewhere, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.at = elsewhere.Addr().String()
	elsewhere.Close()
	c := Config{TLS: s.config(dir, "push.example.org")}
	l := listen(t, c, Options{DataDir: dir, Logger: log})
	address := serve(t, l, c)
	select {
	case <-refused:
	case <-time.After(60 * time.Second):
		t.Error("nothing is logged")
	}
	if _, err := handshake(t, address, &tls.Config{RootCAs: s.authority.pool, ServerName: "push.example.org"}); err == nil {
		t.Error("there is a certificate")
	}
	begun := time.Now()
	l.Close()
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("closing took %s", took)
	}
}

type writer func(b []byte)

func (w writer) Write(b []byte) (int, error) {
	w(b)
	return len(b), nil
}

func TestBridge(t *testing.T) {
	var text strings.Builder
	log := zap.New(&bridge{t.Context(), slog.NewTextHandler(&text, &slog.HandlerOptions{
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		},
	})}).Named("x").With(zap.String("domain", "push.example.org"))
	log.Info("detail")
	log.Warn("beware", zap.Int("n", 3), zap.Error(context.Canceled))
	want := `level=WARN msg="listener: acme: beware" domain=push.example.org n=3 error="context canceled"` + "\n"
	if text.String() != want {
		t.Errorf("%q, want %q", text.String(), want)
	}
}

package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace/gateway"
	"github.com/millrace/millrace/millracetest"
)

const secureConfig = `
data_dir: data
streams: {positions: {}}
sources:
  feed: {sse: {url: "${env:FEED}"}, into: positions, key: vehicle}
gateway:
  listen: 127.0.0.1:0
  tls: {cert: cert.pem, key: key.pem}
  proxy_protocol: ${env:PROXY}
  trusted_proxies: [127.0.0.1]
  auth:
    api_keys: [{name: operations, key: "${env:API_KEY}"}]
    jwt:
      issuer: https://issuer.example.org
      audience: [millrace]
      leeway: 0s
      keys: [{alg: HS256, secret: "${env:JWT_SECRET}"}]
    token: {query: token, message: true}
  limits: {connections_per_address: 20}
  endpoints:
    /all: {from: positions}
    /mine: {from: positions, key: "claim:vehicle"}
    /open: {from: positions, auth: {open: true}}
admin:
  listen: "${env:ADMIN}"
  tls: {cert: cert.pem, key: key.pem}
  token: "${env:ADMIN_TOKEN}"
`

const (
	secureAPIKey     = "0123456789abcdef-operations"
	secureJWTSecret  = "a secret that is thirty-two bytes long, or more"
	secureAdminToken = "a-token-of-the-administration"
)

// authority signs certificates for addresses.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
	last int64 // serial number
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, pool: x509.NewCertPool(), last: 1}
	var err error
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "the tests"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	if err == nil {
		a.cert, err = x509.ParseCertificate(der)
	}
	if err != nil {
		t.Fatal(err)
	}
	a.pool.AddCert(a.cert)
	return a
}

// issue writes cert.pem and key.pem for the addresses into a directory, and returns the serial number.
func (a *authority) issue(dir string, addresses ...net.IP) int64 {
	a.t.Helper()
	a.last++
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(a.last), Subject: pkix.Name{CommonName: "millrace"}, IPAddresses: addresses,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{
		"cert.pem": {Type: "CERTIFICATE", Bytes: der}, "key.pem": {Type: "PRIVATE KEY", Bytes: private},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	return a.last
}

// signed returns a JSON web token.
func signed(t *testing.T, expires time.Time, claims map[string]any) string {
	t.Helper()
	claims["iss"], claims["aud"], claims["exp"] = "https://issuer.example.org", "millrace", expires.Unix()
	body, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	encode := base64.RawURLEncoding.EncodeToString
	text := encode([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + encode(body)
	mac := hmac.New(sha256.New, []byte(secureJWTSecret))
	mac.Write([]byte(text))
	return text + "." + encode(mac.Sum(nil))
}

// secureClient reaches a program that speaks TLS, with a PROXY header in front if there is one.
type secureClient struct {
	t     *testing.T
	roots *x509.CertPool
	proxy string
}

func (s secureClient) dialTLS(ctx context.Context, _, address string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	if _, err := io.WriteString(conn, s.proxy); err != nil {
		return nil, err
	}
	secure := tls.Client(conn, &tls.Config{RootCAs: s.roots, ServerName: "127.0.0.1", MinVersion: tls.VersionTLS12})
	if err := secure.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return secure, nil
}

// open opens a wss:// connection, which ends with the test.
func (s secureClient) open(p *program, path, protocol string) (*millracetest.WebSocket, error) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	conn, err := s.dialTLS(ctx, "tcp", p.gateway)
	if err != nil {
		return nil, err
	}
	s.t.Cleanup(func() { _ = conn.Close() })
	header := http.Header{}
	if protocol != "" {
		header.Set("Sec-WebSocket-Protocol", protocol)
	}
	return millracetest.OpenWebSocket(ctx, conn, "wss://"+p.gateway+path, header)
}

func (s secureClient) mustOpen(p *program, path, protocol string) *millracetest.WebSocket {
	s.t.Helper()
	w, err := s.open(p, path, protocol)
	if err != nil {
		s.t.Fatalf("%s: %v", path, err)
	}
	return w
}

// get asks an https:// URL.
func (s secureClient) get(url, token string) (int, string) {
	s.t.Helper()
	client := http.Client{Timeout: patience, Transport: &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: s.roots, MinVersion: tls.VersionTLS12},
	}}
	r, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, url, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := client.Do(r)
	if err != nil {
		return 0, err.Error()
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(response.Body)
	return response.StatusCode, string(body)
}

// connections is what the admin listener says of who is connected.
func (s secureClient) connections(p *program) (list []gateway.Connected) {
	s.t.Helper()
	code, body := s.get("https://"+p.admin+"/connections", secureAdminToken)
	var all struct{ Connections []gateway.Connected }
	if err := json.Unmarshal([]byte(body), &all); code != 200 || err != nil {
		s.t.Fatalf("/connections: %d %s", code, body)
	}
	return all.Connections
}

// A gateway with TLS from files, tokens of both kinds, and endpoints that ask for different ones; bare and behind a
// proxy that says who the client is.
func TestSecureGateway(t *testing.T) {
	t.Parallel()
	for name, proxy := range map[string]string{
		"bare":            "",
		"PROXY version 1": "PROXY TCP4 203.0.113.9 192.0.2.1 4711 443\r\n",
		"PROXY version 2": "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xcb\x00\x71\x09\xc0\x00\x02\x01\x12\x67\x01\xbb",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testSecureGateway(t, proxy)
		})
	}
}

func testSecureGateway(t *testing.T, proxy string) {
	need(t)
	feed := millracetest.NewFeed(t, millracetest.FeedOptions{})
	pipeline := newPipeline(t, "", map[string]string{"config.yaml": secureConfig},
		"FEED="+feed.URL, fmt.Sprintf("PROXY=%t", proxy != ""), "API_KEY="+secureAPIKey, "JWT_SECRET="+secureJWTSecret,
		"ADMIN=127.0.0.1:0", "ADMIN_TOKEN="+secureAdminToken)
	authority := newAuthority(t)
	first := authority.issue(pipeline.dir, net.IPv4(127, 0, 0, 1))
	p := pipeline.start()
	c := secureClient{t, authority.pool, proxy}
	serial := func(w *millracetest.WebSocket) int64 {
		return w.Conn.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.Int64()
	}
	number := 0
	drive := func(vehicle string) string {
		number++
		text := fmt.Sprintf(`{"vehicle":%q,"n":%d}`, vehicle, number)
		feed.Send(millracetest.FeedEvent{ID: fmt.Sprint(number), Data: text})
		return text
	}
	want := func(w *millracetest.WebSocket, text string) {
		t.Helper()
		if got := read(t, w); got != text {
			t.Errorf("got %s, want %s", got, text)
		}
	}
	soon := time.Now().Add(time.Hour)
	vehicle42 := signed(t, soon, map[string]any{"sub": "alice", "vehicle": "42"})

	for path, status := range map[string]int{
		"/all": 401, "/mine": 401, "/all?token=wrong": 401, "/nowhere": 404,
		"/all?token=" + vehicle42[:len(vehicle42)-4] + "AAAA":                                     401,
		"/mine?token=" + signed(t, time.Now().Add(-time.Minute), map[string]any{"vehicle": "42"}): 401,
		"/mine?token=" + secureAPIKey:                                                             403, // claims nothing
	} {
		w, err := c.open(p, path, "")
		refused, ok := errors.AsType[*millracetest.Refused](err)
		if !ok || refused.Status != status {
			t.Errorf("%s: %v, %v; want %d", path, w, err, status)
		}
	}
	mine := c.mustOpen(p, "/mine?token="+vehicle42, "")
	all := c.mustOpen(p, "/all?token="+secureAPIKey, "")
	open := c.mustOpen(p, "/open", "")
	byMessage := c.mustOpen(p, "/mine", "millrace.v1")
	read(t, byMessage) // hello
	if err := byMessage.WriteFrame(millracetest.Frame{Op: 1, Payload: fmt.Appendf(nil, `{"auth":%q}`, vehicle42)}); err != nil {
		t.Fatal(err)
	}
	want(byMessage, `{"authenticated":{"subject":"alice"}}`)
	for live := ""; !strings.Contains(live, `"live":true`); {
		live = read(t, byMessage)
	}
	remote := "127.0.0.1"
	if proxy != "" {
		remote = "203.0.113.9"
	}
	for _, connected := range c.connections(p) {
		if connected.Remote != remote {
			t.Errorf("the admin listener takes %s for the client of %s, want %s", connected.Remote, connected.Endpoint, remote)
		}
	}

	other, own := drive("41"), drive("42")
	for _, w := range []*millracetest.WebSocket{all, open} {
		want(w, other)
		want(w, own)
	}
	want(mine, own)
	if got := read(t, byMessage); !strings.Contains(got, own) {
		t.Errorf("got %s, want %s in it", got, own)
	}

	// Another certificate while it runs: new connections get it, and those that are there stay.
	if got := serial(mine); got != first {
		t.Errorf("the certificate has the number %d, want %d", got, first)
	}
	second := authority.issue(pipeline.dir, net.IPv4(127, 0, 0, 1))
	fresh := c.mustOpen(p, "/open", "")
	for deadline := time.Now().Add(patience); serial(fresh) != second; fresh = c.mustOpen(p, "/open", "") {
		_ = fresh.Close()
		if time.Now().After(deadline) {
			t.Fatal("the new certificate is not used")
		}
		time.Sleep(100 * time.Millisecond) // it looks every few seconds
	}
	own = drive("42")
	for _, w := range []*millracetest.WebSocket{mine, all, open, fresh} {
		want(w, own)
	}

	// A connection ends with its token.
	brief := c.mustOpen(p, "/mine?token="+signed(t, time.Now().Add(2*time.Second), map[string]any{"vehicle": "7"}), "")
	if closed := readClose(t, brief); closed.Code != 4001 {
		t.Errorf("a token that has expired: %v", closed)
	}
	p.end(syscall.SIGTERM)
	if strings.Contains(p.tail(1000), vehicle42[:40]) || strings.Contains(p.tail(1000), secureAPIKey) {
		t.Error("the log holds a token")
	}
}

// Beyond loopback the admin listener takes TLS and a token, and nothing less.
func TestAdminBeyondLoopback(t *testing.T) {
	t.Parallel()
	need(t)
	authority := newAuthority(t)
	pipeline := newPipeline(t, "", map[string]string{"config.yaml": secureConfig},
		"FEED=http://127.0.0.1:1/", "PROXY=false", "API_KEY="+secureAPIKey, "JWT_SECRET="+secureJWTSecret,
		"ADMIN=0.0.0.0:0", "ADMIN_TOKEN="+secureAdminToken)
	authority.issue(pipeline.dir, net.IPv4(127, 0, 0, 1))
	p := pipeline.start()
	_, port, err := net.SplitHostPort(p.admin)
	if err != nil {
		t.Fatal(err)
	}
	p.admin = net.JoinHostPort("127.0.0.1", port)
	c := secureClient{t: t, roots: authority.pool}
	for _, tt := range []struct {
		path, token string
		status      int
	}{
		{"/healthz", "", 200},
		{"/readyz", "", 401},
		{"/readyz", "another-token-than-that", 401},
		{"/readyz", secureAdminToken, 200},
		{"/metrics", secureAdminToken, 200},
		{"/connections", "", 401},
		{"/connections", secureAdminToken, 200},
		{"/debug/pprof/", secureAdminToken, 404},
	} {
		if status, body := c.get("https://"+p.admin+tt.path, tt.token); status != tt.status {
			t.Errorf("%s with %q: %d %.200s, want %d", tt.path, tt.token, status, body, tt.status)
		}
	}
	if answer := p.get("/healthz"); answer == "ok\n" {
		t.Errorf("without TLS: %s", answer)
	}
	p.end(syscall.SIGTERM)

	const secure = "  tls: {cert: cert.pem, key: key.pem}\n  token: \"${env:ADMIN_TOKEN}\"\n"
	for _, left := range []string{"", "  tls: {cert: cert.pem, key: key.pem}\n", "  token: \"${env:ADMIN_TOKEN}\"\n"} {
		less := strings.Replace(secureConfig, secure, left, 1)
		if err := os.WriteFile(filepath.Join(pipeline.dir, "config.yaml"), []byte(less), 0o600); err != nil {
			t.Fatal(err)
		}
		p := pipeline.launch()
		p.waitEnd()
		if p.wait == nil || !strings.Contains(p.tail(20), "admin.listen: others reach") {
			t.Errorf("only with %q: %v\n%s", left, p.wait, p.tail(20))
		}
	}
}

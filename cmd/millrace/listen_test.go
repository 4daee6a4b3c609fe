package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/config"
)

// testCertificate writes the certificate of httptest, for example.com and 127.0.0.1, and its key.
func testCertificate(t *testing.T, dir string) *x509.CertPool {
	t.Helper()
	s := httptest.NewTLSServer(http.NotFoundHandler())
	defer s.Close()
	key, err := x509.MarshalPKCS8PrivateKey(s.TLS.Certificates[0].PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{
		"cert.pem": {Type: "CERTIFICATE", Bytes: s.Certificate().Raw}, "key.pem": {Type: "PRIVATE KEY", Bytes: key},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	return pool
}

// All three kinds of listeners speak TLS; the gateway's reads PROXY headers, the admin's wants its token.
func TestPipelineListensWithTLS(t *testing.T) {
	dir := t.TempDir()
	roots := testCertificate(t, dir)
	probe, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ingest := probe.Addr().String()
	probe.Close()
	const token = "a-token-of-the-admin"
	c, err := config.Parse(filepath.Join(dir, "x.yaml"), fmt.Appendf(nil, `
streams: {a: {}, b: {}}
sources:
  a: {http: {listen: %[1]q, tls: &tls {cert: cert.pem, key: key.pem}}, into: a}
  b: {http: {listen: %[1]q, tls: *tls}, into: b}
gateway:
  listen: "127.0.0.1:0"
  tls: *tls
  proxy_protocol: true
  trusted_proxies: [127.0.0.1]
  endpoints: {/a: {from: a}}
admin: {listen: "127.0.0.1:0", tls: *tls, token: "${env:TOKEN}"}
`, ingest), func(string) (string, bool) { return token, true })
	if err != nil {
		t.Fatal(err)
	}
	if problems := checkFiles(c); len(problems) > 0 {
		t.Fatal(problems)
	}
	ctx, cancel := context.WithCancel(t.Context())
	listening := make(chan [2]string, 1)
	ended := make(chan error, 1)
	go func() {
		ended <- runPipeline(ctx, c, pipelineOptions{ready: func(gateway, admin string) { listening <- [2]string{gateway, admin} }})
	}()
	var addresses [2]string
	select {
	case addresses = <-listening:
	case err := <-ended:
		t.Fatal(err)
	}
	do := func(method, url, first, token string) (int, string) {
		t.Helper()
		dial := func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, address)
			if err == nil {
				_, err = io.WriteString(conn, first)
			}
			return conn, err
		}
		client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
			DialContext: dial, DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: roots},
		}}
		r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(`[{"id":1}]`))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/json")
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
	gateway, admin := "https://"+addresses[0], "https://"+addresses[1]
	const header = "PROXY TCP4 203.0.113.9 10.0.0.1 4711 443\r\n"
	for _, tt := range []struct {
		method, url, first, token string
		want                      int
	}{
		{"GET", gateway + "/a", header, "", http.StatusUpgradeRequired},
		{"GET", gateway + "/a", "", "", 0},
		{"GET", strings.Replace(gateway, "https", "http", 1) + "/a", header, "", http.StatusBadRequest},
		{"GET", admin + "/healthz", "", "", http.StatusOK},
		{"GET", admin + "/readyz", "", "", http.StatusUnauthorized},
		{"GET", admin + "/readyz", "", token, http.StatusOK},
		{"POST", "https://" + ingest + "/ingest/b", "", "", http.StatusOK},
	} {
		if code, body := do(tt.method, tt.url, tt.first, tt.token); code != tt.want {
			t.Errorf("%s %s: %d %q, want %d", tt.method, tt.url, code, body, tt.want)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "cert.pem"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	problems := checkFiles(c)
	if len(problems) != 4 || !strings.Contains(problems.Error(), "x.yaml:4:58: gateway.tls.cert") {
		t.Errorf("a file that is empty: %v", problems)
	}
}

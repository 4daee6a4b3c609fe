package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/config"
)

// selfSigned writes NAME.pem and NAME.key: a new certificate for 127.0.0.1, good for servers and clients.
func selfSigned(t *testing.T, dir, name string) *x509.CertPool {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	certificate, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	for file, block := range map[string]*pem.Block{
		name + ".pem": {Type: "CERTIFICATE", Bytes: certificate}, name + ".key": {Type: "PRIVATE KEY", Bytes: secret},
	} {
		text := pem.EncodeToMemory(block)
		if err := os.WriteFile(filepath.Join(dir, file), text, 0o600); err != nil {
			t.Fatal(err)
		}
		pool.AppendCertsFromPEM(text) // the key is none
	}
	return pool
}

// All three kinds of listeners speak TLS; the gateway's reads PROXY headers, the admin's wants its token.
func TestPipelineListensWithTLS(t *testing.T) {
	dir := t.TempDir()
	roots := selfSigned(t, dir, "a")
	ingest := freePorts(t, 1)[0]
	const token = "a-token-of-the-admin"
	c, err := config.Parse(filepath.Join(dir, "x.yaml"), fmt.Appendf(nil, `
streams: {a: {}, b: {}}
sources:
  a: {http: {listen: %[1]q, tls: &tls {cert: a.pem, key: a.key}}, into: a}
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
	gateway, admin, end := begin(t, c)
	gateway, admin = "https://"+gateway, "https://"+admin
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
	end()
	if err := os.WriteFile(filepath.Join(dir, "a.pem"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	problems := checkFiles(c)
	if len(problems) != 4 || !strings.Contains(problems.Error(), "x.yaml:4:58: gateway.tls.cert") {
		t.Errorf("a file that is empty: %v", problems)
	}
}

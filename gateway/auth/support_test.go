package auth

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const secret = "a secret of thirty-two bytes or more"

var remote = netip.MustParseAddr("203.0.113.7")

// now is the time of tests that look at no other clock.
var now = time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)

func clock() time.Time { return now }

// pairs are made once: RSA takes its time.
var pairs = sync.OnceValue(func() (p struct {
	rsa, otherRSA *rsa.PrivateKey
	p256, p384    *ecdsa.PrivateKey
	ed            ed25519.PrivateKey
},
) {
	p.rsa, _ = rsa.GenerateKey(rand.Reader, 2048)
	p.otherRSA, _ = rsa.GenerateKey(rand.Reader, 2048)
	p.p256, _ = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	p.p384, _ = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	_, p.ed, _ = ed25519.GenerateKey(rand.Reader)
	return p
})

// public returns a key's public half as PEM text.
func public(t testing.TB, private crypto.Signer) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// claims returns good claims, with some set or, to nil, left out.
func claims(change map[string]any) jwt.MapClaims {
	c := jwt.MapClaims{
		"iss": "https://issuer.example.org", "aud": "millrace", "sub": "alice",
		"exp": now.Add(time.Hour).Unix(), "vehicle": "42",
	}
	maps.Copy(c, change)
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	return c
}

// sign makes a token; header has name and value pairs.
func sign(t testing.TB, method jwt.SigningMethod, private any, c jwt.MapClaims, header ...any) string {
	t.Helper()
	token := jwt.NewWithClaims(method, c)
	for i := 0; i < len(header); i += 2 {
		token.Header[header[i].(string)] = header[i+1]
	}
	text, err := token.SignedString(private)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// jwtConfig takes tokens with the claims above.
func jwtConfig(keys ...Key) Config {
	j := &JWT{Issuer: "https://issuer.example.org", Audience: []string{"other", "millrace"}, Keys: keys}
	j.SetDefaults()
	return Config{JWT: j}
}

func newGuard(t testing.TB, c Config, o Options) *Guard {
	t.Helper()
	if o.Now == nil {
		o.Now = clock
	}
	g, err := New(c, o)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// start runs a guard until the test ends.
func start(t *testing.T, g *Guard) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

func request(target string, header ...string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, target, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	return r
}

func bearer(token string) *http.Request {
	return request("/vehicles", "Authorization", "Bearer "+token)
}

// allows checks a token that must be taken.
func allows(t testing.TB, g *Guard, token string) Identity {
	t.Helper()
	id, err := g.Check(context.Background(), bearer(token), remote)
	if err != nil {
		t.Fatalf("denied: %v", err)
	}
	return id
}

// denies checks a token that must be refused with a status, and a reason that contains a text.
func denies(t testing.TB, g *Guard, token string, status int, reason string) *Denied {
	t.Helper()
	id, err := g.Check(context.Background(), bearer(token), remote)
	return isDenied(t, id, err, token, status, reason)
}

func isDenied(t testing.TB, id Identity, err error, token string, status int, reason string) *Denied {
	t.Helper()
	d, ok := errors.AsType[*Denied](err)
	if !ok {
		t.Fatalf("let in as %+v, error %v; want %d", id, err, status)
	}
	if d.Status != status || !strings.Contains(d.Reason, reason) {
		t.Fatalf("denied with %d %q, want %d %q", d.Status, d.Reason, status, reason)
	}
	if len(token) > 8 && strings.Contains(d.Error()+d.Challenge(), token) {
		t.Fatalf("the error holds the token: %v", d)
	}
	return d
}

// jwk is a public key as a member of a key set.
func jwk(id string, private crypto.Signer) map[string]string {
	b64 := base64.RawURLEncoding.EncodeToString
	var j map[string]string
	switch k := private.Public().(type) {
	case *rsa.PublicKey:
		j = map[string]string{"kty": "RSA", "n": b64(k.N.Bytes()), "e": "AQAB", "alg": "RS256", "use": "sig"}
	case *ecdsa.PublicKey:
		point, _ := k.Bytes()
		half := len(point) / 2
		j = map[string]string{"kty": "EC", "crv": k.Params().Name, "x": b64(point[1 : 1+half]), "y": b64(point[1+half:])}
	case ed25519.PublicKey:
		j = map[string]string{"kty": "OKP", "crv": "Ed25519", "x": b64(k)}
	}
	if id != "" {
		j["kid"] = id
	}
	return j
}

// logged is a logger into a text.
func logged() (*slog.Logger, *lockedText) {
	var text lockedText
	return slog.New(slog.NewTextHandler(&text, &slog.HandlerOptions{Level: slog.LevelDebug})), &text
}

type lockedText struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lockedText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lockedText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// inProcess is a client whose requests go to a handler without a network, so that a test's clock can run.
func inProcess(h http.HandlerFunc) *http.Client {
	return &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
		w := httptest.NewRecorder()
		done := make(chan struct{})
		go func() {
			defer close(done)
			h(w, r)
		}()
		select {
		case <-done:
			return w.Result(), nil
		case <-r.Context().Done():
			<-done // handlers look at the context
			return nil, r.Context().Err()
		}
	})}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

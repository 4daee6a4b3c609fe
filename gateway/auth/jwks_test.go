package auth

import (
	"context"
	"crypto"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// keyServer serves a key set that can change and fail.
type keyServer struct {
	mu      sync.Mutex
	keys    []map[string]string
	status  int // 0: 200
	body    string
	hang    bool
	fetches atomic.Int64
}

func (s *keyServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.fetches.Add(1)
	s.mu.Lock()
	keys, status, body, hang := s.keys, s.status, s.body, s.hang
	s.mu.Unlock()
	if hang {
		<-r.Context().Done()
		return
	}
	if status != 0 {
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(status)
		return
	}
	if body != "" {
		_, _ = w.Write([]byte(body))
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"keys": keys})
}

func (s *keyServer) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

func jwksConfig(url string) Config {
	c := jwtConfig()
	c.JWT.JWKS = url
	return c
}

// onKeys runs a test with a guard that fetches its keys from s, on a clock of its own.
func onKeys(t *testing.T, s *keyServer, test func(t *testing.T, g *Guard, log *lockedText)) {
	synctest.Test(t, func(t *testing.T) {
		logger, text := logged()
		g := newGuard(t, jwksConfig("https://issuer.example.org/keys?secret=s3cr3t"),
			Options{Client: inProcess(s.ServeHTTP), Logger: logger})
		start(t, g)
		test(t, g, text)
		if strings.Contains(text.String(), "s3cr3t") {
			t.Errorf("the log holds the URL's query:\n%s", text)
		}
	})
}

func TestKeySetOverTheNetwork(t *testing.T) {
	p := pairs()
	s := &keyServer{keys: []map[string]string{
		jwk("r", p.rsa), jwk("e", p.p256), jwk("o", p.ed), jwk("p384", p.p384),
		{"kty": "oct", "kid": "s", "k": "YSBzZWNyZXQgb2YgdGhpcnR5LXR3byBieXRlcyBvciBtb3Jl", "alg": "HS256"},
	}}
	server := httptest.NewServer(s)
	defer server.Close()
	g := newGuard(t, jwksConfig(server.URL), Options{})
	start(t, g)
	allows(t, g, sign(t, jwt.SigningMethodRS256, p.rsa, claims(nil), "kid", "r")) // waits for the first fetch
	allows(t, g, sign(t, jwt.SigningMethodES256, p.p256, claims(nil), "kid", "e"))
	allows(t, g, sign(t, jwt.SigningMethodEdDSA, p.ed, claims(nil), "kid", "o"))
	allows(t, g, sign(t, jwt.SigningMethodEdDSA, p.ed, claims(nil)))
	denies(t, g, sign(t, jwt.SigningMethodRS256, p.otherRSA, claims(nil), "kid", "r"), 401, "signature")
	denies(t, g, sign(t, jwt.SigningMethodRS256, p.rsa, claims(nil), "kid", "e"), 401, "no key is known")
	denies(t, g, sign(t, jwt.SigningMethodHS256, []byte(secret), claims(nil), "kid", "s"), 401, "")
	denies(t, g, sign(t, jwt.SigningMethodES384, p.p384, claims(nil), "kid", "p384"), 401, "")
	if n := s.fetches.Load(); n != 1 {
		t.Errorf("fetched %d times", n)
	}
}

func TestKeySetIsRefreshed(t *testing.T) {
	p := pairs()
	s := &keyServer{keys: []map[string]string{jwk("1", p.otherRSA)}}
	onKeys(t, s, func(t *testing.T, g *Guard, _ *lockedText) {
		old := sign(t, jwt.SigningMethodRS256, p.otherRSA, claims(nil), "kid", "1")
		allows(t, g, old)
		s.set(func() { s.keys = []map[string]string{jwk("2", p.rsa)} })
		allows(t, g, old)
		time.Sleep(15*time.Minute + time.Second)
		synctest.Wait()
		denies(t, g, old, 401, "no key") // revoked
		allows(t, g, sign(t, jwt.SigningMethodRS256, p.rsa, claims(nil), "kid", "2"))
	})
}

func TestUnknownKeyIDsFetchAtMostEveryTenSeconds(t *testing.T) {
	p := pairs()
	s := &keyServer{keys: []map[string]string{jwk("1", p.rsa)}}
	onKeys(t, s, func(t *testing.T, g *Guard, _ *lockedText) {
		allows(t, g, sign(t, jwt.SigningMethodRS256, p.rsa, claims(nil), "kid", "1"))
		forged := sign(t, jwt.SigningMethodRS256, p.otherRSA, claims(nil), "kid", "forged")
		for range 50 {
			denies(t, g, forged, 401, "no key")
		}
		if n := s.fetches.Load(); n != 1 {
			t.Fatalf("fetched %d times within 10 s", n)
		}
		s.set(func() { s.keys = append(s.keys, jwk("2", p.otherRSA)) })
		time.Sleep(leastPause)
		var clients sync.WaitGroup
		fresh := sign(t, jwt.SigningMethodRS256, p.otherRSA, claims(nil), "kid", "2")
		for range 50 { // all of whom wait for one fetch
			clients.Go(func() {
				if _, err := g.Check(context.Background(), bearer(fresh), remote); err != nil {
					t.Error(err)
				}
			})
		}
		clients.Wait()
		if n := s.fetches.Load(); n != 2 {
			t.Errorf("fetched %d times", n)
		}
		began := time.Now()
		for time.Since(began) < time.Minute {
			denies(t, g, forged, 401, "no key")
			time.Sleep(100 * time.Millisecond)
		}
		if n := s.fetches.Load(); n < 7 || n > 9 {
			t.Errorf("fetched %d times after a minute of forged ids", n)
		}
	})
}

func TestKeysStayWhenTheSetIsAway(t *testing.T) {
	p := pairs()
	for name, fail := range map[string]func(*keyServer){
		"500":             func(s *keyServer) { s.status = 500 },
		"a redirect":      func(s *keyServer) { s.status = 302 },
		"no answer":       func(s *keyServer) { s.hang = true },
		"no JSON":         func(s *keyServer) { s.body = "<html>" },
		"no keys":         func(s *keyServer) { s.body = `{"keys":[]}` },
		"no usable keys":  func(s *keyServer) { s.body = `{"keys":[{"kty":"oct","k":"AAAA"}]}` },
		"another object":  func(s *keyServer) { s.body = `{"error":"x"}` },
		"an endless body": func(s *keyServer) { s.body = strings.Repeat(" ", fetchBytes) + `{"keys":[]}` },
		"too many keys":   func(s *keyServer) { s.body = `{"keys":[` + strings.Repeat("{},", maxSetKeys) + `{}]}` },
	} {
		t.Run(name, func(t *testing.T) {
			s := &keyServer{keys: []map[string]string{jwk("1", p.rsa)}}
			onKeys(t, s, func(t *testing.T, g *Guard, text *lockedText) {
				token := sign(t, jwt.SigningMethodRS256, p.rsa, claims(nil), "kid", "1")
				allows(t, g, token)
				s.set(func() { fail(s) })
				time.Sleep(time.Hour)
				synctest.Wait()
				allows(t, g, token)
				fetches := s.fetches.Load()
				if fetches < 40 || fetches > 80 { // backs off to a minute
					t.Errorf("fetched %d times in an hour", fetches)
				}
				s.set(func() { s.status, s.body, s.hang, s.keys = 0, "", false, []map[string]string{jwk("2", p.p256)} })
				time.Sleep(2 * time.Minute)
				synctest.Wait()
				denies(t, g, token, 401, "no key")
				allows(t, g, sign(t, jwt.SigningMethodES256, p.p256, claims(nil), "kid", "2"))
				if strings.Count(text.String(), "cannot be fetched") != 1 || strings.Count(text.String(), "fetched again") != 1 {
					t.Errorf("logged:\n%s", text)
				}
			})
		})
	}
}

func TestBeforeTheFirstKeysNobodyIsTurnedAwayForGood(t *testing.T) {
	p := pairs()
	s := &keyServer{status: 503}
	onKeys(t, s, func(t *testing.T, g *Guard, _ *lockedText) {
		token := sign(t, jwt.SigningMethodRS256, p.rsa, claims(nil), "kid", "1")
		denies(t, g, token, 503, "cannot be fetched")
		denies(t, g, sign(t, jwt.SigningMethodHS256, []byte(secret), claims(nil)), 401, "")
		s.set(func() { s.status, s.keys = 0, []map[string]string{jwk("1", p.rsa)} })
		time.Sleep(2 * time.Second)
		synctest.Wait()
		allows(t, g, token)
	})
}

// TestWithoutRun has nobody fetch: a client waits a while and is told to come back.
func TestWithoutRun(t *testing.T) {
	p := pairs()
	synctest.Test(t, func(t *testing.T) {
		g := newGuard(t, jwksConfig("https://issuer.example.org/keys"), Options{})
		token := sign(t, jwt.SigningMethodRS256, p.rsa, claims(nil))
		began := time.Now()
		denies(t, g, token, 503, "cannot be fetched")
		if waited := time.Since(began); waited != longestWait {
			t.Errorf("waited %s", waited)
		}
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		began = time.Now()
		id, err := g.Check(ctx, bearer(token), remote)
		isDenied(t, id, err, token, 503, "")
		if waited := time.Since(began); waited != 0 {
			t.Errorf("waited %s for a client that has gone", waited)
		}
	})
}

func TestAfterRunNobodyWaits(t *testing.T) {
	p := pairs()
	synctest.Test(t, func(t *testing.T) {
		s := &keyServer{keys: []map[string]string{jwk("1", p.rsa)}}
		g := newGuard(t, jwksConfig("https://issuer.example.org/keys"), Options{Client: inProcess(s.ServeHTTP)})
		ctx, stop := context.WithCancel(context.Background())
		go func() { _ = g.Run(ctx) }()
		allows(t, g, sign(t, jwt.SigningMethodRS256, p.rsa, claims(nil)))
		stop()
		synctest.Wait()
		time.Sleep(time.Minute)
		began := time.Now()
		denies(t, g, sign(t, jwt.SigningMethodRS256, p.rsa, claims(nil), "kid", "2"), 401, "no key")
		if waited := time.Since(began); waited != 0 {
			t.Errorf("waited %s", waited)
		}
	})
}

// TestFixedKeysBesideASet verifies with both.
func TestFixedKeysBesideASet(t *testing.T) {
	p := pairs()
	synctest.Test(t, func(t *testing.T) {
		s := &keyServer{keys: []map[string]string{jwk("1", p.rsa)}}
		c := jwtConfig(Key{Alg: hs256, Secret: secret}, Key{Alg: es256, PublicKey: public(t, p.p256), KID: "fixed"})
		c.JWT.JWKS = "https://issuer.example.org/keys"
		g := newGuard(t, c, Options{Client: inProcess(s.ServeHTTP)})
		// Neither needs the set, which nobody fetches yet.
		allows(t, g, sign(t, jwt.SigningMethodHS256, []byte(secret), claims(nil), "kid", "x"))
		allows(t, g, sign(t, jwt.SigningMethodES256, p.p256, claims(nil), "kid", "fixed"))
		start(t, g)
		allows(t, g, sign(t, jwt.SigningMethodRS256, p.rsa, claims(nil), "kid", "1"))
	})
}

func TestKeysOfASet(t *testing.T) {
	p := pairs()
	with := func(j map[string]string, pairs ...string) map[string]any {
		m := map[string]any{}
		for k, v := range j {
			m[k] = v
		}
		for i := 0; i < len(pairs); i += 2 {
			m[pairs[i]] = pairs[i+1]
		}
		return m
	}
	ops := func(list ...string) map[string]any {
		m := with(jwk("x", p.p256))
		m["key_ops"] = append([]string{}, list...)
		return m
	}
	for name, tt := range map[string]struct {
		key map[string]any
		alg string // "" is left out
	}{
		"RSA":                     {with(jwk("x", p.rsa)), rs256},
		"P-256":                   {with(jwk("x", p.p256)), es256},
		"Ed25519":                 {with(jwk("x", p.ed)), edDSA},
		"P-384":                   {with(jwk("x", p.p384)), ""},
		"padded":                  {with(jwk("x", p.p256), "x", jwk("", p.p256)["x"]+"="), es256},
		"for encryption":          {with(jwk("x", p.rsa), "use", "enc"), ""},
		"of another algorithm":    {with(jwk("x", p.rsa), "alg", "RS512"), ""},
		"RSA said to be HS256":    {with(jwk("x", p.rsa), "alg", "HS256"), ""},
		"to verify":               {ops("verify"), es256},
		"to encrypt":              {ops("encrypt"), ""},
		"for nothing":             {ops(), ""},
		"a point off the curve":   {with(jwk("x", p.p256), "y", jwk("", p.p256)["x"]), ""},
		"a point of P-384":        {with(jwk("x", p.p384), "crv", "P-256"), ""},
		"short x":                 {with(jwk("x", p.p256), "x", "AAAA"), ""},
		"exponent of one":         {with(jwk("x", p.rsa), "e", "AQ"), ""},
		"even exponent":           {with(jwk("x", p.rsa), "e", "AQAA"), ""},
		"huge exponent":           {with(jwk("x", p.rsa), "e", strings.Repeat("_", 100)), ""},
		"short modulus":           {with(jwk("x", p.rsa), "n", jwk("", p.rsa)["n"][:100]), ""},
		"no modulus":              {with(jwk("x", p.rsa), "n", ""), ""},
		"symmetric":               {map[string]any{"kty": "oct", "k": jwk("", p.rsa)["n"]}, ""},
		"RSA with a curve":        {with(jwk("x", p.rsa), "crv", "P-256"), ""},
		"X25519":                  {with(jwk("x", p.ed), "crv", "X25519"), ""},
		"no base64":               {with(jwk("x", p.ed), "x", "***"), ""},
		"a long id":               {with(jwk(strings.Repeat("x", maxKID+1), p.ed)), ""},
		"members of wrong types":  {map[string]any{"kty": 1}, ""},
		"with further members":    {with(jwk("x", p.ed), "x5t", "abc", "more", "1"), edDSA},
		"a private key's members": {with(jwk("x", p.ed), "d", "AAAA"), edDSA}, // its publisher has a problem, we have not
	} {
		t.Run(name, func(t *testing.T) {
			raw, err := json.Marshal(tt.key)
			if err != nil {
				t.Fatal(err)
			}
			k, ok := parseKey(raw)
			if ok != (tt.alg != "") || k.alg != tt.alg {
				t.Errorf("taken %t as %q, want %q", ok, k.alg, tt.alg)
			}
			if ok && algorithmOf(k.material) != k.alg {
				t.Errorf("a %T for %s", k.material, k.alg)
			}
		})
	}
	for _, private := range []crypto.Signer{p.rsa, p.p256, p.ed} {
		raw, _ := json.Marshal(jwk("x", private))
		k, _ := parseKey(raw)
		if e, ok := k.material.(interface{ Equal(crypto.PublicKey) bool }); !ok || !e.Equal(private.Public()) {
			t.Errorf("%T is not what was encoded", k.material)
		}
	}
}

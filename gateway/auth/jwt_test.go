package auth

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// all is a configuration with a key of each kind.
func all(t testing.TB) Config {
	p := pairs()
	return jwtConfig(
		Key{Alg: hs256, Secret: secret, KID: "h"},
		Key{Alg: rs256, PublicKey: public(t, p.rsa), KID: "r"},
		Key{Alg: es256, PublicKey: public(t, p.p256), KID: "e"},
		Key{Alg: edDSA, PublicKey: public(t, p.ed), KID: "o"},
	)
}

func TestAlgorithms(t *testing.T) {
	g := newGuard(t, all(t), Options{})
	p := pairs()
	for _, tt := range []struct {
		method  jwt.SigningMethod
		private any
		id      string
	}{
		{jwt.SigningMethodHS256, []byte(secret), "h"},
		{jwt.SigningMethodRS256, p.rsa, "r"},
		{jwt.SigningMethodES256, p.p256, "e"},
		{jwt.SigningMethodEdDSA, p.ed, "o"},
	} {
		t.Run(tt.method.Alg(), func(t *testing.T) {
			for _, header := range [][]any{nil, {"kid", tt.id}} {
				id := allows(t, g, sign(t, tt.method, tt.private, claims(nil), header...))
				if id.Subject != "alice" || id.Key != "jwt:https://issuer.example.org:alice" {
					t.Errorf("it is %+v", id)
				}
				if want := now.Add(time.Hour + 30*time.Second); !id.Expires.Equal(want) {
					t.Errorf("expires %s, want %s", id.Expires, want)
				}
				if v, ok := id.Claim("vehicle"); !ok || !reflect.DeepEqual(v, []string{"42"}) {
					t.Errorf("vehicle: %q, %t", v, ok)
				}
			}
			token := sign(t, tt.method, tt.private, claims(nil), "kid", "unknown")
			denies(t, g, token, 401, "no key is known")
			// A configuration that names its algorithms takes no others, though there are keys.
			c := all(t)
			c.JWT.Algorithms = []string{es256}
			if tt.method.Alg() == es256 {
				c.JWT.Algorithms = []string{rs256}
			}
			denies(t, newGuard(t, c, Options{}), sign(t, tt.method, tt.private, claims(nil)), 401, "")
		})
	}
}

func TestOtherAlgorithmsOfTheSameKeys(t *testing.T) {
	g := newGuard(t, all(t), Options{})
	p := pairs()
	for method, private := range map[jwt.SigningMethod]any{
		jwt.SigningMethodHS384: []byte(secret), jwt.SigningMethodHS512: []byte(secret),
		jwt.SigningMethodRS384: p.rsa, jwt.SigningMethodRS512: p.rsa, jwt.SigningMethodPS256: p.rsa,
		jwt.SigningMethodES384: p.p384,
	} {
		denies(t, g, sign(t, method, private, claims(nil)), 401, "signature is wrong")
	}
}

func TestClaimsOfTokens(t *testing.T) {
	g := newGuard(t, jwtConfig(Key{Alg: hs256, Secret: secret}), Options{})
	at := func(d time.Duration) any { return now.Add(d).Unix() }
	for _, tt := range []struct {
		name   string
		change map[string]any
		reason string // "" is let in
	}{
		{"all is well", nil, ""},
		{"no exp", map[string]any{"exp": nil}, "lacks one of iss, aud and exp"},
		{"no iss", map[string]any{"iss": nil}, "lacks one of"},
		{"no aud", map[string]any{"aud": nil}, "lacks one of"},
		{"empty aud", map[string]any{"aud": []string{}}, "lacks one of"},
		{"no sub", map[string]any{"sub": nil}, ""},
		{"expired", map[string]any{"exp": at(-31 * time.Second)}, "has expired"},
		{"expired at the leeway's end", map[string]any{"exp": at(-30 * time.Second)}, "has expired"},
		{"expired within leeway", map[string]any{"exp": at(-29 * time.Second)}, ""},
		{"another issuer", map[string]any{"iss": "https://issuer.example.org/"}, "another issuer"},
		{"issuer is a list", map[string]any{"iss": []string{"https://issuer.example.org"}}, "wrong type"},
		{"another audience", map[string]any{"aud": "Millrace"}, "another audience"},
		{"one of several audiences", map[string]any{"aud": []string{"x", "millrace"}}, ""},
		{"audience is a number", map[string]any{"aud": []any{1, "millrace"}}, "wrong type"},
		{"not yet", map[string]any{"nbf": at(31 * time.Second)}, "not valid yet"},
		{"not yet within leeway", map[string]any{"nbf": at(29 * time.Second)}, ""},
		{"issued in the future", map[string]any{"iat": at(31 * time.Second)}, "issued in the future"},
		{"issued in the future within leeway", map[string]any{"iat": at(29 * time.Second)}, ""},
		{"exp is a text", map[string]any{"exp": "2099-01-01"}, "wrong type"},
		{"exp is true", map[string]any{"exp": true}, "wrong type"},
		{"exp is null", map[string]any{"exp": json.RawMessage("null")}, "wrong type"},
		{"exp is an object", map[string]any{"exp": map[string]any{}}, "wrong type"},
		{"exp is zero", map[string]any{"exp": 0}, "expired"},
		{"exp is negative", map[string]any{"exp": -5}, ""},
		{"exp is beyond time", map[string]any{"exp": json.RawMessage("1e300")}, "x"},
		{"exp is beyond numbers", map[string]any{"exp": json.RawMessage("1e999")}, "x"},
		{"nbf is beyond time", map[string]any{"nbf": json.RawMessage("1e300")}, "x"},
		{"iat is beyond time", map[string]any{"iat": json.RawMessage("1e18")}, "x"},
		{"sub is a number", map[string]any{"sub": 42}, "sub is no text"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			token := sign(t, jwt.SigningMethodHS256, []byte(secret), claims(tt.change))
			switch tt.reason {
			case "":
				if tt.name == "exp is negative" {
					denies(t, g, token, 401, "expired")
					return
				}
				allows(t, g, token)
			case "x": // whichever check comes first
				denies(t, g, token, 401, "")
			default:
				d := denies(t, g, token, 401, tt.reason)
				if !strings.HasPrefix(d.Challenge(), `Bearer realm="millrace", error="invalid_token"`) {
					t.Errorf("challenge %s", d.Challenge())
				}
			}
		})
	}
}

func TestTokensWithoutSubjectCountForThemselves(t *testing.T) {
	g := newGuard(t, jwtConfig(Key{Alg: hs256, Secret: secret}), Options{})
	first := sign(t, jwt.SigningMethodHS256, []byte(secret), claims(map[string]any{"sub": nil}))
	second := sign(t, jwt.SigningMethodHS256, []byte(secret), claims(map[string]any{"sub": nil, "jti": "2"}))
	a, b := allows(t, g, first), allows(t, g, second)
	if a.Key == b.Key || a.Key != allows(t, g, first).Key || strings.Contains(a.Key, first) {
		t.Errorf("keys %q and %q", a.Key, b.Key)
	}
	long := sign(t, jwt.SigningMethodHS256, []byte(secret), claims(map[string]any{"sub": strings.Repeat("s", 5000)}))
	if id := allows(t, g, long); len(id.Key) > 300 || len(id.Subject) != 5000 {
		t.Errorf("a key of %d bytes for a subject of %d", len(id.Key), len(id.Subject))
	}
}

func TestUnsignedTokens(t *testing.T) {
	g := newGuard(t, all(t), Options{})
	none := sign(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, claims(nil))
	good := sign(t, jwt.SigningMethodHS256, []byte(secret), claims(nil))
	parts := strings.Split(good, ".")
	header := func(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }
	for name, token := range map[string]string{
		"alg none":                        none,
		"alg none with a signature":       none + parts[2],
		"alg None":                        header(`{"alg":"None"}`) + "." + parts[1] + ".",
		"alg nOnE":                        header(`{"alg":"nOnE"}`) + "." + parts[1] + ".",
		"alg empty":                       header(`{"alg":""}`) + "." + parts[1] + ".",
		"alg missing":                     header(`{}`) + "." + parts[1] + "." + parts[2],
		"alg null":                        header(`{"alg":null}`) + "." + parts[1] + "." + parts[2],
		"alg a list":                      header(`{"alg":["HS256"]}`) + "." + parts[1] + "." + parts[2],
		"alg twice, none last":            header(`{"alg":"HS256","alg":"none"}`) + "." + parts[1] + "." + parts[2],
		"header null":                     header(`null`) + "." + parts[1] + "." + parts[2],
		"signature cut":                   parts[0] + "." + parts[1] + ".",
		"signature of zeros":              parts[0] + "." + parts[1] + "." + base64.RawURLEncoding.EncodeToString(make([]byte, 32)),
		"signature shortened":             good[:len(good)-4],
		"two parts":                       parts[0] + "." + parts[1],
		"five parts, as an encrypted one": good + ".a.b",
		"padding":                         good + "=",
		"line break":                      parts[0] + "." + parts[1] + ".\n" + parts[2],
		"other claims": parts[0] + "." + base64.RawURLEncoding.EncodeToString(
			[]byte(strings.Replace(decode(t, parts[1]), `"42"`, `"43"`, 1))) + "." + parts[2],
		"claims are a list": parts[0] + "." + header(`[]`) + "." + parts[2],
		"claims are null":   parts[0] + "." + header(`null`) + "." + parts[2],
		"ES256 of zeros": header(`{"alg":"ES256"}`) + "." + parts[1] + "." +
			base64.RawURLEncoding.EncodeToString(make([]byte, 64)),
		"ES256 of nothing": header(`{"alg":"ES256"}`) + "." + parts[1] + ".",
		"only dots":        "..",
	} {
		t.Run(name, func(t *testing.T) {
			id, err := g.CheckToken(context.Background(), token, request("/"), remote)
			isDenied(t, id, err, token, 401, "")
		})
	}
}

func decode(t *testing.T, part string) string {
	text, err := base64.RawURLEncoding.DecodeString(part)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestPublicKeysAreNoSecrets signs with what everybody knows.
func TestPublicKeysAreNoSecrets(t *testing.T) {
	p := pairs()
	text := public(t, p.rsa)
	block, _ := pem.Decode([]byte(text))
	for name, c := range map[string]Config{
		"every kind of key": all(t),
		"one key":           jwtConfig(Key{Alg: rs256, PublicKey: text, KID: "r"}),
		"HS256 allowed as well": jwtConfig(
			Key{Alg: hs256, Secret: secret, KID: "h"}, Key{Alg: rs256, PublicKey: text, KID: "r"}),
	} {
		t.Run(name, func(t *testing.T) {
			g := newGuard(t, c, Options{})
			for _, known := range [][]byte{
				[]byte(text), []byte(strings.TrimSpace(text)), block.Bytes, p.rsa.N.Bytes(),
				x509.MarshalPKCS1PublicKey(&p.rsa.PublicKey), p.ed.Public().(ed25519.PublicKey),
				{},
			} {
				for _, id := range []string{"r", "h", "o", ""} {
					denies(t, g, sign(t, jwt.SigningMethodHS256, known, claims(nil), "kid", id), 401, "")
				}
				denies(t, g, sign(t, jwt.SigningMethodHS256, known, claims(nil)), 401, "")
			}
		})
	}
}

func TestKeysOfAnotherKind(t *testing.T) {
	p := pairs()
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(p.rsa)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		key     Key
		problem string
	}{
		"wrong curve":            {Key{Alg: es256, PublicKey: public(t, p.p384)}, "no key for ES256"},
		"short RSA":              {Key{Alg: rs256, PublicKey: public(t, small)}, "no key for RS256"},
		"RSA for EdDSA":          {Key{Alg: edDSA, PublicKey: public(t, p.rsa)}, "a key for RS256, not for EdDSA"},
		"a private key":          {Key{Alg: rs256, PublicKey: string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))}, "private key"},
		"no PEM":                 {Key{Alg: rs256, PublicKey: "MIIB"}, "no PEM"},
		"a public key as secret": {Key{Alg: hs256, Secret: public(t, p.rsa)}, "PEM text"},
		"a short secret":         {Key{Alg: hs256, Secret: secret[:31]}, "fewer than 32"},
		"no secret":              {Key{Alg: hs256}, "fewer than 32"},
		"alg none":               {Key{Alg: "none", Secret: secret}, "not supported"},
		"HS256 with a file":      {Key{Alg: hs256, File: "x"}, "has a secret"},
		"RS256 with a secret":    {Key{Alg: rs256, Secret: secret}, "has a public key"},
		"neither text nor file":  {Key{Alg: rs256}, "one of public_key and file"},
		"text and file":          {Key{Alg: rs256, PublicKey: public(t, p.rsa), File: "x"}, "one of public_key and file"},
		"no file":                {Key{Alg: rs256, File: filepath.Join(t.TempDir(), "none.pem")}, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := New(jwtConfig(tt.key), Options{})
			if err == nil || !strings.Contains(err.Error(), tt.problem) {
				t.Errorf("New: %v, want %q", err, tt.problem)
			}
			if err != nil && strings.Contains(err.Error(), secret) {
				t.Errorf("the error holds the secret: %v", err)
			}
		})
	}
	// A token whose header says ES256 while another curve signed it.
	g := newGuard(t, all(t), Options{})
	good := strings.Split(sign(t, jwt.SigningMethodES256, p.p256, claims(nil)), ".")
	signed, err := jwt.SigningMethodES384.Sign(good[0]+"."+good[1], p.p384)
	if err != nil {
		t.Fatal(err)
	}
	denies(t, g, good[0]+"."+good[1]+"."+base64.RawURLEncoding.EncodeToString(signed), 401, "signature is wrong")
}

func TestCertificatesAndOldPEM(t *testing.T) {
	p := pairs()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: now}
	der, err := x509.CreateCertificate(rand.Reader, template, template, p.p256.Public(), p.p256)
	if err != nil {
		t.Fatal(err)
	}
	certificate := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	g := newGuard(t, jwtConfig(Key{Alg: es256, PublicKey: certificate}), Options{})
	allows(t, g, sign(t, jwt.SigningMethodES256, p.p256, claims(nil)))
	old := string(pem.EncodeToMemory(&pem.Block{Type: "RSA PUBLIC KEY", Bytes: x509.MarshalPKCS1PublicKey(&p.rsa.PublicKey)}))
	g = newGuard(t, jwtConfig(Key{Alg: rs256, PublicKey: old}), Options{})
	allows(t, g, sign(t, jwt.SigningMethodRS256, p.rsa, claims(nil)))
}

// TestHeaders plays what a forger writes into the header of a token.
func TestHeaders(t *testing.T) {
	p := pairs()
	g := newGuard(t, all(t), Options{Client: inProcess(func(http.ResponseWriter, *http.Request) {
		t.Error("a header of a token made us fetch something")
	})})
	forger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, header := range map[string][]any{
		"his own key":            {"jwk", jwk("", forger)},
		"his own key, our id":    {"jwk", jwk("e", forger), "kid", "e"},
		"a place of keys":        {"jku", "https://forger.example.org/keys"},
		"a place of a chain":     {"x5u", "https://forger.example.org/chain"},
		"a chain":                {"x5c", []string{"MIIB"}},
		"kid is a path":          {"kid", "../../../dev/null"},
		"kid is SQL":             {"kid", "x' UNION SELECT 'secret"},
		"kid is of another key":  {"kid", "h"},
		"kid is empty":           {"kid", ""},
		"an unencoded payload":   {"b64", false, "crit", []string{"b64"}},
		"another type of tokens": {"typ", "JWE", "cty", "JWT"},
	} {
		t.Run(name, func(t *testing.T) {
			denies(t, g, sign(t, jwt.SigningMethodES256, forger, claims(nil), header...), 401, "")
		})
	}
	for name, header := range map[string][]any{
		"kid is a number": {"kid", 1},
		"kid is a list":   {"kid", []string{"e"}},
		"kid is null":     {"kid", nil},
		"kid is long":     {"kid", strings.Repeat("e", 257)},
		"critical":        {"crit", []string{"exp"}},
		"nothing is critical, against the standard": {"crit", []string{}},
	} {
		t.Run("signed by us, "+name, func(t *testing.T) {
			denies(t, g, sign(t, jwt.SigningMethodES256, p.p256, claims(nil), header...), 401, "")
		})
	}
	allows(t, g, sign(t, jwt.SigningMethodES256, p.p256, claims(nil), "jku", "https://forger.example.org/keys"))
}

func TestHugeTokens(t *testing.T) {
	g := newGuard(t, jwtConfig(Key{Alg: hs256, Secret: secret}), Options{})
	size := func(n int) string {
		return sign(t, jwt.SigningMethodHS256, []byte(secret), claims(map[string]any{"pad": strings.Repeat("x", n)}))
	}
	allows(t, g, size(8<<10))
	huge := size(12 << 10)
	if len(huge) <= maxToken {
		t.Fatalf("%d bytes are not huge", len(huge))
	}
	denies(t, g, huge, 401, "too long")
}

// TestRotatedFixedKeys has two keys of one algorithm without ids: old and new.
func TestRotatedFixedKeys(t *testing.T) {
	p := pairs()
	g := newGuard(t, jwtConfig(Key{Alg: rs256, PublicKey: public(t, p.otherRSA)}, Key{Alg: rs256, PublicKey: public(t, p.rsa)}), Options{})
	allows(t, g, sign(t, jwt.SigningMethodRS256, p.rsa, claims(nil), "kid", "whatever"))
	allows(t, g, sign(t, jwt.SigningMethodRS256, p.otherRSA, claims(nil)))
}

func TestKeyFilesAreReadAgain(t *testing.T) {
	p := pairs()
	path := filepath.Join(t.TempDir(), "key.pem")
	write := func(text string, age time.Duration) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, now, now.Add(age)); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		logger, text := logged()
		write(public(t, p.rsa), 0)
		g := newGuard(t, jwtConfig(Key{Alg: rs256, File: path}), Options{Logger: logger})
		start(t, g)
		old := sign(t, jwt.SigningMethodRS256, p.rsa, claims(nil))
		fresh := sign(t, jwt.SigningMethodRS256, p.otherRSA, claims(nil))
		look := func() { time.Sleep(watchEvery + time.Second); synctest.Wait() }
		allows(t, g, old)
		look()
		allows(t, g, old)
		write("half a file", time.Second)
		look()
		look()
		allows(t, g, old)
		if n := strings.Count(text.String(), "cannot be read again"); n != 1 {
			t.Errorf("logged %d times:\n%s", n, text)
		}
		write(public(t, p.otherRSA), 2*time.Second)
		look()
		allows(t, g, fresh)
		denies(t, g, old, 401, "signature is wrong")
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		look()
		allows(t, g, fresh)
		if !strings.Contains(text.String(), "has changed") {
			t.Errorf("the change is not logged:\n%s", text)
		}
	})
}

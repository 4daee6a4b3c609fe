package auth

import (
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"
)

// FuzzTokenOf looks for a token in what a client may send.
func FuzzTokenOf(f *testing.F) {
	f.Add("Bearer abc", "token=def&a=b", "session=ghi; a=b")
	f.Add("", "token=%64&token=e", "session=1; session=2")
	f.Add("Basic x", "%zz", `session="quoted"`)
	f.Fuzz(func(t *testing.T, authorization, query, cookie string) {
		g := &Guard{header: "Authorization", token: Token{Query: "token", Cookie: "session", Message: true}}
		r := &http.Request{URL: &url.URL{Path: "/", RawQuery: query}, Header: http.Header{}}
		r.Header.Set("Authorization", authorization)
		r.Header.Set("Cookie", cookie)
		token, err := g.tokenOf(r)
		switch {
		case err != nil && token != "":
			t.Errorf("a token %q and an error %v", token, err)
		case err == nil && g.AwaitsMessage(r) != (token == ""):
			t.Errorf("with the token %q it awaits one: %t", token, g.AwaitsMessage(r))
		case token != "" && strings.HasPrefix(authorization, "Bearer ") && strings.TrimSpace(authorization[7:]) != "" &&
			token != strings.TrimSpace(authorization[7:]):
			t.Errorf("%q, though the header says %q", token, authorization)
		}
	})
}

// FuzzVerify signs whatever header and claims; what is let in has to hold all conditions.
func FuzzVerify(f *testing.F) {
	f.Add(`{"alg":"HS256","typ":"JWT"}`, `{"iss":"https://issuer.example.org","aud":"millrace","sub":"a","exp":1769864400}`, "sub")
	f.Add(`{"alg":"HS256","kid":"k"}`, `{"iss":"https://issuer.example.org","aud":["x","millrace"],"exp":1769864400,"a":{"b":[1,"2",true]}}`, "a.b")
	f.Add(`{"alg":"none"}`, `{"exp":1e300}`, "")
	f.Add(`{"alg":"HS256","crit":["b64"],"b64":false}`, `{"exp":"x","nbf":null}`, "..")
	c := jwtConfig(Key{Alg: hs256, Secret: secret})
	f.Fuzz(func(t *testing.T, header, payload, path string) {
		g := newGuard(t, c, Options{})
		b64 := base64.RawURLEncoding.EncodeToString
		text := b64([]byte(header)) + "." + b64([]byte(payload))
		signature, err := jwt.SigningMethodHS256.Sign(text, []byte(secret))
		if err != nil {
			t.Fatal(err)
		}
		id, err := g.CheckToken(context.Background(), text+"."+b64(signature), request("/"), remote)
		if err != nil {
			if d, ok := errors.AsType[*Denied](err); !ok || d.Status != 401 || d.Reason == "" {
				t.Errorf("denied with %#v", err)
			}
			return
		}
		if id.Claims["iss"] != "https://issuer.example.org" || id.Claims["aud"] == nil || id.Key == "" || len(id.Key) > 300 ||
			!id.Expires.After(now) || id.Expires.Year() > 10_000 {
			t.Errorf("let in: %+v", id)
		}
		if values, ok := id.Claim(path); ok != (len(values) > 0) {
			t.Errorf("%q: %q, %t", path, values, ok)
		}
	})
}

// FuzzParseSet reads what a key server may send.
func FuzzParseSet(f *testing.F) {
	f.Add([]byte(`{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB"},{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`))
	f.Add([]byte(`{"keys":[{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}`))
	f.Add([]byte(`{"keys":null}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		keys, err := parseSet(text)
		if (err == nil) != (len(keys) > 0) || len(keys) > maxSetKeys {
			t.Errorf("%d keys, error %v", len(keys), err)
		}
		for _, k := range keys {
			if k.alg == "" || k.alg == hs256 || algorithmOf(k.material) != k.alg || len(k.id) > maxKID {
				t.Errorf("a %T for %q", k.material, k.alg)
			}
		}
	})
}

// FuzzParseAnswer reads what a callback may answer.
func FuzzParseAnswer(f *testing.F) {
	f.Add([]byte(`{"subject":"a","claims":{"b":[1,"c"]},"expires":1769864400,"key":"k"}`), "b")
	f.Add([]byte(`{"expires":"2026-01-31T12:00:00Z"}`), "a.b")
	f.Add([]byte(`{"reason":"no\n"}`), "")
	f.Fuzz(func(t *testing.T, text []byte, path string) {
		if id, err := parseAnswer(text); err == nil {
			if values, ok := id.Claim(path); ok != (len(values) > 0) {
				t.Errorf("%q: %q, %t", path, values, ok)
			}
			if len(id.Key) > 300 {
				t.Errorf("a key of %d bytes", len(id.Key))
			}
		}
		if r := parseReason(text); len(r) > reasonBytes || strings.ContainsAny(r, "\r\n\x00") {
			t.Errorf("reason %q", r)
		}
	})
}

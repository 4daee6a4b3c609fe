package auth

import (
	"context"
	"testing"

	"github.com/golang-jwt/jwt/v5"
)

// BenchmarkCheck decides about good tokens of each kind.
func BenchmarkCheck(b *testing.B) {
	p := pairs()
	c := all(b)
	c.APIKeys = []APIKey{{Name: "web", Key: "0123456789abcdef"}}
	g := newGuard(b, c, Options{})
	for _, bench := range []struct{ name, token string }{
		{"key", "0123456789abcdef"},
		{"HS256", sign(b, jwt.SigningMethodHS256, []byte(secret), claims(nil), "kid", "h")},
		{"RS256", sign(b, jwt.SigningMethodRS256, p.rsa, claims(nil), "kid", "r")},
		{"ES256", sign(b, jwt.SigningMethodES256, p.p256, claims(nil), "kid", "e")},
		{"EdDSA", sign(b, jwt.SigningMethodEdDSA, p.ed, claims(nil), "kid", "o")},
	} {
		b.Run(bench.name, func(b *testing.B) {
			r := bearer(bench.token)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := g.Check(context.Background(), r, remote); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

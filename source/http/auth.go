package httpsource

import (
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"strings"
)

// guard says who may post.
type guard struct {
	tokens    [][sha256.Size]byte // their hashes: equally long, so that comparing tells nothing of them
	signature signature           // nil if webhooks are not taken
}

func newGuard(c *Config) guard {
	var g guard
	for _, token := range c.Tokens {
		g.tokens = append(g.tokens, sha256.Sum256([]byte(token)))
	}
	g.signature = newSignature(c.Signature)
	return g
}

// admit looks at the headers. It returns an answer with a code if the request is refused; signed says that
// the body is to be checked, too.
func (g *guard) admit(r *http.Request) (signed bool, refused answer) {
	if len(g.tokens) == 0 && g.signature == nil {
		// Anyone on this machine may post, but pages that its browsers show are not this machine: a page can
		// post text to any address, without asking, even by a name that leads here.
		if r.Header.Get("Origin") != "" || r.Header.Get("Sec-Fetch-Site") != "" {
			return false, answer{code: http.StatusForbidden, problem: "a browser needs a token here; configure tokens"}
		}
		return false, answer{}
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if strings.EqualFold(scheme, "Bearer") && len(g.tokens) > 0 {
		if g.knows(strings.TrimSpace(token)) {
			return false, answer{}
		}
		return false, answer{code: http.StatusUnauthorized, problem: "the token is wrong"}
	}
	if g.signature == nil {
		return false, answer{code: http.StatusUnauthorized, problem: "send a token: Authorization: Bearer TOKEN"}
	}
	if !g.signature.present(r.Header) {
		return false, answer{code: http.StatusUnauthorized, problem: "the request has no " + g.signature.name()}
	}
	return true, answer{}
}

// knows compares with all tokens, and with the same effort whatever they are.
func (g *guard) knows(token string) bool {
	hash := sha256.Sum256([]byte(token))
	known := 0
	for i := range g.tokens {
		known |= subtle.ConstantTimeCompare(hash[:], g.tokens[i][:])
	}
	return known == 1
}

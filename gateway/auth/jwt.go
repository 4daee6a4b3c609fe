package auth

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// verifier takes JSON web tokens.
type verifier struct {
	issuer string
	leeway time.Duration
	parser *jwt.Parser
	now    func() time.Time
	logger *slog.Logger
	set    *keySet // nil if none

	config []Key
	fixed  []atomic.Pointer[key] // the keys of config, replaced when their files change
	read   []os.FileInfo         // what was there when a key's file was read; of Run alone
}

func newVerifier(c JWT, o Options) (*verifier, error) {
	if len(c.Algorithms) == 0 {
		c.Algorithms = c.verified()
	}
	v := &verifier{
		issuer: c.Issuer, leeway: c.Leeway, now: o.Now, logger: o.Logger,
		config: c.Keys, fixed: make([]atomic.Pointer[key], len(c.Keys)), read: make([]os.FileInfo, len(c.Keys)),
		parser: jwt.NewParser(
			jwt.WithValidMethods(c.Algorithms), jwt.WithIssuer(c.Issuer), jwt.WithAudience(c.Audience...),
			jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithLeeway(c.Leeway), jwt.WithTimeFunc(o.Now),
			jwt.WithStrictDecoding(), jwt.WithJSONNumber(),
		),
	}
	for i := range c.Keys {
		if err := v.load(i); err != nil {
			return nil, fmt.Errorf("keys[%d]: %w", i, err)
		}
	}
	if c.JWKS != "" {
		v.set = newKeySet(c.JWKS, c.Refresh, o)
	}
	return v, nil
}

// load makes the key that the configuration describes.
func (v *verifier) load(i int) error {
	k := v.config[i]
	text := []byte(k.PublicKey)
	switch {
	case k.Alg == hs256:
		v.fixed[i].Store(&key{alg: hs256, id: k.KID, material: []byte(k.Secret)})
		return nil
	case k.File != "":
		info, err := os.Stat(k.File) // before reading: a change in between is seen the next time
		if err != nil {
			return fmt.Errorf("file: %w", err)
		}
		if text, err = readPEM(k.File); err != nil {
			return fmt.Errorf("file: %w", err)
		}
		v.read[i] = info
	}
	material, err := parsePublicKey(k.Alg, text)
	if err != nil {
		return err
	}
	v.fixed[i].Store(&key{alg: k.Alg, id: k.KID, material: material})
	return nil
}

// watchEvery is how often key files are looked at.
const watchEvery = 10 * time.Second

// watchFiles reads key files again when they have changed. One that is gone or wrong leaves its old key.
func (v *verifier) watchFiles(ctx context.Context) {
	if !slices.ContainsFunc(v.config, func(k Key) bool { return k.File != "" }) {
		return
	}
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	last := make([]string, len(v.config)) // what was logged last of each: once is enough
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		for i, k := range v.config {
			if k.File == "" {
				continue
			}
			info, err := os.Stat(k.File)
			if err == nil && info.ModTime().Equal(v.read[i].ModTime()) && info.Size() == v.read[i].Size() {
				last[i] = ""
				continue
			}
			if err == nil {
				err = v.load(i)
			}
			switch {
			case err == nil:
				last[i] = ""
				v.logger.Info("gateway: a key of tokens has changed", "file", k.File)
			case err.Error() != last[i]:
				last[i] = err.Error()
				v.logger.Warn("gateway: a key of tokens cannot be read again, the old one stays", "file", k.File, "error", err)
			}
		}
	}
}

// verify decides about a token.
func (v *verifier) verify(ctx context.Context, token string) (Identity, *Denied) {
	if strings.ContainsAny(token, "\r\n") { // base64 would skip them, and one token have many forms
		return Identity{}, denied(http.StatusUnauthorized, "the token is no JSON web token")
	}
	claims := jwt.MapClaims{}
	var why *Denied
	_, err := v.parser.ParseWithClaims(token, claims, func(t *jwt.Token) (any, error) {
		var keys []any
		if keys, why = v.candidates(ctx, t); why != nil {
			return nil, why
		}
		set := jwt.VerificationKeySet{}
		for _, k := range keys {
			set.Keys = append(set.Keys, k)
		}
		return set, nil
	})
	if why != nil {
		return Identity{}, why
	}
	if err != nil {
		return Identity{}, denied(http.StatusUnauthorized, reason(err))
	}
	for _, name := range []string{"exp", "nbf", "iat"} {
		if !plausible(claims[name]) {
			return Identity{}, denied(http.StatusUnauthorized, "the token's "+name+" is no time")
		}
	}
	subject, err := claims.GetSubject()
	if err != nil {
		return Identity{}, denied(http.StatusUnauthorized, "the token's sub is no text")
	}
	expires, err := claims.GetExpirationTime()
	if err != nil || expires == nil { // the parser has seen to it
		return Identity{}, denied(http.StatusUnauthorized, "the token has no exp")
	}
	id := Identity{Subject: subject, Claims: claims, Expires: expires.Add(v.leeway)}
	if subject == "" { // then nothing says whose it is, and it counts for itself
		signed := token[:strings.LastIndexByte(token, '.')] // signatures of one content may differ
		hash := sha256.Sum256([]byte(signed))
		id.Key = "jwt:" + v.issuer + "::" + hex.EncodeToString(hash[:16])
	} else {
		id.Key = limitKey("jwt:"+v.issuer+":", subject)
	}
	return id, nil
}

// candidates returns the keys that may have signed a token: those of its algorithm, and of its key id if
// it names one. Its header is not trusted with anything else: not with keys (jwk, x5c), nor with places
// of keys (jku, x5u).
func (v *verifier) candidates(ctx context.Context, t *jwt.Token) ([]any, *Denied) {
	if _, critical := t.Header["crit"]; critical { // RFC 7515, section 4.1.11: we know none of them
		return nil, denied(http.StatusUnauthorized, "the token demands an extension that is not supported")
	}
	id := ""
	if given, there := t.Header["kid"]; there {
		var ok bool
		if id, ok = given.(string); !ok || len(id) > maxKID {
			return nil, denied(http.StatusUnauthorized, "the token's kid is no key id")
		}
	}
	alg := t.Method.Alg()
	named := false // by its id
	var keys []any
	gather := func(k *key) {
		if k.alg == alg && (id == "" || k.id == "" || k.id == id) {
			named = named || id != "" && k.id == id
			keys = append(keys, k.material)
		}
	}
	for i := range v.fixed {
		gather(v.fixed[i].Load())
	}
	if v.set == nil || named || alg == hs256 {
		return some(keys)
	}
	fixed := len(keys)
	for again := false; ; again = true {
		loaded := v.set.keys.Load()
		if loaded != nil {
			for i := range *loaded {
				gather(&(*loaded)[i])
			}
		}
		switch {
		case len(keys) > fixed:
			return some(keys)
		case !again && v.set.refresh(ctx): // the set may have got a new key
		case loaded == nil && fixed == 0:
			return nil, denied(http.StatusServiceUnavailable, "the keys of tokens cannot be fetched at the moment")
		default:
			return some(keys)
		}
	}
}

func some(keys []any) ([]any, *Denied) {
	if len(keys) == 0 {
		return nil, denied(http.StatusUnauthorized, "no key is known that may have signed the token")
	}
	return keys, nil
}

// reason puts into words that are safe to send why a token is refused.
func reason(err error) string {
	for _, r := range []struct {
		err  error
		text string
	}{
		{jwt.ErrTokenMalformed, "the token is no JSON web token"},
		{jwt.ErrTokenUnverifiable, "the token is signed in a way that is not supported"},
		{jwt.ErrTokenSignatureInvalid, "the token's signature is wrong"},
		{jwt.ErrTokenRequiredClaimMissing, "the token lacks one of iss, aud and exp"},
		{jwt.ErrInvalidType, "a claim of the token has a wrong type"},
		{jwt.ErrTokenInvalidIssuer, "the token is of another issuer"},
		{jwt.ErrTokenInvalidAudience, "the token is for another audience"},
		{jwt.ErrTokenExpired, "the token has expired"},
		{jwt.ErrTokenNotValidYet, "the token is not valid yet"},
		{jwt.ErrTokenUsedBeforeIssued, "the token was issued in the future"},
	} {
		if errors.Is(err, r.err) {
			return r.text
		}
	}
	return "the token is wrong"
}

// plausible says whether a claim is a time up to the year 9999, or not there. Larger numbers overflow
// somewhere on the way to a time.
func plausible(claim any) bool {
	if claim == nil {
		return true
	}
	number, ok := claim.(json.Number)
	if !ok {
		return false
	}
	seconds, err := number.Float64()
	return err == nil && seconds >= 0 && seconds < 253_402_300_800
}

// limitKey is the text to count a subject by. A subject may be as long as a token, and would be kept for
// each connection.
func limitKey(prefix, subject string) string {
	if len(prefix)+len(subject) <= 256 {
		return prefix + subject
	}
	hash := sha256.Sum256([]byte(prefix + subject))
	return prefix[:min(len(prefix), 64)] + "#" + hex.EncodeToString(hash[:])
}

package auth

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"
)

// Config says who may connect. Several ways may stand side by side: any that accepts will do, and they
// are asked in the order API key, JWT, callback. A Config without any part lets everyone in.
//
// An endpoint's Config replaces the gateway's as a whole.
type Config struct {
	// Open lets everyone in. It is for an endpoint that lifts what the gateway demands, and has to be said.
	Open bool `yaml:"open"`
	// APIKeys are secrets that programs send as their token.
	APIKeys []APIKey `yaml:"api_keys"`
	// JWT takes signed JSON web tokens (RFC 7519).
	JWT *JWT `yaml:"jwt"`
	// Callback asks an HTTP service.
	Callback *Callback `yaml:"callback"`
	// Token says where a client's token stands. Default: the header Authorization: Bearer TOKEN.
	Token Token `yaml:"token"`
}

// APIKey is a secret that is a token by itself.
type APIKey struct {
	// Name stands for the key in limits and logs: 1 to 64 letters, digits, dots, hyphens and underscores.
	Name string `yaml:"name"`
	// Key is the secret, at least 16 printable characters; best taken from outside of the file:
	// ${env:NAME} or ${file:PATH}.
	Key string `yaml:"key,secret"`
	// Claims are what a JWT would claim, for endpoints with key: "claim:NAME". None if absent.
	Claims map[string]string `yaml:"claims"`
}

// JWT describes which tokens are taken. A token must have iss, aud and exp; nbf and iat are checked if
// they are there.
type JWT struct {
	// Issuer is what iss must be, exactly. Required.
	Issuer string `yaml:"issuer"`
	// Audience lists what aud may be; a token for one of them will do. Required.
	Audience []string `yaml:"audience"`
	// Keys are those that verify signatures.
	Keys []Key `yaml:"keys"`
	// JWKS is the URL of a JSON web key set (RFC 7517) with further keys: https, or http on loopback. Its
	// RSA keys of 2048 bits and more, P-256 and Ed25519 keys are used; others, symmetric ones above all,
	// are left out.
	JWKS string `yaml:"jwks"`
	// Refresh is how often the key set is fetched. A token with a key id that is not in the set has it
	// fetched at once, though at most every 10 seconds. If fetching fails the old keys stay. Default 15m,
	// at least 10s.
	Refresh time.Duration `yaml:"refresh"`
	// Leeway is how far the issuer's clock may be off: a token is taken, and its connection kept, for so
	// long after exp. Default 30s, at most 5m.
	Leeway time.Duration `yaml:"leeway"`
	// Algorithms are the signatures that are taken: HS256, RS256, ES256, EdDSA. Default: those of Keys and,
	// with JWKS, RS256, ES256 and EdDSA.
	Algorithms []string `yaml:"algorithms"`
}

// Key verifies the signatures of one algorithm, and no other.
type Key struct {
	// Alg is HS256, RS256, ES256 or EdDSA.
	Alg string `yaml:"alg"`
	// Secret is the shared secret of HS256, at least 32 bytes; best taken from outside of the file.
	Secret string `yaml:"secret,secret"`
	// PublicKey is the public key of the other algorithms as PEM text, a PUBLIC KEY or a CERTIFICATE.
	PublicKey string `yaml:"public_key"`
	// File is a file with such a PEM text, instead of PublicKey. It is read again when it changes.
	File string `yaml:"file,path,watched"`
	// KID is the key's id. A key with an id verifies the tokens that name it or none; one without an id is
	// tried for every token of its algorithm.
	KID string `yaml:"kid"`
}

// Callback is an HTTP service that decides. It is sent, as POST with a JSON body,
//
//	{"path": "/vehicles", "query": "VehicleID=42", "headers": {"Origin": "https://app.example.org"},
//	 "remote": "203.0.113.7", "token": "..."}
//
// for each connection that no API key and no JWT has let in, with and without a token. The query is whole:
// a token in it is there, too. It answers 200 with
//
//	{"subject": "alice", "claims": {"vehicle": "42"}, "expires": "2026-01-31T12:00:00Z", "key": "alice"}
//
// to let the client in, all members being optional: expires (RFC 3339 or seconds since 1970) closes the
// connection then, key is what limits per token count by (default: the subject). It answers 401 or 403,
// with {"reason": "..."} if it likes, to turn the client away. Every other answer, redirects included,
// and none within Timeout, turns it away for now (503).
type Callback struct {
	// URL is where it listens: https, or http on loopback.
	URL string `yaml:"url"`
	// Insecure takes http beyond loopback. Whoever can read that network sees the tokens, whoever can
	// change what goes over it decides who connects.
	Insecure bool `yaml:"insecure"`
	// Timeout bounds the wait for the answer. Default 5s, at most 30s.
	Timeout time.Duration `yaml:"timeout"`
	// Headers are the client's headers to send along, besides Origin and User-Agent.
	Headers []string `yaml:"headers"`
	// Cache is how long an answer 200, 401 or 403 is taken for the same question again (every member of it
	// counts), though not beyond its expires. The newest 10,000 answers are kept. Default 0: not at all.
	Cache time.Duration `yaml:"cache"`
}

// Token says where a client's token stands. A token is looked for in the header, the query, the cookie;
// the first that is there counts.
type Token struct {
	// Header is the header whose whole value is the token. Default Authorization, whose value is Bearer TOKEN.
	Header string `yaml:"header"`
	// Query is a parameter of the query string, for EventSource and WebSocket in browsers, which cannot set
	// headers. URLs end up in the logs of proxies: let such tokens be short-lived. None if absent.
	Query string `yaml:"query"`
	// Cookie is the exact name of a cookie. Browsers send cookies whichever page asks, so it is only as safe
	// as the gateway's origins are exact: never with "*". None if absent.
	Cookie string `yaml:"cookie"`
	// Message takes the token as first message of a millrace.v1 connection, {"auth": "TOKEN"}, if the
	// request has none; a callback, too, is asked only then. Default false.
	Message bool `yaml:"message"`
}

// What algorithms may say.
const (
	hs256 = "HS256"
	rs256 = "RS256"
	es256 = "ES256"
	edDSA = "EdDSA"
)

var algorithms = []string{hs256, rs256, es256, edDSA}

// Bounds of what may be configured. Messages about secrets hold them in words: what is printed of a text that came from
// outside is where it came from.
const (
	leastAPIKey  = 16 // bytes
	leastSecret  = 32 // bytes; RFC 7518, section 3.2: as long as the hash
	leastRefresh = 10 * time.Second
	mostLeeway   = 5 * time.Minute
	mostTimeout  = 30 * time.Second
	mostCache    = 24 * time.Hour
)

// SetDefaults sets what the configuration may leave out.
func (j *JWT) SetDefaults() {
	j.Refresh = 15 * time.Minute
	j.Leeway = 30 * time.Second
}

// SetDefaults sets what the configuration may leave out.
func (c *Callback) SetDefaults() { c.Timeout = 5 * time.Second }

// UsesCookie says whether a token may stand in a cookie, which is safe only where the pages that may
// connect are listed.
func (c *Config) UsesCookie() bool { return c.guarded() && c.Token.Cookie != "" }

// TokenHeader is the header in which a token may stand: what Access-Control-Allow-Headers has to name.
func (c *Config) TokenHeader() string {
	if c.Token.Header == "" {
		return "Authorization"
	}
	return http.CanonicalHeaderKey(c.Token.Header)
}

// guarded says whether not everyone may connect.
func (c *Config) guarded() bool { return len(c.APIKeys) > 0 || c.JWT != nil || c.Callback != nil }

// Validate reports every problem with the path of its key. It is meant for a section that is there: one
// without any way in, which New takes as open, is a problem here unless it says so. It quotes no secret.
func (c *Config) Validate(problem func(path, format string, args ...any)) {
	switch {
	case c.Open && c.guarded():
		problem("open", "it contradicts api_keys, jwt and callback; remove it, or these")
	case !c.Open && !c.guarded():
		problem("", "it names no way in; write api_keys, jwt or callback, or open: true to let everyone in")
	}
	c.validateAPIKeys(problem)
	if c.JWT != nil {
		c.JWT.validate(below("jwt", problem))
	}
	if c.Callback != nil {
		c.Callback.validate(below("callback", problem))
	}
	c.Token.validate(below("token", problem))
}

// Check reports key files that can't be used, with the path of their key.
func (c *Config) Check(problem func(path, format string, args ...any)) {
	if c.JWT == nil {
		return
	}
	for i, k := range c.JWT.Keys {
		if k.File == "" {
			continue
		}
		text, err := readPEM(k.File)
		if err == nil {
			_, err = parsePublicKey(k.Alg, text)
		}
		if failure, ok := errors.AsType[*os.PathError](err); ok {
			err = failure.Err // without the path a second time
		}
		if err != nil {
			problem(fmt.Sprintf("jwt.keys[%d].file", i), "%q: %v", k.File, err)
		}
	}
}

func below(key string, problem func(path, format string, args ...any)) func(path, format string, args ...any) {
	return func(path, format string, args ...any) {
		problem(strings.TrimSuffix(key+"."+path, "."), format, args...)
	}
}

func (c *Config) validateAPIKeys(problem func(path, format string, args ...any)) {
	names, keys := map[string]bool{}, map[string]bool{}
	for i, k := range c.APIKeys {
		at := fmt.Sprintf("api_keys[%d]", i)
		switch {
		case !plainName(k.Name):
			problem(at+".name", "%.80q is no name; write 1 to 64 letters, digits, dots, hyphens and underscores, such as web", k.Name)
		case names[k.Name]:
			problem(at+".name", "%q is the name of another key, too; limits could not tell them apart", k.Name)
		}
		switch {
		case len(k.Key) < leastAPIKey:
			problem(at+".key", "it has fewer than 16 characters and can be guessed; use as many random ones")
		case len(k.Key) > maxToken:
			problem(at+".key", "it has more than 16384 characters, and no token may")
		case strings.ContainsFunc(k.Key, func(r rune) bool { return r <= ' ' || r > '~' }):
			problem(at+".key", "it holds a space or a character that no header can carry, perhaps a line break at its end")
		case keys[k.Key]:
			problem(at+".key", "it is the same as another one's; every name needs a key of its own")
		}
		names[k.Name], keys[k.Key] = true, true
	}
}

func plainName(s string) bool {
	return s != "" && len(s) <= 64 &&
		strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") == ""
}

func (j *JWT) validate(problem func(path, format string, args ...any)) {
	if j.Issuer == "" {
		problem("issuer", "it is missing; write what the tokens' iss is, or every issuer's tokens would do")
	}
	if len(j.Audience) == 0 || slices.Contains(j.Audience, "") {
		problem("audience", "it is missing; write what the tokens' aud is, such as [millrace], "+
			"or tokens meant for other services would do")
	}
	if len(j.Keys) == 0 && j.JWKS == "" {
		problem("", "there is no key to verify signatures; write keys or jwks")
	}
	for i := range j.Keys {
		j.Keys[i].validate(below(fmt.Sprintf("keys[%d]", i), problem))
	}
	if j.JWKS != "" {
		if why := wrongURL(j.JWKS, false); why != "" {
			problem("jwks", "%s", why)
		}
	}
	verified := j.verified()
	for i, a := range j.Algorithms {
		at := fmt.Sprintf("algorithms[%d]", i)
		switch {
		case !slices.Contains(algorithms, a):
			problem(at, "%.40q is not supported; write %s", a, strings.Join(algorithms, ", "))
		case !slices.Contains(verified, a):
			problem(at, "no key verifies %s; add one to keys, or remove it", a)
		}
	}
	if j.JWKS != "" && j.Refresh < leastRefresh {
		problem("refresh", "%s is too short; write a duration of at least %s, such as 15m", j.Refresh, leastRefresh)
	}
	if j.Leeway < 0 || j.Leeway > mostLeeway {
		problem("leeway", "%s is out of range; write a duration of at most %s, such as 30s", j.Leeway, mostLeeway)
	}
}

// verified returns the algorithms for which there may be keys.
func (j *JWT) verified() []string {
	var list []string
	if j.JWKS != "" {
		list = []string{rs256, es256, edDSA}
	}
	for _, k := range j.Keys {
		if !slices.Contains(list, k.Alg) {
			list = append(list, k.Alg)
		}
	}
	return list
}

func (k *Key) validate(problem func(path, format string, args ...any)) {
	if len(k.KID) > maxKID {
		problem("kid", "it has more than %d bytes, and no token's may", maxKID)
	}
	switch k.Alg {
	case hs256:
		switch {
		case k.PublicKey != "" || k.File != "":
			problem("alg", "HS256 has a secret, no public key; write secret, or the public key's algorithm")
		case strings.Contains(k.Secret, "-----BEGIN"):
			problem("secret", "it is a PEM text; a public key as a secret would let everyone sign: write public_key and its algorithm")
		case len(k.Secret) < leastSecret:
			problem("secret", "it has fewer than 32 bytes and can be guessed; use as many random ones")
		}
	case rs256, es256, edDSA:
		switch {
		case k.Secret != "":
			problem("secret", "%s has a public key, no secret; write public_key or file", k.Alg)
		case (k.PublicKey == "") == (k.File == ""):
			problem("", "it takes one of public_key and file")
		case k.PublicKey != "":
			if _, err := parsePublicKey(k.Alg, []byte(k.PublicKey)); err != nil {
				problem("public_key", "%v", err)
			}
		}
	default:
		problem("alg", "%.40q is not supported; write %s", k.Alg, strings.Join(algorithms, ", "))
	}
}

func (c *Callback) validate(problem func(path, format string, args ...any)) {
	if why := wrongURL(c.URL, c.Insecure); why != "" {
		problem("url", "%s", why)
	}
	if c.Timeout <= 0 || c.Timeout > mostTimeout {
		problem("timeout", "%s is out of range; write a duration of at most %s, such as 5s", c.Timeout, mostTimeout)
	}
	for i, name := range c.Headers {
		if !headerName(name) {
			problem(fmt.Sprintf("headers[%d]", i), "%.80q is no header's name; write one such as Cookie", name)
		}
	}
	if c.Cache < 0 || c.Cache > mostCache {
		problem("cache", "%s is out of range; write a duration of at most %s, such as 1m, or 0", c.Cache, mostCache)
	}
}

func (t *Token) validate(problem func(path, format string, args ...any)) {
	if t.Header != "" && !headerName(t.Header) {
		problem("header", "%.80q is no header's name; write one such as X-Api-Key", t.Header)
	}
	if strings.ContainsAny(t.Query, "&=#;+% \t\r\n") {
		problem("query", "%.80q is no parameter of the query string; write a name such as token", t.Query)
	}
	if t.Cookie != "" && !headerName(t.Cookie) {
		problem("cookie", "%.80q is no cookie's name; write one such as session", t.Cookie)
	}
}

// headerName says whether s is a token (RFC 9110, section 5.6.2), which headers' and cookies' names are.
func headerName(s string) bool {
	return s != "" && len(s) <= 100 && !strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r > '~' || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r)
	})
}

// wrongURL says what is wrong with the URL of a service that is trusted; "" if nothing is.
func wrongURL(s string, insecure bool) string {
	u, err := url.Parse(s)
	switch {
	case s == "":
		return "it is missing; write a URL such as https://auth.example.org/"
	case err != nil || u.Host == "" || u.Hostname() == "":
		return "it is no URL; write one such as https://auth.example.org/" // not quoted: it may hold a password
	case u.Scheme == "https", u.Scheme == "http" && (insecure || isLoopback(u.Hostname())):
		return ""
	case u.Scheme == "http":
		return fmt.Sprintf("http to %.100q can be read and changed on its way; write https (http is for loopback)", u.Host)
	default:
		return fmt.Sprintf("%.40q is no scheme of the web; write https", u.Scheme)
	}
}

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}

package auth

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace"
)

// Identity is who has connected. The zero Identity is anyone, where everyone may.
type Identity struct {
	// Subject is who it is: a JWT's sub, an API key's name, what the callback said; "" if unknown.
	Subject string
	// Key is a stable text to count by, of at most some 300 bytes: "key:web", "jwt:ISSUER:SUBJECT",
	// "callback:SUBJECT". It holds no secret. "" is nobody in particular, and not counted.
	Key string
	// Claims of the token. They are shared: read only. Numbers are json.Number.
	Claims map[string]any
	// Expires is when the connection has to end; zero: never.
	Expires time.Time
}

// Claim returns the values of a claim: of a string, a number or a truth value its text, of a list of such
// each one's. The path's dots lead into objects, unless a claim is named like that, as
// https://example.org/vehicle is. It is not ok if there is no such claim, or it is null, an object or an empty list: then
// nothing may be seen by it.
func (id Identity) Claim(path string) (values []string, ok bool) {
	v, ok := find(id.Claims, path)
	if !ok {
		return nil, false
	}
	list, isList := v.([]any)
	if !isList {
		list = []any{v}
	}
	for _, v := range list {
		text, ok := text(v)
		if !ok {
			return nil, false
		}
		values = append(values, text)
	}
	return values, len(values) > 0
}

// find looks a path up: as a name first, then along each of its dots.
func find(claims map[string]any, path string) (any, bool) {
	if v, ok := claims[path]; ok {
		return v, true
	}
	for i := range len(path) {
		if path[i] != '.' {
			continue
		}
		if inner, ok := claims[path[:i]].(map[string]any); ok {
			if v, ok := find(inner, path[i+1:]); ok {
				return v, true
			}
		}
	}
	return nil, false
}

// text writes a scalar as it would stand in a key.
func text(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case json.Number:
		return v.String(), true
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64), true
	case bool:
		return strconv.FormatBool(v), true
	default:
		return "", false
	}
}

// Denied is why a client may not connect.
type Denied struct {
	// Status is what to answer: 401 without a good token, 403 if a good one does not suffice, 503 if it
	// cannot be said at the moment.
	Status int
	// Reason says why, in words that are safe to send: they hold nothing of the token.
	Reason string
	given  bool  // there was a token
	cause  error // for the log; holds no secret either
}

// Error is the reason, and what is behind it.
func (d *Denied) Error() string {
	if d.cause == nil {
		return d.Reason
	}
	return d.Reason + ": " + d.cause.Error()
}

// Unwrap returns an error with the code Unavailable for a status of 503, otherwise Denied.
func (d *Denied) Unwrap() error {
	code := millrace.Denied
	if d.Status == http.StatusServiceUnavailable {
		code = millrace.Unavailable
	}
	return &millrace.Error{Code: code, Op: "check the token", Err: d.cause}
}

// Challenge is the value of WWW-Authenticate that belongs to an answer 401 (RFC 6750, section 3); "" for
// other answers.
func (d *Denied) Challenge() string {
	switch {
	case d.Status != http.StatusUnauthorized:
		return ""
	case !d.given:
		return `Bearer realm="millrace"`
	default:
		return `Bearer realm="millrace", error="invalid_token", error_description="` + strings.Map(func(r rune) rune {
			if r < ' ' || r > '~' || r == '"' || r == '\\' {
				return '\''
			}
			return r
		}, d.Reason) + `"`
	}
}

func denied(status int, reason string) *Denied {
	return &Denied{Status: status, Reason: reason, given: true}
}

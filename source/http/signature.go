package httpsource

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/jsonpath"
)

// tolerance is how far a signature's time may be from ours, either way.
const tolerance = 5 * time.Minute

// maxSignatures bounds the signatures that one request may offer, of which one must be right.
const maxSignatures = 16

// signature is a way of signing a webhook. All are HMAC-SHA256 over the bytes of the body as they were
// sent.
type signature interface {
	// name is that of the header with the signature.
	name() string
	present(h http.Header) bool
	// check returns why the signature is not right.
	check(h http.Header, body []byte, now time.Time) error
	// id returns what tells the webhook from others, so that it takes effect once, and its kind of event;
	// both may be empty.
	id(h http.Header, body []byte) (id, kind string)
}

func newSignature(c *Signature) signature {
	switch { // the kinds of signatures
	case c == nil:
		return nil
	case c.GitHub != nil:
		return github{[]byte(c.GitHub.Secret)}
	case c.Stripe != nil:
		return stripe{[]byte(c.Stripe.Secret)}
	default:
		key, err := decodeSecret(c.StandardWebhooks.Secret)
		if err != nil {
			panic(err) // Config.Validate reports it
		}
		return standardWebhooks{key}
	}
}

var (
	errSignature = errors.New("the signature is not that of this body with the configured secret")
	errMalformed = errors.New("the signature is malformed")
	errTime      = errors.New("the signature's time is more than five minutes from ours; does the sender's clock, or ours, go wrong?")
)

// sum is over the body as it lies, behind what is signed before it: a copy would be beyond the queue's bound.
func sum(key []byte, before string, body []byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(before))
	h.Write(body)
	return h.Sum(nil)
}

// github: X-Hub-Signature-256: sha256=HEX, over the body.
type github struct{ secret []byte }

func (github) name() string               { return "X-Hub-Signature-256" }
func (github) present(h http.Header) bool { return h.Get("X-Hub-Signature-256") != "" }

func (g github) check(h http.Header, body []byte, _ time.Time) error {
	text, found := strings.CutPrefix(h.Get("X-Hub-Signature-256"), "sha256=")
	given, err := hex.DecodeString(text)
	if !found || err != nil {
		return errMalformed
	}
	if !hmac.Equal(given, sum(g.secret, "", body)) {
		return errSignature
	}
	return nil
}

func (github) id(h http.Header, _ []byte) (id, kind string) {
	if id = h.Get("X-Github-Delivery"); id != "" {
		id = "github:" + id
	}
	return id, h.Get("X-Github-Event")
}

// stripe: Stripe-Signature: t=SECONDS,v1=HEX,v1=HEX..., over the time, a dot and the body. Other schemes
// beside v1 are ignored.
type stripe struct{ secret []byte }

func (stripe) name() string               { return "Stripe-Signature" }
func (stripe) present(h http.Header) bool { return h.Get("Stripe-Signature") != "" }

func (s stripe) check(h http.Header, body []byte, now time.Time) error {
	var at string
	var given [][]byte
	for part := range strings.SplitSeq(h.Get("Stripe-Signature"), ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		switch name {
		case "t":
			if at != "" {
				return errMalformed
			}
			at = value
		case "v1":
			if signature, err := hex.DecodeString(value); err == nil && len(given) < maxSignatures {
				given = append(given, signature)
			}
		}
	}
	return checkTimed(at, given, now, func() []byte { return sum(s.secret, at+".", body) })
}

func (stripe) id(_ http.Header, body []byte) (id, kind string) {
	id, kind = textAt(stripePaths, body)
	if id != "" {
		id = "stripe:" + id
	}
	return id, kind
}

// standardWebhooks: webhook-signature: v1,BASE64 v1,BASE64..., over webhook-id, webhook-timestamp and the
// body, with dots between. Other versions beside v1 are ignored.
type standardWebhooks struct{ key []byte }

func (standardWebhooks) name() string               { return "webhook-signature" }
func (standardWebhooks) present(h http.Header) bool { return h.Get("Webhook-Signature") != "" }

func (s standardWebhooks) check(h http.Header, body []byte, now time.Time) error {
	id, at := h.Get("Webhook-Id"), h.Get("Webhook-Timestamp")
	if id == "" {
		return errMalformed
	}
	var given [][]byte
	for part := range strings.FieldsSeq(h.Get("Webhook-Signature")) {
		text, found := strings.CutPrefix(part, "v1,")
		if signature, err := base64.StdEncoding.DecodeString(text); found && err == nil && len(given) < maxSignatures {
			given = append(given, signature)
		}
	}
	return checkTimed(at, given, now, func() []byte { return sum(s.key, id+"."+at+".", body) })
}

func (standardWebhooks) id(h http.Header, body []byte) (id, kind string) {
	_, kind = textAt(stripePaths, body) // it, too, names its kind of event at type
	return "webhook:" + h.Get("Webhook-Id"), kind
}

// checkTimed checks signatures that include a time in Unix seconds. The signature is checked first, so that
// only a real sender learns that its clock is wrong.
func checkTimed(at string, given [][]byte, now time.Time, want func() []byte) error {
	seconds, err := strconv.ParseInt(at, 10, 64)
	if err != nil || len(given) == 0 {
		return errMalformed
	}
	right, expected := false, want()
	for _, signature := range given {
		if hmac.Equal(signature, expected) {
			right = true
		}
	}
	if !right {
		return errSignature
	}
	// Compared as seconds: a difference of times would overflow.
	if now := now.Unix(); seconds < now-int64(tolerance.Seconds()) || seconds > now+int64(tolerance.Seconds()) {
		return errTime
	}
	return nil
}

// decodeSecret returns the key of a Standard Webhooks secret.
func decodeSecret(s string) ([]byte, error) {
	return base64.StdEncoding.DecodeString(strings.TrimPrefix(s, "whsec_"))
}

var stripePaths = jsonpath.MustCompile("id", "type")

// textAt returns the texts at two paths of a body, empty where it has none.
func textAt(paths *jsonpath.Set, body []byte) (first, second string) {
	var values [2]jsonpath.Value
	if err := paths.Find(body, values[:]); err != nil {
		return "", ""
	}
	text := func(v jsonpath.Value) string {
		if v.Kind != jsonpath.String {
			return ""
		}
		return string(v.Append(nil)) // of its own: the body's memory is used again
	}
	return text(values[0]), text(values[1])
}

package httpsource

import (
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/listener"
)

// Config describes what is taken in and from whom.
type Config struct {
	// Listen is the address to serve on; the path is /ingest/STREAM, STREAM being the source's into.
	// Several sources may share an address. Default 127.0.0.1:8090. Plain HTTP/1.1 unless tls is set:
	// across a network that others can read, set it, or put a proxy with TLS in front.
	Listen string `yaml:"listen"`
	// Listener stands beside it: tls, proxy_protocol, trusted_proxies. Sources that share an address have
	// these in common.
	Listener listener.Config `yaml:",inline"`
	// Tokens are bearer tokens, each of at least 16 characters: Authorization: Bearer TOKEN. Any of them
	// will do, so that one can be replaced while another is in use.
	Tokens []string `yaml:"tokens,secret"`
	// Signature takes webhooks that are signed with a shared secret, besides requests with a token.
	Signature *Signature `yaml:"signature"`
	// Anonymous takes requests without credentials on an address that is not loopback. On loopback they
	// are taken if there are neither tokens nor a signature, but never from browsers' pages.
	Anonymous bool `yaml:"anonymous"`
	// MaxBody bounds a body in bytes, as it is sent and decompressed. Default 16MiB.
	MaxBody int64 `yaml:"max_body,size"`
	// MaxEvents bounds the events of one request. Default 50000.
	MaxEvents int `yaml:"max_events"`
	// EventLimit bounds the data of one event. Default 8MiB.
	EventLimit int64 `yaml:"event_limit,size"`
	// OnError says what becomes of a request with inputs that are wrong, unless it says so itself with
	// ?partial=true or false: refuse (nothing is taken, the default) or partial (the rest is taken).
	OnError string `yaml:"on_error"`
	// Queue bounds the memory of requests that are not durable yet, in bytes. Default 64MiB, at least four
	// times MaxBody.
	Queue int64 `yaml:"queue,size"`
	// MaxRequests bounds the requests in flight. Default 4096.
	MaxRequests int `yaml:"max_requests"`
	// Wait is how long a request waits for room in the queue before it is answered 429, and for another
	// one with the same idempotency key before it is answered 409. Default 2s.
	Wait time.Duration `yaml:"wait"`
	// Timeout is how long a request that was read waits until it is durable before it is answered 503.
	// Default 30s, at most 5m.
	Timeout time.Duration `yaml:"timeout"`
	// Idempotency bounds how long a repeated request is recognised.
	Idempotency Idempotency `yaml:"idempotency"`
}

// Idempotency bounds what is remembered. When the source starts it reads its own events as far back as
// the oldest key that it remembered, so retention must reach as far.
type Idempotency struct {
	// Window is how long a key is remembered. Default 24h.
	Window time.Duration `yaml:"window"`
	// Keys is how many are remembered, the newest; each takes some 250 bytes of memory. Default 200000.
	Keys int `yaml:"keys"`
}

// Signature is one way of signing a webhook. A signature with a time (all but GitHub's) may be at most
// five minutes old.
type Signature struct {
	// GitHub signs with X-Hub-Signature-256.
	GitHub *Secret `yaml:"github"`
	// Stripe signs with Stripe-Signature.
	Stripe *Secret `yaml:"stripe"`
	// StandardWebhooks signs with webhook-signature; the secret is base64, with or without whsec_.
	StandardWebhooks *Secret `yaml:"standard_webhooks"`
}

// Secret is what sender and receiver share.
type Secret struct {
	// Secret is best taken from outside of the file: ${env:NAME} or ${file:PATH}.
	Secret string `yaml:"secret,secret"`
}

// What on_error may say.
const (
	refuse  = "refuse"
	partial = "partial"
)

// minToken is the least length of a token, in bytes.
const minToken = 16

// SetDefaults sets what the configuration may leave out.
func (c *Config) SetDefaults() {
	c.Listen = "127.0.0.1:8090"
	c.MaxBody = 16 << 20
	c.MaxEvents = 50_000
	c.EventLimit = 8 << 20
	c.OnError = refuse
	c.Queue = 64 << 20
	c.MaxRequests = 4096
	c.Wait = 2 * time.Second
	c.Timeout = 30 * time.Second
	c.Idempotency = Idempotency{Window: 24 * time.Hour, Keys: 200_000}
}

// Validate reports every problem with the path of its key. It quotes no secret.
func (c *Config) Validate(problem func(path, format string, args ...any)) {
	if !listener.IsAddress(c.Listen) {
		problem("listen", "%q is not HOST:PORT; write 127.0.0.1:8090, or :8090 for every address", c.Listen)
	} else if !c.guarded() && !c.Anonymous && !listener.Loopback(c.Listen) {
		problem("listen", "everyone who reaches %q could post; add tokens or a signature, or listen on 127.0.0.1, "+
			"or write anonymous: true", c.Listen)
	}
	if c.guarded() && c.Anonymous {
		problem("anonymous", "it contradicts tokens and signature; remove it, or these")
	}
	for i, token := range c.Tokens {
		at := "tokens[" + strconv.Itoa(i) + "]"
		switch {
		case len(token) < minToken:
			problem(at, "it has fewer than 16 characters and can be guessed; use as many random ones")
		case strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }):
			problem(at, "it holds a space or a character that no header can carry, perhaps a line break at its end")
		}
	}
	if c.Signature != nil {
		c.Signature.validate(func(path, format string, args ...any) {
			if path != "" {
				path = "." + path
			}
			problem("signature"+path, format, args...)
		})
	}
	if c.MaxBody < 1<<10 || c.MaxBody > 1<<30 {
		problem("max_body", "%d bytes are out of range; write a size from 1KiB to 1GiB, such as 16MiB", c.MaxBody)
	}
	if c.MaxEvents < 1 || c.MaxEvents > 1_000_000 {
		problem("max_events", "%d is out of range; write a number from 1 to 1000000", c.MaxEvents)
	}
	if c.EventLimit <= 0 {
		problem("event_limit", "must be positive, such as 8MiB")
	}
	if c.OnError != refuse && c.OnError != partial {
		problem("on_error", "%q is neither refuse (nothing of the request is taken) nor partial (the rest is taken)", c.OnError)
	}
	if c.Queue < 4*c.MaxBody {
		problem("queue", "%d bytes cannot hold a request of max_body with all that it takes; write at least four times max_body", c.Queue)
	}
	if c.MaxRequests < 1 {
		problem("max_requests", "%d is too few; write a number of at least 1", c.MaxRequests)
	}
	if c.Wait < 0 || c.Wait > time.Minute {
		problem("wait", "%s is out of range; write a duration of at most 1m, such as 2s", c.Wait)
	}
	if c.Timeout <= 0 || c.Timeout > 5*time.Minute {
		problem("timeout", "%s is out of range; write a duration of at most 5m, such as 30s", c.Timeout)
	}
	if c.Idempotency.Window < 0 {
		problem("idempotency.window", "%s is negative; 0 remembers keys only while the requests are in flight", c.Idempotency.Window)
	}
	if c.Idempotency.Keys < 1 {
		problem("idempotency.keys", "%d is too few; write a number of at least 1, such as 200000", c.Idempotency.Keys)
	}
}

func (s *Signature) validate(problem func(path, format string, args ...any)) {
	kinds := 0
	for name, secret := range map[string]*Secret{"github": s.GitHub, "stripe": s.Stripe, "standard_webhooks": s.StandardWebhooks} {
		if secret == nil {
			continue
		}
		kinds++
		if secret.Secret == "" {
			problem(name+".secret", "is missing; write secret: \"${env:NAME}\"")
		} else if secret == s.StandardWebhooks {
			if key, err := decodeSecret(secret.Secret); err != nil || len(key) < minToken {
				problem(name+".secret", "is not base64 of at least 16 bytes, with or without whsec_ before it")
			}
		}
	}
	if kinds != 1 {
		problem("", "it takes one of github, stripe and standard_webhooks; post different webhooks to sources of their own")
	}
}

// guarded says whether requests need credentials.
func (c *Config) guarded() bool { return len(c.Tokens) > 0 || c.Signature != nil }

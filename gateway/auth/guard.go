package auth

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace"
)

// Options are what a guard works with beside its configuration.
type Options struct {
	// Client fetches key sets and asks the callback; redirects are not followed whatever it says. Nil: one
	// of its own.
	Client  *http.Client
	Logger  *slog.Logger     // nil: nothing is logged
	Now     func() time.Time // nil: time.Now
	Metrics *Metrics         // nil: nothing is measured; several guards may share one
}

// Guard decides who may connect. Its methods may be called side by side.
type Guard struct {
	open     bool
	token    Token
	header   string
	keys     []apiKey
	jwt      *verifier // nil if none
	callback *callback // nil if none
	metrics  *Metrics

	transport *http.Transport // our own; nil if a client was given
}

type apiKey struct {
	hash     [sha256.Size]byte // equally long for all, so that comparing tells nothing of them
	identity Identity
}

// New returns a guard; for the zero Config one that lets everyone in. It reads the key files of the
// configuration, and fails with Invalid if it or they are wrong.
func New(c Config, o Options) (*Guard, error) {
	const op = "make guard"
	if !c.Open && !c.guarded() && c.Token == (Token{}) {
		return &Guard{open: true}, nil
	}
	var wrong error
	c.Validate(func(path, format string, args ...any) {
		wrong = errors.Join(wrong, millrace.Errorf(millrace.Invalid, path, format, args...))
	})
	if wrong != nil {
		return nil, millrace.Errorf(millrace.Invalid, op, "%w", wrong)
	}
	if c.Open {
		return &Guard{open: true}, nil
	}
	var transport *http.Transport
	if o.Client == nil {
		transport = &http.Transport{
			Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true,
			TLSHandshakeTimeout: 10 * time.Second, IdleConnTimeout: 90 * time.Second,
			MaxIdleConnsPerHost: 16, MaxConnsPerHost: mostAsked,
		}
		o.Client = &http.Client{Transport: transport}
	}
	client := *o.Client
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	o.Client = &client
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	g := &Guard{token: c.Token, header: c.TokenHeader(), metrics: o.Metrics, transport: transport}
	for _, k := range c.APIKeys {
		id := Identity{Subject: k.Name, Key: "key:" + k.Name, Claims: map[string]any{}}
		for name, value := range k.Claims {
			id.Claims[name] = value
		}
		g.keys = append(g.keys, apiKey{sha256.Sum256([]byte(k.Key)), id})
	}
	if c.JWT != nil {
		var err error
		if g.jwt, err = newVerifier(*c.JWT, o); err != nil {
			return nil, millrace.Errorf(millrace.Invalid, op, "jwt.%w", err)
		}
	}
	if c.Callback != nil {
		g.callback = newCallback(*c.Callback, o)
	}
	return g, nil
}

// Open says whether everyone may connect.
func (g *Guard) Open() bool { return g.open }

// Run keeps the keys of JWTs fresh until ctx ends: it fetches the key set, and looks at key files. Without
// it a key set is never fetched. Then it lets go of idle connections to the services that it asked, and
// returns nil; at once if there is nothing to do. It is called once.
func (g *Guard) Run(ctx context.Context) error {
	if g.jwt == nil && g.callback == nil {
		return nil
	}
	var tasks sync.WaitGroup
	if g.jwt != nil {
		if g.jwt.set != nil {
			tasks.Go(func() { g.jwt.set.run(ctx) })
		}
		tasks.Go(func() { g.jwt.watchFiles(ctx) })
	}
	<-ctx.Done()
	tasks.Wait()
	if g.transport != nil {
		g.transport.CloseIdleConnections()
	}
	return nil
}

// Check decides about a request; remote is the client's address as far as it is to be believed. It fails
// with *Denied.
func (g *Guard) Check(ctx context.Context, r *http.Request, remote netip.Addr) (Identity, error) {
	if g.open {
		return Identity{}, nil
	}
	token, err := g.tokenOf(r)
	if err != nil {
		return Identity{}, g.refuse(kindNone, err)
	}
	return g.CheckToken(ctx, token, r, remote)
}

// CheckToken decides about a token that came as first message of a connection that r opened. It fails
// with *Denied.
func (g *Guard) CheckToken(ctx context.Context, token string, r *http.Request, remote netip.Addr) (Identity, error) {
	if g.open {
		return Identity{}, nil
	}
	if len(token) > maxToken {
		return Identity{}, g.refuse(kindNone, denied(http.StatusUnauthorized, "the token is too long"))
	}
	kind, why := kindNone, denied(http.StatusUnauthorized, "the token is wrong")
	if token == "" {
		why = &Denied{Status: http.StatusUnauthorized, Reason: "a token is needed: " + g.places()}
	} else {
		if len(g.keys) > 0 {
			kind = kindKey
			if id, ok := g.known(token); ok {
				return g.allow(kindKey, id), nil
			}
		}
		if g.jwt != nil && (len(g.keys) == 0 || strings.Count(token, ".") == 2) { // or it is a mistyped API key
			id, err := g.jwt.verify(ctx, token)
			if err == nil {
				return g.allow(kindJWT, id), nil
			}
			kind, why = kindJWT, err
		}
	}
	if g.callback != nil {
		id, err := g.callback.ask(ctx, token, r, remote)
		if err == nil {
			return g.allow(kindCallback, id), nil
		}
		kind, why = kindCallback, err
	}
	return Identity{}, g.refuse(kind, why)
}

// AwaitsMessage says whether to let a millrace.v1 connection open and wait for its first message: the
// request has no token, and one may come so. Other protocols have no such message and go to Check.
func (g *Guard) AwaitsMessage(r *http.Request) bool {
	if g.open || !g.token.Message {
		return false
	}
	token, err := g.tokenOf(r)
	return err == nil && token == ""
}

// known compares a token with all API keys, and with the same effort whatever they are.
func (g *Guard) known(token string) (Identity, bool) {
	hash := sha256.Sum256([]byte(token))
	found := -1
	for i := range g.keys {
		found = subtle.ConstantTimeSelect(subtle.ConstantTimeCompare(hash[:], g.keys[i].hash[:]), i, found)
	}
	if found < 0 {
		return Identity{}, false
	}
	return g.keys[found].identity, true
}

func (g *Guard) allow(kind string, id Identity) Identity {
	g.metrics.decisions.WithLabelValues("allowed", kind).Inc()
	return id
}

func (g *Guard) refuse(kind string, d *Denied) error {
	result := "denied"
	if d.Status == http.StatusServiceUnavailable {
		result = "unavailable"
	}
	g.metrics.decisions.WithLabelValues(result, kind).Inc()
	return d
}

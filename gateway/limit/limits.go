// Package limit bounds what one client may take of the gateway: connections, subscriptions and messages,
// per connection, per address and per token.
//
// What it remembers of an address or a token is gone with its last connection, as soon as its bucket is
// full again. It has no goroutine: what has filled up is looked for whenever a connection comes or goes.
package limit

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace"
)

// Limits counts the connections of a gateway. Its methods may be called side by side.
type Limits struct {
	config    Config
	address   scope // the limits of each address
	token     scope
	bucket    rate // of each connection
	metrics   *Metrics
	now       func() time.Time
	byAddress bool // whether anything is counted by address at all
	byToken   bool

	mu        sync.Mutex
	addresses map[[16]byte]*entry
	tokens    map[string]*entry
	emptied   []*entry // without connections, their bucket not full yet; in the order in which they got so
}

// scope is what all connections of an address or a token may take together.
type scope struct {
	name                       string
	connections, subscriptions int32
	rate                       rate
}

// entry counts for an address or a token.
type entry struct {
	bucket        bucket
	subscriptions atomic.Int32
	connections   int32 // under Limits.mu
	waits         bool  // stands in emptied
	address       [16]byte
	token         string
	isToken       bool
}

// Options are what limits work with beside their configuration.
type Options struct {
	Now     func() time.Time // nil: time.Now
	Metrics *Metrics         // nil: nothing is measured
}

// New returns limits that nobody has used yet. It fails with Invalid if the configuration is wrong.
func New(c Config, o Options) (*Limits, error) {
	var wrong error
	c.Validate(func(path, format string, args ...any) {
		wrong = errors.Join(wrong, millrace.Errorf(millrace.Invalid, path, format, args...))
	})
	if wrong != nil {
		return nil, millrace.Errorf(millrace.Invalid, "make limits", "%w", wrong)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	l := &Limits{
		config: c, metrics: o.Metrics, now: o.Now, bucket: newRate(c.MessagesPerConnection),
		address:   scope{"address", int32(c.ConnectionsPerAddress), int32(c.SubscriptionsPerAddress), newRate(c.MessagesPerAddress)},
		token:     scope{"token", int32(c.ConnectionsPerToken), int32(c.SubscriptionsPerToken), newRate(c.MessagesPerToken)},
		addresses: map[[16]byte]*entry{}, tokens: map[string]*entry{},
	}
	l.byAddress, l.byToken = l.address.counts(), l.token.counts()
	return l, nil
}

func (s *scope) counts() bool { return s.connections > 0 || s.subscriptions > 0 || s.rate.every > 0 }

// TooMany is the error of a client that has reached a limit. Its code is millrace.TooLarge.
type TooMany struct {
	What  string // connections, subscriptions, messages
	Scope string // connection, address, token
	Limit int
}

// Error says which limit it is, in words that are safe to send.
func (e *TooMany) Error() string {
	return fmt.Sprintf("too many %s: a client's %s may have %d", e.What, e.Scope, e.Limit)
}

// Unwrap returns an error with the code TooLarge.
func (e *TooMany) Unwrap() error {
	return &millrace.Error{Code: millrace.TooLarge, Op: "count " + e.What}
}

// Admit counts a connection. An address that is not valid, and an empty token, are not counted. It fails
// with *TooMany; otherwise the connection has to be released in the end.
func (l *Limits) Admit(address netip.Addr, token string) (*Connection, error) {
	c := &Connection{limits: l}
	if !l.byAddress && !l.byToken {
		return c, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forget()
	if l.byAddress && address.IsValid() {
		e := l.addresses[network(address)]
		if e == nil {
			e = &entry{address: network(address)}
		}
		if err := l.enter(e, &l.address); err != nil {
			return nil, err
		}
		l.addresses[e.address] = e
		c.address = e
	}
	if err := l.identify(c, token); err != nil {
		l.leave(c.address)
		return nil, err
	}
	return c, nil
}

// Identify counts a connection by a token that came only after it was admitted. It is called at most
// once, before the connection subscribes to anything, and not if Admit had a token.
func (c *Connection) Identify(token string) error {
	l := c.limits
	if !l.byToken || token == "" {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.identify(c, token)
}

func (l *Limits) identify(c *Connection, token string) error {
	if !l.byToken || token == "" {
		return nil
	}
	e := l.tokens[token]
	if e == nil {
		e = &entry{token: token, isToken: true}
	}
	if err := l.enter(e, &l.token); err != nil {
		return err
	}
	l.tokens[token] = e
	c.token = e
	return nil
}

func (l *Limits) enter(e *entry, s *scope) error {
	if s.connections > 0 && e.connections >= s.connections {
		return l.tooMany("connections", s.name, int(s.connections))
	}
	e.connections++
	return nil
}

func (l *Limits) tooMany(what, scope string, limit int) *TooMany {
	l.metrics.limited.WithLabelValues(what, scope).Inc()
	return &TooMany{What: what, Scope: scope, Limit: limit}
}

// leave takes a connection from an entry, and forgets it or sees to it that it will be.
func (l *Limits) leave(e *entry) {
	if e == nil {
		return
	}
	if e.connections--; e.connections > 0 || e.waits {
		return
	}
	if e.bucket.full(l.now()) {
		l.remove(e)
		return
	}
	e.waits = true
	l.emptied = append(l.emptied, e)
}

// forget removes entries whose bucket has filled since their last connection went: a few at a time, so
// that nobody waits for a long list, but more than a connection adds.
func (l *Limits) forget() {
	if len(l.emptied) == 0 {
		return
	}
	now := l.now()
	for range min(4, len(l.emptied)) {
		e := l.emptied[0]
		l.emptied[0] = nil
		l.emptied = l.emptied[1:]
		switch {
		case e.connections > 0: // it came back
			e.waits = false
		case e.bucket.full(now):
			l.remove(e)
		default:
			l.emptied = append(l.emptied, e)
		}
	}
	if len(l.emptied) == 0 {
		l.emptied = nil
	}
}

func (l *Limits) remove(e *entry) {
	if e.isToken {
		delete(l.tokens, e.token)
	} else {
		delete(l.addresses, e.address)
	}
}

// network is what an address is counted by: a home has a /64 of IPv6, and any address in it.
func network(a netip.Addr) [16]byte {
	if a = a.Unmap(); a.Is6() {
		a = a.WithZone("")
		p, _ := a.Prefix(64) // fits
		a = p.Addr()
	}
	return a.As16()
}

package limit

import (
	"sync/atomic"
	"time"
)

// Connection is what a connection takes. Its methods may be called side by side, but for Release, after
// which none may be called but Release.
type Connection struct {
	limits         *Limits
	address, token *entry // nil: not counted
	bucket         bucket
	subscriptions  atomic.Int32
	released       atomic.Bool
}

// Subscribe counts n more subscriptions. It fails with *TooMany, and counts none of them.
func (c *Connection) Subscribe(n int) error {
	l := c.limits
	if !add(&c.subscriptions, n, l.config.SubscriptionsPerConnection) {
		return l.tooMany("subscriptions", "connection", l.config.SubscriptionsPerConnection)
	}
	if c.address != nil && !add(&c.address.subscriptions, n, int(l.address.subscriptions)) {
		c.subscriptions.Add(int32(-n))
		return l.tooMany("subscriptions", "address", int(l.address.subscriptions))
	}
	if c.token != nil && !add(&c.token.subscriptions, n, int(l.token.subscriptions)) {
		c.subscriptions.Add(int32(-n))
		if c.address != nil {
			c.address.subscriptions.Add(int32(-n))
		}
		return l.tooMany("subscriptions", "token", int(l.token.subscriptions))
	}
	return nil
}

// add adds n unless that exceeds a limit; 0 is none.
func add(count *atomic.Int32, n, limit int) bool {
	for {
		old := count.Load()
		if limit > 0 && int(old)+n > limit {
			return false
		}
		if count.CompareAndSwap(old, old+int32(n)) {
			return true
		}
	}
}

// Unsubscribe gives n subscriptions back.
func (c *Connection) Unsubscribe(n int) {
	c.subscriptions.Add(int32(-n))
	if c.address != nil {
		c.address.subscriptions.Add(int32(-n))
	}
	if c.token != nil {
		c.token.subscriptions.Add(int32(-n))
	}
}

// Message says whether a message that came now may be looked at, and if not, after how long at the earliest
// the next one may; then it counts as limited. A message that is not allowed takes nothing.
func (c *Connection) Message(now time.Time) (retryAfter time.Duration, allowed bool) {
	wait, scope := c.take(now)
	if scope != "" {
		c.limits.metrics.limited.WithLabelValues("messages", scope).Inc()
	}
	return wait, scope == ""
}

// Retry is Message for one that was not allowed before, and was counted then.
func (c *Connection) Retry(now time.Time) (retryAfter time.Duration, allowed bool) {
	wait, scope := c.take(now)
	return wait, scope == ""
}

// take takes a message from every bucket, or from none: then it says whose was empty.
func (c *Connection) take(now time.Time) (wait time.Duration, scope string) {
	l := c.limits
	if wait, ok := c.bucket.take(l.bucket, now); !ok {
		return wait, "connection"
	}
	if c.address != nil {
		if wait, ok := c.address.bucket.take(l.address.rate, now); !ok {
			c.bucket.giveBack(l.bucket)
			return wait, l.address.name
		}
	}
	if c.token != nil {
		if wait, ok := c.token.bucket.take(l.token.rate, now); !ok {
			c.bucket.giveBack(l.bucket)
			if c.address != nil {
				c.address.bucket.giveBack(l.address.rate)
			}
			return wait, l.token.name
		}
	}
	return 0, ""
}

// Release gives the connection and its subscriptions back. Calling it again does nothing.
func (c *Connection) Release() {
	if c == nil || c.released.Swap(true) {
		return
	}
	if c.address == nil && c.token == nil {
		return
	}
	c.Unsubscribe(int(c.subscriptions.Load()))
	l := c.limits
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forget()
	l.leave(c.address)
	l.leave(c.token)
}

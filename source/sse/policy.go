package sse

import (
	"net/http"
	"strconv"
	"time"
)

// Policy says what a client does when a connection fails or ends.
type Policy int

// The policies.
const (
	// Ingest retries whatever may get better: network errors, the end of the body, 408, 425, 429 and 5xx
	// (Retry-After is honoured). 204 ends the feed. What needs a person (other statuses, a wrong
	// content type) raises an alarm and is retried every one to five minutes.
	Ingest Policy = iota
	// Standard is what browsers do: only network errors and the end of the body are followed by another
	// connection, anything but 200 with text/event-stream fails for good.
	Standard
)

// The ingest policy's times.
const (
	defaultRetry  = time.Second
	standardRetry = 3 * time.Second
	longestRetry  = 5 * time.Minute       // a feed that asks for more gets this
	leastRetry    = 50 * time.Millisecond // a feed that asks for less gets this: no tight loop
	longestWait   = 30 * time.Second      // of the back-off
	longestAfter  = time.Hour             // of Retry-After
	slowFrom      = time.Minute           // after an alarm
	slowTo        = 5 * time.Minute
	healthy       = 30 * time.Second // a connection that lasted so long does not count as a failure
)

// verdict is what to do after a connection.
type verdict int

const (
	again  verdict = iota // connect again after the usual wait
	slowly                // raise an alarm and connect again much later
	stop                  // the feed is over
	fail                  // Run fails
)

// ending is how a connection ended, or why there was none.
type ending struct {
	do     verdict
	reason string // the label of the metric: end, cut, stalled, dns, network, status, content_type...
	err    error  // nil after a clean end
	after  time.Duration
	lasted time.Duration
	events int
}

// pace decides how long to wait between connections.
type pace struct {
	policy   Policy
	retry    time.Duration // the reconnection time; 0: the policy's
	asked    bool          // the feed has asked for it
	random   func() float64
	failures int  // in a row
	routine  bool // the newest connection ended cleanly after data: nothing to tell anyone
}

// ask takes the reconnection time that a feed asks for.
func (p *pace) ask(retry time.Duration) {
	p.retry, p.asked = min(max(retry, leastRetry), longestRetry), true
}

// wait returns how long to wait after a connection that ended so.
//
// After one that brought events or lasted, the wait is the reconnection time: what the feed asked for
// and up to half of it more, or a random part of our own. After one that did neither it is a random
// part ("full jitter") of a window that doubles from failure to failure up to 30 seconds, and not less
// than what the feed asked for. The Standard policy waits exactly the reconnection time after the
// first, and doubles it from the second failure on.
func (p *pace) wait(e ending) time.Duration {
	p.routine = e.err == nil && e.events > 0
	if e.do == slowly {
		p.failures = 0
		return slowFrom + p.part(slowTo-slowFrom)
	}
	retry := p.retry
	if retry == 0 {
		retry = defaultRetry
		if p.policy == Standard {
			retry = standardRetry
		}
	}
	if e.events > 0 || e.lasted >= healthy {
		p.failures = 0
	} else {
		p.failures++
	}
	window := retry
	for range p.failures - 1 {
		window = min(2*window, max(longestWait, retry))
	}
	var wait time.Duration
	switch {
	case p.policy == Standard:
		wait = window
	case p.asked:
		wait = retry + p.part(max(window-retry, retry/2))
	default:
		wait = p.part(max(window, leastRetry))
	}
	if e.after > 0 {
		wait = max(wait, e.after+p.part(e.after/10))
	}
	return wait
}

// part returns a random part of d.
func (p *pace) part(d time.Duration) time.Duration {
	return time.Duration(p.random() * float64(d))
}

// retryAfter reads the header of that name: seconds or a date. 0 if there is none.
func retryAfter(h http.Header, now time.Time) time.Duration {
	value := h.Get("Retry-After")
	if value == "" {
		return 0
	}
	if seconds, err := strconv.ParseUint(value, 10, 32); err == nil {
		return min(time.Duration(seconds)*time.Second, longestAfter)
	}
	if t, err := http.ParseTime(value); err == nil {
		return min(max(t.Sub(now), 0), longestAfter)
	}
	return 0
}

package auth

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"
)

// How a key set is fetched.
const (
	fetchTimeout = 10 * time.Second
	fetchBytes   = 1 << 20
	leastPause   = 10 * time.Second // between fetches for the sake of unknown key ids
	longestWait  = 5 * time.Second  // of a client for such a fetch
)

// keySet is a JSON web key set that is fetched from a URL.
type keySet struct {
	url     string
	every   time.Duration
	client  *http.Client
	logger  *slog.Logger
	metrics *Metrics
	keys    atomic.Pointer[[]key] // nil before the first were fetched
	wake    chan struct{}         // one place: a fetch that is asked for twice is one

	mu      sync.Mutex
	fetched chan struct{} // closed when the fetch that has been asked for, or is under way, is over; nil if none is
	begun   time.Time     // the last fetch
	ended   bool
}

func newKeySet(url string, every time.Duration, o Options) *keySet {
	return &keySet{
		url: url, every: every, client: o.Client, logger: o.Logger, metrics: o.Metrics,
		wake:    make(chan struct{}, 1),
		fetched: make(chan struct{}), // the first, with which run begins
	}
}

// run fetches the set until ctx ends: at once, regularly, soon again after a failure, and when it is woken.
func (s *keySet) run(ctx context.Context) {
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.ended = true
		if s.fetched != nil {
			close(s.fetched)
			s.fetched = nil
		}
	}()
	timer := time.NewTimer(0)
	defer timer.Stop()
	failures := 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-s.wake:
		}
		s.mu.Lock()
		s.begun = time.Now()
		if s.fetched == nil {
			s.fetched = make(chan struct{})
		}
		s.mu.Unlock()

		err := s.fetch(ctx)
		wait := s.every - rand.N(s.every/10+1) // many gateways must not come at once
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			failures++
			s.metrics.refreshes.WithLabelValues("failed").Inc()
			if failures == 1 {
				s.logger.Warn("gateway: the key set of tokens cannot be fetched", "host", hostOf(s.url), "error", err,
					"keys", s.count())
			}
			wait = min(wait, time.Second<<min(failures-1, 6), time.Minute)
		default:
			s.metrics.refreshes.WithLabelValues("ok").Inc()
			s.metrics.keys.Set(float64(s.count()))
			if failures > 0 {
				s.logger.Info("gateway: the key set of tokens was fetched again", "host", hostOf(s.url), "keys", s.count())
			}
			failures = 0
		}
		timer.Reset(wait)
		s.mu.Lock()
		close(s.fetched)
		s.fetched = nil
		s.mu.Unlock()
	}
}

func (s *keySet) count() int {
	if keys := s.keys.Load(); keys != nil {
		return len(*keys)
	}
	return 0
}

// refresh has the set fetched and waits for it, or for the fetch under way. It returns false if there is
// none to wait for: whoever sends unknown key ids must not make us fetch as often as he likes.
func (s *keySet) refresh(ctx context.Context) bool {
	s.mu.Lock()
	fetched := s.fetched
	if fetched == nil && !s.ended && time.Since(s.begun) >= leastPause {
		fetched = make(chan struct{})
		s.fetched = fetched
		select {
		case s.wake <- struct{}{}:
		default: // somebody has asked already
		}
	}
	s.mu.Unlock()
	if fetched == nil {
		return false
	}
	timer := time.NewTimer(longestWait)
	defer timer.Stop()
	select {
	case <-fetched:
	case <-timer.C:
	case <-ctx.Done():
	}
	return true
}

// fetch fetches the set. If that fails the old keys stay.
func (s *keySet) fetch(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url, nil)
	if err != nil {
		return err
	}
	r.Header.Set("Accept", "application/jwk-set+json, application/json")
	answer, err := s.client.Do(r)
	if err != nil {
		return withoutURL(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return statusError(answer)
	}
	text, err := io.ReadAll(io.LimitReader(answer.Body, fetchBytes+1))
	if err != nil {
		return err
	}
	if len(text) > fetchBytes {
		return fmt.Errorf("it is larger than %d bytes", fetchBytes)
	}
	keys, err := parseSet(text)
	if err != nil {
		return err
	}
	s.keys.Store(&keys)
	return nil
}

// statusError says what is wrong with an answer's status.
func statusError(answer *http.Response) error {
	if answer.StatusCode/100 == 3 {
		return fmt.Errorf("it answers %d, and redirects are not followed; configure the URL that it leads to", answer.StatusCode)
	}
	return fmt.Errorf("it answers %d", answer.StatusCode)
}

// withoutURL takes the URL, which may hold secrets, out of an error of the HTTP client.
func withoutURL(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}

// hostOf is what of a URL may be logged.
func hostOf(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return ""
	}
	return u.Host
}

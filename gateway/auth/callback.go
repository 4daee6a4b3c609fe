package auth

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"

	"github.com/prometheus/client_golang/prometheus"
)

// How the callback is asked.
const (
	answerBytes = 64 << 10
	mostAsked   = 256 // questions at a time; more wait, within their timeout
	reasonBytes = 200
)

// callback asks an HTTP service.
type callback struct {
	config  Callback
	client  *http.Client
	now     func() time.Time
	logger  *slog.Logger
	metrics *Metrics
	slots   chan struct{}
	failing atomic.Bool // logged once
	cache   *cache      // nil if answers are not kept
}

// question is what the callback is sent.
type question struct {
	Path    string            `json:"path"`
	Query   string            `json:"query"`
	Headers map[string]string `json:"headers"`
	Remote  string            `json:"remote"`
	Token   string            `json:"token"`
}

// decision is what it answered.
type decision struct {
	identity Identity
	denied   *Denied
}

func newCallback(c Callback, o Options) *callback {
	k := &callback{
		config: c, client: o.Client, now: o.Now, logger: o.Logger, metrics: o.Metrics,
		slots: make(chan struct{}, mostAsked),
	}
	if c.Cache > 0 {
		k.cache = &cache{life: c.Cache, now: o.Now, decisions: map[[sha256.Size]byte]kept{}}
	}
	return k
}

// ask has the callback decide.
func (c *callback) ask(ctx context.Context, token string, r *http.Request, remote netip.Addr) (Identity, *Denied) {
	q := question{
		Path: r.URL.Path, Query: r.URL.RawQuery, Headers: map[string]string{}, Token: token,
	}
	if remote.IsValid() {
		q.Remote = remote.Unmap().String()
	}
	for _, names := range [][]string{{"Origin", "User-Agent"}, c.config.Headers} {
		for _, name := range names {
			if values := r.Header.Values(name); len(values) > 0 {
				q.Headers[http.CanonicalHeaderKey(name)] = strings.Join(values, ", ")
			}
		}
	}
	body, err := json.Marshal(q)
	if err != nil { // texts only: it does not happen
		return Identity{}, &Denied{Status: http.StatusServiceUnavailable, Reason: "the request cannot be checked", cause: err}
	}
	var hash [sha256.Size]byte
	if c.cache != nil {
		hash = sha256.Sum256(body)
		if d, ok := c.cache.get(hash); ok {
			c.metrics.cached.Inc()
			return d.identity, d.denied
		}
	}
	d, err := c.post(ctx, body, token != "")
	if err != nil {
		if ctx.Err() == nil && !c.failing.Swap(true) { // not if the client has gone
			c.logger.Warn("gateway: the callback that decides who may connect does not answer as it should",
				"host", hostOf(c.config.URL), "error", err)
		}
		return Identity{}, &Denied{
			Status: http.StatusServiceUnavailable, Reason: "who may connect cannot be checked at the moment",
			given: token != "", cause: err,
		}
	}
	if c.failing.Swap(false) {
		c.logger.Info("gateway: the callback that decides who may connect answers again", "host", hostOf(c.config.URL))
	}
	if c.cache != nil {
		c.cache.put(hash, d)
	}
	return d.identity, d.denied
}

// post sends a question and reads the answer.
func (c *callback) post(ctx context.Context, body []byte, given bool) (decision, error) {
	defer prometheus.NewTimer(c.metrics.asked).ObserveDuration()
	ctx, cancel := context.WithTimeout(ctx, c.config.Timeout)
	defer cancel()
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	case <-ctx.Done():
		return decision{}, errors.New("it answers too slowly, and questions wait")
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.config.URL, bytes.NewReader(body))
	if err != nil {
		return decision{}, err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json")
	answer, err := c.client.Do(r)
	if err != nil {
		return decision{}, withoutURL(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, answerBytes+1))
	if err != nil {
		return decision{}, err
	}
	switch answer.StatusCode {
	case http.StatusOK:
		if len(text) > answerBytes {
			return decision{}, errors.New("its answer is larger than 64 KiB")
		}
		id, err := parseAnswer(text)
		if err == nil && !id.Expires.IsZero() && !c.now().Before(id.Expires) {
			return decision{denied: &Denied{Status: http.StatusUnauthorized, Reason: "the token has expired", given: given}}, nil
		}
		return decision{identity: id}, err
	case http.StatusUnauthorized, http.StatusForbidden:
		d := &Denied{Status: answer.StatusCode, Reason: parseReason(text), given: given}
		if d.Reason == "" {
			d.Reason = "not allowed"
		}
		return decision{denied: d}, nil
	default:
		return decision{}, statusError(answer)
	}
}

// parseAnswer reads an answer 200. What it does not know it ignores.
func parseAnswer(text []byte) (Identity, error) {
	var a *struct {
		Subject string         `json:"subject"`
		Claims  map[string]any `json:"claims"`
		Expires any            `json:"expires"`
		Key     string         `json:"key"`
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	if err := decoder.Decode(&a); err != nil || a == nil {
		return Identity{}, errors.New("its answer is no JSON object with subject, claims, expires and key")
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return Identity{}, errors.New("its answer goes on behind the JSON object")
	}
	id := Identity{Subject: a.Subject, Claims: a.Claims}
	if a.Key == "" {
		a.Key = a.Subject
	}
	if a.Key != "" {
		id.Key = limitKey("callback:", a.Key)
	}
	switch expires := a.Expires.(type) {
	case nil:
	case string:
		at, err := time.Parse(time.RFC3339, expires)
		if err != nil {
			return Identity{}, errors.New("its expires is no time in RFC 3339")
		}
		id.Expires = at
	case json.Number:
		if !plausible(expires) {
			return Identity{}, errors.New("its expires is no time in seconds since 1970")
		}
		seconds, _ := expires.Float64() // plausible
		id.Expires = time.UnixMilli(int64(seconds * 1000))
	default:
		return Identity{}, errors.New("its expires is neither RFC 3339 nor seconds since 1970")
	}
	return id, nil
}

// parseReason returns the reason of an answer 401 or 403, shortened and without what could not be printed;
// "" if there is none.
func parseReason(text []byte) string {
	var a struct {
		Reason string `json:"reason"`
	}
	if json.Unmarshal(text, &a) != nil {
		return ""
	}
	a.Reason = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, a.Reason)
	if len(a.Reason) > reasonBytes {
		a.Reason = strings.ToValidUTF8(a.Reason[:reasonBytes], "")
	}
	return strings.TrimSpace(a.Reason)
}

// mostKept bounds the answers that are kept.
const mostKept = 10_000

// cache keeps the callback's newest answers by the hash of the question. When it is full the oldest goes.
type cache struct {
	life time.Duration
	now  func() time.Time

	mu        sync.Mutex
	decisions map[[sha256.Size]byte]kept
	order     []([sha256.Size]byte) // a ring, in the order of arrival once it is full
	next      int                   // in order
}

type kept struct {
	decision decision
	until    time.Time
}

func (c *cache) get(question [sha256.Size]byte) (decision, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k, ok := c.decisions[question]
	if !ok || !c.now().Before(k.until) {
		return decision{}, false // it stays until it is its turn to go, or another answer comes
	}
	return k.decision, true
}

func (c *cache) put(question [sha256.Size]byte, d decision) {
	until := c.now().Add(c.life)
	if e := d.identity.Expires; !e.IsZero() && e.Before(until) {
		until = e
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, there := c.decisions[question]; !there {
		if len(c.order) < mostKept {
			c.order = append(c.order, question)
		} else {
			delete(c.decisions, c.order[c.next])
			c.order[c.next] = question
			c.next = (c.next + 1) % mostKept
		}
	}
	c.decisions[question] = kept{d, until}
}

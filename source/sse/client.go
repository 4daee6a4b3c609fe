// Package sse brings in feeds of Server-Sent Events.
//
//	client.go    Source: connects, hands on what comes, connects again
//	config.go    the manual; preset.go: what well-known feeds need
//	connect.go   one request: headers, redirects, what answers are refused, decompression, stalls
//	transport.go proxies, certificates, and where a redirect must not lead
//	policy.go    what is retried, and when
//	decode.go    Decoder: bytes in, events out, to the standard
//	line.go      what lines say, and the event that a blank one ends
//	encoding.go  malformed UTF-8
//	resume.go    the cursor, and how a connection goes on exactly where the last one ended
//	track.go     the other ways to go on, and feeds that cannot
//	window.go    rewinding, and dropping what has come
//	mark.go      ids that are times
//	snapshot.go  feeds that send their whole state instead of resuming
//	emit.go      events into the emitter, in batches
//	print.go     Print: events as lines of JSON
//
// The rules are those of the WHATWG HTML standard, section "Server-sent events"; where a client that
// must lose nothing needs others (Policy, place), their comments say so.
package sse

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/jsonpath"
)

// Source brings in the events of one feed. It implements millrace.Source: it connects, emits what
// comes, and connects again for as long as it runs. Each event's ID is the feed's where the feed gives
// a new one with it, else derived (see place); its Type is the event type; its Time is that of
// arrival; its Key is empty.
//
// All events that one read of the socket completes are emitted together: at low load each one at
// once, at high load hundreds. While Emit blocks, the socket is not read.
type Source struct {
	config      Config
	o           Options
	url         *url.URL
	transport   http.RoundTripper
	own         *http.Transport // the same while it runs, nil if the caller gave one
	log         *slog.Logger
	instruments instruments
	private     func(netip.Addr) bool // isPrivate
	inside      bool                  // the feed's url leads to a private address
	types       map[string]bool       // nil: all
	from        *jsonpath.Set         // where an event holds the value to resume by; nil: its id
	drop        *jsonpath.Set         // nil: nothing is dropped
	dropValues  []string
	dropWhole   []string // whole data
	dropFound   []jsonpath.Value

	arrivedEvents, arrivedBytes atomic.Int64 // for the report
}

// Options are what a Source is given besides its configuration. The zero value works.
type Options struct {
	// Name is the source's name in logs and metrics.
	Name string
	// Transport makes the requests. By default the source has connections of its own, with the proxies
	// of the environment.
	Transport http.RoundTripper
	Logger    *slog.Logger // nil: none
	Metrics   *Metrics     // nil: none
	// Now is the clock for the events' time; time.Now by default.
	Now func() time.Time
	// Random returns numbers in [0,1) that spread reconnections; math/rand by default.
	Random func() float64
	// UserAgent is sent unless the configuration's headers name one. Default "millrace/devel".
	UserAgent string
	// Policy says what is retried. Default Ingest.
	Policy Policy
	// Retry is the reconnection time until the feed asks for another. Default 1s, and 3s with the
	// Standard policy.
	Retry time.Duration
	// Method and Body of the request. Default GET without one.
	Method string
	Body   []byte
	// Once ends Run when the first connection ends.
	Once bool
}

// New returns a source of a configured feed. It touches nothing yet.
func New(c Config, o Options) *Source {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Random == nil {
		o.Random = rand.Float64
	}
	if o.UserAgent == "" {
		o.UserAgent = "millrace/devel"
	}
	if o.Method == "" {
		o.Method = http.MethodGet
	}
	s := &Source{
		config:      c,
		o:           o,
		log:         o.Logger.With("source", o.Name),
		instruments: o.Metrics.of(o.Name),
		private:     isPrivate,
	}
	s.transport = o.Transport
	if len(c.Types) > 0 {
		s.types = make(map[string]bool)
		for _, t := range c.Types {
			s.types[t] = true
		}
	}
	if from := c.Resume.From; from != "" {
		s.from = jsonpath.MustCompile(from)
	}
	if len(c.Drop) > 0 {
		var paths []string
		for _, rule := range c.Drop {
			path, value, _ := strings.Cut(rule, "=")
			if path == "" {
				s.dropWhole = append(s.dropWhole, value)
				continue
			}
			paths, s.dropValues = append(paths, path), append(s.dropValues, value)
		}
		if len(paths) > 0 {
			s.drop, s.dropFound = jsonpath.MustCompile(paths...), make([]jsonpath.Value, len(paths))
		}
	}
	return s
}

// Run implements millrace.Source. It ends without an error when ctx ends and when the feed says that
// there will be no more (204); with an error when the emitter fails, when the cursor is not one of an
// SSE source, and, with the Standard policy, when the standard says to fail.
func (s *Source) Run(ctx context.Context, from millrace.Resume, out millrace.Emitter) error {
	p, err := s.tracker(ctx, from)
	var known *snapshot
	if err == nil && s.config.Resume.Snapshot != "" {
		known, err = newSnapshot(ctx, &s.config.Resume, from.Recent)
	}
	switch {
	case err != nil && ctx.Err() != nil:
		return nil // it ended while the source's own blocks were read back
	case err != nil:
		return err
	}
	b := newBatch(s, p, from.Cursor, out)
	b.snapshot = known
	return s.run(ctx, b)
}

// drops says whether the configuration drops an event, as it does with canaries.
func (s *Source) drops(e *Event) bool {
	if s.dropWhole != nil && slices.Contains(s.dropWhole, string(e.Data)) {
		return true
	}
	if s.drop == nil || e.TooLarge || s.drop.Find(e.Data, s.dropFound) != nil {
		return false
	}
	for i, v := range s.dropFound {
		if v.Kind != jsonpath.Missing && v.String() == s.dropValues[i] {
			return true
		}
	}
	return false
}

// taker takes what connections bring.
type taker interface {
	// begin is called before each connection and returns the id to resume with; resume returns the
	// same and changes nothing; connected is called when the feed has answered.
	begin() (lastEventID string)
	resume() (lastEventID string)
	connected()
	comment(text []byte)
	// take is called for each event, flush after the events that one read has completed, with the last
	// event ID as it then stands.
	take(ctx context.Context, e *Event) error
	flush(ctx context.Context, lastEventID []byte) error
}

// sourcesRoom is for the decoders of all sources: 30 busy feeds have the largest read buffers.
var sourcesRoom = room{limit: 8 << 20}

var (
	errStalled = errors.New("no byte came for the read_timeout")
	// errRevoked is returned by a taker where the feed says that the credentials have ended.
	errRevoked = millrace.Errorf(millrace.Denied, "read the feed", "the feed says that the credentials are revoked: renew those in url and headers")
)

// run connects again and again.
func (s *Source) run(ctx context.Context, out taker) error {
	u, err := url.Parse(s.config.URL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return millrace.Errorf(millrace.Invalid, "connect", "url is not an http or https URL")
	}
	s.url = u
	if s.o.Transport == nil {
		if s.own, err = s.newTransport(); err != nil {
			return err
		}
		s.transport = s.own
		defer s.own.CloseIdleConnections()
	}
	var reports sync.WaitGroup
	defer reports.Wait()
	if s.config.ReportEvery > 0 {
		reporting, end := context.WithCancel(ctx)
		defer end()
		reports.Go(func() { s.report(reporting) })
	}

	decoder := NewDecoder(nil, s.config.EventLimit)
	decoder.room = &sourcesRoom
	defer decoder.release()
	pace := pace{policy: s.o.Policy, retry: s.o.Retry, random: s.o.Random}
	for {
		ended := s.connection(ctx, decoder, out, &pace)
		switch {
		case ctx.Err() != nil:
			return nil
		case ended.do == fail:
			return ended.err
		case ended.do == stop:
			s.log.Info("the feed is over", "reason", ended.reason)
			return nil
		case s.o.Once:
			return ended.err
		}
		wait := pace.wait(ended)
		s.logEnding(ended, wait)
		s.instruments.reconnects.WithLabelValues(ended.reason).Inc()
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil
		}
	}
}

// connection makes one connection, or as many as max_connection asks for, each of which goes on where
// the one before stands, and hands on what they bring until the last one ends.
func (s *Source) connection(running context.Context, d *Decoder, out taker, pace *pace) ending {
	resumed := out.begin()
	l, refused := s.link(running, resumed, s.config.ReadTimeout, pace.routine)
	if refused != nil {
		return *refused
	}
	defer func() { l.close() }()
	out.connected()
	s.instruments.connected.Set(1)
	defer s.instruments.connected.Set(0)
	d.Reset(l.body, s.heldID(resumed))
	d.Comment = out.comment
	var e Event
	began, events := l.began, 0
	replaceAt := s.replaceAt(l)
	for {
		readErr := d.Read()
		n := 0
		for d.Next(&e) {
			n++
			if err := out.take(running, &e); err != nil {
				if errors.Is(err, errRevoked) && s.o.Policy != Standard {
					return ending{do: slowly, reason: "revoked", err: err}
				}
				return ending{do: fail, err: err}
			}
		}
		if err := out.flush(running, d.LastEventID()); err != nil {
			return ending{do: fail, err: err}
		}
		if retry, asked := d.Retry(); asked {
			pace.ask(retry)
		}
		if n > 0 {
			events += n
			s.arrivedEvents.Add(int64(n))
			s.instruments.last.Set(float64(s.o.Now().UnixNano()) / 1e9)
		}
		if readErr == nil {
			if replaceAt.IsZero() || time.Now().Before(replaceAt) {
				continue
			}
			// Nothing is read from the old connection from here on, so what it has sent meanwhile comes over
			// the new one: nothing is taken between resume and begin.
			next, refused := s.link(running, out.resume(), replaceTimeout, true)
			if refused != nil {
				replaceAt = time.Now().Add(replaceAgain)
				s.log.Warn("the connection could not be replaced before its end", "url", redact(s.url), "error", refused.err)
				continue
			}
			l.close()
			l = next
			d.Reset(l.body, s.heldID(out.begin()))
			replaceAt = s.replaceAt(l)
			s.instruments.replaced.Inc()
			continue
		}
		ended := ending{do: again, reason: "cut", err: readErr, lasted: time.Since(began), events: events}
		if errors.Is(readErr, io.EOF) {
			ended.reason, ended.err = "end", nil
		}
		return s.explain(l.ctx, ended)
	}
}

const (
	replaceTimeout = 30 * time.Second // for the feed's answer, while the old connection waits
	replaceAgain   = 10 * time.Second // after a replacement that failed
)

func (s *Source) replaceAt(l *link) time.Time {
	if s.config.MaxConnection <= 0 {
		return time.Time{}
	}
	return l.began.Add(s.config.MaxConnection)
}

// link is a connection on which the feed answers with events.
type link struct {
	ctx    context.Context // a stall ends it, and with it the connection, but never the emitting of what has come
	cancel context.CancelCauseFunc
	live   *liveness
	raw    io.Closer
	body   io.ReadCloser // decompressed
	began  time.Time
}

// link asks for the feed. The answer must come within the timeout (0: whenever it comes).
func (s *Source) link(running context.Context, resumed string, timeout time.Duration, routine bool) (*link, *ending) {
	ctx, cancel := context.WithCancelCause(running)
	l := &link{ctx: ctx, cancel: cancel, began: time.Now()}
	l.live = newLiveness(timeout, func() { cancel(errStalled) })
	response, refused := s.connect(ctx, resumed, l.live)
	if refused != nil {
		*refused = s.explain(ctx, *refused)
		l.live.stop()
		cancel(nil)
		return nil, refused
	}
	l.raw = response.Body
	l.live.timeout = s.config.ReadTimeout
	level := slog.LevelInfo
	if routine {
		level = slog.LevelDebug
	}
	s.log.Log(ctx, level, "connected", "url", redact(s.url), "protocol", response.Proto, "resumed", resumed != "")
	body, err := decompress(response, &wire{body: response.Body, live: l.live, source: s})
	if err != nil {
		ended := s.explain(ctx, ending{do: again, reason: "cut", err: err})
		_ = l.raw.Close()
		l.live.stop()
		cancel(nil)
		return nil, &ended
	}
	l.body = body
	return l, nil
}

// close also closes a connection whose body was not read to the end.
func (l *link) close() {
	_ = l.body.Close() // of a reader
	l.live.stop()
	l.cancel(nil)
	_ = l.raw.Close()
}

// explain gives an error its code and says what caused it. None of them holds the URL, whose query
// string may be secret: unlike an http.Client, a transport does not put it there.
func (s *Source) explain(ctx context.Context, e ending) ending {
	if errors.Is(context.Cause(ctx), errStalled) {
		e.do, e.reason = again, "stalled"
		e.err = millrace.Errorf(millrace.Unavailable, "read the feed", "no byte came for read_timeout %s: the connection is replaced",
			s.config.ReadTimeout)
		return e
	}
	var dns *net.DNSError
	var known *millrace.Error
	switch {
	case e.err == nil, errors.As(e.err, &known):
	case errors.As(e.err, &dns):
		e.reason = "dns"
		e.err = millrace.Errorf(millrace.Unavailable, "connect", "the host %q of url cannot be found: %s; check url and the name server",
			dns.Name, dns.Err)
	default:
		e.err = millrace.Errorf(millrace.Unavailable, "read the feed", "%w", e.err)
	}
	return e
}

func (s *Source) logEnding(e ending, wait time.Duration) {
	wait = wait.Round(time.Millisecond)
	attributes := []any{"url", redact(s.url), "reason", e.reason, "events", e.events, "reconnect_in", wait}
	if e.err != nil {
		attributes = append(attributes, "error", e.err)
	}
	switch {
	case e.do == slowly:
		s.instruments.alarms.Inc()
		s.log.Error("the feed refuses this client: someone must look", attributes...)
	case e.err != nil:
		s.log.Warn("connection lost", attributes...)
	default: // many feeds end their connections by design
		s.log.Debug("connection ended", attributes...)
	}
}

// report logs how much arrived, every ReportEvery.
func (s *Source) report(ctx context.Context) {
	ticker := time.NewTicker(s.config.ReportEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			s.log.Info("events arrived", "events", s.arrivedEvents.Swap(0), "bytes", s.arrivedBytes.Swap(0),
				"period", s.config.ReportEvery)
		}
	}
}

// redact returns a URL as it may be logged: without user, password, query string and fragment.
func redact(u *url.URL) string {
	return u.Scheme + "://" + u.Host + u.EscapedPath()
}

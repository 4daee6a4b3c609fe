package sse

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/millrace/millrace"
)

const maxRedirects = 5

// accepted are the encodings that a feed may choose from. Brotli comes last because of what it costs: see
// decompress.
const accepted = "gzip, zstd, br;q=0.5"

// connect asks for the feed, following redirects itself because it must choose what another host gets
// to see (an http.Client would send it custom headers and, as Referer, the URL), and returns an answer that
// is an event stream, or why there is none. The response's body is the caller's to close.
func (s *Source) connect(ctx context.Context, lastEventID string, live *liveness) (*http.Response, *ending) {
	live.wait()
	defer live.rest()
	target, method, body := s.url, s.o.Method, s.o.Body
	if name := s.config.Resume.Query; name != "" && lastEventID != "" {
		target, lastEventID = withQuery(target, name, lastEventID), ""
	}
	for hops := 0; ; hops++ {
		request, err := s.request(s.guard(ctx, target), target, method, body, lastEventID)
		if err != nil {
			return nil, &ending{do: again, reason: "network", err: err}
		}
		response, err := s.transport.RoundTrip(request)
		if errors.Is(err, errPrivate) {
			return nil, s.refusePrivate()
		}
		if err != nil {
			return nil, &ending{do: again, reason: "network", err: err}
		}
		if !redirects(response.StatusCode) {
			if refused := s.judge(response); refused != nil {
				_ = response.Body.Close()
				return nil, refused
			}
			return response, nil
		}
		_ = response.Body.Close()
		next, err := url.Parse(response.Header.Get("Location"))
		switch {
		case err != nil || response.Header.Get("Location") == "":
			return nil, s.refuse("redirect", "the feed answered %d with a Location that is no URL: check url", response.StatusCode)
		case hops == maxRedirects:
			return nil, s.refuse("redirect", "the feed redirects more than %d times: check url", maxRedirects)
		}
		next = target.ResolveReference(next)
		if next.Scheme != "http" && next.Scheme != "https" || next.Host == "" {
			return nil, s.refuse("redirect", "the feed redirects to a URL that is neither http nor https: check url")
		}
		if s.guards(next) && s.privateHost(next.Hostname()) {
			return nil, s.refusePrivate()
		}
		if next.User == nil && sameOrigin(s.url, next) {
			next.User = s.url.User
		}
		target = next
		if code := response.StatusCode; code == http.StatusSeeOther && method != http.MethodHead ||
			(code == http.StatusMovedPermanently || code == http.StatusFound) && method == http.MethodPost {
			method, body = http.MethodGet, nil // as the Fetch standard says, "HTTP-redirect fetch"
		}
	}
}

// withQuery returns the URL with a parameter set, the others as they are.
func withQuery(u *url.URL, name, value string) *url.URL {
	var kept []string
	for parameter := range strings.SplitSeq(u.RawQuery, "&") {
		key, _, _ := strings.Cut(parameter, "=")
		if key, err := url.QueryUnescape(key); parameter != "" && (err != nil || key != name) {
			kept = append(kept, parameter)
		}
	}
	with := *u
	with.RawQuery = strings.Join(append(kept, url.QueryEscape(name)+"="+url.QueryEscape(value)), "&")
	return &with
}

// heldID is the last event ID that a connection begins with: what it resumed with, unless that was
// no id of the feed's.
func (s *Source) heldID(resumed string) string {
	if s.from != nil {
		return ""
	}
	return resumed
}

func redirects(status int) bool {
	switch status {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther,
		http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return true
	default:
		return false
	}
}

// request makes the request for one hop. Another host than the feed's gets no header from the
// configuration but User-Agent: any of them may be a credential.
func (s *Source) request(ctx context.Context, target *url.URL, method string, body []byte, lastEventID string) (*http.Request, error) {
	var content io.Reader
	if body != nil {
		content = bytes.NewReader(body)
	}
	request, err := http.NewRequestWithContext(ctx, method, target.String(), content)
	if err != nil {
		return nil, err
	}
	h := request.Header
	h.Set("Accept", "text/event-stream")
	h.Set("Cache-Control", "no-cache")
	h.Set("Accept-Encoding", accepted)
	h.Set("User-Agent", s.o.UserAgent)
	own := sameOrigin(s.url, target)
	for name, value := range maps.All(s.config.Headers) {
		switch canonical := http.CanonicalHeaderKey(name); {
		case canonical == "Host":
			if own {
				request.Host = value
			}
		case own || canonical == "User-Agent":
			h.Set(name, value)
		}
	}
	if user := target.User; user != nil && h.Get("Authorization") == "" {
		password, _ := user.Password()
		request.SetBasicAuth(user.Username(), password)
	}
	if lastEventID != "" {
		h.Set("Last-Event-ID", lastEventID)
	}
	return request, nil
}

// sameOrigin says whether a redirect from the feed's URL to another stays on its host: same scheme
// and port, or from http to https on the default ports.
func sameOrigin(feed, other *url.URL) bool {
	if !strings.EqualFold(feed.Hostname(), other.Hostname()) {
		return false
	}
	from, to := port(feed), port(other)
	if feed.Scheme == other.Scheme {
		return from == to
	}
	return feed.Scheme == "http" && from == "80" && to == "443"
}

func port(u *url.URL) string {
	switch {
	case u.Port() != "":
		return u.Port()
	case u.Scheme == "https":
		return "443"
	default:
		return "80"
	}
}

// judge returns why an answer is no event stream, nil if it is one.
func (s *Source) judge(r *http.Response) *ending {
	switch code := r.StatusCode; {
	case code == http.StatusNoContent:
		return &ending{do: stop, reason: "204"}
	case code == http.StatusRequestTimeout, code == http.StatusTooEarly, code == http.StatusTooManyRequests, code >= 500:
		if s.o.Policy == Standard {
			break
		}
		return &ending{
			do: again, reason: "status", after: retryAfter(r.Header, s.o.Now()),
			err: millrace.Errorf(millrace.Unavailable, "connect", "the feed answered %s", status(code)),
		}
	case code == http.StatusOK:
		kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
		if strings.EqualFold(strings.TrimSpace(kind), "text/event-stream") {
			return s.judgeEncoding(r)
		}
		came := fmt.Sprintf("%.100q", r.Header.Get("Content-Type"))
		if kind == "" {
			came = "no Content-Type"
		}
		return s.refuse("content_type", "the feed answered with %s instead of text/event-stream: check url and headers", came)
	}
	code := millrace.Unavailable
	advice := "check url"
	switch r.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		code, advice = millrace.Denied, "check the credentials in url and headers"
	case http.StatusNotFound, http.StatusGone:
		code = millrace.NotFound
	}
	refused := s.refuse("status", "the feed answered %s: %s", status(r.StatusCode), advice)
	refused.err.(*millrace.Error).Code = code //nolint:errorlint,forcetypeassert // refuse made it
	return refused
}

func (s *Source) judgeEncoding(r *http.Response) *ending {
	switch coding := strings.ToLower(strings.TrimSpace(r.Header.Get("Content-Encoding"))); coding {
	case "", "identity", "gzip", "x-gzip", "zstd", "br":
		return nil
	default:
		return s.refuse("encoding", "the feed is compressed with %.40q, which was not asked for: gzip, zstd, br and identity are understood", coding)
	}
}

// refuse is how an answer ends that needs a person.
func (s *Source) refuse(reason, format string, args ...any) *ending {
	e := &ending{do: slowly, reason: reason, err: millrace.Errorf(millrace.Invalid, "connect", format, args...)}
	if s.o.Policy == Standard {
		e.do = fail
	}
	return e
}

func status(code int) string {
	return strings.TrimSpace(fmt.Sprintf("%d %s", code, http.StatusText(code)))
}

// decompress returns the body in plain. All decompressors hand over what the server has flushed without
// waiting for more.
//
// What a connection costs in memory is decided by the server, by the window that it declares: with gzip
// always some 50 KiB; with zstd the window, at most 8 MiB (RFC 9659, a larger one ends the connection);
// with brotli as much as has been sent until now, up to the window, which is at most 16 MiB (RFC 7932,
// section 9.1; what is called large window brotli ends the connection). Either of the latter is held while
// the connection lasts.
func decompress(r *http.Response, body io.Reader) (io.ReadCloser, error) {
	switch strings.ToLower(strings.TrimSpace(r.Header.Get("Content-Encoding"))) {
	case "gzip", "x-gzip":
		return gzip.NewReader(body)
	case "zstd":
		// One goroutine less, and a bound on what a header can make us allocate.
		z, err := zstd.NewReader(body, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(8<<20))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	case "br":
		return io.NopCloser(brotli.NewReader(body)), nil
	default:
		return io.NopCloser(body), nil
	}
}

// wire is the body as it comes off the wire. It counts, and any byte is a sign of life. Time between
// reads does not count: while Emit blocks nobody waits for the feed.
type wire struct {
	body   io.Reader
	live   *liveness
	source *Source
}

func (w *wire) Read(p []byte) (int, error) {
	w.live.wait()
	n, err := w.body.Read(p)
	w.live.rest()
	w.source.arrivedBytes.Add(int64(n))
	w.source.instruments.bytes.Add(float64(n))
	return n, err
}

// liveness calls stalled when a wait lasts too long.
type liveness struct {
	timeout time.Duration
	timer   *time.Timer // nil if there is no timeout
}

func newLiveness(timeout time.Duration, stalled func()) *liveness {
	l := &liveness{timeout: timeout}
	if timeout > 0 {
		l.timer = time.AfterFunc(timeout, stalled)
		l.timer.Stop()
	}
	return l
}

func (l *liveness) wait() {
	if l.timer != nil && l.timeout > 0 {
		l.timer.Reset(l.timeout)
	}
}

func (l *liveness) rest() {
	if l.timer != nil {
		l.timer.Stop()
	}
}

func (l *liveness) stop() { l.rest() }

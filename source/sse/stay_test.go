package sse

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/millracetest"
)

// TestMaxConnection: a feed that cuts after 15 minutes is not cut once in two hours, and nothing is
// lost or comes twice; a replacement that is refused is tried again while the old connection goes on.
func TestMaxConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		feed := millracetest.NewFeedHandler(millracetest.FeedOptions{Lifetime: 15 * time.Minute, Heartbeat: 15 * time.Second, Live: true})
		defer feed.Close()
		registry := prometheus.NewRegistry()
		c := config("http://feed.invalid/")
		c.MaxConnection = 14 * time.Minute
		r := run(t, c, Options{Transport: serve(t, feed), Metrics: NewMetrics(registry)}, "")
		synctest.Wait()
		began := time.Now()
		n := 0
		for ; time.Since(began) < 2*time.Hour; n++ {
			if n == 40 {
				feed.Answer(millracetest.AnswerStatus(http.StatusTooManyRequests))
			}
			feed.Send(numbered(n, 1)...)
			time.Sleep(12 * time.Second)
		}
		synctest.Wait()
		wantNumbered(t, r, n)
		_ = r.stop()
		if log := r.logs.String(); strings.Contains(log, "connection ended") || strings.Contains(log, "connection lost") {
			t.Error("the feed ended a connection")
		}
		if log := r.logs.String(); strings.Count(log, "could not be replaced") != 1 {
			t.Errorf("%d replacements failed", strings.Count(log, "could not be replaced"))
		}
		if got := len(feed.Requests()); got != 10 { // the first, 8 replacements, the one that was refused
			t.Errorf("%d requests", got)
		}
		if got := metric(t, registry, "millrace_source_replaced_connections_total"); got != 8 {
			t.Errorf("%v were replaced", got)
		}
	})
}

func metric(t *testing.T, g prometheus.Gatherer, name string) float64 {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	return -1
}

// TestFeedIsDown: the metrics that docs/operations.md makes alarms of tell a feed that is away, one that
// refuses us and one that is silent from one that goes, also one that ends its connections all the time.
func TestFeedIsDown(t *testing.T) {
	for name, tt := range map[string]struct {
		feed    millracetest.FeedOptions
		away    http.HandlerFunc
		refuses bool
	}{
		"away":                {away: millracetest.AnswerStatus(http.StatusServiceUnavailable)},
		"does not answer":     {away: millracetest.AnswerNothing()},
		"breaks off":          {away: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }},
		"refuses":             {away: millracetest.AnswerStatus(http.StatusUnauthorized), refuses: true},
		"ends its connection": {feed: millracetest.FeedOptions{Lifetime: 7 * time.Second}, away: millracetest.AnswerStatus(http.StatusBadGateway)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tt.feed.Heartbeat = 5 * time.Second
				feed := millracetest.NewFeedHandler(tt.feed)
				defer feed.Close()
				up, goDown := context.WithCancel(t.Context())
				var back atomic.Bool
				way := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if up.Err() != nil && !back.Load() {
						tt.away(w, r)
						return
					}
					ctx, end := context.WithCancel(r.Context())
					if !back.Load() {
						defer context.AfterFunc(up, end)()
					}
					feed.ServeHTTP(w, r.WithContext(ctx))
					end()
				}))
				registry := prometheus.NewRegistry()
				metrics := NewMetrics(registry)
				// Scraped every 15 seconds, as Prometheus would; over five minutes.
				watch := func(metric string) (least, most float64) {
					for i := range 20 {
						time.Sleep(15 * time.Second)
						synctest.Wait()
						v := sum(t, registry, metric)
						if i == 0 {
							least = v
						}
						least, most = min(least, v), max(most, v)
					}
					return least, most
				}
				s := New(config("http://feed/"), Options{Name: "feed", Transport: way, Metrics: metrics, Random: func() float64 { return 0.5 }})
				if families, err := registry.Gather(); err != nil || sum(t, registry, "millrace_source_connected") != 0 || len(families) < 5 {
					t.Error("the series of a feed begin with its configuration, not with its first connection", err)
				}
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan error, 1)
				go func() { ended <- s.Run(ctx, millrace.Resume{}, millracetest.NewRecorder()) }()

				feed.Send(numbered(0, 1)...)
				if _, most := watch("millrace_source_connected"); most != 1 {
					t.Error("it is connected")
				}
				if age := float64(time.Now().Unix()) - sum(t, registry, "millrace_source_last_event_timestamp_seconds"); age < 290 || age > 310 {
					t.Errorf("the newest event is %v seconds old", age)
				}
				goDown()
				synctest.Wait()
				before := sum(t, registry, "millrace_source_alarms_total")
				if _, most := watch("millrace_source_connected"); most != 0 {
					t.Error("it is down and said to be connected")
				}
				_, most := watch("millrace_source_alarms_total")
				if (most > before) != tt.refuses {
					t.Errorf("%v alarms", most-before)
				}
				back.Store(true)
				time.Sleep(5 * time.Minute)
				if _, most := watch("millrace_source_connected"); most != 1 {
					t.Error("it is connected again")
				}
				cancel()
				if err := <-ended; err != nil {
					t.Error(err)
				}
				if sum(t, registry, "millrace_source_connected") != 0 {
					t.Error("it is stopped and said to be connected")
				}
			})
		})
	}
}

// TestWikimediaIsReplaced: the same at Wikimedia, which allows two connections and no more.
func TestWikimediaIsReplaced(t *testing.T) {
	feed := millracetest.NewWikimedia(t, millracetest.SimulatorOptions{Heartbeat: 5 * time.Millisecond, Lifetime: time.Minute}, eqiad)
	c := wikimediaConfig(feed.URL)
	c.MaxConnection = 100 * time.Millisecond
	r := run(t, c, Options{}, "")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	n := 0
	for ; len(feed.Requests()) < 6; n++ {
		feed.Send(eqiad, time.UnixMilli(1_700_000_000_000+int64(n/3)), fmt.Sprint(n), "w", n)
		if err := r.Wait(ctx, n+1); err != nil {
			t.Fatal(err)
		}
	}
	for i, e := range r.Events() {
		if e.ID != fmt.Sprint(i) {
			t.Fatalf("event %d is %s", i, e.ID)
		}
	}
	if got := feed.MostConnections(); got < 2 {
		t.Error("the old connection was closed before the new one was opened")
	}
	if strings.Contains(r.logs.String(), "connection lost") || strings.Contains(r.logs.String(), "connection ended") {
		t.Error(r.logs)
	}
}

// TestClientCertificates: a server that demands one, signed by its own authority.
func TestClientCertificates(t *testing.T) {
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		IPAddresses: []net.IP{{127, 0, 0, 1}},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	certFile, keyFile := write("cert.pem", "CERTIFICATE", der), write("key.pem", "PRIVATE KEY", pkcs8)

	feed := millracetest.NewFeedHandler(millracetest.FeedOptions{})
	defer feed.Close()
	feed.Send(numbered(0, 3)...)
	server := httptest.NewUnstartedServer(feed)
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(parsed)
	server.TLS = &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		ClientAuth:   tls.RequireAndVerifyClientCert, ClientCAs: pool, MinVersion: tls.VersionTLS12,
		NextProtos: []string{"h2", "http/1.1"},
	}
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	defer server.CloseClientConnections()

	c := config(server.URL)
	c.TLS = TLS{CA: certFile, Cert: certFile, Key: keyFile}
	r := run(t, c, Options{}, "")
	wantNumbered(t, r, 3)
	_ = r.stop()
	if !strings.Contains(r.logs.String(), "protocol=HTTP/2.0") {
		t.Error("not HTTP/2", r.logs)
	}
	for name, config := range map[string]TLS{"no certificate": {CA: certFile}, "no authority": {Cert: certFile, Key: keyFile}} {
		c.TLS = config
		r := run(t, c, Options{Once: true}, "")
		// In TLS 1.3 the server refuses after the client's handshake is over: whether the client reads the
		// alert or first fails to write its request is up to the scheduler.
		err := r.ended()
		if err == nil || name == "no authority" && !strings.Contains(err.Error(), "certificate") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for want, config := range map[string]TLS{
		"tls.ca":                     {CA: filepath.Join(dir, "none.pem")},
		"holds no certificate":       {CA: keyFile},
		`tls.cert "` + keyFile + `"`: {Cert: keyFile, Key: keyFile},
	} {
		c.TLS = config
		r := run(t, c, Options{}, "")
		if err := r.ended(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %s, got %v", want, err)
		}
	}
}

// TestProxy: requests go through the proxy of the configuration.
func TestProxy(t *testing.T) {
	feed := millracetest.NewFeedHandler(millracetest.FeedOptions{})
	defer feed.Close()
	feed.Send(numbered(0, 3)...)
	asked := make(chan *http.Request, 10)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r
		feed.ServeHTTP(w, r)
	}))
	defer proxy.Close()
	defer proxy.CloseClientConnections()
	u, err := url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword("me", "hidden-password")
	c := config("http://feed.invalid/events?token=hidden-token")
	c.Proxy = u.String()
	r := run(t, c, Options{}, "")
	wantNumbered(t, r, 3)
	q := <-asked
	if q.RequestURI != c.URL || q.Header.Get("Proxy-Authorization") == "" {
		t.Errorf("the proxy was asked for %s with %v", q.RequestURI, q.Header)
	}
	_ = r.stop()
	if strings.Contains(r.logs.String(), "hidden") {
		t.Error("a secret was logged", r.logs)
	}
}

// TestRedirectsToPrivateAddresses with 127.0.0.1 as the public internet and 127.0.0.2 as a private network.
func TestRedirectsToPrivateAddresses(t *testing.T) {
	for _, tt := range []struct {
		name          string
		location      string
		allow, inward bool
		reached       bool
	}{
		{name: "a private address", location: "http://127.0.0.2:1/"},
		{name: "in IPv6", location: "http://[::ffff:127.0.0.2]:1/"},
		{name: "localhost", location: "http://localhost:1/"},
		{name: "below localhost", location: "http://a.LOCALHOST.:1/"},
		{name: "a public address", location: "http://127.0.0.3:1/", reached: true},
		{name: "allowed", location: "http://127.0.0.2:1/", allow: true, reached: true},
		{name: "from inside", location: "http://127.0.0.2:1/", inward: true, reached: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			feed := millracetest.NewFeed(t, millracetest.FeedOptions{})
			feed.Answer(millracetest.AnswerRedirect(302, tt.location))
			c := config(feed.URL)
			c.AllowPrivate = tt.allow
			s := New(c, Options{Once: true})
			s.private = func(a netip.Addr) bool {
				return a.Unmap() == netip.MustParseAddr("127.0.0.2") || tt.inward && a.IsLoopback()
			}
			err := s.Run(t.Context(), millrace.Resume{}, millracetest.NewRecorder())
			if refused := err != nil && strings.Contains(err.Error(), "private address"); refused == tt.reached {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestRedirectsToPrivateNames: a name is judged by the address that it resolves to.
func TestRedirectsToPrivateNames(t *testing.T) {
	c := config("http://feed.example/")
	s := New(c, Options{})
	s.url = &url.URL{Scheme: "http", Host: "feed.example"}
	target := &url.URL{Scheme: "http", Host: "other.example:80"}
	ctx := s.guard(t.Context(), target)
	for address, refused := range map[string]bool{
		"10.1.2.3:80": true, "192.168.0.1:80": true, "172.16.0.1:80": true, "127.0.0.1:80": true, "169.254.169.254:80": true,
		"100.64.0.1:80": true, "0.0.0.0:80": true, "[::1]:80": true, "[fe80::1%eth0]:80": true, "[fd00::1]:80": true,
		"[::ffff:10.0.0.1]:80": true, "[64:ff9b::a00:1]:80": true, "[::]:80": true, "224.0.0.1:80": true,
		"8.8.8.8:80": false, "[2600::1]:80": false,
	} {
		if err := s.control(ctx, "tcp", address, nil); (err != nil) != refused {
			t.Errorf("%s: %v", address, err)
		}
		if err := s.control(t.Context(), "tcp", address, nil); err != nil {
			t.Errorf("the feed's own address %s: %v", address, err)
		}
	}
}

// TestSecretsAreNotLogged: whatever goes wrong, neither log nor error holds the query string, a header
// or what the feed resumes by.
func TestSecretsAreNotLogged(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{
		"redirect":      millracetest.AnswerRedirect(302, "/x?token=hidden-elsewhere"),
		"bad redirect":  millracetest.AnswerRedirect(302, "ftp://h/?token=hidden-elsewhere"),
		"no redirect":   millracetest.AnswerRedirect(302, "http://[/?hidden"),
		"dead redirect": millracetest.AnswerRedirect(302, "http://127.0.0.1:1/?token=hidden-elsewhere"),
		"401":           millracetest.AnswerStatus(401), "503": millracetest.AnswerStatus(503), "html": millracetest.AnswerHTML(),
		"cut":          func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"bad encoding": millracetest.AnswerStatus(200, "Content-Type", "text/event-stream", "Content-Encoding", "gzip"),
		"none":         millracetest.AnswerStatus(200, "Content-Type", "text/event-stream"),
	} {
		t.Run(name, func(t *testing.T) {
			feed := millracetest.NewFeed(t, millracetest.FeedOptions{})
			feed.Answer(answer)
			u, err := url.Parse(feed.URL)
			if err != nil {
				t.Fatal(err)
			}
			u.User, u.RawQuery = url.UserPassword("hidden-user", "hidden-password"), "token=hidden-token"
			c := config(u.String())
			c.Headers = map[string]string{"X-Api-Key": "hidden-key"}
			c.Resume.Query = "since"
			r := run(t, c, Options{Once: name != "redirect"}, `{"id":"hidden-id","n":1}`)
			if name == "redirect" {
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				if err := feed.WaitRequests(ctx, 2); err != nil {
					t.Fatal(err)
				}
				r.cancel()
			}
			err = r.ended()
			if log := fmt.Sprint(err, r.logs); strings.Contains(log, "hidden") {
				t.Error(log)
			}
		})
	}
}

// TestBombs: a body that decompresses to much more than it is, and headers without end, cost bounded
// memory.
func TestBombs(t *testing.T) {
	for _, coding := range []string{"gzip", "zstd", "br"} {
		t.Run(coding, func(t *testing.T) { bomb(t, coding) })
	}
}

func bomb(t *testing.T, coding string) {
	var bomb bytes.Buffer
	z := millracetest.NewCompressor(&bomb, coding)
	_, _ = z.Write([]byte("data:"))
	zeros := make([]byte, 1<<20)
	for range 12 {
		_, _ = z.Write(zeros)
	}
	_, _ = z.Write([]byte("\n\ndata:after\n\n"))
	_ = z.Close()
	feed := millracetest.NewFeed(t, millracetest.FeedOptions{})
	feed.Answer(answerCoded(coding, bomb.String()), func(w http.ResponseWriter, _ *http.Request) {
		for i := range 1000 {
			w.Header().Set(fmt.Sprint("X-", i), strings.Repeat("x", 1000))
		}
	}, millracetest.AnswerBody("text/event-stream", "id:"+strings.Repeat("i", 1<<20)+"\n:"+strings.Repeat("c", 1<<20)+"\nevent:"+
		strings.Repeat("e", 1<<20)+"\ndata:x\n\n"))
	c := config(feed.URL)
	c.EventLimit = 1 << 20
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	r := run(t, c, Options{}, "")
	data := r.data(t, 2)
	runtime.ReadMemStats(&after)
	if data[0] != "after" || data[1] != "x" {
		t.Errorf("got %.100q", data)
	}
	if rejected := r.Rejections(); len(rejected) != 1 || rejected[0].Length != 12<<20 || len(rejected[0].Input) > prefixLimit {
		t.Errorf("%d rejections", len(rejected))
	}
	if got := (after.TotalAlloc - before.TotalAlloc) >> 20; got > 22 {
		t.Errorf("%d MiB were allocated", got)
	}
	if e := r.Events()[1]; len(e.ID) > 200 || len(e.Type) > 1<<16 {
		t.Errorf("an id of %d and a type of %d bytes", len(e.ID), len(e.Type))
	}
}

// TestIDsThatCannotBeSentBack do not wedge the client: it connects again with the last good one.
func TestIDsThatCannotBeSentBack(t *testing.T) {
	for _, query := range []string{"", "since"} {
		feed := millracetest.NewFeed(t, millracetest.FeedOptions{Query: query})
		feed.Answer(millracetest.AnswerBody("text/event-stream",
			"id:good\ndata:1\n\nid:\x01\x1f\x7f\ndata:2\n\nid:"+strings.Repeat("x", maxID+1)+"\ndata:3\n\n"))
		c := config(feed.URL)
		c.Resume.Query = query
		r := run(t, c, Options{}, "")
		feed.Send(millracetest.FeedEvent{ID: "good", Data: "1"}, millracetest.FeedEvent{ID: "next", Data: "4"})
		if got := r.data(t, 4); strings.Join(got, " ") != "1 2 3 4" {
			t.Errorf("got %q", got)
		}
		if q := feed.Requests()[1]; q.LastEventID+q.Query.Get("since") != "good" {
			t.Errorf("resumed with %q and %v", q.LastEventID, q.Query)
		}
		_ = r.stop()
	}
}

package listener

import (
	"context"
	"crypto/tls"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// listenACME is TLS with certificates that an authority gives. Closing the listener ends the goroutines that get
// and renew them.
func listenACME(l net.Listener, t TLS, o Options) (net.Listener, error) {
	a := t.ACME
	storage := a.Storage
	if storage == "" {
		storage = filepath.Join(o.DataDir, "acme")
	}
	ctx, cancel := context.WithCancel(context.Background()) // until Close
	log := zap.New(&bridge{ctx, o.Logger.Handler()})
	var magic *certmagic.Config
	cache := certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert: func(certmagic.Certificate) (*certmagic.Config, error) { return magic, nil },
		Logger:           log,
	})
	magic = certmagic.New(cache, certmagic.Config{
		DefaultServerName: a.Domains[0],
		Storage:           &certmagic.FileStorage{Path: storage},
		Logger:            log,
	})
	f, err := openFiles(t, o, func(c *tls.Config) { c.GetCertificate = magic.GetCertificate })
	if err != nil {
		cancel()
		cache.Stop()
		return nil, err
	}
	magic.Issuers = []certmagic.Issuer{certmagic.NewACMEIssuer(magic, issuer(*a, l.Addr(), f, log))}

	var obtaining sync.WaitGroup
	first := &turn{over: make(chan struct{})}
	for _, domain := range a.Domains {
		obtaining.Go(func() {
			if err := obtain(ctx, magic, cache, first, domain); err != nil && ctx.Err() == nil {
				o.Logger.Error("listener: no certificate can be got", "domain", domain, "error", err)
			}
		})
	}
	challenge := &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{acmez.ACMETLS1Protocol}, GetCertificate: magic.GetCertificate,
	}
	return &closing{
		Listener: tls.NewListener(l, &tls.Config{
			MinVersion: versions[t.MinVersion],
			GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
				if len(hello.SupportedProtos) == 1 && hello.SupportedProtos[0] == acmez.ACMETLS1Protocol {
					return challenge, nil // the authority (RFC 8737, section 3), which has no certificate of a client
				}
				return f.config(), nil
			},
		}),
		end: func() {
			cancel()
			obtaining.Wait()
			cache.Stop()
		},
	}, nil
}

// issuer says how to prove that the domains lead here.
func issuer(a ACME, at net.Addr, f *files, log *zap.Logger) certmagic.ACMEIssuer {
	issuer := certmagic.ACMEIssuer{
		CA: a.Directory, Email: a.Email, Agreed: a.AgreeTerms, TrustedRoots: f.acme, Logger: log,
	}
	if a.HTTPChallenge != "" { // the port is taken only while there is a challenge
		host, port, _ := net.SplitHostPort(a.HTTPChallenge) // Validate has split it
		issuer.ListenHost, issuer.DisableTLSALPNChallenge = host, true
		issuer.AltHTTPPort, _ = net.LookupPort("tcp", port)
		return issuer
	}
	issuer.DisableHTTPChallenge = true
	// certmagic opens a port for the challenge unless it finds it taken; and it is, by the listener itself.
	if tcp, ok := at.(*net.TCPAddr); ok {
		issuer.AltTLSALPNPort = tcp.Port
		if !tcp.IP.IsUnspecified() {
			issuer.ListenHost = tcp.IP.String()
		}
	}
	return issuer
}

// obtain puts a domain's certificate into the cache, which renews it from then on: that in the storage, or a new
// one, for which it tries again and again, more and more seldom.
func obtain(ctx context.Context, magic *certmagic.Config, cache *certmagic.Cache, first *turn, domain string) error {
	have, err := magic.CacheManagedCertificate(ctx, domain)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		end := first.wait(ctx)
		err = magic.ObtainCertAsync(ctx, domain)
		end()
	case err == nil && have.NeedsRenewal(magic):
		err = magic.RenewCertAsync(ctx, domain, false)
	default:
		return err
	}
	if err == nil {
		_, err = magic.CacheManagedCertificate(ctx, domain)
	}
	if old := have.Hash(); err == nil && old != "" {
		cache.Remove([]string{old}) // it may be chosen as long as it is valid
	}
	return err
}

// turn lets the first domain that has no certificate go ahead: it opens the account that the others then use. Side by
// side each would open one.
type turn struct {
	taken atomic.Bool
	over  chan struct{} // closed when the first has its certificate
}

// ahead is how long the others wait for the first, which may never get one.
const ahead = 30 * time.Second

// wait returns at once to the first. end is to be called when the certificate is there.
func (t *turn) wait(ctx context.Context) (end func()) {
	if !t.taken.Swap(true) {
		return func() { close(t.over) }
	}
	timer := time.NewTimer(ahead)
	defer timer.Stop()
	select {
	case <-t.over:
	case <-timer.C:
	case <-ctx.Done():
	}
	return func() {}
}

// bridge hands what certmagic logs to slog until ctx ends: what fails then does so because it ends.
type bridge struct {
	ctx     context.Context
	handler slog.Handler
}

// slogLevel returns a level of zap in slog. What certmagic says at level info about each step is detail here.
func slogLevel(l zapcore.Level) slog.Level {
	switch {
	case l >= zapcore.ErrorLevel:
		return slog.LevelError
	case l == zapcore.WarnLevel:
		return slog.LevelWarn
	default:
		return slog.LevelDebug
	}
}

// Enabled implements zapcore.Core.
func (b *bridge) Enabled(l zapcore.Level) bool {
	return b.ctx.Err() == nil && b.handler.Enabled(b.ctx, slogLevel(l))
}

// With implements zapcore.Core.
func (b *bridge) With(fields []zapcore.Field) zapcore.Core {
	return &bridge{b.ctx, b.handler.WithAttrs(attributes(fields))}
}

// Check implements zapcore.Core.
func (b *bridge) Check(e zapcore.Entry, c *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if b.Enabled(e.Level) {
		return c.AddCore(e, b)
	}
	return c
}

// Write implements zapcore.Core.
func (b *bridge) Write(e zapcore.Entry, fields []zapcore.Field) error {
	r := slog.NewRecord(e.Time, slogLevel(e.Level), "listener: acme: "+e.Message, 0)
	r.AddAttrs(attributes(fields)...)
	return b.handler.Handle(b.ctx, r)
}

// Sync implements zapcore.Core.
func (b *bridge) Sync() error { return nil }

func attributes(fields []zapcore.Field) []slog.Attr {
	m := zapcore.NewMapObjectEncoder()
	attrs := make([]slog.Attr, 0, len(fields))
	for _, f := range fields {
		f.AddTo(m)
	}
	for _, f := range fields {
		if v, ok := m.Fields[f.Key]; ok {
			attrs = append(attrs, slog.Any(f.Key, v))
			delete(m.Fields, f.Key)
		}
	}
	return attrs
}

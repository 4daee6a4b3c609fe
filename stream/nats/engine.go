// Package nats keeps streams and state in NATS JetStream: in a server embedded in this process, or in
// an external server or cluster.
//
// A partition is a JetStream stream of its own, so that a cluster spreads them over its nodes. In it
// each producer has a subject, which makes the newest block of a producer the last message of a
// subject, and the fence the expected last sequence of a subject. A position is the partition's
// incarnation (kept in the JetStream stream's metadata, since JetStream's sequences start again when a
// stream is deleted and created) and the message's sequence. JetStream itself expires nothing: Trim
// does, because a quiet producer's newest block must stay.
//
// The embedded server opens no port and fsyncs every block before it is acknowledged. What an external
// server acknowledges is as durable as that server's configuration makes it: set sync_interval: always
// there.
package nats

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/millrace/millrace"
)

// Options of Open.
type Options struct {
	Config Config
	// DataDir is where an embedded server keeps its data, in the folder engine; locked while open.
	DataDir string
	Logger  *slog.Logger     // nil: nothing is logged
	Metrics *Metrics         // nil: nothing is measured
	Now     func() time.Time // what trimming by age goes by; default time.Now
}

// Engine holds the streams and the state. Its methods may be called concurrently.
type Engine struct {
	o      Options
	server *embedded // nil if external
	write  *nats.Conn
	read   *nats.Conn // apart, so that an acknowledgement never waits behind blocks that are read
	js     jetstream.JetStream

	mu     sync.Mutex
	open   map[string]*Stream
	closed bool
}

// Open starts the embedded server, or connects to the external one. It fails with Conflict if the
// data directory is in use by another process, with Invalid if the configuration is, with Denied and
// Unavailable if the external server says so or cannot be reached, and with Unavailable if the embedded
// server does not start.
func Open(ctx context.Context, o Options) (*Engine, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	e := &Engine{o: o, open: map[string]*Stream{}}
	if err := e.start(ctx); err != nil {
		_ = e.Close()
		return nil, err
	}
	return e, nil
}

func (e *Engine) start(ctx context.Context) (err error) {
	if e.o.Config.NATS == nil {
		var reserve int64 = defaultReserve
		if c := e.o.Config.Embedded; c != nil && c.Reserve > 0 {
			reserve = c.Reserve
		}
		if e.server, err = startEmbedded(ctx, e.o.DataDir, reserve, e.o.Logger, e.o.Metrics); err != nil {
			return err
		}
		e.server.restarted = e.wake
	}
	if e.write, err = e.connect("write"); err != nil {
		return err
	}
	if e.read, err = e.connect("read"); err != nil {
		return err
	}
	if e.js, err = jetstream.New(e.write); err != nil {
		return millrace.Errorf(millrace.Internal, "open engine", "%w", err)
	}
	if e.server == nil {
		if _, err := e.js.AccountInfo(ctx); err != nil {
			return fail("open engine", err, "JetStream at %s does not answer: it must be enabled for this account", e.address())
		}
		e.o.Logger.Warn("what is acknowledged is as durable as the NATS server's configuration makes it, which cannot be seen from here: "+
			"set sync_interval: always there", "url", e.address())
	}
	return nil
}

// connect makes one of the two connections.
func (e *Engine) connect(purpose string) (*nats.Conn, error) {
	options := []nats.Option{
		nats.Name("millrace " + purpose),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(100 * time.Millisecond),
		nats.RetryOnFailedConnect(false),
		nats.ErrorHandler(func(_ *nats.Conn, s *nats.Subscription, err error) {
			e.o.Logger.Warn("NATS connection", "connection", purpose, "error", err)
		}),
		nats.ReconnectHandler(func(*nats.Conn) { e.wake() }),
	}
	if e.server != nil {
		// Nothing in the process makes a ping worthwhile, and an idle program should do nothing.
		options = append(options, nats.InProcessServer(e.server), nats.PingInterval(time.Hour), nats.Timeout(10*time.Second))
		conn, err := nats.Connect("", options...)
		if err != nil {
			return nil, fail("open engine", err, "connect to the embedded server")
		}
		return conn, nil
	}
	external := e.o.Config.NATS
	if external.Credentials != "" {
		options = append(options, nats.UserCredentials(external.Credentials))
	}
	conn, err := nats.Connect(external.URL, options...)
	if err != nil {
		return nil, fail("open engine", err, "connect to the NATS server at %s", e.address())
	}
	return conn, nil
}

// address is the external server's, without a password.
func (e *Engine) address() string {
	urls := strings.Split(e.o.Config.NATS.URL, ",")
	for i, u := range urls {
		if at := strings.LastIndexByte(u, '@'); at >= 0 {
			scheme, _, _ := strings.Cut(u, "//")
			urls[i] = scheme + "//" + u[at+1:]
		}
	}
	return strings.Join(urls, ",")
}

// replicas of each stream.
func (e *Engine) replicas() int {
	if e.o.Config.NATS == nil {
		return 1
	}
	return max(1, e.o.Config.NATS.Replicas)
}

// wake makes all readers look whether their partition is still what it was.
func (e *Engine) wake() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, s := range e.open {
		for _, p := range s.partitions {
			p.doubt()
		}
	}
}

// Delete deletes a stream with all its blocks. A stream of the same name that is created later is
// another incarnation: positions in this one are a gap there. It fails with Conflict while the stream
// is open, NotFound, Unavailable.
func (e *Engine) Delete(ctx context.Context, name string) error {
	op := "delete stream " + strconv.Quote(name)
	e.mu.Lock()
	inUse := e.open[name] != nil
	e.mu.Unlock()
	if inUse {
		return millrace.Errorf(millrace.Conflict, op, "it is open")
	}
	// The first partition says how many there are, and goes last: what is interrupted can be repeated.
	info, err := store{e, storeName(name, "0")}.info(ctx)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return millrace.Errorf(millrace.NotFound, op, "there is no such stream")
	}
	if err != nil {
		return fail(op, err, "")
	}
	n, _ := strconv.Atoi(info.Config.Metadata[metaPartitions])
	for i := n - 1; i >= 0; i-- {
		err := e.js.DeleteStream(ctx, storeName(name, strconv.Itoa(i)))
		if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
			return fail(op, err, "")
		}
	}
	return nil
}

// Close closes the streams, the connections and the embedded server, and unlocks the data directory.
func (e *Engine) Close() error {
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return nil
	}
	e.closed = true
	streams := make([]*Stream, 0, len(e.open))
	for _, s := range e.open {
		streams = append(streams, s)
	}
	e.mu.Unlock()

	for _, s := range streams {
		_ = s.Close()
	}
	for _, conn := range []*nats.Conn{e.read, e.write} {
		if conn != nil {
			conn.Close()
		}
	}
	if e.server != nil {
		return e.server.stop()
	}
	return nil
}

// fail turns a failure of NATS into an *Error.
func fail(op string, err error, format string, args ...any) error {
	code := millrace.Unavailable
	var api *jetstream.APIError
	switch {
	case errors.As(err, &api) && api.Code == 400, // it does not like what it is asked for
		errors.Is(err, fs.ErrNotExist): // the credentials
		code = millrace.Invalid
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrPermissionViolation),
		errors.Is(err, nats.ErrAuthExpired), errors.Is(err, nats.ErrAuthRevoked):
		code = millrace.Denied
	}
	if format == "" {
		return millrace.Errorf(code, op, "%w", err)
	}
	return millrace.Errorf(code, op, format+": %w", append(args, err)...)
}

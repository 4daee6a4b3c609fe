package nats

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/millrace/millrace"
)

const (
	defaultReserve = 64 << 20
	// embeddedPayload bounds a message of the embedded server in bytes.
	embeddedPayload = 32 << 20
	// noLimit in bytes: the free disk space is the limit, and disk looks after that.
	noLimit = 1 << 60
)

// embedded is a JetStream server inside the process.
type embedded struct {
	*server.Server
	dir       string
	lock      *lock
	disk      *disk
	log       *slog.Logger
	restarted func() // set once, before the first append

	// stuck ends when JetStream could not write. JetStream stays so, also when there is space again,
	// until it is started anew; mend does that, and makes a new one.
	stuck atomic.Pointer[stuck]
	kick  chan struct{} // capacity 1: wakes mend
	stopc chan struct{}
	done  sync.WaitGroup
}

// stuck ends when JetStream can no longer write: who waits for an acknowledgement waits in vain.
type stuck struct {
	context.Context
	end context.CancelFunc
}

func (e *embedded) unstick() {
	ctx, end := context.WithCancel(context.Background())
	e.stuck.Store(&stuck{ctx, end})
}

func (e *embedded) isStuck() bool { return e.stuck.Load().Err() != nil }

func startEmbedded(ctx context.Context, dataDir string, reserve int64, log *slog.Logger, m *Metrics) (*embedded, error) {
	const op = "start engine"
	if dataDir == "" {
		return nil, millrace.Errorf(millrace.Invalid, op, "data_dir is empty: name a directory for the embedded engine's data")
	}
	dir := filepath.Join(dataDir, "engine")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, millrace.Errorf(millrace.Unavailable, op, "data_dir %q: %w", dataDir, err)
	}
	l, err := takeLock(dataDir)
	if err != nil {
		return nil, err
	}
	e := &embedded{
		dir: dir, lock: l, log: log, disk: newDisk(dir, reserve, m),
		kick: make(chan struct{}, 1), stopc: make(chan struct{}),
	}
	e.unstick()
	options := &server.Options{
		ServerName:         "millrace",
		DontListen:         true,
		NoSigs:             true, // the program drains on SIGTERM; the server would end the process
		JetStream:          true,
		StoreDir:           dir,
		SyncAlways:         true,
		JetStreamMaxMemory: 64 << 20,
		JetStreamMaxStore:  noLimit,
		MaxPayload:         embeddedPayload,
		MaxPending:         256 << 20,
		NoSystemAccount:    true,
	}
	if e.Server, err = server.NewServer(options); err != nil {
		_ = l.release()
		return nil, millrace.Errorf(millrace.Internal, op, "%w", err)
	}
	e.SetLoggerV2(serverLog{e}, false, false, false)
	e.Start()
	if !e.ready(ctx) {
		_ = e.stop()
		if err := context.Cause(ctx); err != nil {
			return nil, millrace.Errorf(millrace.Unavailable, op, "%w", err)
		}
		return nil, millrace.Errorf(millrace.Unavailable, op,
			"the embedded server did not start with the data in %q; its messages are in the log", dir)
	}
	e.done.Go(e.mend)
	return e, nil
}

// ready waits until the server takes connections and JetStream has read what it keeps. After a kill it
// scans its files, which takes a second or more for each GiB.
func (e *embedded) ready(ctx context.Context) bool {
	for ctx.Err() == nil && e.Running() {
		if e.ReadyForConnections(100*time.Millisecond) && e.JetStreamEnabled() {
			return true
		}
	}
	return false
}

// mend starts JetStream anew when it got stuck, once the disk has space again.
func (e *embedded) mend() {
	timer := time.NewTimer(0)
	<-timer.C
	for {
		select {
		case <-e.stopc:
			timer.Stop()
			return
		case <-e.kick:
		case <-timer.C:
		}
		if !e.isStuck() {
			continue
		}
		if err := e.disk.fullNow(); err != nil {
			timer.Reset(500 * time.Millisecond)
			continue
		}
		e.log.Warn("starting JetStream anew, because it could not write and stays stuck")
		if err := e.restart(); err != nil {
			e.log.Error("JetStream does not start", "error", err)
			timer.Reset(time.Second)
			continue
		}
		e.unstick()
		e.log.Info("JetStream writes again")
		if e.restarted != nil {
			e.restarted()
		}
	}
}

// restart drops what JetStream holds in memory and reads its files again.
func (e *embedded) restart() error {
	if err := e.DisableJetStream(); err != nil {
		return err
	}
	return e.EnableJetStream(&server.JetStreamConfig{
		MaxMemory: 64 << 20, MaxStore: noLimit, StoreDir: e.dir, SyncAlways: true,
	})
}

// gotStuck says that JetStream did not acknowledge a block in time or said that it cannot write.
func (e *embedded) gotStuck() {
	e.stuck.Load().end()
	select {
	case e.kick <- struct{}{}:
	default:
	}
}

func (e *embedded) stop() error {
	close(e.stopc)
	e.done.Wait()
	e.stuck.Load().end()
	e.Shutdown()
	e.WaitForShutdown()
	return e.lock.release()
}

// serverLog hands the server's messages to slog. Its notices are of no interest to who runs Millrace.
type serverLog struct{ e *embedded }

func (l serverLog) Noticef(format string, v ...any) { l.log(slog.LevelDebug, format, v) }
func (l serverLog) Fatalf(format string, v ...any)  { l.log(slog.LevelError, format, v) }
func (l serverLog) Debugf(format string, v ...any)  { l.log(slog.LevelDebug, format, v) }
func (l serverLog) Tracef(string, ...any)           {}

func (l serverLog) Warnf(format string, v ...any) {
	level := slog.LevelWarn
	if strings.HasPrefix(format, "Maximum payloads over") {
		level = slog.LevelDebug // large blocks are meant
	}
	l.log(level, format, v)
}

func (l serverLog) Errorf(format string, v ...any) {
	l.log(slog.LevelError, format, v)
	// The server does not tell the publisher when it cannot write, it only says so here.
	if strings.Contains(format, "failed to store a msg") || strings.Contains(format, "critical write error") {
		l.e.gotStuck()
	}
}

func (l serverLog) log(level slog.Level, format string, v []any) {
	if ctx := context.Background(); l.e.log.Enabled(ctx, level) {
		l.e.log.Log(ctx, level, "nats-server: "+fmt.Sprintf(format, v...))
	}
}

//go:build linux

package paced

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"flag"
	"fmt"
	"math/big"
	"net"
	"os"
	"runtime/debug"
	"runtime/pprof"
	"syscall"
	"time"
)

// Push hands a batch of events to all clients that want them.
type Push func(batch []Event) error

// Options are what the runner tells a server in flags, besides the server's own.
type Options struct {
	timeline, profile string
	tls               bool

	// Cut, if a server sets it, tells how many connections it has cut.
	Cut func() int
}

// Flags defines the flags that all servers have.
func Flags(f *flag.FlagSet) *Options {
	o := &Options{}
	f.StringVar(&o.timeline, "timeline", "", "`file` for the times at which events were made and durable")
	f.StringVar(&o.profile, "profile", "", "`file` for the profile of the CPU while events come")
	f.BoolVar(&o.tls, "tls", false, "serve TLS, with a certificate made up")
	return o
}

// Main serves on a port of its own and obeys the lines that come on stdin, answering each with one on stdout:
//
//	(nothing)              listening ADDRESS
//	load RATE BURST TICK KEYS SIZE    loading: events come from now on; TICK in nanoseconds
//	stop                   stopped N C: so many events came, and connections were cut
//	settle                 settled: memory that is free was given back to the system
//
// It returns when stdin ends.
func Main(o *Options, serve func(net.Listener, *Timeline) (Push, error)) error {
	RaiseLimits()
	var config net.ListenConfig
	l, err := config.Listen(context.Background(), "tcp4", "0.0.0.0:0") // clients have several addresses
	if err != nil {
		return err
	}
	address := fmt.Sprintf("127.0.0.1:%d", l.Addr().(*net.TCPAddr).Port) //nolint:forcetypeassert // it is one
	if o.tls {
		if l, err = withTLS(l); err != nil {
			return err
		}
	}
	timeline, err := OpenTimeline(o.timeline)
	if err != nil {
		return err
	}
	push, err := serve(l, timeline)
	if err != nil {
		return err
	}
	fmt.Println("listening", address)

	var stop func() (int64, error)
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var load Load
		switch n, _ := fmt.Sscanf(lines.Text(), "load %g %d %d %d %d", &load.Rate, &load.Burst, &load.Tick, &load.Keys, &load.Size); {
		case n == 5:
			if stop, err = begin(load, push, timeline, o.profile); err != nil {
				return err
			}
			fmt.Println("loading")
		case lines.Text() == "stop" && stop != nil:
			events, err := stop()
			if err != nil {
				return err
			}
			cut := 0
			if o.Cut != nil {
				cut = o.Cut()
			}
			fmt.Println("stopped", events, cut)
		case lines.Text() == "settle":
			debug.FreeOSMemory()
			fmt.Println("settled")
		default:
			return fmt.Errorf("%q is no command", lines.Text())
		}
	}
	return nil
}

// begin lets events come until stop is called.
func begin(load Load, push Push, timeline *Timeline, profile string) (stop func() (int64, error), err error) {
	var file *os.File
	if profile != "" {
		if file, err = os.Create(profile); err != nil {
			return nil, err
		}
		if err := pprof.StartCPUProfile(file); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	var pushed int64
	var failure error
	go func() {
		defer close(done)
		batch := NewBatch(load)
		pushed, failure = Pace(ctx, load, func(from, to int64) error {
			timeline.Made(from, to)
			return push(batch.Render(from, to))
		})
	}()
	return func() (int64, error) {
		cancel()
		<-done
		if file != nil {
			pprof.StopCPUProfile()
			if err := file.Close(); err != nil {
				return pushed, err
			}
		}
		return pushed, failure
	}, nil
}

// RaiseLimits lets the process have as many open files as the system allows it.
func RaiseLimits() {
	const many = 250_000
	if syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: many, Max: many}) == nil {
		return
	}
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) == nil {
		limit.Cur = limit.Max
		_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit) // too few show when connections fail
	}
}

// withTLS wraps a listener with a certificate for 127.0.0.1 that nobody vouches for.
func withTLS(l net.Listener) (net.Listener, error) {
	cert, key, err := Certificate()
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, err
	}
	return tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}), nil
}

// Certificate makes up a certificate for 127.0.0.1, for a day, that nobody vouches for, and its key, both in PEM.
func Certificate() (cert, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		return nil, nil, err
	}
	if key, err = x509.MarshalPKCS8PrivateKey(private); err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}), nil
}

package listener

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// pollEvery is how often files are looked at while connections come.
const pollEvery = 3 * time.Second

// maxFile bounds a file of certificates, in bytes.
const maxFile = 1 << 20

// files are a certificate, its key and the clients' authorities, read again when they change. There is no
// goroutine: a handshake that finds that it is time looks at them, while others go on with what there is.
type files struct {
	tls     TLS
	options Options
	finish  func(*tls.Config) // adds what does not come from files; may be nil
	acme    *x509.CertPool    // by which the directory is known; nil: the system's
	now     atomic.Pointer[tls.Config]

	mu     sync.Mutex
	looked time.Time
	hash   [sha256.Size]byte // of what is in use
	wrong  int               // looks that found something wrong, one after the other
}

// openFiles reads the files.
func openFiles(t TLS, o Options, finish func(*tls.Config)) (*files, error) {
	f := &files{tls: t, options: o, finish: finish, looked: o.Now()}
	c, l, err := f.read()
	if err != nil {
		return nil, err
	}
	f.hash, f.acme = l.hash, l.acme
	f.now.Store(c)
	return f, nil
}

// config returns the present configuration, which nobody may change.
func (f *files) config() *tls.Config {
	if f.mu.TryLock() {
		if now := f.options.Now(); now.Sub(f.looked) >= pollEvery || now.Before(f.looked) {
			f.looked = now
			f.look()
		}
		f.mu.Unlock()
	}
	return f.now.Load()
}

// look takes what is in the files if it has changed.
func (f *files) look() {
	c, l, err := f.read()
	switch {
	case err != nil:
		// Two files can't be replaced at the same moment: what is wrong once may be half of a change.
		if f.wrong++; f.wrong == 2 {
			f.options.Logger.Error("listener: the files of tls have changed and can't be used; what was good before stays",
				"error", err)
		}
	case l.hash != f.hash:
		f.hash, f.wrong = l.hash, 0
		f.now.Store(c)
		changed := []any{"cert", f.tls.Cert}
		if leaf := l.pair.Leaf; leaf != nil {
			changed = append(changed, "names", leaf.DNSNames, "until", leaf.NotAfter)
		}
		f.options.Logger.Info("listener: the files of tls have changed and are in use", changed...)
	default:
		f.wrong = 0
	}
}

func (f *files) read() (*tls.Config, loaded, error) {
	var wrong error
	l := load(f.tls, func(key, format string, args ...any) {
		wrong = errors.Join(wrong, fmt.Errorf("tls."+key+": "+format, args...))
	})
	if wrong != nil {
		return nil, l, wrong
	}
	c := &tls.Config{MinVersion: versions[f.tls.MinVersion], NextProtos: f.options.NextProtos}
	if l.clients != nil {
		c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, l.clients
		// A ticket would let a client in whose authority has been removed meanwhile.
		c.SessionTicketsDisabled = true
	}
	if l.pair.Leaf != nil {
		c.Certificates = []tls.Certificate{l.pair}
	}
	if f.finish != nil {
		f.finish(c)
	}
	return c, l, nil
}

// loaded is what the files hold.
type loaded struct {
	pair    tls.Certificate
	clients *x509.CertPool // nil: clients need no certificate
	acme    *x509.CertPool // nil: the system's
	hash    [sha256.Size]byte
}

// Check reports what is wrong with the files.
func (t *TLS) Check(problem func(path, format string, args ...any)) { load(*t, problem) }

// load reads the files and reports what is wrong with them by the path of the key.
func load(t TLS, problem func(path, format string, args ...any)) (l loaded) {
	sum := sha256.New()
	read := func(key, name string) []byte {
		text, err := readFile(name)
		if err != nil {
			problem(key, "%v", err)
			return nil
		}
		fmt.Fprintf(sum, "%d ", len(text))
		sum.Write(text)
		return text
	}
	authorities := func(key, name string) *x509.CertPool {
		if name == "" {
			return nil
		}
		pool := x509.NewCertPool()
		if text := read(key, name); text != nil && !pool.AppendCertsFromPEM(text) {
			problem(key, "%s holds no certificate (PEM)", name)
		}
		return pool
	}
	if t.ACME == nil {
		cert, key := read("cert", t.Cert), read("key", t.Key)
		if cert != nil && key != nil {
			var err error
			if l.pair, err = tls.X509KeyPair(cert, key); err != nil {
				problem("cert", "%s and %s are no pair: %v", t.Cert, t.Key, err)
			}
		}
	} else {
		l.acme = authorities("acme.ca", t.ACME.CA)
	}
	l.clients = authorities("client_ca", t.ClientCA)
	sum.Sum(l.hash[:0])
	return l
}

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("%s has more than %d bytes", name, maxFile)
	}
	if err == nil && len(text) == 0 {
		err = fmt.Errorf("%s is empty", name)
	}
	return text, err
}

package main

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/millrace/millrace/listener"
)

// controlFile in data_dir says how to reach the program that runs there. Only its owner can read it.
const controlFile = "control"

// control is what the file holds.
type control struct {
	Admin string `json:"admin"` // the admin listener's address
	Token string `json:"token"` // of this life of the program
	TLS   *seal  `json:"tls,omitempty"`
}

// seal is by which the command line knows the admin listener, which it reaches by an address that the certificate
// need not name. It is what the program runs with; the configuration may say something else by now.
type seal struct {
	// Name is the domain of a certificate that ACME gets.
	Name string `json:"name,omitempty"`
	// Certificate (DER) is what the listener began with. It reads its file again when that changes, so what the
	// file holds counts, too.
	Certificate []byte `json:"certificate,omitempty"`
	Cert        string `json:"cert,omitempty"`
	Key         string `json:"key,omitempty"`
	// Mutual says that the listener wants to see a certificate. Its own may be signed for both.
	Mutual bool `json:"mutual,omitempty"`
}

// sealOf returns nil for a listener without TLS.
func sealOf(t *listener.TLS) (*seal, error) {
	switch {
	case t == nil:
		return nil, nil
	case t.ACME != nil:
		return &seal{Name: t.ACME.Domains[0]}, nil
	}
	s := &seal{Mutual: t.ClientCA != ""}
	var err error
	if s.Cert, err = filepath.Abs(t.Cert); err != nil {
		return nil, err
	}
	if s.Key, err = filepath.Abs(t.Key); err != nil {
		return nil, err
	}
	s.Certificate, err = readCertificate(s.Cert)
	return s, err
}

// readCertificate returns the first certificate in a file (PEM).
func readCertificate(file string) ([]byte, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			return nil, fmt.Errorf("%s holds no certificate (PEM)", file)
		}
		if block.Type == "CERTIFICATE" {
			return block.Bytes, nil
		}
		text = rest
	}
}

// client is how to speak with the listener; nil: without TLS.
func (s *seal) client() (*tls.Config, error) {
	switch {
	case s == nil:
		return nil, nil
	case s.Name != "":
		return &tls.Config{MinVersion: tls.VersionTLS12, ServerName: s.Name}, nil
	}
	known := [][]byte{s.Certificate}
	if now, err := readCertificate(s.Cert); err == nil { // the file may be gone since
		known = append(known, now)
	}
	c := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		InsecureSkipVerify: true, //nolint:gosec // VerifyConnection compares it
		VerifyConnection: func(state tls.ConnectionState) error {
			if !slices.ContainsFunc(known, func(der []byte) bool { return bytes.Equal(state.PeerCertificates[0].Raw, der) }) {
				return errors.New("the certificate is not the one of the program's admin.tls; send it the signal SIGHUP instead (kill -HUP PID)")
			}
			return nil
		},
	}
	if s.Mutual {
		pair, err := tls.LoadX509KeyPair(s.Cert, s.Key)
		if err != nil {
			return nil, fmt.Errorf("read the admin listener's certificate: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

func newToken() string { return rand.Text() + rand.Text() }

// reachable is where the same machine reaches what listens on an address: one that stands for all is no
// destination everywhere.
func reachable(address string) string {
	host, port, err := net.SplitHostPort(address)
	if ip := net.ParseIP(host); err != nil || ip == nil || !ip.IsUnspecified() {
		return address
	}
	if strings.Contains(host, ":") {
		return net.JoinHostPort("::1", port)
	}
	return net.JoinHostPort("127.0.0.1", port)
}

// write replaces the file at once.
func (c control) write(dataDir string) error {
	text, err := json.Marshal(c)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dataDir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dataDir, controlFile+"-*") // 0600
	if err != nil {
		return err
	}
	_, err = f.Write(append(text, '\n'))
	if closing := f.Close(); err == nil {
		err = closing
	}
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(dataDir, controlFile))
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}

// readControl reads it. It fails with fs.ErrNotExist where no program with an admin listener runs.
func readControl(dataDir string) (c control, err error) {
	text, err := os.ReadFile(filepath.Join(dataDir, controlFile))
	if err == nil {
		err = json.Unmarshal(text, &c)
	}
	return c, err
}

// removeControl removes the file if it is still this program's.
func removeControl(dataDir, token string) {
	if c, err := readControl(dataDir); err == nil && c.Token == token {
		_ = os.Remove(filepath.Join(dataDir, controlFile)) // what is left over reaches nobody
	}
}

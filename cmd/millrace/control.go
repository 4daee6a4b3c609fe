package main

import (
	"crypto/rand"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
)

// controlFile in data_dir says how to reach the program that runs there. Only its owner can read it.
const controlFile = "control"

// control is what the file holds.
type control struct {
	Admin string `json:"admin"` // the admin listener's address
	Token string `json:"token"` // of this life of the program
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

package nats

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/millrace/millrace"
)

// lock is a data directory taken by this process: the file "lock" in it, locked by the operating
// system, so that it is free again however the process ends. The file holds the process's id.
type lock struct{ file *os.File }

// takeLock fails with Conflict if another process has the directory.
func takeLock(dir string) (*lock, error) {
	const op = "lock data directory"
	name := filepath.Join(dir, "lock")
	file, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, millrace.Errorf(millrace.Unavailable, op, "data_dir %q: %w", dir, err)
	}
	taken, err := lockFile(file)
	if err != nil || taken {
		_ = file.Close()
	}
	switch {
	case err != nil:
		return nil, millrace.Errorf(millrace.Unavailable, op, "data_dir %q: %w", dir, err)
	case taken:
		who := "another process"
		if pid, err := os.ReadFile(name); err == nil && len(pid) > 0 {
			who = "process " + strings.TrimSpace(string(pid))
		}
		return nil, millrace.Errorf(millrace.Conflict, op,
			"data_dir %q is in use by %s: stop it, or choose another directory", dir, who)
	}
	// For whoever finds the directory in use; the lock holds without it.
	if err := file.Truncate(0); err == nil {
		_, _ = fmt.Fprintf(file, "%d\n", os.Getpid())
	}
	return &lock{file}, nil
}

// release leaves the file where it is: removing it would let two processes lock two files of one name.
func (l *lock) release() error { return l.file.Close() }

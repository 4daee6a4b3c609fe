package disk

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"
)

// flock is a lock on a file, which belongs to the opening of the file: two openings exclude each
// other within one process too, and the system releases it when the process ends.
type flock struct{ *os.File }

func openFlock(root *os.Root, name string) (*flock, error) {
	f, err := root.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o640)
	if err != nil {
		return nil, err
	}
	return &flock{f}, nil
}

// tryExclusive says whether it got the lock for itself.
func (l *flock) tryExclusive() (bool, error) {
	err := l.lock(windows.LOCKFILE_EXCLUSIVE_LOCK | windows.LOCKFILE_FAIL_IMMEDIATELY)
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) || errors.Is(err, windows.ERROR_IO_PENDING) {
		return false, nil
	}
	return err == nil, err
}

func (l *flock) exclusive() error { return l.lock(windows.LOCKFILE_EXCLUSIVE_LOCK) }

// shared takes the lock, or turns an exclusive one into it, perhaps releasing it for a moment.
func (l *flock) shared() error {
	// Fails where nothing is locked, which is as well.
	_ = windows.UnlockFileEx(windows.Handle(l.Fd()), 0, 1, 0, new(windows.Overlapped))
	return l.lock(0)
}

func (l *flock) lock(flags uint32) error {
	return windows.LockFileEx(windows.Handle(l.Fd()), flags, 0, 1, 0, new(windows.Overlapped))
}

func diskFull(err error) bool {
	return errors.Is(err, windows.ERROR_DISK_FULL) || errors.Is(err, windows.ERROR_HANDLE_DISK_FULL)
}

func readOnly(err error) bool     { return errors.Is(err, windows.ERROR_WRITE_PROTECT) }
func notDirectory(err error) bool { return errors.Is(err, windows.ERROR_DIRECTORY) }
func nameTooLong(err error) bool  { return errors.Is(err, windows.ERROR_FILENAME_EXCED_RANGE) }

// noLinks says whether a link failed because the file system knows none.
func noLinks(err error) bool {
	return errors.Is(err, windows.ERROR_INVALID_FUNCTION) || errors.Is(err, windows.ERROR_NOT_SUPPORTED)
}

//go:build unix

package disk

import (
	"errors"
	"os"
	"syscall"
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
	err := l.flock(syscall.LOCK_EX | syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return false, nil
	}
	return err == nil, err
}

func (l *flock) exclusive() error { return l.flock(syscall.LOCK_EX) }

// shared takes the lock, or turns an exclusive one into it, perhaps releasing it for a moment.
func (l *flock) shared() error { return l.flock(syscall.LOCK_SH) }

func (l *flock) flock(how int) error {
	for {
		err := syscall.Flock(int(l.Fd()), how)
		if !errors.Is(err, syscall.EINTR) {
			return os.NewSyscallError("flock", err)
		}
	}
}

func diskFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

func readOnly(err error) bool     { return errors.Is(err, syscall.EROFS) }
func notDirectory(err error) bool { return errors.Is(err, syscall.ENOTDIR) }
func nameTooLong(err error) bool  { return errors.Is(err, syscall.ENAMETOOLONG) }

// noLinks says whether a link failed because the file system knows none.
func noLinks(err error) bool {
	return errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EOPNOTSUPP) ||
		errors.Is(err, syscall.ENOSYS) || errors.Is(err, syscall.EMLINK)
}

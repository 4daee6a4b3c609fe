package disk

import (
	"errors"
	"io/fs"

	"github.com/millrace/millrace"
)

// failed gives a file system's error the code that says what to do.
func failed(op string, err error) error {
	switch {
	case diskFull(err):
		return millrace.Errorf(millrace.Unavailable, op, "the disk is full: free some space, it is tried again: %w", err)
	case errors.Is(err, fs.ErrNotExist):
		return millrace.Errorf(millrace.NotFound, op, "%w", err)
	case errors.Is(err, fs.ErrPermission), readOnly(err):
		return millrace.Errorf(millrace.Denied, op, "%w", err)
	case notDirectory(err):
		return millrace.Errorf(millrace.Invalid, op, "a directory is needed where a file is: %w", err)
	case nameTooLong(err):
		return millrace.Errorf(millrace.Invalid, op, "%w", err)
	default:
		return millrace.Errorf(millrace.Unavailable, op, "%w", err)
	}
}

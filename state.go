package millrace

import (
	"context"
	"io"
)

// State keeps small versioned values with compare-and-set: snapshots, cut logs, leases. Small means up
// to some 100 MiB: a value may be larger than a block. Names are like file paths: segments of
// letters, digits, ".", "_" and "-", separated by slashes. All methods may be called concurrently.
type State interface {
	// Load returns a value and its version. A name that was never saved is NotFound, with version 0.
	// The reader sees one version whole, also while a newer one is saved. Unavailable.
	Load(ctx context.Context, name string) (io.ReadCloser, uint64, error)
	// Save writes a value if the newest version is still version (0: not there yet), atomically and
	// durably, and returns the new version, which is larger. Conflict if it is not; an error of write
	// is returned and nothing is saved. After Unavailable the outcome may be unknown: Load tells.
	Save(ctx context.Context, name string, version uint64, write func(io.Writer) error) (uint64, error)
}

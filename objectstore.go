package millrace

import (
	"context"
	"errors"
	"io"
	"iter"
	"time"
)

// ErrExists is what Put fails with when the key exists (its code is Conflict).
var ErrExists = &Error{Code: Conflict, Op: "put object", Err: errors.New("the object exists")}

// PutOptions are kept with the object.
type PutOptions struct {
	ContentType     string
	ContentEncoding string
	// Metadata is small: names of lower-case letters, digits and hyphens.
	Metadata map[string]string
}

// Object is what a store knows of an object.
type Object struct {
	Key      string
	Size     int64
	Modified time.Time
	Metadata map[string]string // from Stat; a store that keeps none leaves it nil
}

// ObjectStore keeps objects by key: put once, never changed. Keys are slash-separated relative paths
// without empty, "." or ".." segments; others are Invalid. All methods may be called concurrently.
type ObjectStore interface {
	// Put creates the object atomically: it is seen whole or not at all, and is durable when Put
	// returns. If the key exists it changes nothing and returns ErrExists. body may be called several
	// times, and yields the same bytes each time. Unavailable, Invalid, Denied, ErrExists.
	Put(ctx context.Context, key string, body func() (io.ReadCloser, error), o PutOptions) error
	// Stat returns what is known of an object. NotFound, Unavailable.
	Stat(ctx context.Context, key string) (Object, error)
	// Get returns n bytes from offset on; n < 0 means to the end. NotFound, Unavailable.
	Get(ctx context.Context, key string, offset, n int64) (io.ReadCloser, error)
	// List yields the objects whose key begins with prefix and sorts after after, sorted by key as
	// bytes. Unavailable.
	List(ctx context.Context, prefix, after string) iter.Seq2[Object, error]
	// Delete removes an object. NotFound, Unavailable.
	Delete(ctx context.Context, key string) error
}

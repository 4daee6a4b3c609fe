package memory

import (
	"bytes"
	"context"
	"io"
	"regexp"
	"strconv"
	"sync"

	"github.com/millrace/millrace"
)

// State implements millrace.State.
type State struct {
	mu      sync.Mutex
	version uint64
	values  map[string]value
}

type value struct {
	version uint64
	bytes   []byte // never changed
}

// NewState returns an empty state.
func NewState() *State { return &State{values: map[string]value{}} }

// Load implements millrace.State.
func (s *State) Load(ctx context.Context, name string) (io.ReadCloser, uint64, error) {
	op := "load state " + strconv.Quote(name)
	if err := check(ctx, op, name); err != nil {
		return nil, 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.values[name]
	if !ok {
		return nil, 0, millrace.Errorf(millrace.NotFound, op, "it was never saved")
	}
	return io.NopCloser(bytes.NewReader(v.bytes)), v.version, nil
}

// Save implements millrace.State.
func (s *State) Save(ctx context.Context, name string, version uint64, write func(io.Writer) error) (uint64, error) {
	op := "save state " + strconv.Quote(name)
	if err := check(ctx, op, name); err != nil {
		return 0, err
	}
	var b bytes.Buffer
	if err := write(&b); err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if newest := s.values[name].version; newest != version {
		return 0, millrace.Errorf(millrace.Conflict, op, "the newest version is %d, not %d", newest, version)
	}
	s.version++
	s.values[name] = value{s.version, b.Bytes()}
	return s.version, nil
}

var segments = regexp.MustCompile(`^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$`)

func check(ctx context.Context, op, name string) error {
	if !segments.MatchString(name) {
		return millrace.Errorf(millrace.Invalid, op, "the name must be segments of letters, digits, \".\", \"_\" and \"-\", separated by slashes")
	}
	if ctx.Err() != nil {
		return millrace.Errorf(millrace.Unavailable, op, "%w", context.Cause(ctx))
	}
	return nil
}

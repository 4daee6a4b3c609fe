package millracetest

import (
	"context"
	"iter"
	"sync"
	"time"

	"github.com/millrace/millrace"
)

// Fault is what happens to one append on its way between a process and a stream.
type Fault int

// The faults.
const (
	NoFault    Fault = iota
	Refuse           // Unavailable; nothing is stored
	LoseReply        // stored, then Unavailable
	Delay            // Unavailable; reaches the stream only at the next append, or when Land is called
	Hold             // waits until Release; then goes on as if nothing had been
	Crash            // the process ends here; nothing is stored
	CrashAfter       // stored, then the process ends
)

// Faults is a process's way to its streams, in a test. Streams that are reached through it fail as it
// is told, and all together once the process has crashed: as far as the streams know, it is dead then.
// All methods may be called concurrently.
type Faults struct {
	next func(stream, partition string, h millrace.Header) Fault
	// Latency is how long an append takes to reach the stream, and its reply to come back; called for
	// each way, by one goroutine at a time. None if nil. Set it before the first use.
	Latency func() time.Duration

	mu      sync.Mutex
	appends int
	crashed chan struct{}
	once    sync.Once
	release chan struct{} // closed by Release
	held    int
	delayed []func()
}

// NewFaults returns a way on which next chooses what happens to each append. It is called by one
// goroutine at a time; nil chooses NoFault.
func NewFaults(next func(stream, partition string, h millrace.Header) Fault) *Faults {
	if next == nil {
		next = func(string, string, millrace.Header) Fault { return NoFault }
	}
	return &Faults{next: next, crashed: make(chan struct{}), release: make(chan struct{})}
}

// Stream returns s as it is reached on this way. It implements Retainer if s does.
func (f *Faults) Stream(s millrace.Stream) millrace.Stream {
	return &faultyStream{Stream: s, faults: f}
}

// Crash ends the process: every call from now on, and every one that is held, fails with Internal.
func (f *Faults) Crash() { f.once.Do(func() { close(f.crashed) }) }

// Crashed is closed when the process has crashed.
func (f *Faults) Crashed() <-chan struct{} { return f.crashed }

// Release lets the held appends go on.
func (f *Faults) Release() {
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.release)
	f.release = make(chan struct{})
}

// Held returns the number of appends that are held now.
func (f *Faults) Held() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.held
}

// Appends returns the number of appends that were tried.
func (f *Faults) Appends() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.appends
}

// Land lets the delayed appends reach the stream, also after a crash: what a dead process has sent may
// still arrive.
func (f *Faults) Land() {
	f.mu.Lock()
	delayed := f.delayed
	f.delayed = nil
	f.mu.Unlock()
	for _, land := range delayed {
		land()
	}
}

func (f *Faults) dead() error {
	select {
	case <-f.crashed:
		return millrace.Errorf(millrace.Internal, "reach stream", "the process has crashed")
	default:
		return nil
	}
}

func (f *Faults) choose(stream, partition string, h millrace.Header) Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.appends++
	return f.next(stream, partition, h)
}

func (f *Faults) hold() {
	f.mu.Lock()
	f.held++
	release := f.release
	f.mu.Unlock()
	select {
	case <-release:
	case <-f.crashed:
	}
	f.mu.Lock()
	f.held--
	f.mu.Unlock()
}

// travel takes the latency of one way.
func (f *Faults) travel() {
	if f.Latency == nil {
		return
	}
	f.mu.Lock()
	d := f.Latency()
	f.mu.Unlock()
	select {
	case <-time.After(d):
	case <-f.crashed:
	}
}

type faultyStream struct {
	millrace.Stream
	faults *Faults
}

func (s *faultyStream) Append(ctx context.Context, partition string, after millrace.Position, b millrace.Block) (millrace.Position, error) {
	f := s.faults
	if err := f.dead(); err != nil {
		return millrace.Position{}, err
	}
	fault := f.choose(s.Name(), partition, b.Header)
	lost := millrace.Errorf(millrace.Unavailable, "append", "the reply was lost")
	f.travel()
	if fault == Hold {
		f.hold()
	}
	f.Land()
	switch fault {
	case Refuse:
		return millrace.Position{}, millrace.Errorf(millrace.Unavailable, "append", "refused by the test")
	case Delay:
		f.mu.Lock()
		defer f.mu.Unlock()
		f.delayed = append(f.delayed, func() {
			_, _ = s.Stream.Append(context.WithoutCancel(ctx), partition, after, b)
		})
		return millrace.Position{}, lost
	case Crash:
		f.Crash()
	}
	if err := f.dead(); err != nil {
		return millrace.Position{}, err
	}
	at, err := s.Stream.Append(ctx, partition, after, b)
	f.travel()
	switch fault {
	case LoseReply:
		return millrace.Position{}, lost
	case CrashAfter:
		f.Crash()
	}
	if err := f.dead(); err != nil {
		return millrace.Position{}, err
	}
	return at, err
}

func (s *faultyStream) Partitions(ctx context.Context) ([]millrace.Partition, error) {
	if err := s.faults.dead(); err != nil {
		return nil, err
	}
	return s.Stream.Partitions(ctx)
}

func (s *faultyStream) Last(ctx context.Context, partition, producer string) (millrace.StoredBlock, error) {
	if err := s.faults.dead(); err != nil {
		return millrace.StoredBlock{}, err
	}
	return s.Stream.Last(ctx, partition, producer)
}

func (s *faultyStream) Bounds(ctx context.Context, partition string) (first, end millrace.Position, err error) {
	if err := s.faults.dead(); err != nil {
		return first, end, err
	}
	return s.Stream.Bounds(ctx, partition)
}

func (s *faultyStream) Seek(ctx context.Context, partition string, t time.Time) (millrace.Position, error) {
	if err := s.faults.dead(); err != nil {
		return millrace.Position{}, err
	}
	return s.Stream.Seek(ctx, partition, t)
}

// Read ends with the crash, also while it waits.
func (s *faultyStream) Read(ctx context.Context, partition string, after millrace.Position) iter.Seq2[millrace.StoredBlock, error] {
	return func(yield func(millrace.StoredBlock, error) bool) {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		over := make(chan struct{})
		defer close(over)
		go func() {
			select {
			case <-s.faults.crashed:
				cancel(s.faults.dead())
			case <-over:
			}
		}()
		for b, err := range s.Stream.Read(ctx, partition, after) {
			if dead := s.faults.dead(); dead != nil {
				yield(millrace.StoredBlock{}, dead)
				return
			}
			if !yield(b, err) {
				return
			}
		}
	}
}

// Hold implements millrace.Retainer.
func (s *faultyStream) Hold(partition, reader string, after millrace.Position) {
	if r, ok := s.Stream.(millrace.Retainer); ok {
		r.Hold(partition, reader, after)
	}
}

// Release implements millrace.Retainer.
func (s *faultyStream) Release(partition, reader string) {
	if r, ok := s.Stream.(millrace.Retainer); ok {
		r.Release(partition, reader)
	}
}

// Trim implements millrace.Retainer.
func (s *faultyStream) Trim(ctx context.Context) error {
	if err := s.faults.dead(); err != nil {
		return err
	}
	if r, ok := s.Stream.(millrace.Retainer); ok {
		return r.Trim(ctx)
	}
	return nil
}

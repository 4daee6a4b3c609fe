// Package memory keeps streams and state in memory. It is the reference that other implementations of
// millrace.Stream, millrace.Retainer and millrace.State are compared with, and what tests use.
// Nothing in it survives the process.
package memory

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
)

// Options of a stream. The zero Options are one partition that keeps everything.
type Options struct {
	// Partitions is their number. Default 1.
	Partitions int
	// Retention says what Trim drops.
	Retention Retention
	// MaxBlock is the largest block in bytes. Default 32 MiB.
	MaxBlock int
	// Now is the clock that Stored and trimming by age go by. Default time.Now.
	Now func() time.Time
	// Incarnation names this life of the stream in its positions. By default the time of its creation
	// in milliseconds, as 9 digits of base 32.
	Incarnation string
}

// Retention says how long blocks are kept.
type Retention struct {
	Age   time.Duration // of the oldest block; 0 = unlimited
	Bytes int64         // of all partitions together; 0 = unlimited
}

// Stream implements millrace.Stream and millrace.Retainer. Opening it again after Close, as a program
// that starts again would, is Reopen.
type Stream struct {
	name   string
	o      Options
	names  []millrace.Partition
	kept   map[string]*partition // by name; outlives Close
	closed chan struct{}
	once   sync.Once
}

// partition is what one partition keeps. Its blocks are numbered from 1 without holes.
type partition struct {
	mu      sync.Mutex
	blocks  []millrace.StoredBlock
	bytes   int64                           // of blocks
	next    uint64                          // the number of the next block
	last    map[string]millrace.StoredBlock // the newest block of each producer
	trimmed millrace.Position               // of the last event that was trimmed
	holds   map[string]millrace.Position    // by reader
	changed chan struct{}                   // closed, and made anew, by every append and trim
}

// New returns an empty stream.
func New(name string, o Options) *Stream {
	if o.Partitions == 0 {
		o.Partitions = 1
	}
	if o.MaxBlock == 0 {
		o.MaxBlock = 32 << 20
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Incarnation == "" {
		o.Incarnation = fmt.Sprintf("%09s", strconv.FormatInt(o.Now().UnixMilli(), 32))
	}
	s := &Stream{
		name: name, o: o,
		names:  millrace.SplitHashSpace(o.Partitions),
		kept:   map[string]*partition{},
		closed: make(chan struct{}),
	}
	for _, p := range s.names {
		s.kept[p.Name] = &partition{
			next:    1,
			last:    map[string]millrace.StoredBlock{},
			holds:   map[string]millrace.Position{},
			changed: make(chan struct{}),
		}
	}
	return s
}

// Reopen closes the stream and returns it opened again: with the same blocks, and without holds.
func (s *Stream) Reopen() *Stream {
	_ = s.Close()
	for _, p := range s.kept {
		p.mu.Lock()
		clear(p.holds)
		p.mu.Unlock()
	}
	return &Stream{name: s.name, o: s.o, names: s.names, kept: s.kept, closed: make(chan struct{})}
}

// Name implements millrace.Stream.
func (s *Stream) Name() string { return s.name }

// MaxBlock implements millrace.Stream.
func (s *Stream) MaxBlock() int { return s.o.MaxBlock }

// Partitions implements millrace.Stream.
func (s *Stream) Partitions(ctx context.Context) ([]millrace.Partition, error) {
	if err := s.open(ctx, "list the partitions of"); err != nil {
		return nil, err
	}
	return slices.Clone(s.names), nil
}

// Append implements millrace.Stream. It copies the block.
func (s *Stream) Append(ctx context.Context, name string, after millrace.Position, b millrace.Block) (millrace.Position, error) {
	const verb = "append to"
	p, err := s.find(ctx, verb, name)
	if err != nil {
		return millrace.Position{}, err
	}
	if len(b.Raw) > s.o.MaxBlock {
		return millrace.Position{}, s.fail(millrace.TooLarge, verb, "the block has %d bytes, the limit is %d", len(b.Raw), s.o.MaxBlock)
	}
	h, err := block.ParseHeader(b.Raw)
	if err != nil {
		return millrace.Position{}, s.fail(millrace.Invalid, verb, "%w", err)
	}
	if h.Producer == "" || h.Producer != b.Header.Producer || h.Writer != b.Header.Writer || h.Flush != b.Header.Flush || h.Events != b.Header.Events {
		return millrace.Position{}, s.fail(millrace.Invalid, verb, "the header of the block of %q is not the one encoded in it", b.Header.Producer)
	}

	p.mu.Lock()
	defer p.mu.Unlock()
	// A producer's previous block is told by its name: an older one, or one of another incarnation,
	// is not the newest.
	if newest := p.last[h.Producer].At; newest.Block != after.Block {
		return millrace.Position{}, s.fail(millrace.Conflict, verb,
			"the newest block of %q in partition %s is %q, not %q", h.Producer, name, newest, after)
	}
	if err := s.room(name, p); err != nil {
		return millrace.Position{}, err
	}
	at := s.append(p, h, slices.Clone(b.Raw))
	p.tell()
	return at, nil
}

// append stores a block; p is locked.
func (s *Stream) append(p *partition, h millrace.Header, raw []byte) millrace.Position {
	stored := s.o.Now()
	if n := len(p.blocks); n > 0 && stored.Before(p.blocks[n-1].Stored) {
		stored = p.blocks[n-1].Stored // the clock went back
	}
	b := millrace.StoredBlock{
		Block:  millrace.Block{Header: h, Raw: raw},
		At:     millrace.Position{Block: s.block(p.next), Event: h.Events},
		Stored: stored,
	}
	p.next++
	p.blocks = append(p.blocks, b)
	p.bytes += int64(len(raw))
	p.last[h.Producer] = b
	return b.At
}

// Last implements millrace.Stream.
func (s *Stream) Last(ctx context.Context, name, producer string) (millrace.StoredBlock, error) {
	const verb = "look up the newest block in"
	p, err := s.find(ctx, verb, name)
	if err != nil {
		return millrace.StoredBlock{}, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	b, ok := p.last[producer]
	if !ok {
		return millrace.StoredBlock{}, s.fail(millrace.NotFound, verb, "%q has no block in partition %s", producer, name)
	}
	return b, nil
}

// Bounds implements millrace.Stream.
func (s *Stream) Bounds(ctx context.Context, name string) (first, end millrace.Position, err error) {
	p, err := s.find(ctx, "look up the bounds of", name)
	if err != nil {
		return first, end, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.trimmed, p.end(), nil
}

// Seek implements millrace.Stream.
func (s *Stream) Seek(ctx context.Context, name string, t time.Time) (millrace.Position, error) {
	p, err := s.find(ctx, "seek in", name)
	if err != nil {
		return millrace.Position{}, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	position := p.trimmed
	for _, b := range p.blocks {
		if !b.Stored.Before(t) {
			break
		}
		position = b.At
	}
	return position, nil
}

// Read implements millrace.Stream.
func (s *Stream) Read(ctx context.Context, name string, after millrace.Position) iter.Seq2[millrace.StoredBlock, error] {
	const verb = "read"
	return func(yield func(millrace.StoredBlock, error) bool) {
		p, err := s.find(ctx, verb, name)
		if err != nil {
			if !s.isClosed() {
				yield(millrace.StoredBlock{}, err)
			}
			return
		}
		for {
			p.mu.Lock()
			gap, found := s.gap(p, after), (*millrace.StoredBlock)(nil)
			if i := p.search(after); gap == nil && i < len(p.blocks) {
				found = &p.blocks[i]
			}
			changed := p.changed
			p.mu.Unlock()

			// Looked at between any two blocks, so that a reader that lags ends as soon as one that waits.
			select {
			case <-s.closed:
				return
			case <-ctx.Done():
				yield(millrace.StoredBlock{}, s.fail(millrace.Unavailable, verb, "%w", context.Cause(ctx)))
				return
			default:
			}
			switch {
			case gap != nil:
				after = gap.First
				if !yield(millrace.StoredBlock{}, gap) {
					return
				}
			case found != nil:
				after = found.At
				if !yield(*found, nil) {
					return
				}
			default:
				select {
				case <-changed:
				case <-s.closed:
				case <-ctx.Done():
				}
			}
		}
	}
}

// gap says what a reader that has come to after misses, nil if nothing; p is locked.
func (s *Stream) gap(p *partition, after millrace.Position) *millrace.Gap {
	front := p.trimmed
	if front.IsStart() {
		front = millrace.Position{Block: s.block(1)}
	}
	if !after.IsStart() {
		incarnation, n, err := millrace.ParseBlockName(after.Block)
		if err != nil || incarnation != s.o.Incarnation {
			return &millrace.Gap{After: after, First: front, Reason: millrace.NewIncarnation}
		}
		end := p.end()
		if end.IsStart() {
			end = front
		}
		// {next block, 0} is where the newest block ends.
		if n > p.next || n == p.next && after.Event > 0 {
			return &millrace.Gap{After: after, First: end, Reason: millrace.Truncated}
		}
		if i := p.search(millrace.Position{Block: after.Block}); i < len(p.blocks) {
			if at := p.blocks[i].At; at.Block == after.Block && at.Event < after.Event {
				return &millrace.Gap{After: after, First: at, Reason: millrace.Truncated}
			}
		}
	}
	if after.Compare(p.trimmed) < 0 {
		return &millrace.Gap{After: after, First: p.trimmed, Reason: millrace.Trimmed}
	}
	return nil
}

// search returns the index of the block with which reading after a position begins.
func (p *partition) search(after millrace.Position) int {
	i, _ := slices.BinarySearchFunc(p.blocks, after, func(b millrace.StoredBlock, after millrace.Position) int {
		if b.At.Compare(after) <= 0 {
			return -1
		}
		return 1
	})
	return i
}

// end is the position after the newest event.
func (p *partition) end() millrace.Position {
	if n := len(p.blocks); n > 0 {
		return p.blocks[n-1].At
	}
	return p.trimmed
}

func (p *partition) tell() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// Truncate drops the blocks after a position, as a disk that loses its tail does. Tests use it.
func (s *Stream) Truncate(name string, after millrace.Position) {
	p := s.kept[name]
	p.mu.Lock()
	defer p.mu.Unlock()
	i := p.search(after)
	p.next -= uint64(len(p.blocks) - i)
	p.blocks = slices.Delete(p.blocks, i, len(p.blocks))
	clear(p.last)
	p.bytes = 0
	for _, b := range p.blocks {
		p.last[b.Header.Producer] = b
		p.bytes += int64(len(b.Raw))
	}
	p.tell()
}

// Close implements millrace.Stream.
func (s *Stream) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

func (s *Stream) isClosed() bool {
	select {
	case <-s.closed:
		return true
	default:
		return false
	}
}

func (s *Stream) open(ctx context.Context, verb string) error {
	if s.isClosed() {
		return s.fail(millrace.Unavailable, verb, "the stream is closed")
	}
	if ctx.Err() != nil {
		return s.fail(millrace.Unavailable, verb, "%w", context.Cause(ctx))
	}
	return nil
}

func (s *Stream) find(ctx context.Context, verb, name string) (*partition, error) {
	if err := s.open(ctx, verb); err != nil {
		return nil, err
	}
	p := s.kept[name]
	if p == nil {
		return nil, s.fail(millrace.NotFound, verb, "there is no partition %q", name)
	}
	return p, nil
}

func (s *Stream) block(n uint64) string { return millrace.BlockName(s.o.Incarnation, n) }

func (s *Stream) fail(code millrace.Code, verb, format string, args ...any) error {
	return millrace.Errorf(code, verb+" "+strconv.Quote(s.name), format, args...)
}

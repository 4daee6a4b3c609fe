package nats

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
)

// Stream implements millrace.Stream and millrace.Retainer.
type Stream struct {
	e          *Engine
	name       string
	config     StreamConfig              // its Retention as it was at first: see retention
	retention  atomic.Pointer[Retention] // as it is
	m          streamMetrics
	partitions []*partition // by number
	notices    *nats.Subscription
	kick       chan struct{} // capacity 1: asks Run to trim soon

	closed chan struct{}
	once   sync.Once
}

// Stream opens a stream, and creates it if it is not there. It fails with Invalid if the stream was
// created with another number of partitions, with Conflict if it is open already, and with
// Unavailable.
func (e *Engine) Stream(ctx context.Context, name string, c StreamConfig) (*Stream, error) {
	op := "open stream " + strconv.Quote(name)
	if name == "" || c.Partitions < 1 || c.Retention.Age < 0 || c.Retention.Bytes < 0 {
		return nil, millrace.Errorf(millrace.Invalid, op, "partitions is %d, retention.age %s, retention.bytes %d: "+
			"a stream needs a name, at least one partition, and no negative retention", c.Partitions, c.Retention.Age, c.Retention.Bytes)
	}
	s := &Stream{
		e: e, name: name, config: c, m: e.o.Metrics.of(name),
		kick:   make(chan struct{}, 1),
		closed: make(chan struct{}),
	}
	s.retention.Store(&c.Retention)
	e.mu.Lock()
	taken, closed := e.open[name] != nil, e.closed
	if !taken && !closed {
		e.open[name] = s
	}
	e.mu.Unlock()
	if closed {
		return nil, millrace.Errorf(millrace.Unavailable, op, "the engine is closed")
	}
	if taken {
		return nil, millrace.Errorf(millrace.Conflict, op, "it is open already in this process")
	}
	if err := s.openPartitions(ctx, op); err != nil {
		_ = s.Close()
		return nil, err
	}
	return s, nil
}

func (s *Stream) openPartitions(ctx context.Context, op string) error {
	partitions := make([]*partition, s.config.Partitions)
	for i := range partitions {
		name := strconv.Itoa(i)
		p := &partition{
			store:     store{s.e, storeName(s.name, name)},
			s:         s,
			partition: name,
			subject:   subjectPrefix + escape(s.name, true) + "." + name + ".",
			turns:     make(chan struct{}, turns),
			holds:     map[string]millrace.Position{},
			changed:   make(chan struct{}),
			doubted:   make(chan struct{}),
		}
		p.group.p = p
		if err := p.create(ctx, op); err != nil {
			return err
		}
		if err := p.purgeTrimmed(ctx); err != nil {
			return fail(op, err, "")
		}
		partitions[i] = p
	}
	s.e.mu.Lock() // wake reads it
	s.partitions = partitions
	s.e.mu.Unlock()
	s.gauge()
	if s.e.server != nil {
		return nil // nobody else appends
	}
	var err error
	s.notices, err = s.e.read.Subscribe(noticePrefix+escape(s.name, true)+".>", s.notice)
	if err != nil {
		return fail(op, err, "")
	}
	return nil
}

// Name implements millrace.Stream.
func (s *Stream) Name() string { return s.name }

// Partitions implements millrace.Stream.
func (s *Stream) Partitions(context.Context) ([]millrace.Partition, error) {
	if s.isClosed() {
		return nil, s.fail(millrace.Unavailable, "list the partitions of", "the stream is closed")
	}
	return millrace.SplitHashSpace(s.config.Partitions), nil
}

// MaxBlock implements millrace.Stream. It leaves room for the headers of a message.
func (s *Stream) MaxBlock() int { return int(s.e.write.MaxPayload()) - 4<<10 }

// Append implements millrace.Stream.
//
// A live producer whose newest block was trimmed, and appended again as an empty one, gets Conflict
// from its next Append. Last then shows its own writer and an earlier flush than the one that was
// refused: nothing has landed, nobody has taken over, and it retries with after = Last.At.
func (s *Stream) Append(ctx context.Context, name string, after millrace.Position, b millrace.Block) (millrace.Position, error) {
	const verb = "append to"
	p, err := s.find(verb, name)
	if err != nil {
		return millrace.Position{}, err
	}
	if limit := s.MaxBlock(); len(b.Raw) > limit {
		return millrace.Position{}, s.fail(millrace.TooLarge, verb, "the block has %d bytes, the limit is %d", len(b.Raw), limit)
	}
	h, err := block.ParseHeader(b.Raw)
	if err != nil {
		return millrace.Position{}, s.fail(millrace.Invalid, verb, "%w", err)
	}
	if h.Producer == "" || len(h.Producer) > 200 ||
		h.Producer != b.Header.Producer || h.Writer != b.Header.Writer || h.Flush != b.Header.Flush || h.Events != b.Header.Events {
		return millrace.Position{}, s.fail(millrace.Invalid, verb, "the header of the block of %.210q is not the one encoded in it", b.Header.Producer)
	}
	if ctx.Err() != nil {
		return millrace.Position{}, s.fail(millrace.Unavailable, verb, "%w", context.Cause(ctx))
	}
	last, ok := p.sequence(after)
	if !ok {
		return millrace.Position{}, s.fail(millrace.Conflict, verb,
			"the previous block of %q in partition %s is given as %q, which is of another incarnation of the stream", h.Producer, name, after)
	}
	if err := p.room(ctx, len(b.Raw)); err != nil {
		s.m.full.Inc()
		return millrace.Position{}, s.fail(millrace.Unavailable, verb, "%w", err)
	}

	started := time.Now()
	seq, err := p.append(ctx, p.blocksOf(h.Producer), last, b.Raw)
	switch {
	case errors.Is(err, errFenced):
		if s.e.server == nil {
			_, _ = p.refresh(ctx) // another process may have created the stream anew
		}
		return millrace.Position{}, s.fail(millrace.Conflict, verb,
			"the newest block of %q in partition %s is not %q", h.Producer, name, after)
	case err != nil:
		return millrace.Position{}, s.fail(millrace.Unavailable, verb, "the outcome is unknown: %w", err)
	}
	s.m.appendSeconds.Observe(time.Since(started).Seconds())
	s.m.appendBytes.Add(float64(len(b.Raw)))
	s.m.blocks.Inc()
	s.m.events.Add(float64(h.Events))
	return millrace.Position{Block: p.blockName(seq), Event: h.Events}, nil
}

// turns is how many producers may commit to a partition side by side: those whose blocks are on their way alone,
// and those that gather for the next batch.
const turns = loners + groupLimit

// Turn waits until it is the caller's turn to commit to a partition, first come, first served; done ends the
// turn. Where a thousand producers append to one partition, each commit waits for those before it. Who takes
// what has gathered only when it is his turn appends more at once and later than nobody else's, and an append
// that is not acknowledged for long is a sign of trouble, not of a queue. Append does not insist on a turn.
// Unavailable, NotFound.
func (s *Stream) Turn(ctx context.Context, name string) (done func(), err error) {
	const verb = "wait for a turn to append to"
	p, err := s.find(verb, name)
	if err != nil {
		return nil, err
	}
	select {
	case p.turns <- struct{}{}:
		return p.turned, nil
	case <-s.closed:
		return nil, s.fail(millrace.Unavailable, verb, "the stream is closed")
	case <-ctx.Done():
		return nil, s.fail(millrace.Unavailable, verb, "%w", context.Cause(ctx))
	}
}

// notice hears of a message that some process has stored.
func (s *Stream) notice(m *nats.Msg) {
	seq, err := strconv.ParseUint(m.Header.Get(jetstream.SequenceHeader), 10, 64)
	rest := strings.TrimPrefix(m.Subject, noticePrefix+escape(s.name, true)+".")
	name, _, _ := strings.Cut(rest, ".")
	i, err2 := strconv.Atoi(name)
	if err == nil && err2 == nil && i >= 0 && i < len(s.partitions) {
		s.partitions[i].grown(seq, time.Time{})
	}
}

// Last implements millrace.Stream.
func (s *Stream) Last(ctx context.Context, name, producer string) (millrace.StoredBlock, error) {
	const verb = "look up the newest block in"
	p, err := s.find(verb, name)
	if err != nil {
		return millrace.StoredBlock{}, err
	}
	m, err := p.get(ctx, getRequest{Last: p.blocksOf(producer)})
	if errors.Is(err, errNoMessage) {
		return millrace.StoredBlock{}, s.fail(millrace.NotFound, verb, "%q has no block in partition %s", producer, name)
	}
	if err != nil {
		return millrace.StoredBlock{}, s.fail(millrace.Unavailable, verb, "%w", err)
	}
	p.grown(m.seq, m.stored) // perhaps its append did not learn that it had landed
	b, err := p.block(m)
	if err != nil {
		return millrace.StoredBlock{}, s.fail(millrace.Internal, verb, "block %d of partition %s is damaged: %w", m.seq, name, err)
	}
	return b, nil
}

// Bounds implements millrace.Stream.
func (s *Stream) Bounds(ctx context.Context, name string) (first, end millrace.Position, err error) {
	const verb = "look up the bounds of"
	p, err := s.find(verb, name)
	if err != nil {
		return first, end, err
	}
	if _, err = p.refresh(ctx); err == nil {
		first = p.trimRecordKnown().Event
		end, err = p.end(ctx)
	}
	if err != nil {
		return first, end, s.fail(millrace.Unavailable, verb, "%w", err)
	}
	return first, end, nil
}

// Seek implements millrace.Stream.
func (s *Stream) Seek(ctx context.Context, name string, t time.Time) (millrace.Position, error) {
	const verb = "seek in"
	p, err := s.find(verb, name)
	if err != nil {
		return millrace.Position{}, err
	}
	position, err := p.seek(ctx, t)
	if err != nil {
		return millrace.Position{}, s.fail(millrace.Unavailable, verb, "%w", err)
	}
	return position, nil
}

// Close implements millrace.Stream.
func (s *Stream) Close() error {
	s.once.Do(func() {
		close(s.closed)
		if s.notices != nil {
			_ = s.notices.Unsubscribe() // fails only where the connection is closed
		}
		s.e.mu.Lock()
		delete(s.e.open, s.name)
		s.e.mu.Unlock()
	})
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

func (s *Stream) find(verb, name string) (*partition, error) {
	if s.isClosed() {
		return nil, s.fail(millrace.Unavailable, verb, "the stream is closed")
	}
	i := slices.IndexFunc(s.partitions, func(p *partition) bool { return p.partition == name })
	if i < 0 {
		return nil, s.fail(millrace.NotFound, verb, "there is no partition %q", name)
	}
	return s.partitions[i], nil
}

func (s *Stream) fail(code millrace.Code, verb, format string, args ...any) error {
	return millrace.Errorf(code, verb+" "+strconv.Quote(s.name), format, args...)
}

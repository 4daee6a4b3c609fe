package nats

import (
	"context"
	"errors"
	"fmt"
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

// partition is a JetStream stream and what this process knows of it.
type partition struct {
	store
	s         *Stream
	partition string
	subject   string // of everything in it, without the last tokens: mr.s.STREAM.PARTITION.

	// incarnation changes only where another process deletes the stream and creates it again.
	incarnation atomic.Pointer[string]

	bytes atomic.Int64 // stored, by JetStream's count; ours runs ahead of that by what is appended

	turns   chan struct{} // capacity turns: full while so many producers commit; see Turn
	fence   fence
	group   group
	batches bool // JetStream takes batches of messages for it; set once, before the first append

	mu      sync.Mutex
	tail    uint64    // the newest sequence that is known here
	stored  time.Time // of the newest message; approximately, and never too late
	trimmed trimRecord
	holds   map[string]millrace.Position
	changed chan struct{} // closed, and made anew, when tail grows
	doubted chan struct{} // closed, and made anew, when the store may be another

	trimming sync.Mutex
}

// Metadata of a partition's JetStream stream.
const (
	metaIncarnation = "millrace.incarnation"
	metaPartitions  = "millrace.partitions"
)

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

// create makes the partition's JetStream stream if it is not there, and learns about it.
func (p *partition) create(ctx context.Context, op string) error {
	info, err := p.info(ctx)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		config := p.e.storeConfig(p.name, []string{p.subject + ">"}, map[string]string{
			metaIncarnation: fmt.Sprintf("%09s", strconv.FormatInt(p.e.o.Now().UnixMilli(), 32)),
			metaPartitions:  strconv.Itoa(p.s.config.Partitions),
		})
		if p.e.server != nil {
			config.AllowAtomicPublish = true
		} else {
			config.RePublish = &jetstream.RePublish{
				Source: p.subject + ">", Destination: noticePrefix + strings.TrimPrefix(p.subject, subjectPrefix) + ">", HeadersOnly: true,
			}
		}
		_, err = p.e.js.CreateStream(ctx, config)
		if err != nil && !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) { // another process may be faster
			return fail(op, err, "")
		}
		info, err = p.info(ctx)
	}
	if err != nil {
		return fail(op, err, "")
	}
	if n, _ := strconv.Atoi(info.Config.Metadata[metaPartitions]); n != p.s.config.Partitions {
		return millrace.Errorf(millrace.Invalid, op, "streams.%s.partitions is %d, and the stream was created with %d: "+
			"the number cannot be changed; set it back to %d, or give the stream another name", p.s.name, p.s.config.Partitions, n, n)
	}
	if info, err = p.refresh(ctx); err != nil {
		return fail(op, err, "")
	}
	if p.e.server != nil && (!info.Config.Batches || info.Config.RePublish != nil) {
		if err := p.embed(ctx); err != nil {
			return fail(op, err, "")
		}
	}
	p.batches = p.e.server != nil
	// The newest message may be dated ahead of JetStream's own count, if the clock went back.
	if newest, err := p.get(ctx, getRequest{Seq: max(1, info.State.Last)}); err == nil {
		p.mu.Lock()
		p.stored = newest.stored
		p.mu.Unlock()
	}
	// Nothing is ever removed but a prefix: whatever else is not there was lost.
	if kept := info.State.Last - info.State.First + 1; info.State.Last > 0 && info.State.Messages < kept {
		p.s.m.lost.Inc()
		p.e.o.Logger.Error("blocks are missing that were stored: the store is damaged; readers are told where",
			"stream", p.s.name, "partition", p.partition, "missing", kept-info.State.Messages)
	}
	return nil
}

// refresh asks JetStream how far the partition goes and where it was trimmed.
func (p *partition) refresh(ctx context.Context) (storeInfo, error) {
	p.mu.Lock()
	tail := p.tail
	p.mu.Unlock()
	record, err := p.trimRecord(ctx)
	if err != nil {
		return storeInfo{}, err
	}
	info, err := p.info(ctx)
	if err != nil {
		return storeInfo{}, err
	}
	p.bytes.Store(info.State.Bytes)
	incarnation := info.Config.Metadata[metaIncarnation]

	p.mu.Lock()
	defer p.mu.Unlock()
	old := p.incarnation.Swap(&incarnation)
	// What others have noted since is newer than these answers, unless the store itself went back.
	another := old == nil || *old != incarnation || info.State.Last < tail
	if another || record.seq > p.trimmed.seq {
		p.trimmed = record
	}
	if another || info.State.Last > p.tail {
		p.tail = info.State.Last
		p.wake() // Append may find that its block is no news any more
	}
	if info.State.Newest.After(p.stored) {
		p.stored = info.State.Newest
	}
	return info, nil
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

func (p *partition) turned() { <-p.turns }

// append stores a message and tells the readers.
func (p *partition) append(ctx context.Context, subject string, last uint64, data []byte) (uint64, error) {
	// JetStream dates a message by the system's clock, which may go back; then the date is in a header.
	var stored time.Time
	now := time.Now()
	p.mu.Lock()
	if now.Before(p.stored) {
		stored = p.stored
	}
	p.mu.Unlock()

	seq, err := p.put(ctx, subject, last, data, stored)
	if err != nil {
		return 0, err
	}
	size := messageSize(subject, len(data))
	p.bytes.Add(size)
	p.s.m.bytes.Add(float64(size))
	p.grown(seq, now)
	return seq, nil
}

// put stores a message if the last of its subject is still last.
func (p *partition) put(ctx context.Context, subject string, last uint64, data []byte, stored time.Time) (uint64, error) {
	m := newMessage(subject, last, data, stored)
	if p.e.server == nil { // others append, too
		return p.group.put(ctx, m)
	}
	known, err := p.fence.claim(ctx, subject, last)
	if err != nil {
		return 0, err
	}
	if known {
		m.Header.Del(jetstream.ExpectedLastSubjSeqHeader)
	}
	seq, err := p.group.put(ctx, m)
	if err != nil {
		seq = 0
	}
	p.fence.settle(subject, seq)
	return seq, err
}

// messageSize is what JetStream counts for a message, about.
func messageSize(subject string, data int) int64 { return int64(len(subject) + data + 100) }

// grown takes note of a message that is stored.
func (p *partition) grown(seq uint64, stored time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if stored.After(p.stored) {
		p.stored = stored
	}
	if seq > p.tail {
		p.tail = seq
		p.wake()
	}
}

// wake tells the readers that wait that tail has changed; p.mu is held.
func (p *partition) wake() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// doubt makes the readers look again at what the store is.
func (p *partition) doubt() {
	p.fence.forget()
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.doubted)
	p.doubted = make(chan struct{})
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

// end is the position after the newest event.
func (p *partition) end(ctx context.Context) (millrace.Position, error) {
	m, err := p.get(ctx, getRequest{Last: p.subject + "b.>"})
	if errors.Is(err, errNoMessage) {
		return p.trimRecordKnown().Event, nil
	}
	if err != nil {
		return millrace.Position{}, err
	}
	b, err := p.block(m)
	return b.At, err
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

// seek halves the sequences, rather than ask JetStream, whose own dates may go back with the clock.
func (p *partition) seek(ctx context.Context, t time.Time) (millrace.Position, error) {
	info, err := p.refresh(ctx)
	if err != nil {
		return millrace.Position{}, err
	}
	trimmed := p.trimRecordKnown()
	first := max(info.State.First, trimmed.Through+1)
	low, high := first, info.State.Last+1 // the first message stored at t or later is in [low, high]
	for low < high {
		middle := low + (high-low)/2
		m, err := p.get(ctx, getRequest{Seq: middle, Next: ">"})
		switch {
		case err != nil && !errors.Is(err, errNoMessage):
			return millrace.Position{}, err
		case err != nil, m.seq >= high, !m.stored.Before(t):
			high = middle
		default:
			low = m.seq + 1
		}
	}
	// The position is after the block before.
	for seq := low - 1; seq >= first; seq-- {
		m, err := p.get(ctx, getRequest{Seq: seq})
		if errors.Is(err, errNoMessage) || err == nil && !p.isBlock(m) {
			continue
		}
		if err != nil {
			return millrace.Position{}, err
		}
		b, err := p.block(m)
		return b.At, err
	}
	return trimmed.Event, nil
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

// blocksOf is the subject of a producer's blocks.
func (p *partition) blocksOf(producer string) string {
	return p.subject + "b." + escape(producer, true)
}

func (p *partition) isBlock(m message) bool {
	return strings.HasPrefix(m.subject[min(len(p.subject), len(m.subject)):], "b.")
}

// block returns the block that a message holds.
func (p *partition) block(m message) (millrace.StoredBlock, error) {
	h, err := block.ParseHeader(m.data)
	return millrace.StoredBlock{
		Block:  millrace.Block{Header: h, Raw: m.data},
		At:     millrace.Position{Block: p.blockName(m.seq), Event: h.Events},
		Stored: m.stored,
	}, err
}

// sequence of the block that a position names; 0 for the start. It is not ok if the block is of another
// incarnation.
func (p *partition) sequence(at millrace.Position) (seq uint64, ok bool) {
	if at.IsStart() {
		return 0, true
	}
	incarnation, seq, err := millrace.ParseBlockName(at.Block)
	return seq, err == nil && incarnation == *p.incarnation.Load()
}

func (p *partition) blockName(seq uint64) string {
	return millrace.BlockName(*p.incarnation.Load(), seq)
}

// before is the position before the block of a sequence.
func (p *partition) before(seq uint64) millrace.Position {
	return millrace.Position{Block: p.blockName(seq)}
}

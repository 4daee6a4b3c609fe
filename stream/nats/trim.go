package nats

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
)

// trimRecord says how far a partition was trimmed. It is a message of the partition itself, written
// after the cursors that it takes away were appended again and before anything is purged: whatever
// happens between, the record holds, and the purge is repeated when the stream is opened.
type trimRecord struct {
	// Through is the sequence of the last message that is gone.
	Through uint64 `json:"through"`
	// Event is the position of the last event that is gone: who has come to it misses nothing.
	Event millrace.Position `json:"event"`

	seq uint64 // of the record itself; 0: there is none
}

func (p *partition) trimRecord(ctx context.Context) (trimRecord, error) {
	m, err := p.get(ctx, getRequest{Last: p.subject + "t"})
	if errors.Is(err, errNoMessage) {
		return trimRecord{}, nil
	}
	if err != nil {
		return trimRecord{}, err
	}
	r := trimRecord{seq: m.seq}
	if err := json.Unmarshal(m.data, &r); err != nil {
		return r, fmt.Errorf("the trim record of partition %s: %w", p.partition, err)
	}
	return r, nil
}

func (p *partition) trimRecordKnown() trimRecord {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.trimmed
}

// Hold implements millrace.Retainer.
func (s *Stream) Hold(name, reader string, after millrace.Position) {
	if p, err := s.find("hold", name); err == nil {
		p.mu.Lock()
		p.holds[reader] = after
		p.mu.Unlock()
	}
}

// Release implements millrace.Retainer.
func (s *Stream) Release(name, reader string) {
	if p, err := s.find("release", name); err == nil {
		p.mu.Lock()
		delete(p.holds, reader)
		p.mu.Unlock()
	}
}

// Retain changes the retention of an open stream. What is over it goes with the next trimming.
func (s *Stream) Retain(r Retention) error {
	if r.Age < 0 || r.Bytes < 0 {
		return s.fail(millrace.Invalid, "change the retention of", "age is %s, bytes %d: neither can be negative", r.Age, r.Bytes)
	}
	s.retention.Store(&r)
	select {
	case s.kick <- struct{}{}:
	default:
	}
	return nil
}

// Run trims from time to time, and sooner when the stream is over its size, until ctx ends.
func (s *Stream) Run(ctx context.Context) error {
	ticker := time.NewTicker(s.trimEvery())
	defer ticker.Stop()
	for {
		if err := s.Trim(ctx); err != nil && ctx.Err() == nil {
			if s.isClosed() || millrace.CodeOf(err) != millrace.Unavailable {
				return err
			}
			s.e.o.Logger.Warn("trimming failed and is tried again", "stream", s.name, "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.closed:
			return nil
		case <-ticker.C:
		case <-s.kick:
			ticker.Reset(s.trimEvery()) // the retention may have changed
		}
	}
}

func (s *Stream) trimEvery() time.Duration {
	every := 10 * time.Second
	if age := s.retention.Load().Age; age > 0 {
		every = max(min(every, age/20), 10*time.Millisecond)
	}
	return every
}

// Trim implements millrace.Retainer. What it does to a producer that is at work is told at Append.
func (s *Stream) Trim(ctx context.Context) error {
	const verb = "trim"
	if s.isClosed() {
		return s.fail(millrace.Unavailable, verb, "the stream is closed")
	}
	defer s.gauge()
	for _, p := range s.partitions {
		if err := p.trim(ctx); err != nil {
			return s.fail(millrace.Unavailable, verb, "partition %s: %w", p.partition, err)
		}
	}
	return nil
}

func (s *Stream) gauge() {
	var bytes int64
	for _, p := range s.partitions {
		bytes += p.bytes.Load()
	}
	s.m.bytes.Set(float64(bytes))
}

// limit is a partition's share of Retention.Bytes; 0 = unlimited.
func (s *Stream) limit() int64 {
	bytes := s.retention.Load().Bytes
	if bytes == 0 {
		return 0
	}
	return max(1, bytes/int64(s.config.Partitions))
}

// room makes sure that a block may be stored: that the disk has space, and that the partition has not
// come to its hard bound, twice its share of the retention.
func (p *partition) room(ctx context.Context, n int) error {
	if server := p.e.server; server != nil {
		if err := server.disk.full(n); err != nil {
			return err
		}
		if server.isStuck() {
			return errStuck
		}
	}
	limit := p.s.limit()
	bytes := p.bytes.Load()
	if limit == 0 || bytes < limit+limit/4 {
		return nil
	}
	select {
	case p.s.kick <- struct{}{}:
	default:
	}
	if bytes < 2*limit {
		return nil
	}
	if err := p.trim(ctx); err != nil {
		return err
	}
	if bytes = p.bytes.Load(); bytes < 2*limit {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var holders []string
	for _, reader := range slices.Sorted(maps.Keys(p.holds)) {
		if seq, ok := p.sequence(p.holds[reader]); !ok || seq < p.tail {
			holders = append(holders, fmt.Sprintf("%s has come to %q", reader, p.holds[reader]))
		}
	}
	return fmt.Errorf("stream %q is full: partition %s has %d bytes, twice its retention; %s",
		p.s.name, p.partition, bytes, strings.Join(holders, ", "))
}

// trim drops a prefix of the partition.
func (p *partition) trim(ctx context.Context) error {
	p.trimming.Lock()
	defer p.trimming.Unlock()
	info, err := p.refresh(ctx)
	if err != nil {
		return err
	}
	if err := p.purgeTrimmed(ctx); err != nil { // left over
		return err
	}
	doomed, err := p.doomed(ctx, info)
	if err != nil || doomed.through == 0 {
		return err
	}
	old := p.trimRecordKnown()
	record := trimRecord{Through: doomed.through, Event: old.Event}
	if last, err := p.lastEvent(ctx, max(info.State.First, old.Through+1), doomed.through); err != nil {
		return err
	} else if !last.IsStart() {
		record.Event = last
	}
	for subject := range doomed.subjects {
		if err := p.keepCursor(ctx, subject, doomed.through); err != nil {
			return err
		}
	}
	data, err := json.Marshal(record)
	if err != nil {
		return err
	}
	record.seq, err = p.append(ctx, p.subject+"t", old.seq, data)
	if errors.Is(err, errFenced) {
		return nil // another process trims
	}
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.trimmed = record
	p.mu.Unlock()
	if err := p.purgeTrimmed(ctx); err != nil {
		return err
	}
	p.s.m.trimmed.Add(float64(doomed.blocks))
	_, err = p.refresh(ctx)
	return err
}

// purgeTrimmed removes what the trim record says is gone, if it is still there.
func (p *partition) purgeTrimmed(ctx context.Context) error {
	info, err := p.info(ctx)
	if err != nil {
		return err
	}
	if through := p.trimRecordKnown().Through; info.State.First <= through && info.State.Last > 0 {
		return p.purge(ctx, "", through+1)
	}
	return nil
}

// doomed is a prefix that is over the retention and not held.
type doomed struct {
	through  uint64 // the sequence of its last message; 0: nothing
	blocks   int
	subjects map[string]struct{} // of the producers that have blocks in it
}

// doomed walks along the messages' headers, so that the blocks themselves need not be read.
func (p *partition) doomed(ctx context.Context, info storeInfo) (d doomed, err error) {
	d.subjects = map[string]struct{}{}
	age, limit := p.s.retention.Load().Age, p.s.limit()
	oldest := p.e.o.Now().Add(-age)
	bytes := info.State.Bytes
	old := age > 0 && info.State.Oldest.Before(oldest)
	large := limit > 0 && bytes > limit
	if empty := info.State.Last < max(1, info.State.First); empty || !old && !large {
		return d, nil
	}
	if held, err := p.held(ctx, info.State.First); err != nil || held {
		return d, err
	}
	consumer, err := p.e.js.CreateConsumer(ctx, p.name, jetstream.ConsumerConfig{
		AckPolicy:         jetstream.AckNonePolicy,
		DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:       info.State.First,
		HeadersOnly:       true,
		MemoryStorage:     true,
		Replicas:          1,
		InactiveThreshold: time.Minute,
	})
	if err != nil {
		return d, err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestTimeout)
		defer cancel()
		_ = p.e.js.DeleteConsumer(ctx, p.name, consumer.CachedInfo().Name) // it goes by itself after a minute
	}()
	for {
		batch, err := consumer.FetchNoWait(1000)
		if err != nil {
			return d, err
		}
		n := 0
		for m := range batch.Messages() {
			n++
			at, err := m.Metadata()
			if err != nil {
				return d, err
			}
			stored := message{stored: at.Timestamp}
			stored.override(m.Headers().Get(storedHeader))
			tooOld := age > 0 && stored.stored.Before(oldest)
			tooMuch := limit > 0 && bytes > limit
			if !tooOld && !tooMuch {
				return d, nil
			}
			if held, err := p.held(ctx, at.Sequence.Stream); err != nil || held {
				return d, err
			}
			size, _ := strconv.Atoi(m.Headers().Get("Nats-Msg-Size"))
			bytes -= messageSize(m.Subject(), size)
			d.through = at.Sequence.Stream
			if p.isBlock(message{subject: m.Subject()}) {
				d.blocks++
				d.subjects[m.Subject()] = struct{}{}
			}
		}
		if err := batch.Error(); err != nil {
			return d, err
		}
		if n == 0 || ctx.Err() != nil {
			return d, ctx.Err()
		}
	}
}

// held says whether some reader still needs the block of a sequence.
func (p *partition) held(ctx context.Context, seq uint64) (bool, error) {
	p.mu.Lock()
	name, within := p.blockName(seq), false
	for _, after := range p.holds {
		if after.Block < name {
			p.mu.Unlock()
			return true, nil
		}
		if after.Block == name {
			within = true
		}
	}
	p.mu.Unlock()
	if !within {
		return false, nil
	}
	m, err := p.get(ctx, getRequest{Seq: seq})
	if errors.Is(err, errNoMessage) {
		return false, nil
	}
	if err != nil || !p.isBlock(m) {
		return false, err
	}
	b, err := p.block(m)
	if err != nil {
		return false, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, after := range p.holds {
		if after.Compare(b.At) < 0 {
			return true, nil
		}
	}
	return false, nil
}

// lastEvent returns the position of the last event in a range of sequences, the start if there is none.
func (p *partition) lastEvent(ctx context.Context, first, last uint64) (millrace.Position, error) {
	for seq := last; seq >= first && seq > 0; seq-- {
		m, err := p.get(ctx, getRequest{Seq: seq})
		if errors.Is(err, errNoMessage) || err == nil && !p.isBlock(m) {
			continue
		}
		if err != nil {
			return millrace.Position{}, err
		}
		if b, err := p.block(m); err == nil && b.Header.Events > 0 {
			return b.At, nil
		}
	}
	return millrace.Position{}, nil
}

// keepCursor appends a producer's newest block again, without its events, if it is about to go. The
// fence leaves a producer alone that has moved on in the meantime.
func (p *partition) keepCursor(ctx context.Context, subject string, through uint64) error {
	m, err := p.get(ctx, getRequest{Last: subject})
	if err != nil {
		return fmt.Errorf("the newest block of %s: %w", subject, err)
	}
	if m.seq > through {
		return nil
	}
	h, err := block.ParseHeader(m.data)
	if err != nil {
		return fmt.Errorf("block %d, the newest of %s, is damaged: %w", m.seq, subject, err)
	}
	h.Events = 0
	empty, err := block.Empty(h)
	if err != nil {
		return err
	}
	if _, err = p.append(ctx, subject, m.seq, empty.Raw); errors.Is(err, errFenced) {
		return nil
	}
	return err
}

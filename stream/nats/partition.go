package nats

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
)

// partition is a JetStream stream and what this process knows of it.
type partition struct {
	store
	s         *Stream
	partition string
	subject   string // of everything in it, without the last tokens: mr.s.STREAM.PARTITION.

	// incarnation changes only where another process deletes the stream and creates it again.
	incarnation atomic.Pointer[string]

	bytes atomic.Int64 // stored, by JetStream's count; ours runs ahead of that by what is appended

	turns chan struct{} // capacity turns: full while so many producers commit; see Turn
	fence fence
	group group

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

// embed makes of a partition that an older version has created in the embedded server what create makes now: it takes
// batches, and it tells nobody of its messages, since nobody else reads them.
func (p *partition) embed(ctx context.Context) error {
	s, err := p.e.js.Stream(ctx, p.name)
	if err != nil {
		return err
	}
	config := s.CachedInfo().Config
	config.AllowAtomicPublish, config.RePublish = true, nil
	_, err = p.e.js.UpdateStream(ctx, config)
	return err
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

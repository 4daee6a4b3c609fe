package memory

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
)

// Hold implements millrace.Retainer.
func (s *Stream) Hold(name, reader string, after millrace.Position) {
	if p := s.kept[name]; p != nil {
		p.mu.Lock()
		p.holds[reader] = after
		p.mu.Unlock()
	}
}

// Release implements millrace.Retainer.
func (s *Stream) Release(name, reader string) {
	if p := s.kept[name]; p != nil {
		p.mu.Lock()
		delete(p.holds, reader)
		p.mu.Unlock()
	}
}

// Trim implements millrace.Retainer. A live producer whose newest block was appended again as an empty
// one gets Conflict from its next Append; Last then shows its own writer and an earlier flush, and
// it retries after Last's position.
func (s *Stream) Trim(ctx context.Context) error {
	if err := s.open(ctx, "trim"); err != nil {
		return err
	}
	for _, p := range s.kept {
		p.mu.Lock()
		err := s.trim(p)
		p.mu.Unlock()
		if err != nil {
			return err
		}
	}
	return nil
}

// trim drops a prefix of a partition; p is locked.
func (s *Stream) trim(p *partition) error {
	n, bytes, limit := 0, p.bytes, s.limit()
	oldest := s.o.Now().Add(-s.o.Retention.Age)
	for _, b := range p.blocks {
		tooOld := s.o.Retention.Age > 0 && b.Stored.Before(oldest)
		tooMuch := limit > 0 && bytes > limit
		if !tooOld && !tooMuch || p.held(b.At) {
			break
		}
		n++
		bytes -= int64(len(b.Raw))
	}
	if n == 0 {
		return nil
	}
	doomed := p.blocks[:n]
	for _, b := range doomed {
		if p.last[b.Header.Producer].At == b.At {
			h := b.Header
			h.Events = 0
			empty, err := block.Empty(h)
			if err != nil {
				return s.fail(millrace.Internal, "trim", "%w", err)
			}
			s.append(p, empty.Header, empty.Raw)
		}
		if b.Header.Events > 0 {
			p.trimmed = b.At
		}
		p.bytes -= int64(len(b.Raw))
	}
	p.blocks = slices.Clone(p.blocks[n:])
	p.tell()
	return nil
}

// held says whether some reader still needs a block that ends at at.
func (p *partition) held(at millrace.Position) bool {
	for _, after := range p.holds {
		if after.Compare(at) < 0 {
			return true
		}
	}
	return false
}

// room makes sure that a partition has not come to its hard bound, twice its share of the retention;
// p is locked.
func (s *Stream) room(name string, p *partition) error {
	limit := s.limit()
	if limit == 0 || p.bytes < 2*limit {
		return nil
	}
	if err := s.trim(p); err != nil || p.bytes < 2*limit {
		return err
	}
	var holders []string
	for _, reader := range slices.Sorted(maps.Keys(p.holds)) {
		after := p.holds[reader]
		if after.Compare(p.end()) < 0 {
			holders = append(holders, fmt.Sprintf("%s has come to %q", reader, after))
		}
	}
	return s.fail(millrace.Unavailable, "append to", "stream %q is full: partition %s has %d bytes, twice its retention; %s",
		s.name, name, p.bytes, strings.Join(holders, ", "))
}

// limit is a partition's share of Retention.Bytes; 0 = unlimited.
func (s *Stream) limit() int64 {
	if s.o.Retention.Bytes == 0 {
		return 0
	}
	return max(1, s.o.Retention.Bytes/int64(s.o.Partitions))
}

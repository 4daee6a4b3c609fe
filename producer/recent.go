package producer

import (
	"context"
	"iter"
	"time"

	"github.com/millrace/millrace"
)

// recent yields the producer's own blocks in Config.Into stored since a time, those of all partitions
// merged by the time they were stored, and ends where the stream ended when it was called. What
// trimming takes away meanwhile is left out.
func (p *Producer) recent(ctx context.Context, since time.Time) iter.Seq2[millrace.StoredBlock, error] {
	return func(yield func(millrace.StoredBlock, error) bool) {
		type reading struct {
			head millrace.StoredBlock
			next func() (millrace.StoredBlock, error, bool)
		}
		var readings []*reading
		for _, t := range p.targets[:len(p.router.partitions)] {
			next, stop := iter.Pull2(p.recentIn(ctx, t, since))
			defer stop()
			readings = append(readings, &reading{next: next})
		}
		advance := func(r *reading) (more bool, err error) {
			r.head, err, more = r.next()
			return more, err
		}
		for i := 0; i < len(readings); {
			more, err := advance(readings[i])
			if err != nil {
				yield(millrace.StoredBlock{}, err)
				return
			}
			if more {
				i++
			} else {
				readings = append(readings[:i], readings[i+1:]...)
			}
		}
		for len(readings) > 0 {
			oldest := 0
			for i, r := range readings {
				if r.head.Stored.Before(readings[oldest].head.Stored) {
					oldest = i
				}
			}
			if !yield(readings[oldest].head, nil) {
				return
			}
			more, err := advance(readings[oldest])
			if err != nil {
				yield(millrace.StoredBlock{}, err)
				return
			}
			if !more {
				readings = append(readings[:oldest], readings[oldest+1:]...)
			}
		}
	}
}

// recentIn is recent for one partition.
func (p *Producer) recentIn(ctx context.Context, t *target, since time.Time) iter.Seq2[millrace.StoredBlock, error] {
	return func(yield func(millrace.StoredBlock, error) bool) {
		_, end, err := t.stream.Bounds(ctx, t.partition)
		if err != nil {
			yield(millrace.StoredBlock{}, err)
			return
		}
		from, err := t.stream.Seek(ctx, t.partition, since)
		if err != nil {
			yield(millrace.StoredBlock{}, err)
			return
		}
		if from.Compare(end) >= 0 {
			return // reading would wait for new blocks
		}
		for b, err := range t.stream.Read(ctx, t.partition, from) {
			switch {
			case millrace.CodeOf(err) == millrace.CodeGap:
				continue
			case err != nil:
				yield(millrace.StoredBlock{}, err)
				return
			}
			if b.Header.Producer == p.config.Name && !b.Stored.Before(since) && !yield(b, nil) {
				return
			}
			if b.At.Compare(end) >= 0 {
				return
			}
		}
	}
}

package nats

import (
	"context"
	"time"
)

// StateBytes is what JetStream keeps for the state.
func StateBytes(ctx context.Context, e *Engine) (int64, error) {
	info, err := store{e, stateStore}.info(ctx)
	return info.State.Bytes, err
}

// SetStored makes the stream's partitions believe that their newest block was stored at a time.
func SetStored(s *Stream, t time.Time) {
	for _, p := range s.partitions {
		p.mu.Lock()
		p.stored = t
		p.mu.Unlock()
	}
}

// Escape makes a name one token of a subject, or a part of a JetStream stream's name.
var Escape = escape

// LastFromLeader is Last as it is in a cluster.
func LastFromLeader(ctx context.Context, s *Stream, partition, producer string) (seq uint64, data []byte, err error) {
	p, err := s.find("test", partition)
	if err != nil {
		return 0, nil, err
	}
	m, err := p.getFromLeader(ctx, getRequest{Last: p.blocksOf(producer)})
	return m.seq, m.data, err
}

package producer

import (
	"context"
	"strings"

	"github.com/millrace/millrace"
)

// maxRoutes bounds the keys that the router remembers; beyond it, it starts anew. An MD5 costs about
// as much as encoding the event.
const maxRoutes = 1 << 16

// router places keys in the open partitions of a stream.
type router struct {
	partitions []millrace.Partition
	known      map[string]int
}

func newRouter(ctx context.Context, stream millrace.Stream) (*router, error) {
	all, err := stream.Partitions(ctx)
	if err != nil {
		return nil, err
	}
	r := &router{known: map[string]int{}}
	for _, partition := range all {
		if !partition.Closed {
			r.partitions = append(r.partitions, partition)
		}
	}
	if len(r.partitions) == 0 {
		return nil, millrace.Errorf(millrace.Internal, "place keys", "stream %q has no open partition", stream.Name())
	}
	return r, nil
}

// place returns the index of the key's partition.
func (r *router) place(key string) int {
	if len(r.partitions) == 1 {
		return 0
	}
	if i, ok := r.known[key]; ok {
		return i
	}
	if len(r.known) >= maxRoutes {
		clear(r.known)
	}
	i := r.search(millrace.HashKey(key))
	r.known[strings.Clone(key)] = i
	return i
}

// search falls back to the first partition, so that a stream with a hole in its hash ranges still
// keeps the events of a key together.
func (r *router) search(h millrace.Hash) int {
	for i, partition := range r.partitions {
		if partition.Contains(h) {
			return i
		}
	}
	return 0
}

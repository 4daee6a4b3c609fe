package producer

import (
	"context"
	"strconv"
	"testing"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/stream/memory"
)

// TestRoutesAreBounded: with more keys than are remembered, each key still goes where its hash lies.
func TestRoutesAreBounded(t *testing.T) {
	s := memory.New("into", memory.Options{Partitions: 5})
	r, err := newRouter(context.Background(), s)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2*maxRoutes + 1000 {
		key := strconv.Itoa(i % (maxRoutes + 500))
		at := r.place(key)
		if !r.partitions[at].Contains(millrace.HashKey(key)) {
			t.Fatalf("the key %s went to partition %s", key, r.partitions[at].Name)
		}
		if len(r.known) > maxRoutes {
			t.Fatalf("%d keys are remembered", len(r.known))
		}
	}
}

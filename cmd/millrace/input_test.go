package main

import (
	"context"
	"fmt"
	"testing"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
	"github.com/millrace/millrace/stream/memory"
)

// Reading goes on until the drain begins, and then to what is the end, not further and not less.
func TestInputEndsWhereTheStreamEnds(t *testing.T) {
	stream := memory.New("positions", memory.Options{})
	t.Cleanup(func() { stream.Close() })
	var last millrace.Position
	add := func(n int) {
		t.Helper()
		b, err := block.Empty(millrace.Header{Producer: "source/test", Flush: uint64(n), Commit: true, Cursor: millrace.Cursor(fmt.Sprint(n))})
		if err != nil {
			t.Fatal(err)
		}
		if last, err = stream.Append(t.Context(), "0", last, b); err != nil {
			t.Fatal(err)
		}
	}
	for n := range 3 {
		add(n)
	}
	ending := make(chan struct{})
	in := &input{stream, ending}
	var seen []uint64
	for b, err := range in.Read(t.Context(), "0", millrace.Position{}) {
		if err != nil {
			t.Fatal(err)
		}
		seen = append(seen, b.Header.Flush)
		switch len(seen) {
		case 3: // written while the reader is at work
			add(3)
		case 4:
			add(4)
			add(5)
			close(ending)
		}
	}
	if fmt.Sprint(seen) != "[0 1 2 3 4 5]" {
		t.Errorf("saw %v", seen)
	}
	for range in.Read(t.Context(), "0", last) {
		t.Error("a block after the end")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range in.Read(ctx, "0", last) {
		t.Error("a block, or an error, after the end")
	}
}

package archive_test

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/archive"
	"github.com/millrace/millrace/block"
	"github.com/millrace/millrace/objectstore/disk"
	"github.com/millrace/millrace/stream/memory"
)

// A stream with two events is archived into one object.
func Example() {
	ctx, stop := context.WithCancel(context.Background())
	stream := memory.New("positions", memory.Options{
		Incarnation: "example", Now: func() time.Time { return time.Date(2026, time.March, 7, 21, 4, 5, 0, time.UTC) },
	})
	var b block.Builder
	_ = b.Add(&millrace.Event{Key: "y1234", Data: []byte(`{"id":"y1234"}`)})
	_ = b.Add(&millrace.Event{Key: "y5678", Data: []byte(`{"id":"y5678"}`)})
	encoded, _ := b.Encode(nil, millrace.Header{Producer: "source/buses"})
	if _, err := stream.Append(ctx, "0", millrace.Position{}, encoded); err != nil {
		fmt.Println(err)
	}

	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		fmt.Println(err)
	}
	defer os.RemoveAll(dir)
	store, err := disk.Open(dir)
	if err != nil {
		fmt.Println(err)
	}
	defer store.Close()

	var c archive.Config
	c.SetDefaults()
	c.From, c.Prefix, c.Compression = "positions", "positions/!{timestamp:yyyy/MM/dd/HH}/", "none"
	a, err := archive.New("positions", c, archive.Options{From: stream, To: store, State: memory.NewState()})
	if err != nil {
		fmt.Println(err)
	}
	stop() // Run archives what is in the stream, and returns
	fmt.Println(a.Run(ctx))
	for object, err := range store.List(context.Background(), "", "") {
		fmt.Println(object.Key, object.Size, err)
	}
	// Output:
	// <nil>
	// positions/2026/03/07/21/positions_0_example-000000000001.0000001_example-000000000001.0000002.ndjson 30 <nil>
}

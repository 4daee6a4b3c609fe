package producer_test

import (
	"context"
	"fmt"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/producer"
	"github.com/millrace/millrace/stream/memory"
)

// A producer takes over from its former life, emits, and knows in its next life how far it had come.
func Example() {
	ctx := context.Background()
	config := producer.Config{
		Name: "source/buses",
		Into: memory.New("positions", memory.Options{}),
		Dead: memory.New("dead", memory.Options{}),
	}
	p, err := producer.Open(ctx, config)
	if err != nil {
		fmt.Println(err)
		return
	}
	running := make(chan error)
	go func() { running <- p.Run(ctx) }()

	events := []millrace.Event{{ID: "41", Key: "bus 7", Time: time.Now(), Data: []byte(`{"lat":42.35}`)}}
	fmt.Println(p.Emit(ctx, events, "41"))
	fmt.Println(p.Flush(ctx)) // now it would survive a power cut
	fmt.Println(p.Close(), <-running)

	next, err := producer.Open(ctx, config)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(next.Resume().Cursor)
	// Output:
	// <nil>
	// <nil>
	// <nil> <nil>
	// 41
}

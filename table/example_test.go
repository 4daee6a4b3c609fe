package table_test

import (
	"context"
	"fmt"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
	"github.com/millrace/millrace/stream/memory"
	"github.com/millrace/millrace/table"
)

// A program that starts loads the newest snapshot, catches up with the stream, and saves what it has.
func Example() {
	ctx := context.Background()
	positions, state := memory.New("positions", memory.Options{}), memory.NewState()
	var b block.Builder
	for _, e := range []millrace.Event{
		{Key: "bus/1", Data: []byte(`{"stop": 7}`)},
		{Key: "bus/2", Data: []byte(`{"stop": 3}`)},
		{Key: "bus/1", Data: []byte(`{"stop": 8}`)},
	} {
		_ = b.Add(&e)
	}
	encoded, _ := b.Encode(nil, millrace.Header{Producer: "example"})
	_, _ = positions.Append(ctx, "0", millrace.Position{}, encoded)

	for range 2 { // lives
		saver := table.NewSaver(table.SaverOptions{Name: "positions", Stream: positions, State: state})
		newest, err := saver.Load(ctx, table.Options{Of: "positions"})
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println("from the snapshot:", newest.Len())
		if _, err := table.CatchUp(ctx, positions, newest); err != nil {
			fmt.Println(err)
			return
		}
		rows := newest.AppendRows(nil)
		table.Sort(rows)
		for _, row := range rows {
			fmt.Println(row.Event.Key, string(row.Event.Data))
		}
		if err := saver.Save(ctx, newest.Freeze()); err != nil {
			fmt.Println(err)
			return
		}
	}
	// Output:
	// from the snapshot: 0
	// bus/2 {"stop": 3}
	// bus/1 {"stop": 8}
	// from the snapshot: 2
	// bus/2 {"stop": 3}
	// bus/1 {"stop": 8}
}

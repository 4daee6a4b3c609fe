package producer

import (
	"log/slog"
	"time"

	"github.com/millrace/millrace"
)

// Config describes one producer.
type Config struct {
	// Name is the producer's stable name, such as "source/buses". Required.
	Name string
	// Into is the stream that takes the events. Required.
	Into millrace.Stream
	// Dead is the stream that takes rejected inputs as dead letters. Required.
	Dead millrace.Stream
	// EventLimit bounds an event's data in bytes; default millrace.DefaultEventLimit.
	EventLimit int
	// BlockBytes and BlockEvents bound what one flush gathers, before compression; when it is reached
	// Emit waits for the flush in flight. Defaults 2 MiB and 8,192; a single larger event still goes.
	BlockBytes  int
	BlockEvents int
	// Budget bounds what many producers gather together; default none. While it is overdrawn each has no more
	// than FairShare.
	Budget *Budget
	// Now is the clock; default time.Now.
	Now func() time.Time
	// Step is called between the steps of a flush and of recovery, with the step's name, so that tests
	// can stop the process there; default nothing. It may be called concurrently. While taking over:
	// "producer.takeover" (older writers cannot commit any more), "producer.fenced" (nor append
	// anywhere), "producer.opened". In each flush: "producer.flush-encoded" (nothing is appended yet),
	// "producer.part-appended" (after each block without a commit), "producer.partitions-appended" (all
	// but the home partition's), "producer.home-appended" (committed).
	Step func(name string)
	// Metrics may be shared by producers; default none.
	Metrics *Metrics
	Logger  *slog.Logger
}

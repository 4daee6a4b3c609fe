package millrace

import "time"

// Header says whose block it is and how far its producer had come. It is stored inside the block,
// readable without decompressing anything.
type Header struct {
	// Producer is the stable name of who appends: "source/buses", "query/crossings/0". It has 1 to
	// 200 bytes of printable ASCII.
	Producer string
	// Writer is a random id of one opening of the producer.
	Writer [16]byte
	// Flush numbers the producer's flushes, over all its writers. All blocks of one flush carry the
	// same number.
	Flush uint64
	// Commit says that this block moves the cursor. A flush over several partitions has one block
	// with Commit, the last one, in the producer's home partition.
	Commit bool
	// Cursor is where the producer stood in its input at the end of this flush. A block without Commit
	// carries the cursor of the commit before its flush, so that trimming may drop that one.
	Cursor Cursor
	// Watermark is the producer's event-time watermark; zero if it keeps none.
	Watermark time.Time
	// Events is the number of events in the block. A block without events is legal: taking over,
	// moving the cursor alone, and keeping a cursor while trimming make such blocks.
	Events uint32
	// Uncommitted names blocks that an earlier writer of this producer appended for a flush that it
	// never committed. Their events count as emitted; a recovering producer drops them by id when the
	// input yields them again. A block without Commit also names the blocks of its own flush that were
	// appended to its partition before it.
	Uncommitted []BlockRef
}

// BlockRef names a block of any stream.
type BlockRef struct {
	Stream, Partition string
	Block             string // Position.Block
}

// Block is an encoded block, ready to be appended. Package block makes and reads it.
type Block struct {
	Header Header // as encoded in Raw
	Raw    []byte // immutable
}

// StoredBlock is a block as a stream returns it. Raw is shared between readers and must not be
// changed; it stays valid for as long as it is referenced.
type StoredBlock struct {
	Block
	// At is the position after the block's last event: {Block, Header.Events}.
	At Position
	// Stored is when the stream stored the block, by the stream's clock. It never decreases within a
	// partition and is kept with the block.
	Stored time.Time
}

// Position of the i-th event of the block, counted from 0.
func (b StoredBlock) Position(i int) Position {
	return Position{Block: b.At.Block, Event: uint32(i) + 1}
}

// Skip returns how many of the block's events a reader that has come to after has already seen: none, if that is
// a position of another incarnation.
func (b StoredBlock) Skip(after Position) int {
	switch {
	case b.At.Block > after.Block, b.At.Incarnation() != after.Incarnation():
		return 0
	case b.At.Block < after.Block, after.Event > b.Header.Events:
		return int(b.Header.Events)
	default:
		return int(after.Event)
	}
}

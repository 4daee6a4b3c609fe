package millrace

import (
	"bytes"
	"context"
	"crypto/md5" //nolint:gosec // Kinesis places keys by MD5; nothing secret depends on it.
	"iter"
	"time"
)

// Hash is a point in the 128-bit hash space, big-endian.
type Hash [16]byte

// HashKey returns the hash that places a key: its MD5, as Kinesis does.
func HashKey(key string) Hash { return md5.Sum([]byte(key)) } //nolint:gosec // see the import

// Partition is an ordered part of a stream.
type Partition struct {
	Name        string   // unique in the stream; lower-case letters, digits and hyphens
	First, Last Hash     // the keys whose hash lies in [First, Last] live here
	Parents     []string // partitions that a reader finishes before this one
	Closed      bool     // takes no more blocks: it was split or merged
}

// Contains says whether a key with this hash lives in the partition.
func (p Partition) Contains(h Hash) bool {
	return bytes.Compare(p.First[:], h[:]) <= 0 && bytes.Compare(h[:], p.Last[:]) <= 0
}

// SplitHashSpace returns n open partitions named "0" to "n-1" that divide the hash space evenly.
func SplitHashSpace(n int) []Partition {
	partitions := make([]Partition, n)
	for i := range partitions {
		partitions[i] = Partition{Name: itoa(i), First: boundary(i, n), Last: before(boundary(i+1, n))}
	}
	return partitions
}

// Stream is a named, durable, partitioned sequence of blocks. It stores encoded blocks and looks at
// nothing in them but their headers. All methods may be called concurrently.
type Stream interface {
	// Name is the stream's name in the configuration.
	Name() string

	// Partitions returns the partitions, those with parents after their parents. Unavailable.
	Partitions(ctx context.Context) ([]Partition, error)

	// Append stores one block atomically at the end of a partition and returns its position once it is
	// durable. after is the position of the producer's previous block in that partition, or the start
	// if there is none.
	//
	//	Conflict     after is not the producer's newest block: another writer has taken over, or an
	//	             earlier append with an unknown outcome had landed. Or Trim has appended the
	//	             producer's cursor again (Retainer): then Last shows its own writer and an earlier
	//	             flush, and it retries after Last's position. Nothing was stored.
	//	TooLarge     the block is over MaxBlock. Nothing was stored.
	//	Unavailable  the stream is full, the disk is full, or the outcome is unknown (a lost
	//	             connection, ctx ended): Last tells whether the block had landed.
	//	Invalid      the header is malformed.
	//	NotFound     there is no such partition.
	Append(ctx context.Context, partition string, after Position, b Block) (Position, error)

	// MaxBlock is the largest block in bytes (len of Raw) that Append takes.
	MaxBlock() int

	// Last returns a producer's newest block in a partition, which trimming never takes away. NotFound
	// if it never appended there, Unavailable.
	Last(ctx context.Context, partition, producer string) (StoredBlock, error)

	// Bounds returns the positions between which the partition's blocks lie: reading after first yields
	// the oldest block that is kept without a gap; end is the position after the newest event. Both are
	// the start while the partition is empty. Unavailable, NotFound.
	Bounds(ctx context.Context, partition string) (first, end Position, err error)

	// Seek returns a position after which reading yields the blocks stored at t or later, and perhaps
	// none before. If there are none yet it is the end. Unavailable, NotFound.
	Seek(ctx context.Context, partition string, t time.Time) (Position, error)

	// Read yields the blocks after a position in order, beginning with the block that holds the
	// position if it has events beyond it, then waits for more. If positions after the given one are
	// gone it yields a *Gap as the error first, once, and goes on with what is left. A *Gap may also
	// come later, when trimming overtakes the reader. Any other error ends the reading: Unavailable,
	// NotFound, or ctx's cause when ctx ends. It ends without an error at the end of a closed
	// partition and when the stream is closed.
	Read(ctx context.Context, partition string, after Position) iter.Seq2[StoredBlock, error]

	// Close ends all readers. Blocks that were appended stay.
	Close() error
}

// Retainer is a stream that trims: it drops the oldest blocks by age and size, but never those that a
// registered reader still needs, unless its hard bound forces appends to be refused.
type Retainer interface {
	// Hold says that the reader (an archive, a query's snapshot; by a stable name) still needs what
	// comes after a position of a partition. It replaces the reader's previous hold there. Holds live
	// in memory: whoever needs blocks registers before the first Trim.
	Hold(partition, reader string, after Position)
	// Release forgets a reader's hold.
	Release(partition, reader string)
	// Trim drops what is over the retention and not held. Before it drops a producer's newest block it
	// appends that producer's cursor again as an empty block. Unavailable.
	Trim(ctx context.Context) error
}

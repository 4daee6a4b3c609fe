// Package producer gathers events, encodes them as blocks, appends the blocks to a stream together
// with its owner's cursor, and recovers from any crash in between. Every source and every query
// writes through one.
//
// # Flushes
//
// While one flush is being committed the next one gathers; the committer takes whatever has gathered
// as soon as the previous flush is durable. There are no timers: at low load an event waits for one
// append, at high load blocks grow by themselves up to Config.BlockBytes, and then Emit waits. At a
// stream that has turns the flush is taken when it is the producer's turn.
//
// Events are routed by the hash of their key to the partitions of the stream, dead letters to one
// partition of the dead-letter stream. One flush may thus have blocks in several partitions, and
// several blocks in one partition if the events of one call do not fit a block. It has one commit:
//
//   - The blocks of the other partitions and of the dead-letter stream are appended first, those of
//     the home partition (where the hash of the producer's name lies) after them, and the very last of
//     these alone has Header.Commit and moves the cursor.
//   - Only the flush after the newest committed one is ever attempted. So the newest block in the home
//     partition says what is committed: with Commit all flushes up to its number, without it all
//     before its number.
//   - A block without Commit carries the cursor, and in the home partition the Uncommitted list, as
//     they stood before the flush. So trimming may drop the block with the commit before it. In
//     addition its Uncommitted names the earlier blocks of its own flush in its partition, so that the
//     newest block of a partition tells all that is to be known about an unfinished flush there.
//
// # Taking over
//
// Open makes a new writer. It writes one flush of empty blocks, number c+1 if c was committed:
//
//  1. An empty block without Commit in the home partition, after the newest one. From here on no older
//     writer can commit anything, because its appends there are refused.
//  2. The newest block of every other partition is looked at, and an empty block appended after it.
//     From here on no older writer can append there either; if one was faster, it is looked at again.
//     A newest block with a number above c belongs to a flush that will never be committed. It, and
//     the blocks that it names, are what an older writer left behind; the empty block names them, so
//     that they are not forgotten if we crash now and the next writer finds our block there.
//     Before it appends, the writer looks whether the home partition is still its own. So it never
//     appends after a block of a newer writer, whose first deed was to take the home partition.
//  3. An empty block with Commit in the home partition, whose Uncommitted names all that was found.
//
// Number c+1 may be tried by any number of writers that crash on the way; one of them commits it, and
// by then has seen and named whatever the others left.
//
// Events of the blocks named in Uncommitted are in the stream and were read by others. Their ids make
// the drop set: when the input yields such an event again, it is not written again. A block stays in
// the list until all its ids were seen, or until 10,000 events have been written to its partition
// since the last match: then the input has taken another course. An event without an id never matches.
// If retention has passed such a block before the producer comes back, its events are written again.
//
// A refused append thus has three meanings: our own block had landed after an unknown outcome; trimming
// appended our newest block again as an empty copy; or a newer writer has taken over, and this one
// fails with Conflict.
//
// # Dead letters
//
// A dead letter is an event in the dead-letter stream with the producer's name as Key, Type
// "dead_letter", the rejected input's id with the producer's name and a slash before it as ID, the
// input's time or else the time of its rejection as Time, and a [DeadLetter] in JSON as Data.
package producer

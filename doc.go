// Package millrace declares the nouns of Millrace and the contracts between its rooms.
//
// A feed brings events in. A source turns them into events with an id, a key and a time, and a
// producer gathers them into blocks and appends the blocks to a stream. Archives, queries, sinks and
// the gateway read the stream. Everything that crosses from one room to another is declared here:
//
//	event.go        Event, Cursor, Rejection     what happened, and how far a producer has come
//	block.go        Header, Block, StoredBlock   the unit that is appended, stored and read
//	position.go     Position, Gap                where an event stands
//	stream.go       Stream, Partition            blocks, kept in order
//	source.go       Source, Emitter              events from outside
//	objectstore.go  ObjectStore                  objects put once, by key
//	state.go        State                        small versioned values with compare-and-set
//	error.go        Error, Code                  what the caller should do about a failure
//
// The comments of these declarations are the contract. Package millracetest holds a conformance
// suite for each interface; an implementation is one that passes it.
//
// # Promises
//
//   - Durable before acknowledged: when Append, Put, Save or Flush returns without an error, what it
//     wrote survives kill -9 and the loss of power.
//   - Order: events of one key are read in the order in which their producer emitted them.
//   - The cursor travels in the block: output and input position are one atomic append, so no crash
//     can lose or repeat output.
//   - Effects are idempotent: ids and object keys derive from positions, so that retrying is safe.
//
// This package imports nothing but the standard library.
package millrace

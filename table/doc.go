// Package table keeps the newest event of each key of a stream, so that whoever asks for the present state
// gets it without a replay of all that is retained.
//
// A Table belongs to an owner that applies every event to it, in order, under a lock of its own: the table
// then corresponds exactly to a place in each partition (Places), and its rows and what comes after the
// places are the state and everything that follows it, without a gap or a repeat. CatchUp brings a table to
// the end of a stream; a Saver keeps snapshots of it in State and holds in the stream what comes after them.
//
// A table is derived: a snapshot that is damaged, or too new, is no loss but time. The owner begins with an
// empty table at the stream's start.
//
// # A snapshot, version 1, as it lies in State
//
// All integers are little-endian. uvarint is that of encoding/binary; a text is its length as uvarint and its
// bytes. CRC is CRC-32C (Castagnoli). A snapshot is the magic and records:
//
//	offset  size  what
//	0       4     magic: "MRT1"
//	4       ...   records, each:
//	                1  kind
//	                4  length of the body in bytes
//	                ...  body
//	                4  CRC of all bytes of the snapshot before it, the CRCs of the records before it left out
//
// Each CRC covers all that came before, so that no record can be lost, repeated or moved. The records, in this
// order:
//
//	kind 1, head, once    text     Options.Of
//	                      uvarint  number of partitions
//	                      per partition, by name: text its name, text the position that the table has come to
//	                      (Position.String)
//	kind 2, rows, any number of times
//	                      4        length of the positions in bytes
//	                      ...      positions, per row:
//	                                 uvarint  index of its partition in the head
//	                                 uvarint  number of bytes that the name of its block shares with that of
//	                                          the row before; 0 in the first row of a record
//	                                 text     the rest of the name of its block
//	                                 uvarint  number of its event in that block, counted from 1
//	                      ...      the rows' events, an encoded block (package block) of producer "table"
//	kind 3, end, once     uvarint  number of rows
//
// Nothing follows the end. Rows are in the order in which they were updated, oldest first: the order in which
// a full table drops them. A record of rows has at most 16,384 of them, and one of about 1 MiB is ended. A
// reader refuses a kind that it does not know, a key that comes twice, and a deleted event.
package table

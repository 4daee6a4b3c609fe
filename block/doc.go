// Package block is the codec of blocks: a Builder gathers events into columns and encodes them once,
// a Reader gives the columns back without copying more than it must.
//
// # Layout, version 1
//
// All integers are little-endian. uvarint and varint are those of encoding/binary. CRC is CRC-32C
// (Castagnoli). A block is a head, then the bytes of its sections, in the order of the table.
//
//	offset  size  what
//	0       4     magic: "MRB1"
//	4       4     length of the head in bytes, from offset 0, its checksum included
//	8       4     number of events
//	12      2     flags; bit 0: commit; others 0
//	14      2     number of sections S
//	16      16    writer
//	32      S*16  section table, one entry each:
//	                1  kind
//	                1  codec: 0 none, 1 S2 (one block of S2's block format)
//	                2  flags; bit 0: a reader that does not know the kind must refuse the block
//	                4  stored length in bytes
//	                4  length after decompression in bytes
//	                4  CRC of the stored bytes
//	...     ...   fields, to 4 bytes before the end of the head, each:
//	                uvarint tag, uvarint length, bytes
//	              tag 1 producer      text, required
//	              tag 2 flush         uvarint
//	              tag 3 cursor        bytes
//	              tag 4 watermark     varint, Unix nanoseconds; absent if there is none
//	              tag 5 uncommitted   stream, partition, block: each uvarint length and text; repeated
//	              Unknown tags are skipped; a tag with bit 16 (65536) set must not be.
//	...     4     CRC of the head up to here
//
// The last byte of the last section is the last byte of the block. A block without events has no
// sections. Sections, n being the number of events:
//
//	kind 1, keys and times     n*8  event time, Unix nanoseconds (int64)
//	                           n*4  end of the key in the key bytes (uint32, not decreasing)
//	                           (n+7)/8  deleted, one bit an event, lowest bit first
//	                           key bytes
//	kind 2, ids and types      n*4  end of the id in the id bytes
//	                           n*4  end of the type in the type bytes
//	                           id bytes, type bytes
//	kind 3, attributes         n*4  end of the event's attributes in what follows
//	                           per event, by name: uvarint length, name, uvarint length, value; repeated
//	                           The section is absent if no event has attributes.
//	kind 4, data               n*4  end of the data in the data bytes
//	                           data bytes
//
// Unknown sections are skipped unless their flag says otherwise, so later versions can add columns.
// The arrays have a fixed width so that a column is usable as it lies there, at any index, without a
// pass that unpacks it; S2 takes the redundancy away. A section is stored without a codec where S2
// saves nothing. Blocks of this layout lie under testdata as they must be read for ever.
//
// # Trust
//
// Reading never trusts its input. The head and each section are checked against their checksums
// before they are used, offsets are checked once when a section is loaded, and nothing is allocated
// beyond what MaxSection allows. A block that fails a check is Invalid as a whole.
package block

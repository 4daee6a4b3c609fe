package millrace

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

// Position is where an event stands in a partition, and how far a reader has come: everything up to
// and including event number Event (counted from 1) of the block Block. The zero Position is the
// start; {b, 0} stands before the first event of block b.
//
// Positions of one partition sort by Block, then Event. A Block name holds the stream's incarnation
// and a number of fixed width, in lower-case letters, digits and hyphens, so that it sorts as text
// and may stand in a file name. Positions survive restarts.
type Position struct {
	Block string
	Event uint32
}

// Compare returns -1, 0 or +1 as p stands before, at or after q.
func (p Position) Compare(q Position) int {
	if c := cmp.Compare(p.Block, q.Block); c != 0 {
		return c
	}
	return cmp.Compare(p.Event, q.Event)
}

// IsStart says whether p is the start of the partition.
func (p Position) IsStart() bool { return p == Position{} }

// String returns "BLOCK.EVENT", or "" for the start. ParsePosition reads it back.
func (p Position) String() string {
	if p.IsStart() {
		return ""
	}
	return p.Block + "." + strconv.FormatUint(uint64(p.Event), 10)
}

// MarshalText implements encoding.TextMarshaler.
func (p Position) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *Position) UnmarshalText(text []byte) error {
	q, err := ParsePosition(string(text))
	if err == nil {
		*p = q
	}
	return err
}

// ParsePosition reads what String wrote. It fails with Invalid.
func ParsePosition(s string) (Position, error) {
	if s == "" {
		return Position{}, nil
	}
	block, number, found := strings.Cut(s, ".")
	event, err := strconv.ParseUint(number, 10, 32)
	if !found || err != nil || block == "" || len(block) > 64 || strings.Trim(block, blockLetters) != "" ||
		strconv.FormatUint(event, 10) != number {
		return Position{}, Errorf(Invalid, "parse position", "%.80q is not BLOCK.EVENT", s)
	}
	return Position{Block: block, Event: uint32(event)}, nil
}

const blockLetters = "-0123456789abcdefghijklmnopqrstuvwxyz"

// BlockName returns the Block of the n-th block of an incarnation. Streams that number their blocks
// name them with it: the incarnation, a hyphen, and 12 digits of base 32 (0-9a-v), enough for 2^60
// blocks.
func BlockName(incarnation string, n uint64) string {
	const digits = "0123456789abcdefghijklmnopqrstuv"
	var b [12]byte
	for i := len(b) - 1; i >= 0; i-- {
		b[i] = digits[n&31]
		n >>= 5
	}
	return incarnation + "-" + string(b[:])
}

// ParseBlockName returns what BlockName was given. It fails with Invalid.
func ParseBlockName(block string) (incarnation string, n uint64, err error) {
	i := strings.LastIndexByte(block, '-')
	if i < 0 || len(block)-i-1 != 12 {
		return "", 0, Errorf(Invalid, "parse block name", "%.80q is not INCARNATION-NUMBER", block)
	}
	n, err = strconv.ParseUint(block[i+1:], 32, 60)
	if err != nil || strings.ToLower(block) != block {
		return "", 0, Errorf(Invalid, "parse block name", "%.80q is not INCARNATION-NUMBER", block)
	}
	return block[:i], n, nil
}

// Incarnation is the life of the stream that the position belongs to; "" of the start, and of a position whose
// block's name does not tell. Positions of different incarnations do not compare.
func (p Position) Incarnation() string {
	incarnation, _, err := ParseBlockName(p.Block)
	if err != nil {
		return ""
	}
	return incarnation
}

// GapReason says why a range of positions is gone.
type GapReason string

// The reasons for a gap.
const (
	Trimmed        GapReason = "trimmed"         // retention has passed
	NewIncarnation GapReason = "new incarnation" // the stream was deleted and created again
	Truncated      GapReason = "truncated"       // the partition ends before the position: its tail was lost
)

// Gap is a range of positions that a reader asked for and that is gone: those after After up to and
// including First. Reading goes on after First. A Gap is an error whose code is CodeGap.
type Gap struct {
	After, First Position
	Reason       GapReason
}

// Error implements error.
func (g *Gap) Error() string {
	return fmt.Sprintf("gap: positions after %q up to %q are gone (%s)", g.After, g.First, g.Reason)
}

package gateway

import (
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace"
)

// A position id is what clients keep and send back. It is one place per partition, joined by "~":
//
//	PARTITION "_" BLOCK "." EVENT       a millrace.Position of that partition
//	PARTITION "_" "_" NUMBER "." EVENT  the same; BLOCK has the incarnation of the place before it and
//	                                    NUMBER is its number in base 32 without leading zeros
//	PARTITION "_"                       the start of the partition
//
// It needs no escaping in a URL, and has an underscore, which tells it from a time.

// maxPlaces bounds the partitions of a position id that comes from a client.
const maxPlaces = 1024

// appendPlace appends one partition's place. previous is the incarnation of the place before it, ""
// if there is none; appendPlace returns the one for the next.
func appendPlace(dst []byte, previous, partition string, at millrace.Position) ([]byte, string) {
	dst, incarnation := appendBlock(dst, previous, partition, at.Block)
	if at.IsStart() {
		return dst, incarnation
	}
	return strconv.AppendUint(append(dst, '.'), uint64(at.Event), 10), incarnation
}

// appendPlaces appends the places of several partitions, given by their indexes; at says where each is.
func appendPlaces(
	dst []byte, previous string, parts []*part, several []int, at func(i int) millrace.Position,
) (id []byte, incarnation string) {
	for n, i := range several {
		if n > 0 {
			dst = append(dst, '~')
		}
		dst, previous = appendPlace(dst, previous, parts[i].Name, at(i))
	}
	return dst, previous
}

// appendBlock appends a place up to the dot.
func appendBlock(dst []byte, previous, partition, block string) ([]byte, string) {
	dst = append(append(dst, partition...), '_')
	if block == "" {
		return dst, previous
	}
	incarnation, number, err := millrace.ParseBlockName(block)
	if err != nil {
		return append(dst, block...), ""
	}
	if incarnation == previous && previous != "" {
		return strconv.AppendUint(append(dst, '_'), number, 32), incarnation
	}
	return append(dst, block...), incarnation
}

// positionID returns the id of one partition's place.
func positionID(partition string, at millrace.Position) string {
	id, _ := appendPlace(nil, "", partition, at)
	return string(id)
}

// since says where a client wants to begin: a place per partition, a time, or with the newest event of each
// key. The zero since is now.
type since struct {
	places map[string]millrace.Position
	stored time.Time // events of blocks that were stored at this time or later
	latest bool
}

// live says whether there is nothing to replay.
func (s since) live() bool { return s.places == nil && s.stored.IsZero() && !s.latest }

// parseSince reads a position id, an RFC 3339 time, a number of Unix milliseconds, or "latest". The empty
// text is now. It fails with Invalid.
func parseSince(text string) (since, error) {
	switch {
	case text == "":
		return since{}, nil
	case text == "latest":
		return since{latest: true}, nil
	case strings.Contains(text, "_"):
		places, err := parsePositionID(text)
		return since{places: places}, err
	case strings.Trim(text, "0123456789") == "":
		ms, err := strconv.ParseInt(text, 10, 64)
		if err != nil || ms > latest.UnixMilli() {
			return since{}, invalidSince(text)
		}
		return since{stored: time.UnixMilli(ms)}, nil
	}
	// The + of a zone offset is a space in a query string whose author did not escape it.
	t, err := time.Parse(time.RFC3339Nano, strings.ReplaceAll(text, " ", "+"))
	if err != nil || t.After(latest) || t.IsZero() {
		return since{}, invalidSince(text)
	}
	return since{stored: t}, nil
}

// latest is the end of the range of times that a block can store.
var latest = time.Date(2262, 1, 1, 0, 0, 0, 0, time.UTC)

func parsePositionID(text string) (map[string]millrace.Position, error) {
	places := map[string]millrace.Position{}
	incarnation := ""
	for place := range strings.SplitSeq(text, "~") {
		partition, at, found := strings.Cut(place, "_")
		if !found || !partitionName(partition) || len(places) >= maxPlaces {
			return nil, invalidSince(text)
		}
		if number, short := strings.CutPrefix(at, "_"); short {
			number, event, _ := strings.Cut(number, ".")
			n, err := strconv.ParseUint(number, 32, 60)
			if err != nil || incarnation == "" || strconv.FormatUint(n, 32) != number {
				return nil, invalidSince(text)
			}
			at = millrace.BlockName(incarnation, n) + "." + event
		}
		p, err := millrace.ParsePosition(at)
		if err != nil {
			return nil, invalidSince(text)
		}
		if _, twice := places[partition]; twice {
			return nil, invalidSince(text)
		}
		places[partition] = p
		if !p.IsStart() {
			incarnation, _, _ = millrace.ParseBlockName(p.Block) // "" if it has none
		}
	}
	return places, nil
}

func partitionName(s string) bool {
	return s != "" && len(s) <= 64 && strings.Trim(s, "-0123456789abcdefghijklmnopqrstuvwxyz") == ""
}

func invalidSince(text string) error {
	return millrace.Errorf(millrace.Invalid, "read since", "%.100q is neither a position (an id that this endpoint "+
		"sent), nor a time, nor latest; a time is written 2026-01-31T12:00:00Z or in Unix milliseconds", text)
}

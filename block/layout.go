package block

import (
	"hash/crc32"
	"math"
	"time"

	"github.com/millrace/millrace"
)

// MaxSection bounds the decompressed length in bytes of one section, when building and when reading.
const MaxSection = 64 << 20

// MaxEvents bounds the number of events in a block.
const MaxEvents = 1 << 20

const (
	magic     = "MRB1"
	fixedHead = 32
	entrySize = 16

	flagCommit   = 1 << 0
	flagRequired = 1 << 0

	codecNone = 0
	codecS2   = 1
)

const (
	kindKeys       = 1
	kindIDs        = 2
	kindAttributes = 3
	kindData       = 4
)

const (
	tagProducer    = 1
	tagFlush       = 2
	tagCursor      = 3
	tagWatermark   = 4
	tagUncommitted = 5
	tagRequired    = 1 << 16
)

// The Unix seconds of the years 1678 to 2261, as UTC counts them.
const (
	firstSecond = -9214560000
	lastSecond  = 9214646400 - 1
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// noTime stands for the zero time.Time.
const noTime = math.MinInt64

func invalid(format string, args ...any) error {
	return millrace.Errorf(millrace.Invalid, "decode block", format, args...)
}

// nanos returns t as stored; ok is false if t is out of the representable range.
func nanos(t time.Time) (n int64, ok bool) {
	if t.IsZero() {
		return noTime, true
	}
	if s := t.Unix(); s < firstSecond || s > lastSecond {
		return 0, false
	}
	return t.UnixNano(), true
}

func fromNanos(n int64) time.Time {
	if n == noTime {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}

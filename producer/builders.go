package producer

import (
	"math/bits"
	"sync"

	"github.com/millrace/millrace/block"
)

// builders are the empty ones of all producers, by size: of a thousand producers only those that have events
// to write hold one, and none holds more than it usually needs because it once needed more.
var builders [buildersMost - buildersLeast + 1]sync.Pool

// Powers of two of the bytes that a builder holds: those that hold less than the least are as good as those
// that hold none.
const (
	buildersLeast = 12 // 4 KiB
	buildersMost  = 28
)

// buildersAbove is how many times a builder's size may double what is asked for: a column grows by up to a
// half more than it needs, and by events that differ in size.
const buildersAbove = 2

func buildersOf(bytes int) int {
	return min(max(bits.Len(uint(bytes)), buildersLeast), buildersMost) - buildersLeast //nolint:gosec // not negative
}

// takeBuilder returns an empty builder for about so many bytes of events.
func takeBuilder(bytes int) *block.Builder {
	least := buildersOf(bytes)
	for i := least; i <= least+buildersAbove && i < len(builders); i++ {
		if b, ok := builders[i].Get().(*block.Builder); ok {
			return b
		}
	}
	return new(block.Builder)
}

// giveBuilder takes a builder back that is encoded, or has taken nothing.
func giveBuilder(b *block.Builder) {
	b.Reset()
	builders[buildersOf(b.Held())].Put(b)
}

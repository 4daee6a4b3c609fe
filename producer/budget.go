package producer

import "sync/atomic"

// FairShare is what a producer may gather in bytes, before compression, whatever the others do.
const FairShare = 8 << 10

// Budget bounds the bytes that many producers hold together: gathered, encoded or being appended. One producer
// alone may then gather much and append large blocks, and a thousand still do not hold a thousand times as
// much. When it is overdrawn, Emit waits in those that have gathered their FairShare, until their own next
// flush is taken: nobody waits for another one's memory.
type Budget struct {
	limit int64
	held  atomic.Int64
}

// NewBudget returns a budget of so many bytes.
func NewBudget(bytes int64) *Budget { return &Budget{limit: bytes} }

// hold counts bytes in, or out if they are negative. A nil budget has no limit.
func (b *Budget) hold(bytes int) {
	if b != nil && bytes != 0 {
		b.held.Add(int64(bytes))
	}
}

func (b *Budget) overdrawn() bool { return b != nil && b.held.Load() > b.limit }

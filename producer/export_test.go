package producer

// Held is what all producers together hold of the budget, in bytes.
func (b *Budget) Held() int64 { return b.held.Load() }

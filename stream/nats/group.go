package nats

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// The embedded server syncs each message by itself: where a thousand producers append to one partition, each
// would wait for a thousand syncs. Messages that are published as one batch share a sync. A batch costs as
// much as ten syncs or so (it is staged in a file of its own first), so only appends that wait in a crowd go
// together, and whatever is fast alone goes alone.
const (
	loners     = 16      // appends that go alone side by side; others wait
	crowd      = 48      // from so many on those that wait go together
	groupLimit = 500     // messages of a batch; JetStream takes 1,000
	groupBytes = 8 << 20 // of a batch, but for its last message
)

// group lines up the appends to one partition.
type group struct {
	p *partition

	mu      sync.Mutex
	alone   int  // appends that are on their way alone
	flying  bool // a batch is on its way
	waiting []*waiter
}

// waiter is an append that waits. It holds one block and has one producer waiting for it, so there are no more
// than producers.
type waiter struct {
	message *nats.Msg
	verdict chan verdict // capacity 1
}

// verdict is what becomes of an append: it goes alone, or it went with others.
type verdict struct {
	alone bool
	seq   uint64
	err   error
}

// put stores a message as store.put does, together with others where many wait.
func (g *group) put(ctx context.Context, m *nats.Msg) (uint64, error) {
	if g.p.e.server == nil {
		return g.p.send(ctx, m)
	}
	g.mu.Lock()
	if !g.flying && len(g.waiting) == 0 && g.alone < loners {
		g.alone++
		g.mu.Unlock()
		defer g.leave()
		return g.p.send(ctx, m)
	}
	w := &waiter{message: m, verdict: make(chan verdict, 1)}
	g.waiting = append(g.waiting, w)
	g.next()
	g.mu.Unlock()
	var v verdict
	select {
	case v = <-w.verdict:
	case <-ctx.Done():
		if g.withdraw(w) {
			return 0, context.Cause(ctx)
		}
		v = <-w.verdict // its batch is on its way, and takes no longer than publishTimeout
	}
	if !v.alone {
		return v.seq, v.err
	}
	defer g.leave()
	return g.p.send(ctx, m)
}

// leave ends an append that went alone.
func (g *group) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.alone--
	g.next()
}

// withdraw takes back an append that waits; false if it is on its way.
func (g *group) withdraw(w *waiter) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	i := slices.Index(g.waiting, w)
	if i >= 0 {
		g.waiting = slices.Delete(g.waiting, i, i+1)
	}
	return i >= 0
}

// next sends those that wait on their way, as far as it is their turn. mu is held.
func (g *group) next() {
	switch {
	case g.flying:
	case len(g.waiting) >= crowd:
		n, bytes := 0, 0
		for n < len(g.waiting) && n < groupLimit && bytes < groupBytes {
			bytes += len(g.waiting[n].message.Data)
			n++
		}
		together := slices.Clone(g.waiting[:n])
		g.waiting = slices.Delete(g.waiting, 0, n)
		g.flying = true
		go g.fly(together)
	default:
		for len(g.waiting) > 0 && g.alone < loners {
			g.alone++
			g.waiting[0].verdict <- verdict{alone: true}
			g.waiting = slices.Delete(g.waiting, 0, 1)
		}
	}
}

// fly publishes messages as one batch and hands down the verdicts. It ends with the acknowledgement, or when
// that does not come in time.
func (g *group) fly(together []*waiter) {
	last, err := g.p.sendBatch(together)
	// A batch is taken as a whole or not at all. What refuses it may be the matter of one message, such as a
	// producer that was fenced: each finds out alone.
	var refused *jetstream.APIError
	each := errors.Is(err, errFenced) || errors.As(err, &refused)
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, w := range together {
		if each {
			g.alone++
			w.verdict <- verdict{alone: true}
		} else {
			w.verdict <- verdict{seq: last - uint64(len(together)-1-i), err: err}
		}
	}
	g.flying = false
	g.next()
}

// sendBatch publishes messages as one batch and returns the sequence of the last one once all are durable;
// they are numbered without a gap. With an *jetstream.APIError or errFenced nothing is stored, with any other
// error the outcome is unknown.
func (p *partition) sendBatch(together []*waiter) (uint64, error) {
	id := nats.NewInbox()[len(nats.InboxPrefix):]
	for i, w := range together {
		h := w.message.Header
		h["Nats-Batch-Id"] = []string{id}
		h["Nats-Batch-Sequence"] = []string{strconv.Itoa(i + 1)}
		if i < len(together)-1 {
			if err := p.e.write.PublishMsg(w.message); err != nil {
				return 0, err
			}
		}
	}
	last := together[len(together)-1].message
	last.Header["Nats-Batch-Commit"] = []string{"1"}
	seq, err := p.send(context.Background(), last)
	for _, w := range together {
		for _, name := range []string{"Nats-Batch-Id", "Nats-Batch-Sequence", "Nats-Batch-Commit"} {
			delete(w.message.Header, name) // it may go alone now
		}
	}
	return seq, err
}

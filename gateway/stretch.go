package gateway

import (
	"cmp"
	"container/list"
	"hash/maphash"
	"slices"
	"sort"
	"sync"
	"sync/atomic"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
)

// stretch is some consecutive blocks of a partition, as the history keeps them. What a replay needs of them is
// made when first somebody asks for it, and shared: the columns of a block; the index of keys and the
// frames when a second one asks. Its events are numbered from 0 over all its blocks.
type stretch struct {
	shelf *shelf

	// Guarded by history.mu. Blocks are only ever added, so that a window needs no lock.
	blocks  []*past
	starts  []int               // by block: the number of its first event; and one more: of all events
	afters  []millrace.Position // reading after them begins with the first block
	raw     int                 // bytes of the blocks
	sealed  bool                // takes no more blocks
	size    int64               // bytes of everything
	element *list.Element       // in history.kept; nil: it is not kept, or not any more

	mu      sync.Mutex // of what is made of a sealed stretch
	seekers int
	index   *keyIndex
	written []*written
}

// Bounds of a stretch. A single block always fits. One that grows is sealed early if somebody asks for it and it
// has some events, since only of a sealed one anything is shared.
const (
	stretchBlocks = 128
	stretchEvents = 2048
	stretchBytes  = 256 << 10
	sealAsked     = 64
)

// Bytes that a block takes beside its columns, about.
const (
	pastOverhead   = 300
	readerOverhead = 1100
)

// full says whether the stretch takes no more blocks; history.mu is held.
func (st *stretch) full() bool {
	return st.sealed || st.raw >= st.shelf.history.share(stretchBytes) || len(st.blocks) >= stretchBlocks || st.starts[len(st.blocks)] >= stretchEvents
}

// end is the position after the last block; history.mu is held.
func (st *stretch) end() millrace.Position { return st.blocks[len(st.blocks)-1].At }

// extend adds a block; history.mu is held.
func (st *stretch) extend(sb millrace.StoredBlock) {
	if len(st.starts) == 0 {
		st.starts = append(st.starts, 0)
	}
	sb.Header = millrace.Header{Events: sb.Header.Events} // the rest is needed by nobody here
	st.blocks = append(st.blocks, &past{StoredBlock: sb})
	st.starts = append(st.starts, st.starts[len(st.starts)-1]+int(sb.Header.Events))
	st.raw += len(sb.Raw)
	st.sealed = st.full()
}

// window returns the stretch as it is now; history.mu is held.
func (st *stretch) window() window {
	return window{stretch: st, blocks: st.blocks, starts: st.starts, sealed: st.sealed}
}

// window is a stretch as it was at one moment.
type window struct {
	*stretch // nil: there is none
	blocks   []*past
	starts   []int
	sealed   bool
}

// end is the position after the last block.
func (w *window) end() millrace.Position { return w.blocks[len(w.blocks)-1].At }

// events returns how many events of the window lie at or before a position.
func (w *window) events(to millrace.Position) int {
	b, found := findBlock(w.blocks, to.Block)
	if !found {
		return w.starts[b]
	}
	return w.starts[b] + min(int(to.Event), int(w.blocks[b].Header.Events))
}

// blocksBetween returns how many blocks the events between two positions are in.
func (w *window) blocksBetween(from, to millrace.Position) int {
	n, end := w.events(from), w.events(to)
	if n >= end {
		return 0
	}
	return w.block(end-1) - w.block(n) + 1
}

// block returns the block that the n-th event is in.
func (w *window) block(n int) int {
	return sort.Search(len(w.blocks)-1, func(b int) bool { return w.starts[b+1] > n })
}

// position returns where the n-th event stands.
func (w *window) position(n int) millrace.Position {
	b := w.block(n)
	return w.blocks[b].Position(n - w.starts[b])
}

func findBlock(blocks []*past, name string) (int, bool) {
	return slices.BinarySearchFunc(blocks, name, func(p *past, name string) int { return cmp.Compare(p.At.Block, name) })
}

// past is a block that was read, or handed out.
type past struct {
	millrace.StoredBlock

	mu     sync.Mutex
	loaded atomic.Uint32 // block.Sections
	reader *block.Reader // changed by load alone; sections that are loaded may be looked at without the lock
	failed block.Sections
	why    error
}

// load makes sure that sections of the block are there.
func (p *past) load(st *stretch, want block.Sections) error {
	if block.Sections(p.loaded.Load())&want == want {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failed&want != 0 {
		return p.why
	}
	more := 0
	if p.reader == nil {
		p.reader, more = new(block.Reader), readerOverhead
		if p.why = p.reader.Reset(p.Raw); p.why != nil {
			p.failed = block.All
			return p.why
		}
	}
	before := p.reader.Memory()
	if err := p.reader.Load(want); err != nil {
		p.failed, p.why = p.failed|want, err
		return err
	}
	p.loaded.Store(p.loaded.Load() | uint32(want))
	st.grow(more + p.reader.Memory() - before)
	return nil
}

// keyIndex finds the events of a key: the chains of a hash table, in ascending order.
type keyIndex struct {
	heads []int32 // by hash: the first event, plus 1; 0: none
	next  []int32 // by event: the next one of the same hash, plus 1
}

// indexed returns the index of keys, nil if there is none: the stretch still grows, a block cannot be read, or
// the asker is the first, who is as fast without it.
func (w *window) indexed() *keyIndex {
	if !w.sealed {
		return nil
	}
	st := w.stretch
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.seekers++; st.index != nil || st.seekers == 1 {
		return st.index
	}
	n := w.starts[len(w.blocks)]
	size := 1
	for size < n {
		size *= 2
	}
	for _, p := range w.blocks {
		if p.Header.Events > 0 && p.load(st, block.Keys) != nil {
			return nil
		}
	}
	x := &keyIndex{heads: make([]int32, size), next: make([]int32, n)}
	for b, p := range slices.Backward(w.blocks) {
		for i := w.starts[b+1] - 1; i >= w.starts[b]; i-- {
			head := &x.heads[x.hash(st, p.reader.Key(i-w.starts[b]))]
			x.next[i], *head = *head, int32(i)+1
		}
	}
	st.index = x
	st.grow(4 * (len(x.heads) + len(x.next)))
	return x
}

func (x *keyIndex) hash(st *stretch, key []byte) int {
	return int(maphash.Bytes(st.shelf.history.seed, key) & uint64(len(x.heads)-1))
}

// find appends the events from n up to end that have one of the keys, in order.
func (x *keyIndex) find(dst []int32, w *window, keys []string, n, end int) []int32 {
	for _, key := range keys {
		for i := x.heads[x.hash(w.stretch, []byte(key))]; i != 0; i = x.next[i-1] {
			at := int(i) - 1
			if at < n || at >= end {
				continue
			}
			b := w.block(at)
			if string(w.blocks[b].reader.Key(at-w.starts[b])) == key {
				dst = append(dst, int32(at))
			}
		}
	}
	if len(keys) > 1 {
		slices.Sort(dst)
	}
	return dst
}

// written is all events of a stretch in one dialect.
type written struct {
	dialect
	frames []byte
	starts []int // by event: where its frame begins; and one more: where the last one ends
	failed bool
}

// maxWritten bounds the dialects in which a stretch is kept: clients choose the names of subscriptions.
const maxWritten = 4

// writtenIn returns the events in a dialect whose ids depend on the event alone, nil if they are not kept: the
// stretch still grows, a block cannot be read, or nobody has asked for them before.
func (w *window) writtenIn(d dialect) *written {
	if !w.sealed || d.form.vector() {
		return nil
	}
	st := w.stretch
	st.mu.Lock()
	defer st.mu.Unlock()
	i := slices.IndexFunc(st.written, func(x *written) bool { return x.dialect == d })
	if i < 0 {
		if len(st.written) < maxWritten {
			st.written = append(st.written, &written{dialect: d})
		}
		return nil
	}
	x := st.written[i]
	switch {
	case x.failed:
		return nil
	case x.starts != nil:
		return x
	}
	size := 0
	for _, p := range w.blocks {
		if p.Header.Events > 0 && p.load(st, block.Keys|block.IDs|block.Data) != nil {
			x.failed = true
			return nil
		}
		for k := range int(p.Header.Events) {
			size += len(p.reader.Key(k)) + len(p.reader.Type(k)) + len(p.reader.Data(k)) + eventOverhead
		}
	}
	if int64(size) > st.shelf.history.limit/4 {
		x.failed = true // it would drive out too much
		return nil
	}
	var ids idText
	var text []byte
	frames, starts := make([]byte, 0, size), make([]int, 0, w.starts[len(w.blocks)]+1)
	for _, p := range w.blocks {
		ids.single(st.shelf.partition, p.At.Block)
		for k := range int(p.Header.Events) {
			starts = append(starts, len(frames))
			frames, text = d.appendEvent(frames, text, itemOf(p.reader, k), uint32(k)+1, &ids)
		}
	}
	x.frames, x.starts = frames, append(starts, len(frames))
	st.grow(cap(frames) + 8*cap(starts))
	return x
}

// until returns the end of the frames from the n-th on that have up to limit bytes together, at least one.
func (x *written) until(n, end, limit int) int {
	m := n + 1
	for m < end && x.starts[m+1]-x.starts[n] <= limit {
		m++
	}
	return m
}

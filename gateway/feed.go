package gateway

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
	"github.com/millrace/millrace/table"
)

// feed hands one stream's events to the connections that want them. It has one reader for each
// partition, whatever the number of endpoints and connections.
//
// mu orders everything: a pass hands a few events to all connections under it, and a connection joins
// under it. So all that have joined have been handed exactly the events up to the partitions' places
// (part.at). That is why ids over all partitions can be shared by all connections, and why joining has
// a seam without a gap or a repeat.
type feed struct {
	stream    millrace.Stream
	history   *history       // of all feeds of the gateway
	state     millrace.State // nil: the table is not kept
	endpoints []*endpoint
	logger    *slog.Logger
	now       func() time.Time
	chunk     int          // about how many bytes of events one pass hands over
	share     int          // connections that make another hander worthwhile; tests set it
	tableKeys int          // bound of the table; 0: there is none
	saver     *table.Saver // of the table; nil: nobody

	parts      []*part
	every      []int        // the indexes of all parts
	interested atomic.Int64 // subscriptions that have joined
	unkeyed    atomic.Int64 // those of them that name no keys
	attributed atomic.Int64 // filters that look at attributes, as nobody else does but the table

	mu         sync.Mutex
	table      *table.Table      // the newest event of each key at the parts' places; nil: not asked for
	joined     []*subscription   // all of them
	keys       map[string]*group // those that name keys
	audiences  []*audience       // those that name none
	byInterest map[audienceKey]*audience
	watched    []*areas               // those that watch areas
	renderings map[dialect]*rendering // by dialect
	broad      []*rendering           // those that hold every event
	vectors    int                    // subscriptions whose ids are over all partitions
	filters    map[string]*filter     // by expression
	dirty      []*subscription        // with pending events, in this pass
	pend       []pending
	joint      []byte // several frames for an audience
	handers    []*hander
	round      round
	id         []byte
	keepKeys   bool // of the events of a batch: an endpoint keeps the newest of each
}

// part is a partition as its feed follows it.
type part struct {
	millrace.Partition
	index  int
	only   []int             // its index alone
	at     millrace.Position // how far the connections have come; guarded by feed.mu
	passes uint64            // counts what may have changed at; likewise
	shelf  *shelf            // what it has of the history
	reader block.Reader      // of the goroutine that follows the partition
	batch  batch             // the events of one pass
}

func newFeed(stream millrace.Stream, g *Gateway, o Options) *feed {
	return &feed{
		stream: stream, history: g.history, state: o.State, logger: g.logger, now: o.Now,
		chunk: int(min(g.config.Queue/2, 32<<10)), share: handShare,
		keys: map[string]*group{}, byInterest: map[audienceKey]*audience{}, renderings: map[dialect]*rendering{}, filters: map[string]*filter{},
	}
}

// serve adds an endpoint.
func (f *feed) serve(e *endpoint) error {
	f.endpoints = append(f.endpoints, e)
	f.keepKeys = f.keepKeys || e.config.Slow == NewestPerKey
	if e.config.Location != nil {
		i := slices.IndexFunc(f.watched, func(as *areas) bool { return as.location == *e.config.Location })
		if i < 0 {
			as, err := newAreas(*e.config.Location)
			if err != nil {
				return err
			}
			i, f.watched = len(f.watched), append(f.watched, as)
		}
		e.areas = f.watched[i]
	}
	if e.config.latest() {
		f.tableKeys = max(f.tableKeys, e.config.latestKeys())
	}
	return nil
}

// open finds the stream's partitions and their ends: what comes from there on is handed out. A table is
// brought up to there first.
func (f *feed) open(ctx context.Context) error {
	partitions, err := f.stream.Partitions(ctx)
	if err != nil {
		return err
	}
	if f.tableKeys > 0 {
		if err := f.openTable(ctx); err != nil {
			return err
		}
	}
	f.parts, f.every = nil, nil
	for i, p := range partitions {
		var at millrace.Position
		if f.table != nil {
			at = f.table.Place(p.Name)
		} else if _, at, err = f.stream.Bounds(ctx, p.Name); err != nil {
			return err
		}
		f.parts = append(f.parts, &part{
			Partition: p, index: i, only: []int{i}, at: at, shelf: newShelf(f.history, f.stream, p.Name),
		})
		f.every = append(f.every, i)
	}
	return nil
}

// follow hands a partition's events out until ctx ends or the partition is closed. It tries again for
// as long as the stream is unavailable, and fails with what trying again cannot mend.
func (f *feed) follow(ctx context.Context, p *part) error {
	const least, most = 50 * time.Millisecond, 5 * time.Second
	for pause := least; ; pause = min(2*pause, most) {
		progress, err := f.read(ctx, p)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			f.logger.Debug("gateway: the partition has ended", "stream", f.stream.Name(), "partition", p.Name)
			return nil
		case millrace.CodeOf(err) != millrace.Unavailable:
			return err
		case progress:
			pause = least
		}
		f.logger.Warn("gateway: cannot read the stream, trying again",
			"stream", f.stream.Name(), "partition", p.Name, "in", pause, "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// read reads a partition once, and hands out what it yields.
func (f *feed) read(ctx context.Context, p *part) (progress bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	at := p.at // only this goroutine changes it
	ahead := &lookahead{deliveries: make(chan delivery, blocksAhead), taken: make(chan struct{}, 1)}
	var failure error
	go func() {
		defer close(ahead.deliveries)
		for sb, err := range f.stream.Read(ctx, p.Name, at) {
			d := delivery{block: sb}
			if err != nil && !errors.As(err, &d.gap) {
				failure = err
				return
			}
			at = p.shelf.note(at, d)
			if !ahead.put(ctx, d) {
				return
			}
		}
	}()
	for d := range ahead.deliveries {
		ahead.took(d)
		for more := true; more; progress = true {
			d, more = f.pass(p, d, ahead)
		}
	}
	return progress, failure
}

// delivery is what a partition yields: a block, or a gap.
type delivery struct {
	block   millrace.StoredBlock
	decoded bool // part.reader is set to the block
	next    int  // index of its first event that is not handed out
	gap     *millrace.Gap
	why     error // of a gap that stands for an unreadable block
}

// unreadable is the reason of a gap that stands for a damaged block.
const unreadable millrace.GapReason = "unreadable"

// lookahead holds what was read while something else was being handed out. It is handed out together,
// so that a feed that has fallen behind catches up by fewer and larger writes. When it is full, reading
// the stream waits.
type lookahead struct {
	deliveries chan delivery
	bytes      atomic.Int64
	taken      chan struct{} // has a token when something was taken
}

// Bounds of a lookahead. A single block always fits.
const (
	blocksAhead = 32
	bytesAhead  = 4 << 20
)

func (l *lookahead) put(ctx context.Context, d delivery) bool {
	size := int64(len(d.block.Raw))
	for l.bytes.Load() > 0 && l.bytes.Load()+size > bytesAhead {
		select {
		case <-l.taken:
		case <-ctx.Done():
			return false
		}
	}
	l.bytes.Add(size)
	select {
	case l.deliveries <- d:
		return true
	case <-ctx.Done():
		return false
	}
}

// next returns what is at hand, if anything is.
func (l *lookahead) next() (d delivery, ok bool) {
	select {
	case d, ok = <-l.deliveries:
		l.took(d)
		return d, ok
	default:
		return d, false
	}
}

// took makes room for what comes next.
func (l *lookahead) took(d delivery) {
	l.bytes.Add(-int64(len(d.block.Raw)))
	select {
	case l.taken <- struct{}{}:
	default:
	}
}

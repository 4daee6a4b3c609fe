package producer_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
	"github.com/millrace/millrace/millracetest"
	"github.com/millrace/millrace/producer"
	"github.com/millrace/millrace/stream/memory"
)

// TestExactlyOnce is the proof of the protocol: processes of one producer run one after another and
// beside each other over a way to the streams that refuses appends, loses replies, delays and holds
// appends, and crashes between any two of them, also during recovery. In the end each event and each dead
// letter of the input must be there once, those of a key in order. MILLRACE_SEEDS sets how many
// worlds are tried, MILLRACE_SEED tries one alone.
func TestExactlyOnce(t *testing.T) {
	first, n := uint64(1), uint64(150)
	if text := os.Getenv("MILLRACE_SEEDS"); text != "" {
		n, _ = strconv.ParseUint(text, 10, 64)
	}
	if text := os.Getenv("MILLRACE_SEED"); text != "" {
		first, _ = strconv.ParseUint(text, 10, 64)
		n = 1
	}
	var total tally
	for seed := first; seed < first+n && !t.Failed(); seed++ {
		t.Run("seed "+strconv.FormatUint(seed, 10), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { newWorld(t, seed).run(&total) })
		})
	}
	t.Logf("%d worlds: %+v", n, total)
}

// tally counts what the worlds went through.
type tally struct {
	processes, finished, fenced, crashed int // by their end
	appends, events, letters             int
	uncommitted                          int // blocks that name others left behind
	copies                               int // blocks that trimming appended again
}

// world is a pair of streams and the input of a producer.
type world struct {
	t          *testing.T
	rng        *rand.Rand
	into, dead *memory.Stream // may be one
	streams    []*memory.Stream
	input      []call // the cursor after input[i] is i+1
	sent       *millracetest.Ledger
	letters    *millracetest.Ledger
	config     producer.Config
	processes  []*process
	total      tally

	mu    sync.Mutex
	acked int // the cursor that a Flush has confirmed

	collected map[string]millrace.Position // by stream and partition
	before    map[string]millrace.Header   // the producer's block before, by stream and partition
	blocks    []string                     // all of them, for a failed test to print
}

// call is one call of EmitAll.
type call struct {
	events     []millrace.Event
	rejections []millrace.Rejection
}

const modelEventLimit = 900

func newWorld(t *testing.T, seed uint64) *world {
	rng := rand.New(rand.NewPCG(seed, 1))
	maxBlock := 32 << 20
	if rng.IntN(2) == 0 {
		maxBlock = 4 << 10 // calls that do not fit a block
	}
	retention := memory.Retention{Age: time.Millisecond} // Trim drops what is not held
	w := &world{
		t: t, rng: rng,
		into: memory.New("into", memory.Options{
			Partitions: []int{1, 2, 4}[rng.IntN(3)], MaxBlock: maxBlock, Retention: retention,
		}),
		dead:      memory.New("dead", memory.Options{Partitions: 1 + rng.IntN(2), Retention: retention}),
		sent:      millracetest.NewLedger(),
		letters:   millracetest.NewLedger(),
		collected: map[string]millrace.Position{},
		before:    map[string]millrace.Header{},
	}
	w.streams = []*memory.Stream{w.into, w.dead}
	if rng.IntN(6) == 0 {
		w.dead, w.streams = w.into, w.streams[:1]
	}
	w.config = producer.Config{
		Name:        "source/" + strconv.Itoa(rng.IntN(5)), // different home partitions
		EventLimit:  modelEventLimit,
		BlockBytes:  1 << (8 + rng.IntN(8)),
		BlockEvents: 1 + rng.IntN(60),
	}
	w.makeInput(5 + rng.IntN(60))
	return w
}

func (w *world) makeInput(calls int) {
	keys := 1 + w.rng.IntN(8)
	for range calls {
		var c call
		n := w.rng.IntN(6)
		if w.rng.IntN(12) == 0 {
			n = w.rng.IntN(40)
		}
		for range n {
			e := millrace.Event{
				Key:  "key " + strconv.Itoa(w.rng.IntN(keys)),
				Type: "message",
				Time: time.Unix(1700000000, 0),
				Data: []byte(strings.Repeat("x", w.rng.IntN(300))),
			}
			if w.rng.IntN(30) == 0 {
				e.Data = make([]byte, 2*modelEventLimit) // becomes a dead letter
				_, e.ID = w.letters.Send("letter")
			} else {
				_, e.ID = w.sent.Send(e.Key)
			}
			c.events = append(c.events, e)
		}
		if w.rng.IntN(10) == 0 {
			_, id := w.letters.Send("letter")
			c.rejections = append(c.rejections, millrace.Rejection{
				ID: id, Input: []byte("no event"), Reason: millrace.Errorf(millrace.Invalid, "parse", "no"),
			})
		}
		w.input = append(w.input, c)
	}
}

// process is one life of the producer.
type process struct {
	w      *world
	faults *millracetest.Faults
	rng    *rand.Rand
	opened bool
	done   chan struct{}
	err    error // nil: all is emitted and flushed
}

func (w *world) start(troubled bool) *process {
	x := &process{w: w, rng: rand.New(rand.NewPCG(w.rng.Uint64(), 2)), done: make(chan struct{})}
	faultRNG := rand.New(rand.NewPCG(w.rng.Uint64(), 3))
	rate, deadly := faultRNG.IntN(3), faultRNG.IntN(3) > 0
	crashAt := faultRNG.IntN(25)
	if faultRNG.IntN(2) == 0 {
		crashAt = faultRNG.IntN(6) // while it takes over
	}
	appends := 0
	x.faults = millracetest.NewFaults(func(string, string, millrace.Header) millracetest.Fault {
		appends++
		if !troubled {
			return millracetest.NoFault
		}
		if deadly && appends > crashAt {
			return []millracetest.Fault{millracetest.Crash, millracetest.CrashAfter}[faultRNG.IntN(2)]
		}
		if rate == 0 || faultRNG.IntN(4*rate) > 0 {
			return millracetest.NoFault
		}
		return []millracetest.Fault{millracetest.Refuse, millracetest.LoseReply, millracetest.Delay, millracetest.Hold}[faultRNG.IntN(4)]
	})
	slow := 1 + faultRNG.IntN(2000)
	x.faults.Latency = func() time.Duration { return time.Duration(faultRNG.IntN(slow)) * time.Microsecond }
	config := w.config
	config.Into, config.Dead = x.faults.Stream(w.into), x.faults.Stream(w.dead)
	w.processes = append(w.processes, x)
	go func() {
		defer close(x.done)
		x.err = x.live(config)
	}()
	return x
}

func (x *process) live(config producer.Config) error {
	ctx := context.Background()
	x.w.mu.Lock()
	acked := x.w.acked
	x.w.mu.Unlock()
	p, err := producer.Open(ctx, config)
	if err != nil {
		return err
	}
	x.opened = true
	at := 0
	if c := p.Resume().Cursor; c != "" {
		at, _ = strconv.Atoi(string(c))
	}
	if at < acked {
		x.w.t.Errorf("a process recovered the cursor %d, and %d was flushed before it began", at, acked)
	}

	ran := make(chan error, 1)
	ctx, cancel := context.WithCancel(ctx)
	go func() { ran <- p.Run(ctx) }()
	defer func() {
		cancel()
		<-ran
	}()
	for ; at < len(x.w.input); at++ {
		c := x.w.input[at]
		err := p.EmitAll(ctx, c.events, c.rejections, millrace.Cursor(strconv.Itoa(at+1)))
		if err != nil {
			return err
		}
		switch x.rng.IntN(8) {
		case 0:
			if err := x.flush(ctx, p, at+1); err != nil {
				return err
			}
		case 1, 2, 3:
			time.Sleep(time.Duration(x.rng.IntN(3000)) * time.Microsecond)
		}
	}
	return x.flush(ctx, p, at)
}

func (x *process) flush(ctx context.Context, p *producer.Producer, at int) error {
	if err := p.Flush(ctx); err != nil {
		return err
	}
	x.w.mu.Lock()
	defer x.w.mu.Unlock()
	x.w.acked = max(x.w.acked, at)
	return nil
}

func (w *world) run(total *tally) {
	stop, stopped := make(chan struct{}), make(chan struct{})
	if w.rng.IntN(2) == 0 {
		go w.trim(stop, stopped, rand.New(rand.NewPCG(w.rng.Uint64(), 4)))
	} else {
		close(stopped)
	}
	for range w.rng.IntN(12) {
		x := w.start(true)
		// Then it crashes, or ends, or stays as a zombie; those that are held go on at any time.
		wait := time.Duration(w.rng.IntN(30000)) * time.Microsecond
		switch w.rng.IntN(3) {
		case 0:
			time.Sleep(wait)
			x.faults.Crash()
		case 1:
			time.Sleep(wait)
		case 2:
			select {
			case <-x.done:
			case <-time.After(time.Second):
			}
		}
		if old := w.processes[w.rng.IntN(len(w.processes))]; w.rng.IntN(2) == 0 {
			old.faults.Release()
		}
		if old := w.processes[w.rng.IntN(len(w.processes))]; w.rng.IntN(2) == 0 {
			old.faults.Land()
		}
	}
	w.finish()
	// What zombies still do must not matter. One that was held before it took over may take over even now,
	// and leave an unfinished flush for the last process.
	for range 3 {
		for _, x := range w.processes {
			x.faults.Release()
			x.faults.Land()
		}
		time.Sleep(time.Second)
	}
	for _, x := range w.processes {
		x.faults.Crash()
		x.faults.Land()
		<-x.done
	}
	w.finish()
	close(stop)
	<-stopped

	w.collect()
	w.sent.Check(w.t, "into")
	w.letters.Check(w.t, "dead")
	if w.t.Failed() {
		w.t.Log("the blocks:\n" + strings.Join(w.blocks, "\n"))
	}
	w.count(total)
}

// finish lets a process without trouble come to the end of the input. An older one, slow to open, may
// take over from it; then another is started.
func (w *world) finish() {
	for !w.t.Failed() {
		x := w.start(false)
		select {
		case <-x.done:
		case <-time.After(time.Minute):
			w.t.Error("a process without trouble does not come to the end of its input")
			x.faults.Crash()
			<-x.done
		}
		if x.err == nil {
			return
		}
		if millrace.CodeOf(x.err) != millrace.Conflict {
			w.t.Errorf("a process without trouble failed: %v", x.err)
		}
	}
}

// trim collects what arrived and trims it away, again and again. Another producer's blocks in between
// make it append our newest blocks again.
func (w *world) trim(stop, stopped chan struct{}, rng *rand.Rand) {
	defer close(stopped)
	for {
		select {
		case <-stop:
			return
		case <-time.After(time.Duration(rng.IntN(20000)) * time.Microsecond):
		}
		w.collect()
		w.holdUnfinished()
		for _, s := range w.streams {
			if err := s.Trim(context.Background()); err != nil {
				w.t.Error(err)
			}
		}
	}
}

// collect enters what arrived since the last time, and lets retention have it.
func (w *world) collect() {
	for _, s := range w.streams {
		for _, partition := range w.partitions(s) {
			place := s.Name() + "/" + partition
			_, end, err := s.Bounds(context.Background(), partition)
			if err != nil {
				w.t.Fatal(err)
			}
			if end.Compare(w.collected[place]) <= 0 {
				continue
			}
			for b, err := range s.Read(context.Background(), partition, w.collected[place]) {
				if err != nil {
					w.t.Errorf("collect %s: %v", place, err)
					return
				}
				w.enter(place, b)
				w.collected[place] = b.At
				if b.At.Compare(end) >= 0 {
					break
				}
			}
			s.Hold(partition, "collector", w.collected[place])
		}
	}
}

func (w *world) enter(place string, b millrace.StoredBlock) {
	events, err := block.Events(b.Raw)
	if err != nil {
		w.t.Error(err)
	}
	var ids []string
	for _, e := range events {
		ids = append(ids, e.ID)
		if e.Type == "dead_letter" {
			w.letters.ArrivedID("dead", strings.TrimPrefix(e.ID, w.config.Name+"/"))
		} else {
			w.sent.ArrivedID("into", e.ID)
		}
	}
	h, before := b.Header, w.before[place]
	w.before[place] = h
	if len(h.Uncommitted) > 0 {
		w.total.uncommitted++
	}
	if h.Events == 0 && h.Writer == before.Writer && h.Flush == before.Flush && h.Commit == before.Commit && len(h.Uncommitted) == len(before.Uncommitted) {
		w.total.copies++
	}
	w.blocks = append(w.blocks, fmt.Sprintf("%s %s writer %x flush %d commit %v cursor %s uncommitted %v: %q",
		place, b.At, h.Writer[:2], h.Flush, h.Commit, h.Cursor, h.Uncommitted, ids))
}

// holdUnfinished keeps what the producer's next life will have to read: retention is longer than that
// in real life.
func (w *world) holdUnfinished() {
	ctx := context.Background()
	committed, needed := uint64(0), []millrace.BlockRef{}
	home := w.into.Name() + "/" + w.home()
	for _, place := range append([]string{home}, w.places()...) {
		s, partition := w.find(place)
		last, err := s.Last(ctx, partition, w.config.Name)
		if err != nil {
			continue
		}
		if place == home {
			if committed = last.Header.Flush; !last.Header.Commit {
				committed--
			}
			needed = append(needed, last.Header.Uncommitted...)
		}
		if last.Header.Flush > committed {
			needed = append(needed, last.Header.Uncommitted...)
			needed = append(needed, millrace.BlockRef{Stream: s.Name(), Partition: partition, Block: last.At.Block})
		}
	}
	for _, place := range w.places() {
		s, partition := w.find(place)
		s.Release(partition, "unfinished")
		oldest := ""
		for _, ref := range needed {
			if ref.Stream == s.Name() && ref.Partition == partition && (oldest == "" || ref.Block < oldest) {
				oldest = ref.Block
			}
		}
		if oldest != "" {
			s.Hold(partition, "unfinished", millrace.Position{Block: oldest})
		}
	}
}

// places returns all partitions, as STREAM/PARTITION.
func (w *world) places() []string {
	var places []string
	for _, s := range w.streams {
		for _, partition := range w.partitions(s) {
			places = append(places, s.Name()+"/"+partition)
		}
	}
	return places
}

func (w *world) find(place string) (*memory.Stream, string) {
	name, partition, _ := strings.Cut(place, "/")
	if name == w.into.Name() {
		return w.into, partition
	}
	return w.dead, partition
}

func (w *world) partitions(s *memory.Stream) []string {
	list, err := s.Partitions(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	var names []string
	for _, partition := range list {
		names = append(names, partition.Name)
	}
	return names
}

func (w *world) home() string {
	list, _ := w.into.Partitions(context.Background())
	for _, partition := range list {
		if partition.Contains(millrace.HashKey(w.config.Name)) {
			return partition.Name
		}
	}
	return ""
}

func (w *world) count(total *tally) {
	total.processes += len(w.processes)
	total.events += w.sent.NumberSent()
	total.letters += w.letters.NumberSent()
	total.uncommitted += w.total.uncommitted
	total.copies += w.total.copies
	for _, x := range w.processes {
		total.appends += x.faults.Appends()
		switch {
		case x.err == nil:
			total.finished++
		case millrace.CodeOf(x.err) == millrace.Conflict:
			total.fenced++
		default:
			total.crashed++
		}
	}
}

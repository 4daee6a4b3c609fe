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
	first, n := uint64(1), uint64(400)
	if testing.Short() {
		n = 100
	}
	if text := os.Getenv("MILLRACE_SEEDS"); text != "" {
		n, _ = strconv.ParseUint(text, 10, 64)
	}
	if text := os.Getenv("MILLRACE_SEED"); text != "" {
		first, _ = strconv.ParseUint(text, 10, 64)
		n = 1
	}
	var total tally
	for seed := first; seed < first+n; seed++ {
		synctest.Test(t, func(t *testing.T) { newWorld(t, seed).run(&total) })
		if t.Failed() {
			t.Fatalf("seed %d; try it alone with MILLRACE_SEED=%d", seed, seed)
		}
	}
	t.Logf("%d worlds: %+v", n, total)
}

type tally struct {
	processes, events, letters, appends, crashed, fenced, finished, uncommitted, copies int
}

// world is a pair of streams and the input of a producer.
type world struct {
	t          *testing.T
	rng        *rand.Rand
	into, dead *memory.Stream
	input      []call // the cursor after input[i] is i+1
	sent       *millracetest.Ledger
	letters    *millracetest.Ledger
	config     producer.Config

	mu        sync.Mutex
	acked     int // the cursor that a Flush has confirmed
	processes []*process
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
	w := &world{
		t: t, rng: rng,
		into:    memory.New("into", memory.Options{Partitions: []int{1, 2, 4}[rng.IntN(3)], MaxBlock: maxBlock}),
		dead:    memory.New("dead", memory.Options{Partitions: 1 + rng.IntN(2), MaxBlock: 32 << 20}),
		sent:    millracetest.NewLedger(),
		letters: millracetest.NewLedger(),
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
	// A process without trouble comes to the end; unless an older one, slow to open, took over from it.
	for {
		x := w.start(false)
		select {
		case <-x.done:
		case <-time.After(time.Minute):
			w.t.Error("a process without trouble does not come to its end")
		}
		if x.err == nil || w.t.Failed() {
			break
		}
		if millrace.CodeOf(x.err) != millrace.Conflict {
			w.t.Errorf("a process without trouble failed: %v", x.err)
		}
	}
	// What the zombies still do must not matter. One that was held before it took over may do so even now.
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
	w.check(total)
}

func (w *world) check(total *tally) {
	// Zombies that took over last may have left an unfinished flush: one more life ends it.
	for {
		x := w.start(false)
		<-x.done
		if x.err == nil {
			break
		}
		w.t.Fatalf("the last process failed: %v", x.err)
	}
	ctx := context.Background()
	if err := w.sent.ArrivedInStream(ctx, "into", w.into); err != nil {
		w.t.Error(err)
	}
	w.sent.Check(w.t, "into")
	partitions, _ := w.dead.Partitions(ctx)
	for _, partition := range partitions {
		err := millracetest.ReadPartition(ctx, w.dead, partition.Name, func(b millrace.StoredBlock) error {
			events, err := block.Events(b.Raw)
			for _, e := range events {
				w.letters.ArrivedID("dead", strings.TrimPrefix(e.ID, w.config.Name+"/"))
			}
			return err
		})
		if err != nil {
			w.t.Error(err)
		}
	}
	w.letters.Check(w.t, "dead")

	total.processes += len(w.processes)
	total.events += w.sent.NumberSent()
	total.letters += w.letters.NumberSent()
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
	for _, s := range []millrace.Stream{w.into, w.dead} {
		partitions, _ := s.Partitions(ctx)
		for _, partition := range partitions {
			_ = millracetest.ReadPartition(ctx, s, partition.Name, func(b millrace.StoredBlock) error {
				if len(b.Header.Uncommitted) > 0 {
					total.uncommitted++
				}
				return nil
			})
		}
	}
	if w.t.Failed() {
		w.dump()
	}
}

// dump prints the blocks of the streams.
func (w *world) dump() {
	for _, s := range []millrace.Stream{w.into, w.dead} {
		partitions, _ := s.Partitions(context.Background())
		for _, partition := range partitions {
			_ = millracetest.ReadPartition(context.Background(), s, partition.Name, func(b millrace.StoredBlock) error {
				h := b.Header
				events, _ := block.Events(b.Raw)
				var ids []string
				for _, e := range events {
					ids = append(ids, e.ID)
				}
				w.t.Log(fmt.Sprintf("%s/%s %s writer %x flush %d commit %v cursor %s uncommitted %v: %q",
					s.Name(), partition.Name, b.At, h.Writer[:2], h.Flush, h.Commit, h.Cursor, h.Uncommitted, ids))
				return nil
			})
		}
	}
}

package producer_test

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/millracetest"
	"github.com/millrace/millrace/producer"
	"github.com/millrace/millrace/stream/memory"
)

// TestCrashAtEveryStep lets a first life crash at each of its steps, for each of these a second life at
// each of its first steps, and for each of those a third one. The last life comes to the end. With
// MILLRACE_SEEDS set it tries all of these, otherwise every eighth.
func TestCrashAtEveryStep(t *testing.T) {
	var steps millracetest.Steps
	whole := newCrashes(t)
	whole.live(t, steps.Step)
	whole.check(t, "without a crash")
	list := steps.List()
	for _, name := range []string{
		"producer.takeover", "producer.fenced", "producer.opened", "producer.flush-encoded",
		"producer.part-appended", "producer.partitions-appended", "producer.home-appended",
	} {
		if steps.Count(name) == 0 {
			t.Errorf("the step %s was not reached", name)
		}
	}
	const recovery = 12 // opening, and the first flush or two
	worlds := 0
	for first := range list {
		for second := range recovery {
			for third := range recovery {
				if os.Getenv("MILLRACE_SEEDS") == "" && (first+second+third)%8 > 0 {
					continue
				}
				c := newCrashes(t)
				for _, at := range []int{first, second, third} {
					c.crash(t, at)
				}
				c.live(t, func(string) {})
				c.check(t, fmt.Sprintf("crashed at step %d (%s), then at %d, then at %d", first, list[first], second, third))
				if worlds++; t.Failed() {
					return
				}
			}
		}
	}
	t.Logf("%d worlds, %d steps in a whole life", worlds, len(list))
}

// crashes is a pair of streams that one producer after the other writes the same input to.
type crashes struct{ config producer.Config }

func newCrashes(t *testing.T) *crashes {
	t.Helper()
	return &crashes{producer.Config{
		Name:        "source/crash",
		Into:        memory.New("into", memory.Options{Partitions: 3, MaxBlock: 2 << 10}),
		Dead:        memory.New("dead", memory.Options{}),
		BlockEvents: 4,
	}}
}

const crashCalls = 8

func (c *crashes) emit(p *producer.Producer) error {
	at := 0
	if cursor := p.Resume().Cursor; cursor != "" {
		at, _ = strconv.Atoi(string(cursor))
	}
	for ; at < crashCalls; at++ {
		list := []millrace.Event{event(5 * at), event(5*at + 1), event(5*at + 2), event(5*at + 3), event(5*at + 4)}
		if at == 3 { // does not fit a block
			for i := range list {
				list[i].Data = append(list[i].Data, noise(1000)...)
			}
		}
		rejections := []millrace.Rejection{{ID: strconv.Itoa(at), Reason: context.Canceled}}
		if err := p.EmitAll(context.Background(), list, rejections, millrace.Cursor(strconv.Itoa(at+1))); err != nil {
			return err
		}
		if err := p.Flush(context.Background()); err != nil {
			return err
		}
	}
	return nil
}

// live comes to the end of the input.
func (c *crashes) live(t *testing.T, step func(string)) {
	t.Helper()
	config := c.config
	config.Step = step
	p, stop := open(t, config)
	if err := c.emit(p); err != nil {
		t.Error(err)
	}
	stop()
}

// crash lives until the n-th step, counted from 0, and crashes there.
func (c *crashes) crash(t *testing.T, n int) {
	t.Helper()
	faults := millracetest.NewFaults(nil)
	config := c.config
	config.Into, config.Dead = faults.Stream(config.Into), faults.Stream(config.Dead)
	var mu sync.Mutex
	config.Step = func(string) {
		mu.Lock()
		defer mu.Unlock()
		if n--; n == -1 {
			faults.Crash()
		}
	}
	p, err := producer.Open(context.Background(), config)
	if err != nil {
		return
	}
	ran := make(chan error, 1)
	go func() { ran <- p.Run(context.Background()) }()
	_ = c.emit(p)
	_ = p.Close()
	<-ran
}

func (c *crashes) check(t *testing.T, what string) {
	t.Helper()
	ledger := millracetest.NewLedger()
	for i := range 5 * crashCalls {
		ledger.Sent(event(i).Key, i/3, event(i).ID)
	}
	for _, e := range events(t, c.config.Into) {
		i, _ := strconv.Atoi(strings.TrimPrefix(e.ID, "id-"))
		ledger.Arrived("into", e.Key, i/3, e.ID)
	}
	if report := ledger.Report(); !report.OK() || len(report) == 0 {
		t.Errorf("%s:\n%s", what, report)
	}
	if got, want := ids(events(t, c.config.Dead)), "0 1 2 3 4 5 6 7"; strings.ReplaceAll(got, "source/crash/", "") != want {
		t.Errorf("%s: the dead letters are %s", what, got)
	}
}

package sse

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
	"github.com/millrace/millrace/mapping"
	"github.com/millrace/millrace/millracetest"
	"github.com/millrace/millrace/producer"
	"github.com/millrace/millrace/stream/memory"
)

// pipe is a source, its mapping and a producer over streams that outlive them.
type pipe struct {
	into, dead *memory.Stream
	config     Config
	mapping    mapping.Config
	options    Options
	logs       *logs
}

func newPipe(c Config, m mapping.Config) *pipe {
	return &pipe{
		into: memory.New("events", memory.Options{Partitions: 3}), dead: memory.New("dead", memory.Options{}),
		config: c, mapping: m, logs: new(logs),
	}
}

// run runs all until ctx ends; then it is as after kill -9: what is not durable is gone.
func (p *pipe) run(ctx context.Context, t *testing.T) error {
	t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	out, err := producer.Open(context.WithoutCancel(ctx), producer.Config{Name: "source/feed", Into: p.into, Dead: p.dead})
	if err != nil {
		return err
	}
	committed := make(chan error, 1)
	go func() {
		err := out.Run(ctx)
		cancel()
		committed <- err
	}()
	resume := out.Resume()
	o := p.options
	o.Name, o.Random = "feed", eager
	o.Logger = slog.New(slog.NewTextHandler(p.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	err = New(p.config, o).Run(ctx, resume, mapping.New(p.mapping, mapping.Options{Cursor: resume.Cursor}, out))
	cancel()
	return errors.Join(err, <-committed)
}

// events returns what is stored, by partition and in order.
func (p *pipe) events(t *testing.T, s *memory.Stream) []millrace.Event {
	t.Helper()
	partitions, err := s.Partitions(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var all []millrace.Event
	for _, partition := range partitions {
		err := millracetest.ReadPartition(t.Context(), s, partition.Name, func(b millrace.StoredBlock) error {
			events, err := block.Events(b.Raw)
			all = append(all, events...)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// wait returns when n events are stored.
func (p *pipe) wait(ctx context.Context, t *testing.T, n int) []millrace.Event {
	t.Helper()
	for {
		all := p.events(t, p.into)
		if len(all) >= n {
			return all
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%d events are stored, want %d\n%.2000s", len(all), n, p.logs)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

const (
	eqiad = "eqiad.mediawiki.recentchange"
	codfw = "codfw.mediawiki.recentchange"
	rare  = "eqiad.mediawiki.page-undelete"
)

// wikimediaHistory sends events of which several share a millisecond, and returns when the next may come.
func wikimediaHistory(feed *millracetest.Wikimedia, ledger *millracetest.Ledger, r *rand.Rand, at time.Time, n int) time.Time {
	for i := range n {
		key := fmt.Sprintf("wiki%d", r.IntN(5))
		topic := eqiad
		switch r.IntN(10) {
		case 0:
			topic = codfw
		case 1:
			if r.IntN(10) == 0 {
				topic = rare
			}
		}
		number, id := ledger.Send(key)
		feed.Send(topic, at, id, key, number)
		if i%50 == 49 {
			feed.SendCanary(codfw, at, fmt.Sprint("canary", at.UnixNano()))
		}
		if r.IntN(4) == 0 { // four a millisecond
			at = at.Add(time.Duration(1+r.IntN(3)) * time.Millisecond)
		}
	}
	return at
}

func wikimediaConfig(url string) Config {
	c := config(url)
	c.Rewind, c.Dedupe, c.Drop = 3*time.Millisecond, "meta.id", []string{"meta.domain=canary"}
	return c
}

// TestWikimediaExactly: cut anywhere, restarted anywhere, with several events in each millisecond, every
// event is stored once and in its key's order.
func TestWikimediaExactly(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(seed, 3))
			feed := millracetest.NewWikimedia(t, millracetest.SimulatorOptions{CutEvery: 12000, Seed: seed}, eqiad, codfw, rare)
			ledger := millracetest.NewLedger()
			p := newPipe(wikimediaConfig(feed.URL), mapping.Config{Key: "wiki", Time: "meta.dt"})
			deadline, done := context.WithTimeout(t.Context(), 30*time.Second)
			defer done()
			at := time.UnixMilli(1_700_000_000_000)
			sent := 0
			for round := range 12 {
				at = wikimediaHistory(feed, ledger, r, at, 60)
				ctx, kill := context.WithCancel(deadline)
				ended := make(chan error, 1)
				go func() { ended <- p.run(ctx, t) }()
				wanted := sent + r.IntN(60)
				if sent += 60; round == 11 {
					wanted = sent
				}
				p.wait(deadline, t, wanted)
				kill()
				if err := <-ended; err != nil && millrace.CodeOf(err) != millrace.Unavailable {
					t.Fatal(err)
				}
			}
			if err := ledger.ArrivedInStream(t.Context(), "stream", p.into); err != nil {
				t.Fatal(err)
			}
			if report := ledger.Report(); !report.OK() {
				t.Fatalf("%s\n%s", report, p.logs)
			}
			for _, e := range p.events(t, p.into) {
				if e.Key == "canary" {
					t.Error("a canary is stored")
				}
			}
			if dead := p.events(t, p.dead); len(dead) > 0 {
				t.Errorf("%d dead letters", len(dead))
			}
			if requests := len(feed.Requests()); requests < 20 {
				t.Errorf("only %d requests", requests)
			}
		})
	}
}

// TestPlainLastEventIDLosesAtWikimedia is why: the same feed, the same cuts, and a client as
// browsers are.
func TestPlainLastEventIDLosesAtWikimedia(t *testing.T) {
	feed := millracetest.NewWikimedia(t, millracetest.SimulatorOptions{CutEvery: 3000, Seed: 1}, eqiad, codfw, rare)
	ledger := millracetest.NewLedger()
	wikimediaHistory(feed, ledger, rand.New(rand.NewPCG(1, 3)), time.UnixMilli(1_700_000_000_000), 400)
	feed.Send(eqiad, time.UnixMilli(1_700_000_100_000), "last", "last", 0)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	out, in := io.Pipe()
	printed := make(chan error, 1)
	go func() {
		printed <- Print(ctx, config(feed.URL), Options{Policy: Standard, Retry: time.Millisecond, Random: eager}, PrintOptions{}, in)
	}()
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var line struct{ Data string }
		var change struct {
			Wiki   string
			Number int
			Meta   struct{ ID string }
		}
		if err := errors.Join(json.Unmarshal(lines.Bytes(), &line), json.Unmarshal([]byte(line.Data), &change)); err != nil {
			t.Fatal(err)
		}
		if change.Wiki == "last" {
			break
		}
		if change.Number >= 0 {
			ledger.Arrived("plain", change.Wiki, change.Number, change.Meta.ID)
		}
	}
	cancel()
	_ = out.Close()
	<-printed
	if report := ledger.Report(); report.OK() || report[0].Lost == 0 {
		t.Errorf("a plain Last-Event-ID lost nothing: the simulator is too kind\n%s", report)
	} else {
		t.Logf("a plain Last-Event-ID: %s", report)
	}
}

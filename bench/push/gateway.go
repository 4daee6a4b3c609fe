//go:build linux

package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/bench/push/paced"
	"github.com/millrace/millrace/gateway"
	"github.com/millrace/millrace/producer"
	"github.com/millrace/millrace/stream/memory"
)

// serveGateway is a server with the real gateway over a stream in memory, so that bringing events in costs
// about as little as it does in the servers that it is compared with.
func serveGateway(args []string) error {
	f := flag.NewFlagSet("gateway", flag.ExitOnError)
	o := paced.Flags(f)
	if err := f.Parse(args); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	registry := prometheus.NewRegistry()
	o.Cut = func() int { return int(sumOf(registry, "millrace_gateway_cut_total")) }
	return paced.Main(o, func(l net.Listener, timeline *paced.Timeline) (paced.Push, error) {
		retained := memory.Retention{Bytes: 8 << 20}
		stream := memory.New("events", memory.Options{Retention: retained})
		dead := memory.New("dead", memory.Options{Retention: retained})
		p, err := producer.Open(ctx, producer.Config{Name: "source/bench", Into: &noting{Stream: stream, timeline: timeline}, Dead: dead})
		if err != nil {
			return nil, err
		}
		var c gateway.Config
		c.SetDefaults()
		c.Endpoints = map[string]gateway.Endpoint{"/events": {From: "events", Key: "query:key"}}
		g, err := gateway.New(c, gateway.Options{
			Streams: map[string]millrace.Stream{"events": stream}, Metrics: gateway.NewMetrics(registry),
		})
		if err != nil {
			return nil, err
		}
		failing := func(what string, run func() error) { // the runner sees that the process ends
			if err := run(); err != nil {
				fmt.Fprintln(os.Stderr, what+":", err)
				os.Exit(1)
			}
		}
		go failing("producer", func() error { return p.Run(ctx) })
		go failing("gateway", func() error { return g.Run(ctx, l) })
		go failing("trim", func() error {
			for {
				time.Sleep(time.Second)
				if err := stream.Trim(ctx); err != nil {
					return err
				}
			}
		})
		var events []millrace.Event
		return func(batch []paced.Event) error {
			events = events[:0]
			now := time.Now()
			for _, e := range batch {
				events = append(events, millrace.Event{Key: e.Key, Type: "move", Time: now, Data: e.Data})
			}
			if err := p.Emit(ctx, events, millrace.Cursor(batch[len(batch)-1].Key)); err != nil {
				return err
			}
			return p.Flush(ctx)
		}, nil
	})
}

// noting notes when events are durable: as soon as the append returns, since whoever waits for it may have
// to wait for the processor, too.
type noting struct {
	millrace.Stream
	timeline *paced.Timeline
	events   int64
}

// Append implements millrace.Stream. The producer appends one block at a time.
func (s *noting) Append(ctx context.Context, partition string, after millrace.Position, b millrace.Block) (millrace.Position, error) {
	at, err := s.Stream.Append(ctx, partition, after, b)
	if err == nil {
		s.timeline.Durable(s.events, s.events+int64(b.Header.Events))
		s.events += int64(b.Header.Events)
	}
	return at, err
}

// sumOf adds up a counter over its labels.
func sumOf(registry *prometheus.Registry, name string) (sum float64) {
	families, err := registry.Gather()
	if err != nil {
		return 0
	}
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

package gateway_test

import (
	"bytes"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/millrace/millrace/gateway"
)

const (
	stalledClients = 100
	stalledRate    = 60 // events a second
	stalledTime    = 4 * time.Second
)

// BenchmarkStalled measures how long an event of 200 bytes takes from before it is stored until a client has it,
// where one client in ten reads nothing, under each policy, and where all read; one after the other in each round.
// All of that is in one process, the clients too.
func BenchmarkStalled(b *testing.B) {
	cases := []string{"none", gateway.Disconnect, gateway.DropOldest, gateway.NewestPerKey}
	p99 := map[string][]float64{}
	for b.Loop() {
		for _, c := range cases {
			p99[c] = append(p99[c], stalledRound(b, c))
		}
	}
	for _, c := range cases {
		var ratios []float64
		for i, ms := range p99[c] {
			ratios = append(ratios, ms/p99["none"][i])
		}
		slices.Sort(ratios)
		slices.Sort(p99[c])
		b.ReportMetric(p99[c][len(p99[c])/2], c+"-p99-ms")
		b.ReportMetric(ratios[len(ratios)/2], c+"-ratio")
	}
	b.ReportMetric(0, "ns/op")
}

// stalledRound returns the 99th percentile in milliseconds.
func stalledRound(b *testing.B, slow string) float64 {
	s := newStream(1)
	w := newWriter(b, s)
	stall := slow != "none"
	registry := prometheus.NewRegistry()
	if !stall {
		slow = gateway.Disconnect
	}
	server := serveOn(b, listenNarrowly(b), s, func(c *gateway.Config, o *gateway.Options) {
		c.Queue = 32 << 10 // full in the middle of the round
		c.Endpoints = map[string]gateway.Endpoint{"/vehicles": {From: "crossings", Slow: slow}}
		o.Metrics = gateway.NewMetrics(registry)
	})
	events := int(stalledTime.Seconds() * stalledRate)
	var mu sync.Mutex
	var took []time.Duration
	var reading sync.WaitGroup
	var all []*client
	for i := range stalledClients {
		c := server.dial(b, "/vehicles", v1)
		c.live()
		all = append(all, c)
		if stall && i%10 == 0 {
			_ = c.Conn.(*net.TCPConn).SetReadBuffer(4 << 10)
			continue
		}
		reading.Go(func() {
			mine := make([]time.Duration, 0, events)
			for range events {
				_, payload, err := c.Read()
				now := time.Now()
				_, digits, found := bytes.Cut(payload, []byte(`"at":"`))
				if err != nil || !found {
					b.Errorf("%s: %v", payload, err)
					return
				}
				digits, _, _ = bytes.Cut(digits, []byte(`"`))
				nanos, _ := strconv.ParseInt(string(digits), 10, 64)
				mine = append(mine, now.Sub(time.Unix(0, nanos)))
			}
			mu.Lock()
			took = append(took, mine[events/4:]...) // the first are warming up
			mu.Unlock()
		})
	}
	pad := strings.Repeat("x", 150)
	tick := time.NewTicker(time.Second / stalledRate)
	for n := range events {
		<-tick.C
		w.put(fmt.Sprint("vehicle ", n%200), fmt.Sprintf(`{"at":"%d","pad":"%s"}`, time.Now().UnixNano(), pad))
	}
	tick.Stop()
	reading.Wait()
	if cut, dropped := counterOf(b, registry, "millrace_gateway_cut_total", "slow"),
		counterOf(b, registry, "millrace_gateway_dropped_total", "/vehicles"); stall && cut != stalledClients/10 && dropped <= 0 {
		b.Errorf("%s: %v were cut, %v events dropped: nobody was slow", slow, cut, dropped)
	}
	for _, c := range all {
		_ = c.Close()
	}
	if err := server.stop(); err != nil {
		b.Error(err)
	}
	slices.Sort(took)
	return took[len(took)*99/100].Seconds() * 1e3
}

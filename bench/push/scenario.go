//go:build linux

package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/bench/proc"
	"github.com/millrace/millrace/bench/push/paced"
)

// scenario is what is measured under one name.
type scenario struct {
	name, what string
	run        func(*runner) error
}

var scenarios = []scenario{
	{"broadcast", "every event to every connection: deliveries per second of the server's CPU", (*runner).broadcast},
	{"burst", "the same, ten events at a time", (*runner).burst},
	{"keys", "a key for each connection: deliveries per second of the server's CPU", (*runner).keys},
	{"idle", "resident memory of idle connections", (*runner).idle},
	{"latency", "from durable to the client's reading it, at half load", (*runner).latency},
	{"slow", "latency of the others while one connection in ten is stalled", (*runner).slow},
	{"restart", "kill -9 and start again: until all are back and caught up", (*runner).restart},
}

// eventSize is the size of an event's data in bytes.
const eventSize = 200

func (r *runner) broadcast() error { return r.broadcasts("Broadcast", 1, 60, 6) }
func (r *runner) burst() error     { return r.broadcasts("Broadcast in bursts of 10", 10, 200, 20) }

// broadcasts sends so many events a second to 1,000 connections, and so many to 10,000.
func (r *runner) broadcasts(title string, burst int, toThousand, toTenThousand float64) error {
	for _, size := range []struct {
		connections int
		rate        float64
	}{{1000, toThousand}, {10_000, toTenThousand}} {
		t := trial{
			connections: r.scaled(size.connections),
			load:        paced.Load{Rate: size.rate, Burst: burst, Keys: 1, Size: eventSize},
		}
		title := fmt.Sprintf("%s, %s connections, %g events/s: deliveries per second of the server's CPU",
			title, count(float64(t.connections)), size.rate)
		if err := r.compare(title, t, gatewayPlain, gatewayV1, loop, centrifugeJS); err != nil {
			return err
		}
	}
	return nil
}

func (r *runner) keys() error {
	n := r.scaled(10_000)
	for _, tick := range []time.Duration{0, 10 * time.Millisecond} {
		t := trial{connections: n, keyed: true, load: paced.Load{Rate: float64(n), Burst: 1, Tick: tick, Keys: n, Size: eventSize}}
		come := "one by one"
		if tick > 0 {
			come = fmt.Sprintf("%d every %s", int(t.load.Rate*tick.Seconds()), tick)
		}
		title := fmt.Sprintf("%s keys with a connection each, 1 event/s each, %s: deliveries per second of the server's CPU", count(float64(n)), come)
		if err := r.compare(title, t, gatewayPlain, gatewayV1, loop, centrifugeJS); err != nil {
			return err
		}
	}
	return nil
}

// compare prints what all contenders deliver per second of CPU, round by round, and how ours compare with
// the others in the same round.
func (r *runner) compare(title string, t trial, usual ...contender) error {
	contenders := r.wanted(usual...)
	if len(contenders) == 0 {
		return nil
	}
	fmt.Fprintf(r.log, "%s\n", title)
	result := table{title: title}
	head := []string{"round"}
	type pair struct{ ours, theirs int }
	var pairs []pair
	for i, c := range contenders {
		head = append(head, c.name)
		for j, other := range contenders {
			if isOurs(c) && !isOurs(other) {
				pairs = append(pairs, pair{i, j})
			}
		}
	}
	for _, p := range pairs {
		head = append(head, contenders[p.ours].name+" / "+contenders[p.theirs].name)
	}
	result.add(head...)
	columns := make([][]float64, len(contenders)+len(pairs))
	for n := range r.rounds {
		outcomes, err := r.round(n, t, contenders)
		if err != nil {
			return err
		}
		row := []string{fmt.Sprint(n + 1)}
		for i, o := range outcomes {
			columns[i] = append(columns[i], o.perCPU())
			doubts := o.doubts()
			row = append(row, count(o.perCPU())+strings.Repeat("*", min(1, len(doubts))))
			for _, doubt := range doubts {
				result.note("* round %d, %s: %s", n+1, contenders[i].name, doubt)
			}
		}
		for i, p := range pairs {
			v := ratio(outcomes[p.ours].perCPU(), outcomes[p.theirs].perCPU())
			columns[len(contenders)+i] = append(columns[len(contenders)+i], v)
			row = append(row, decimal(v))
		}
		result.add(row...)
	}
	row := []string{"median"}
	for i, column := range columns {
		if i < len(contenders) {
			row = append(row, count(median(column)))
		} else {
			row = append(row, decimal(median(column)))
		}
	}
	result.add(row...)
	result.print(r.out)
	return nil
}

func isOurs(c contender) bool { return c.server == "gateway" || c.server == "program" }

func (r *runner) idle() error {
	type column struct {
		contender
		tls bool
	}
	var columns []column
	for _, c := range r.chosen(gatewayPlain, gatewayV1, programPlain, loop, centrifugeJS) {
		columns = append(columns, column{c, false})
	}
	for _, c := range r.chosen(gatewayPlain, programPlain, centrifugeJS) {
		columns = append(columns, column{c, true})
	}
	n := r.scaled(10_000)
	result := table{title: fmt.Sprintf("%s idle connections: KiB of resident memory each", count(float64(n)))}
	result.add("server", "TLS", "as it settles, median", "with free memory given back, median", "rounds")
	result.note("as it settles: when the resident memory has not changed by 1 %% for %s, after %s at most", 3*r.length/10, 3*r.length)
	result.note("the program is not asked to give memory back: both of its figures are as it settles")
	settled, least, rounds := make([][]float64, len(columns)), make([][]float64, len(columns)), make([][]string, len(columns))
	for round := range r.rounds {
		for i := range turns(round, len(columns)) {
			c := columns[i]
			a, b, err := r.memory(trial{contender: c.contender, connections: n, tls: c.tls})
			if err != nil {
				return err
			}
			settled[i], least[i] = append(settled[i], a), append(least[i], b)
			rounds[i] = append(rounds[i], fmt.Sprintf("%.1f/%.1f", a, b))
			fmt.Fprintf(r.log, "%s, TLS %t: %.1f KiB each, %.1f with free memory given back\n", c.name, c.tls, a, b)
		}
	}
	for i, c := range columns {
		tls := map[bool]string{false: "no", true: "yes"}[c.tls]
		result.add(c.name, tls, fmt.Sprintf("%.1f", median(settled[i])), fmt.Sprintf("%.1f", median(least[i])), strings.Join(rounds[i], " "))
	}
	result.print(r.out)
	return nil
}

// memory returns the KiB of each idle connection: as they settle by themselves, and after the server has
// given back what is free.
func (r *runner) memory(t trial) (settled, least float64, err error) {
	r.timeline = ""
	s, err := r.launch(t.contender, t.tls)
	if err != nil {
		return 0, 0, err
	}
	defer s.end()
	time.Sleep(r.length / 10)
	before, err := proc.Memory(s.pid(), "VmRSS")
	if err != nil {
		return 0, 0, err
	}
	client, err := r.client(t, s.address())
	if err != nil {
		return 0, 0, err
	}
	defer client.end()
	each := func(bytes int64) float64 { return float64(bytes-before) / 1024 / float64(t.connections) }
	var last []int64
	for begun := time.Now(); time.Since(begun) < 3*r.length; time.Sleep(r.length / 10) {
		now, err := proc.Memory(s.pid(), "VmRSS")
		if err != nil {
			return 0, 0, err
		}
		if last = append(last, now); len(last) > 4 {
			last = last[1:]
		}
		if len(last) == 4 && float64(slices.Max(last)-slices.Min(last)) < 0.01*float64(now) {
			break
		}
	}
	settled = each(last[len(last)-1])
	if err := s.settle(); err != nil {
		return 0, 0, err
	}
	time.Sleep(r.length / 10)
	now, err := proc.Memory(s.pid(), "VmRSS")
	if err != nil {
		return 0, 0, err
	}
	if _, err := client.ask("begin", 10*time.Second); err != nil { // it fails if connections were lost
		return 0, 0, err
	}
	return settled, each(now), nil
}

func (r *runner) latency() error {
	n := r.scaled(1000)
	many := r.scaled(10_000)
	for _, t := range []trial{
		{connections: n, load: paced.Load{Rate: 60, Burst: 1, Keys: 1, Size: eventSize}},
		{connections: many, keyed: true, load: paced.Load{Rate: 3 * float64(many), Burst: 1, Tick: time.Millisecond, Keys: many, Size: eventSize}},
		{connections: n, keyed: true, load: paced.Load{Rate: 5 * float64(n), Burst: 1, Keys: n, Size: eventSize}},
	} {
		t.latency = true
		title := fmt.Sprintf("Broadcast, %s connections, %g events/s", count(float64(t.connections)), t.load.Rate)
		if t.keyed {
			title = fmt.Sprintf("%s keys with a connection each, %s events/s", count(float64(t.load.Keys)), count(t.load.Rate))
		}
		all := r.chosen(gatewayPlain, gatewayV1, centrifugeJS, programV1)
		if err := r.latencies(title+": milliseconds until the client has read an event", t, all); err != nil {
			return err
		}
	}
	return nil
}

// latencies prints a table of latencies.
func (r *runner) latencies(title string, t trial, contenders []contender) error {
	fmt.Fprintln(r.log, title)
	result := table{title: title}
	result.add("server", "round", "since durable: p50", "p99", "max", "since made: p50", "p99", "server's CPU %")
	figures := make([][][6]float64, len(contenders)) // by contender and round
	for n := range r.rounds {
		outcomes, err := r.round(n, t, contenders)
		if err != nil {
			return err
		}
		for i, o := range outcomes {
			for _, doubt := range o.doubts() {
				result.note("round %d, %s: %s", n+1, contenders[i].name, doubt)
			}
			ms := func(d time.Duration) float64 { return d.Seconds() * 1e3 }
			figures[i] = append(figures[i], [6]float64{
				ms(o.SinceDurable.P50), ms(o.SinceDurable.P99), ms(o.SinceDurable.Most),
				ms(o.SinceMade.P50), ms(o.SinceMade.P99), 100 * o.cpu / o.Seconds,
			})
		}
	}
	for i, c := range contenders {
		line := func(name string, values [6]float64) {
			cells := []string{c.name, name}
			for i, v := range values {
				if i < 3 && c.server != "gateway" { // it is not known from outside
					cells = append(cells, "")
				} else {
					cells = append(cells, decimal(v))
				}
			}
			result.add(cells...)
		}
		var medians [6]float64
		for n, values := range figures[i] {
			line(fmt.Sprint(n+1), values)
		}
		for k := range medians {
			var column []float64
			for _, values := range figures[i] {
				column = append(column, values[k])
			}
			medians[k] = median(column)
		}
		line("median", medians)
	}
	result.print(r.out)
	return nil
}

func (r *runner) slow() error {
	t := trial{
		connections: r.scaled(1000), latency: true,
		// Enough for the stalled ones to fill their sockets and queues within the trial.
		load: paced.Load{Rate: 40, Burst: 1, Keys: 1, Size: 4000},
	}
	title := fmt.Sprintf("%s connections, %g events/s of %d bytes, one connection in ten stalled: milliseconds since durable",
		count(float64(t.connections)), t.load.Rate, t.load.Size)
	warm := r.warm
	defer func() { r.warm = warm }()
	r.warm = 0 // the stalled ones fall behind, and are cut, while it is measured
	for _, c := range r.chosen(gatewayPlain, gatewayV1) {
		t.contender = c
		result := table{title: title + ", " + c.name}
		result.add("round", "p50 without", "p99 without", "p50 with", "p99 with", "p99 with / without", "stalled ones cut")
		var factors []float64
		for n := range r.rounds {
			var outcomes [2]*outcome // without stalled ones and with them
			for i := range turns(n, len(outcomes)) {
				t.stalled = 10 * i
				var err error
				if outcomes[i], err = r.measure(t); err != nil {
					return err
				}
			}
			without, with := outcomes[0], outcomes[1]
			factor := ratio(with.SinceDurable.P99.Seconds(), without.SinceDurable.P99.Seconds())
			factors = append(factors, factor)
			result.add(fmt.Sprint(n+1), milliseconds(without.SinceDurable.P50), milliseconds(without.SinceDurable.P99),
				milliseconds(with.SinceDurable.P50), milliseconds(with.SinceDurable.P99), decimal(factor), fmt.Sprint(with.cut))
			with.Losses = 0 // of the stalled ones, which is as it should be
			for _, doubt := range append(without.doubts(), with.doubts()...) {
				result.note("round %d: %s", n+1, doubt)
			}
		}
		result.add("median", "", "", "", "", decimal(median(factors)), "")
		result.print(r.out)
	}
	return nil
}

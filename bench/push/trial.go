//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"time"

	"github.com/millrace/millrace/bench/proc"
	"github.com/millrace/millrace/bench/push/paced"
)

// runner runs trials and prints tables.
type runner struct {
	launcher
	clientAt place
	rounds   int
	length   time.Duration // of a trial
	warm     time.Duration // before it
	linger   time.Duration // of the client where latency is not measured
	jitter   time.Duration
	scale    float64 // of the number of connections
	only     map[string]bool
	out      io.Writer // tables
	log      io.Writer // what happens
}

// trial is one server under one load.
type trial struct {
	contender
	connections int
	keyed       bool // each connection asks for a key of its own; otherwise for everything
	load        paced.Load
	stalled     int // every so many-th connection does not read
	latency     bool
	tls         bool
}

// outcome is what a trial measured.
type outcome struct {
	Report
	cpu      float64 // seconds of the server
	expected float64 // deliveries
	burst    int     // events that came at a time
	cut      int     // connections, by the server
}

// perCPU is the deliveries per second of the server's CPU.
func (o *outcome) perCPU() float64 { return ratio(float64(o.Deliveries), o.cpu) }

// keptUp is the share of the expected deliveries.
func (o *outcome) keptUp() float64 { return ratio(float64(o.Deliveries), o.expected) }

// doubts says why a figure is not what it seems.
func (o *outcome) doubts() (all []string) {
	if o.saturated() {
		all = append(all, fmt.Sprintf("THE CLIENT IS SATURATED: it used %.0f %% of a core", 100*o.CPU/o.Seconds))
	}
	if kept := o.keptUp(); kept < 0.97 {
		all = append(all, fmt.Sprintf("fell behind: %.0f %% of the deliveries came", 100*kept))
	}
	if together := ratio(float64(o.Deliveries), float64(o.Reads)); together > 1.1*float64(o.burst) {
		all = append(all, fmt.Sprintf("events arrived %.1f at a time instead of %d: the machine was busy, or the server late", together, o.burst))
	}
	if o.Missing > 0 || o.Repeats > 0 || o.Gaps > 0 {
		all = append(all, fmt.Sprintf("%d events missing, %d repeated, %d gaps told", o.Missing, o.Repeats, o.Gaps))
	}
	if o.Losses > 0 {
		all = append(all, fmt.Sprintf("%d connections lost", o.Losses))
	}
	return all
}

// patience is how long connections may take to be opened.
const patience = 3 * time.Minute

// client starts the load and returns when all connections are open.
func (r *runner) client(t trial, address string, further ...string) (*process, error) {
	args := []string{
		"client", "-address", address, "-protocol", t.protocol, "-connections", fmt.Sprint(t.connections),
		"-sources", fmt.Sprint(1 + t.connections/20_000), "-stalled", fmt.Sprint(t.stalled), "-timeline", r.timeline,
	}
	if t.keyed {
		args = append(args, "-keys", fmt.Sprint(t.load.Keys))
	}
	if t.tls {
		args = append(args, "-tls")
	}
	if !t.latency {
		args = append(args, "-linger", r.linger.String())
	}
	p, err := start("client", r.clientAt, r.environment, r.self, append(args, further...)...)
	if err != nil {
		return nil, err
	}
	line, err := p.ask("", patience)
	if err == nil && line != "open" {
		err = p.failed(fmt.Errorf("it says %q", line))
	}
	if err != nil {
		p.end()
		return nil, err
	}
	return p, nil
}

// measure runs a trial.
func (r *runner) measure(t trial) (*outcome, error) {
	r.timeline = ""
	if t.latency {
		r.timeline = filepath.Join(r.dir, "timeline")
		if err := os.Remove(r.timeline); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	s, err := r.launch(t.contender, t.tls)
	if err != nil {
		return nil, err
	}
	defer s.end()
	client, err := r.client(t, s.address())
	if err != nil {
		return nil, err
	}
	defer client.end()
	if err := s.load(t.load); err != nil {
		return nil, err
	}
	time.Sleep(r.warm)
	if _, err := client.ask("begin", 10*time.Second); err != nil {
		return nil, err
	}
	before, err := proc.CPUTime(s.pid())
	if err != nil {
		return nil, err
	}
	time.Sleep(r.length)
	after, err := proc.CPUTime(s.pid())
	if err != nil {
		return nil, err
	}
	o := &outcome{cpu: (after - before).Seconds(), burst: t.load.Burst}
	line, err := client.ask("end", time.Minute)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal([]byte(line), &o.Report); err != nil {
		return nil, client.failed(err)
	}
	end, err := s.stop()
	if err != nil {
		return nil, err
	}
	o.cut = end.cut
	reading := t.connections
	if t.stalled > 0 {
		reading -= t.connections / t.stalled
	}
	o.expected = float64(reading) * t.load.Rate * o.Seconds
	if t.keyed {
		o.expected /= float64(t.load.Keys)
	}
	fmt.Fprintf(r.log, "%s: %s deliveries/s, %s per second of CPU; the server used %.0f %% of a core, the client %.0f %%; %.1f events a read\n",
		t.name, count(float64(o.Deliveries)/o.Seconds), count(o.perCPU()), 100*o.cpu/o.Seconds, 100*o.CPU/o.Seconds,
		ratio(float64(o.Deliveries), float64(o.Reads)))
	for _, doubt := range o.doubts() {
		fmt.Fprintf(r.log, "%s: %s\n", t.name, doubt)
	}
	return o, nil
}

// wanted returns the contenders that were asked for, or those that are usual.
func (r *runner) wanted(usual ...contender) []contender {
	if len(r.only) == 0 {
		return usual
	}
	return r.chosen(contenders...)
}

// chosen leaves out the contenders that were not asked for.
func (r *runner) chosen(all ...contender) (some []contender) {
	for _, c := range all {
		if len(r.only) == 0 || r.only[c.name] || r.only[c.server] {
			some = append(some, c)
		}
	}
	return some
}

// scaled is a number of connections.
func (r *runner) scaled(n int) int { return max(1, int(float64(n)*r.scale)) }

// turns are the places 0 to of-1 in the order in which they are measured: another one in each round.
func turns(round, of int) iter.Seq[int] {
	return func(yield func(int) bool) {
		for i := range of {
			if !yield((i + round) % of) {
				return
			}
		}
	}
}

// round runs a trial of each contender; the order is another one in each round.
func (r *runner) round(n int, of trial, contenders []contender) ([]*outcome, error) {
	outcomes := make([]*outcome, len(contenders))
	for at := range turns(n, len(contenders)) {
		t := of
		t.contender = contenders[at]
		o, err := r.measure(t)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", t.name, err)
		}
		outcomes[at] = o
	}
	return outcomes, nil
}

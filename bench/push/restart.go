//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/millrace/millrace/bench/push/paced"
)

// restartPatience is how long a restart may take before it is given up.
const restartPatience = time.Minute

// restart measures how long it takes until all clients are back after kill -9, while events go on coming.
func (r *runner) restart() error {
	n := r.scaled(10_000)
	t := trial{
		contender: programV1, connections: n, keyed: true,
		load: paced.Load{Rate: float64(n) / 10, Burst: 1, Tick: 10 * time.Millisecond, Keys: n, Size: eventSize},
	}
	if len(r.chosen(t.contender)) == 0 {
		return nil
	}
	result := table{title: fmt.Sprintf("kill -9 and restart with %s connections, a key each, %g events/s posted all the time, "+
		"clients come back within %s: seconds since the kill", count(float64(n)), t.load.Rate, r.jitter)}
	result.add("round", "program ready", "all live again", "all have what was posted by then", "missing", "repeated", "gaps told")
	var columns [3][]float64
	for round := range r.rounds {
		times, report, err := r.restartOnce(t)
		var late *lateError
		switch {
		case errors.As(err, &late):
			result.note("round %d: GIVEN UP after %s: %d connections of %d live, %d caught up", round+1, restartPatience, late.live, n, late.caught)
		case err != nil:
			return err
		}
		cells := []string{fmt.Sprint(round + 1)}
		for i, v := range times {
			columns[i] = append(columns[i], v)
			cells = append(cells, decimal(v))
		}
		result.add(append(cells, fmt.Sprint(report.Missing), fmt.Sprint(report.Repeats), fmt.Sprint(report.Gaps))...)
		fmt.Fprintf(r.log, "restart: %.2f s until ready, all live, all caught up; missing %d, repeated %d, gaps %d, connections lost %d\n",
			times, report.Missing, report.Repeats, report.Gaps, report.Losses)
	}
	result.add("median", decimal(median(columns[0])), decimal(median(columns[1])), decimal(median(columns[2])), "", "", "")
	result.print(r.out)
	return nil
}

// lateError says that clients were not back in time.
type lateError struct{ live, caught int }

func (e *lateError) Error() string {
	return fmt.Sprintf("%d connections live, %d caught up", e.live, e.caught)
}

// restartOnce returns the seconds from the kill until the program was ready, all connections were live, and
// all had what had been posted by then; where they were given up, until then.
func (r *runner) restartOnce(t trial) (times [3]float64, report Report, err error) {
	r.timeline = ""
	s, err := r.launchProgram(false)
	if err != nil {
		return times, report, err
	}
	defer s.end()
	client, err := r.client(t, s.address(), "-reconnect", "-jitter", r.jitter.String())
	if err != nil {
		return times, report, err
	}
	defer client.end()
	if err := s.load(t.load); err != nil {
		return times, report, err
	}
	time.Sleep(r.warm)
	if _, err := client.ask("begin", 10*time.Second); err != nil {
		return times, report, err
	}
	begun := time.Now()
	if err := s.kill(); err != nil {
		return times, report, err
	}
	if err := s.start(); err != nil {
		return times, report, err
	}
	times[0] = time.Since(begun).Seconds()
	late := r.await(client, 0)
	times[1] = time.Since(begun).Seconds()
	end, err := s.stop() // what comes has an end, so that it can be seen whether all have all of it
	if err != nil {
		return times, report, err
	}
	if late == nil {
		late = r.await(client, end.events)
	}
	times[2] = time.Since(begun).Seconds()
	line, err := client.ask("end", time.Minute)
	if err == nil {
		err = json.Unmarshal([]byte(line), &report)
	}
	return times, report, errors.Join(late, err)
}

// await waits until all connections are live and have got all events below a number.
func (r *runner) await(client *process, events int64) error {
	line, err := client.ask(fmt.Sprintf("await %d %g", events, restartPatience.Seconds()), 2*restartPatience)
	if err != nil || line == "caught" {
		return err
	}
	var late lateError
	if n, _ := fmt.Sscanf(line, "late %d %d", &late.live, &late.caught); n != 2 {
		return client.failed(fmt.Errorf("it says %q", line))
	}
	return &late
}

package main

import (
	"context"
	"errors"
	"path/filepath"
	"reflect"
	"slices"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/admin"
	"github.com/millrace/millrace/config"
	"github.com/millrace/millrace/objectstore/disk"
	"github.com/millrace/millrace/stream/nats"
)

// reloadRequest is a reload that somebody waits for.
type reloadRequest struct {
	answer func(admin.Changes, error)
}

// askReload asks run for a reload and waits for it.
func (p *pipeline) askReload(file string) (admin.Changes, error) {
	type outcome struct {
		changes admin.Changes
		err     error
	}
	if own := p.options.file; !sameFile(file, own) {
		return admin.Changes{}, millrace.Errorf(millrace.Conflict, "reload", "the running program has read %q, not %q", own, file)
	}
	result := make(chan outcome, 1)
	select {
	case p.requests <- reloadRequest{func(c admin.Changes, err error) { result <- outcome{c, err} }}:
		r := <-result
		return r.changes, r.err
	case <-p.ending:
		return admin.Changes{}, millrace.Errorf(millrace.Unavailable, "reload", "the running program is ending")
	}
}

// sameFile says whether two names are of one file.
func sameFile(a, b string) bool {
	if a, err := filepath.EvalSymlinks(a); err == nil {
		if b, err := filepath.EvalSymlinks(b); err == nil {
			return a == b
		}
	}
	return a == b
}

// reload reads the configuration again and makes it what is at work, without touching what has not changed.
// If anything about it is wrong, everything goes on as before. It says how it went.
func (p *pipeline) reload(ctx, running context.Context) (admin.Changes, error) {
	began := time.Now()
	changes, err := p.change(ctx, running)
	if err != nil {
		p.measures.reloads.total.WithLabelValues(reloadRefused).Inc()
		p.measures.reloads.successful.Set(0)
		lines := []error{err}
		if problems, ok := errors.AsType[config.Problems](err); ok {
			lines = lines[:0]
			for _, problem := range problems {
				lines = append(lines, errors.New(problem.String()))
			}
		}
		for _, line := range lines {
			p.log.Error("the configuration was not reloaded; everything goes on as before", "error", line)
		}
		return admin.Changes{}, err
	}
	p.measures.reloads.total.WithLabelValues(reloadOK).Inc()
	p.measures.reloads.successful.Set(1)
	p.measures.reloads.last.SetToCurrentTime()
	p.log.Info("reloaded", "added", changes.Added, "changed", changes.Changed, "removed", changes.Removed,
		"took", time.Since(began).Round(time.Millisecond))
	return changes, nil
}

func (p *pipeline) change(ctx, running context.Context) (admin.Changes, error) {
	if p.options.load == nil {
		return admin.Changes{}, millrace.Errorf(millrace.Invalid, "reload", "this configuration comes from no file")
	}
	c, err := p.options.load()
	if err != nil {
		return admin.Changes{}, millrace.Errorf(millrace.Invalid, "reload", "%w", err)
	}
	if problems := p.fixed(c); len(problems) > 0 {
		return admin.Changes{}, millrace.Errorf(millrace.Invalid, "reload", "%w", problems)
	}
	n, err := p.plan(ctx, c)
	if err != nil {
		return admin.Changes{}, err
	}
	return p.apply(ctx, running, n), nil
}

// fixed reports what cannot change while the program runs.
func (p *pipeline) fixed(c *config.Config) (problems config.Problems) {
	const restart = "it cannot change while the program runs; set it back, or stop the program and start it again"
	if c.DataDir != p.config.DataDir {
		problems = append(problems, c.Problem("data_dir", "%q was %q when the program started: "+restart, c.DataDir, p.config.DataDir))
	}
	if !reflect.DeepEqual(c.Engine, p.config.Engine) {
		problems = append(problems, c.Problem("engine", "it is another than when the program started: "+restart))
	}
	for name, s := range sorted(c.Streams) {
		open := p.streams[name] // also one that was declared before, and that something has not let go of yet
		if open == nil {
			continue
		}
		if has := len(hold{stream: open}.partitions()); has != s.Partitions {
			problems = append(problems, c.Problem("streams."+name+".partitions",
				"%d is not possible, the stream has %d: the number cannot be changed; set it back to %d, or give the stream another name",
				s.Partitions, has, has))
		}
	}
	return problems
}

// apply turns what is at work into a plan. It goes along the data, tier by tier: what is removed or changed
// ends, and then what takes its place and what is new begins. Stages that are not in the plan's way notice
// nothing. It does not fail: what does not end in time is left behind, and what takes its place waits for it.
func (p *pipeline) apply(ctx, running context.Context, n *plan) admin.Changes {
	var changes admin.Changes
	next := map[string]*stage{}
	for _, s := range n.stages {
		next[s.name] = s.stage
	}
	ends, begins := map[int][]*stage{}, map[int][]*stage{} // by tier
	var tiers []int
	for _, old := range p.stages {
		if next[old.name] != old {
			ends[old.tier], tiers = append(ends[old.tier], old), append(tiers, old.tier)
		}
	}
	for _, s := range n.stages {
		old := n.working[s.name]
		switch {
		case old == nil:
			changes.Added = append(changes.Added, s.name)
			begins[s.tier], tiers = append(begins[s.tier], s.stage), append(tiers, s.tier)
		case old != s.stage:
			changes.Changed = append(changes.Changed, s.name)
		}
	}
	before, streams, stores := p.config, p.streams, p.stores
	stays := map[*door]bool{}
	for _, d := range n.doors {
		stays[d] = true
	}
	p.adopt(n)
	for name, s := range sorted(n.streams) { // after adopt has taken the holds
		now := p.config.Streams[name].Retention
		old, declared := before.Streams[name]
		if _, open := streams[name]; !open || declared && old.Retention == now {
			continue
		}
		if err := s.Retain(now); err != nil {
			p.log.Error("the retention did not change", "stream", name, "error", err) // the configuration was checked
			continue
		}
		if declared { // else it is added: it was open for what had not ended yet
			changes.Changed = append(changes.Changed, "stream/"+name)
		}
	}
	for _, i := range n.servers { // posts find the new sources, and wait for them, before the old ones end
		if err := i.Serve(i.sources...); err != nil {
			p.log.Error("posts go to the sources as they were", "error", err) // the configuration was checked
		}
	}
	slices.Sort(tiers)
	inTime, enough := context.WithTimeout(ctx, n.config.DrainTimeout) // for all tiers together
	defer enough()
	for _, tier := range slices.Compact(tiers) {
		for _, old := range ends[tier] {
			replacement := next[old.name]
			if replacement == nil {
				changes.Removed = append(changes.Removed, old.name)
			}
			p.mu.Lock()
			p.leaving = append(p.leaving, old)
			p.mu.Unlock()
			old.leave(func() {
				p.cleanUp(old)
				if old.door != nil && !stays[old.door] {
					old.door.shut()
				}
			})
			if replacement != nil {
				replacement.start(running, p.ending, old)
			}
		}
		if tier != tierAdmin { // who asked for the reload may still wait for its answer there
			await(ctx, inTime, ends[tier])
		}
		for _, s := range begins[tier] {
			s.start(running, p.ending, p.stillLeaving(s.name))
		}
	}
	p.mu.Lock()
	p.leaving = slices.DeleteFunc(p.leaving, func(s *stage) bool { return over(context.Background(), s.ended) })
	p.mu.Unlock()
	left := false
	for _, s := range p.leaving {
		if s.tier == tierAdmin {
			continue
		}
		left = true
		if ctx.Err() == nil { // or the drain that begins waits for it
			p.log.Error("a stage has not ended in time; what takes its place waits for it", "stage", s.name)
		}
	}
	p.closeUnused(streams, stores, left)
	p.writeControl()
	for _, list := range [][]string{changes.Added, changes.Changed, changes.Removed} {
		slices.Sort(list)
	}
	return changes
}

// closeUnused closes what is not at work any more of what was open before a reload. What is left behind may still use
// it: then the next reload closes it.
func (p *pipeline) closeUnused(streams map[string]*nats.Stream, stores map[string]*disk.Store, left bool) {
	for name, s := range streams {
		switch _, used := p.streams[name]; {
		case used:
		case left:
			p.streams[name] = s
		default:
			p.closeStream(s)
		}
	}
	for dir, s := range stores {
		switch _, used := p.stores[dir]; {
		case used:
		case left:
			p.stores[dir] = s
		default:
			p.closeStore(s)
		}
	}
}

// stillLeaving returns the stage that an earlier reload has told to end and that has not yet; nil if there is
// none.
func (p *pipeline) stillLeaving(name string) *stage {
	for _, s := range slices.Backward(p.leaving) {
		if s.name == name {
			return s
		}
	}
	return nil
}

// moment is what a tier is given where the tiers before it have used up the time of a reload: most stages end at
// once, and are not late then.
const moment = 100 * time.Millisecond

// await waits until stages have ended or the time is over; not when ctx has ended, for a drain begins then.
func await(ctx, inTime context.Context, stages []*stage) {
	if inTime.Err() != nil {
		var enough context.CancelFunc
		inTime, enough = context.WithTimeout(ctx, moment)
		defer enough()
	}
	allEnded(stages, inTime.Done())
}

// cleanUp forgets a stage that has ended for good, or made way for another: for the one that has its name by
// now, which need not be the one that the reload had that told it to end.
func (p *pipeline) cleanUp(old *stage) {
	p.mu.Lock() // adopt takes holds and shows their stages in one step
	defer p.mu.Unlock()
	var by *stage
	if i := slices.IndexFunc(p.stages, func(s *stage) bool { return s.name == old.name }); i >= 0 {
		by = p.stages[i]
	}
	for _, h := range old.holds {
		if by == nil || !slices.Contains(by.holds, h) {
			h.release()
		}
	}
	if by == nil {
		p.measures.stages.forget(old.name)
	}
	if old.forget != nil {
		old.forget(by)
	}
}

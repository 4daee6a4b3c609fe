package producer

import (
	"context"
	"slices"
	"sync"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
)

// takeOverTries bounds how often a faster writer's block makes us look again. Each look finds either
// the last block of an old writer or a newer writer, who ends it; trimming may add one or two.
const takeOverTries = 10

// takeOver fences older writers, finds what they left behind, and commits that; see "Taking over" in
// the package's comment.
func (p *Producer) takeOver(ctx context.Context) error {
	committed, stood, err := p.takeHome(ctx)
	if err != nil {
		return err
	}
	p.config.Step("producer.takeover")

	found := make([][]millrace.BlockRef, len(p.targets))
	errs := make([]error, len(p.targets))
	var group sync.WaitGroup
	for i, t := range p.targets {
		if i != p.home {
			group.Go(func() { found[i], errs[i] = p.fence(ctx, t, committed, stood.cursor) })
		}
	}
	group.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	p.config.Step("producer.fenced")

	for _, ref := range slices.Concat(append(found, stood.uncommitted)...) {
		if err := p.expect(ctx, ref); err != nil {
			return err
		}
	}
	p.flush = committed + 1
	p.standing = standing{cursor: stood.cursor, uncommitted: p.stillOpen()}
	p.cursor = stood.cursor
	if err := p.commitTakeOver(ctx); err != nil {
		return err
	}
	p.config.Step("producer.opened")
	return nil
}

// takeHome appends the block that fences older writers from the home partition. It returns the number
// of the newest committed flush and how the producer stands, blocks left behind in the home
// partition among it.
func (p *Producer) takeHome(ctx context.Context) (committed uint64, stood standing, err error) {
	t := p.targets[p.home]
	for range takeOverTries {
		last, found, err := p.newest(ctx, t)
		if err != nil {
			return 0, standing{}, err
		}
		committed, stood = 0, standing{}
		if found {
			committed = last.Header.Flush
			stood = standing{cursor: last.Header.Cursor, uncommitted: last.Header.Uncommitted}
			if !last.Header.Commit {
				committed--
				stood.uncommitted = leftBy(t, last)
			}
		}
		h := millrace.Header{
			Producer: p.config.Name, Writer: p.writer, Flush: committed + 1,
			Cursor: stood.cursor, Uncommitted: stood.uncommitted,
		}
		err = p.appendEmpty(ctx, t, last.At, h)
		if millrace.CodeOf(err) != millrace.Conflict {
			return committed, stood, err
		}
	}
	return 0, standing{}, millrace.Errorf(millrace.Conflict, "take over", "other writers keep appending to %s", t)
}

// fence appends a block that fences older writers from another partition, and returns what they left
// behind there.
func (p *Producer) fence(ctx context.Context, t *target, committed uint64, cursor millrace.Cursor) ([]millrace.BlockRef, error) {
	for range takeOverTries {
		last, found, err := p.newest(ctx, t)
		if err != nil {
			return nil, err
		}
		var left []millrace.BlockRef
		if found && last.Header.Flush > committed {
			left = leftBy(t, last)
		}
		if found && last.Header.Flush > committed+1 {
			// Only committed+1 can have been tried: the home partition has lost committed blocks. We go
			// on from where it stands; what was in flushes before this one may come a second time.
			p.log.Error("the stream has lost blocks: this producer's events may be repeated",
				"stream", t.stream.Name(), "partition", p.targets[p.home].partition,
				"from_flush", committed+1, "to_flush", last.Header.Flush)
		}
		// Whoever wrote it: if it was a newer writer, the home partition is no longer ours, and we must
		// not append after it.
		if err := p.stillHome(ctx); err != nil {
			return nil, err
		}
		h := millrace.Header{
			Producer: p.config.Name, Writer: p.writer, Flush: committed + 1,
			Cursor: cursor, Uncommitted: left,
		}
		err = p.appendEmpty(ctx, t, last.At, h)
		if millrace.CodeOf(err) != millrace.Conflict {
			return left, err
		}
	}
	return nil, millrace.Errorf(millrace.Conflict, "take over", "other writers keep appending to %s", t)
}

// leftBy returns the blocks with events that the author of last, a block of a flush without a commit,
// left in the partition or had found there.
func leftBy(t *target, last millrace.StoredBlock) []millrace.BlockRef {
	left := slices.Clone(last.Header.Uncommitted)
	if last.Header.Events > 0 {
		left = append(left, t.ref(last.At))
	}
	return left
}

// stillHome fails with Conflict if the newest block of the home partition is not our own.
func (p *Producer) stillHome(ctx context.Context) error {
	last, found, err := p.newest(ctx, p.targets[p.home])
	if err == nil && (!found || last.Header.Writer != p.writer) {
		return errTakenOver(last.Header)
	}
	return err
}

// commitTakeOver ends the taking over with the block that names what was found.
func (p *Producer) commitTakeOver(ctx context.Context) error {
	t := p.targets[p.home]
	h := millrace.Header{
		Producer: p.config.Name, Writer: p.writer, Flush: p.flush, Commit: true,
		Cursor: p.standing.cursor, Uncommitted: p.standing.uncommitted,
	}
	for range takeOverTries {
		err := p.appendEmpty(ctx, t, t.last, h)
		if millrace.CodeOf(err) != millrace.Conflict {
			return err
		}
		if landed, err := p.settle(ctx, t, h); landed || err != nil {
			return err
		}
	}
	return millrace.Errorf(millrace.Conflict, "take over", "the newest block of %s keeps changing", t)
}

func (p *Producer) appendEmpty(ctx context.Context, t *target, after millrace.Position, h millrace.Header) error {
	b, err := block.Empty(h)
	if err != nil {
		return err
	}
	at, err := t.stream.Append(ctx, t.partition, after, b)
	if err != nil {
		return &millrace.Error{Code: millrace.CodeOf(err), Op: "take over " + t.String(), Err: err}
	}
	t.last, t.mark = at, markOf(h)
	return nil
}

// newest returns the producer's newest block in a partition; found is false if there is none.
func (p *Producer) newest(ctx context.Context, t *target) (last millrace.StoredBlock, found bool, err error) {
	last, err = t.stream.Last(ctx, t.partition, p.config.Name)
	if millrace.CodeOf(err) == millrace.NotFound {
		return millrace.StoredBlock{}, false, nil
	}
	return last, err == nil, err
}

// expect puts the ids of a block that was left behind into its partition's drop set. A block that is
// gone or damaged cannot be read ever again: it is forgotten, and said.
func (p *Producer) expect(ctx context.Context, ref millrace.BlockRef) error {
	known := func(l *leftover) bool { return l.ref == ref }
	if slices.ContainsFunc(p.leftovers, known) {
		return nil
	}
	forget := func(why string, err error) {
		p.log.Warn("a block of an unfinished flush cannot be recovered; its events may be repeated",
			"stream", ref.Stream, "partition", ref.Partition, "block", ref.Block, "why", why, "error", err)
	}
	i := slices.IndexFunc(p.targets, func(t *target) bool {
		return t.stream.Name() == ref.Stream && t.partition == ref.Partition
	})
	if i < 0 {
		forget("this producer does not write to that partition any more", nil)
		return nil
	}
	t := p.targets[i]
	stored, found, err := read(ctx, t, ref.Block)
	if err != nil {
		return err
	}
	if !found {
		forget("retention has passed it", nil)
		return nil
	}
	var r block.Reader
	if err := r.Reset(stored.Raw); err != nil {
		forget("it is damaged", err)
		return nil
	}
	if err := r.Load(block.IDs); err != nil {
		forget("it is damaged", err)
		return nil
	}
	l := &leftover{ref: ref}
	for n := range r.Len() {
		t.drops.expect(string(r.ID(n)), l)
	}
	p.leftovers = append(p.leftovers, l)
	return nil
}

// read returns the block of that name; found is false if it is gone.
func read(ctx context.Context, t *target, name string) (stored millrace.StoredBlock, found bool, err error) {
	_, end, err := t.stream.Bounds(ctx, t.partition)
	if err != nil || end.Block < name { // reading would wait for it
		return stored, false, err
	}
	for stored, err := range t.stream.Read(ctx, t.partition, millrace.Position{Block: name}) {
		switch {
		case err == nil:
			return stored, stored.At.Block == name, nil
		case millrace.CodeOf(err) == millrace.CodeGap:
			return stored, false, nil
		default:
			return stored, false, err
		}
	}
	return stored, false, millrace.Errorf(millrace.Unavailable, "read "+t.String(), "the stream is closed")
}

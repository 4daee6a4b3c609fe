package httpsource

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
)

// slack is how far the stream's clock may be from ours.
const slack = time.Minute

// cursor is where the source stands: LIFE.REQUEST.SINCE. A life is one run of the source, named by when it
// began, and never the same twice; requests are counted in it. So ids made of both are never repeated, not
// even those of events that a crash left behind without a commit.
type cursor struct {
	life, request int64
	// since is when the first event of the oldest key that was remembered was stored, or about the time of
	// the cursor itself if there was none: the next life reads its own past from there.
	since int64 // Unix seconds
}

func (c cursor) format() millrace.Cursor {
	b := make([]byte, 0, 48)
	b = strconv.AppendInt(b, c.life, 36)
	b = append(b, '.')
	b = strconv.AppendInt(b, c.request, 10)
	b = append(b, '.')
	return millrace.Cursor(strconv.AppendInt(b, c.since, 10))
}

// parseCursor reads what format wrote; anything else is the beginning.
func parseCursor(at millrace.Cursor) cursor {
	life, rest, _ := strings.Cut(string(at), ".")
	request, since, _ := strings.Cut(rest, ".")
	var c cursor
	var errs [3]error
	c.life, errs[0] = strconv.ParseInt(life, 36, 64)
	c.request, errs[1] = strconv.ParseInt(request, 10, 64)
	c.since, errs[2] = strconv.ParseInt(since, 10, 64)
	for _, err := range errs {
		if err != nil {
			return cursor{}
		}
	}
	return c
}

// remember reads the source's own past: the keys of requests that are durable, wholly or in part.
func (s *Source) remember(ctx context.Context, from millrace.Resume, known *keys) (blocks int, err error) {
	if from.Recent == nil {
		return 0, nil
	}
	now := s.o.Now()
	since := now.Add(-s.config.Idempotency.Window)
	if at := time.Unix(parseCursor(from.Cursor).since, 0).Add(-slack); at.After(since) {
		since = at
	}
	var r block.Reader
	for b, err := range from.Recent(ctx, since) {
		if err != nil {
			return blocks, err
		}
		if b.Header.Events == 0 {
			continue
		}
		blocks++
		if err := r.Reset(b.Raw); err != nil {
			s.log.Warn("a block of our own is damaged; requests whose events are in it are not recognised when they come again",
				"block", b.At.Block, "error", err)
			continue
		}
		if err := r.Load(block.IDs | block.Attributes); err != nil {
			s.log.Warn("a block of our own is damaged; requests whose events are in it are not recognised when they come again",
				"block", b.At.Block, "error", err)
			continue
		}
		for i := range r.Len() {
			for name, value := range r.Attributes(i) {
				if name == attribute {
					known.found(string(r.ID(i)), value, b.Stored)
				}
			}
		}
		known.expire(now)
	}
	return blocks, nil
}

package sse

import (
	"context"
	"encoding/json"
	"iter"
	"strconv"
	"time"

	"github.com/millrace/millrace"
)

// tracker is one way to go on after an interruption: it knows what has come, says what a connection
// resumes with, and tells repeats from news. The kinds:
//
//	place     by the feed's ids, or by a value of the events: the server goes on where it is told
//	window    the same, but a little earlier than where it stood, dropping what has come (rewind, dedupe)
//	unplaced  not at all: gaps are recorded
//
// Snapshot feeds use place for ids only; type snapshot does their work.
type tracker interface {
	// resume returns what a connection resumes with as of now; empty: nothing. It changes nothing.
	resume() string
	// begin is called before each connection that resumes, and returns the same.
	begin() string
	// take moves past one event. It appends the event's id to dst, or returns false if it is a repeat.
	take(dst []byte, e *Event, typ, connection string) ([]byte, bool)
	// settle is called at the end of a read with the last event ID as it then stands.
	settle(id []byte)
	// cursor is the place after all that was taken and settled.
	cursor() millrace.Cursor
}

// recentBlocks is millrace.Resume.Recent.
type recentBlocks func(ctx context.Context, since time.Time) iter.Seq2[millrace.StoredBlock, error]

// tracker returns the kind that the configuration asks for, at a cursor. Any kind takes the cursor of
// any other, as far as that goes: changing the configuration does not begin anew.
func (s *Source) tracker(ctx context.Context, from millrace.Resume) (tracker, error) {
	switch {
	case s.config.Resume.None:
		return parseUnplaced(s, from.Cursor)
	case s.config.Dedupe != "":
		return parseWindow(ctx, s, from)
	default:
		return parseCursor(from.Cursor)
	}
}

// unplaced is a feed that cannot resume. It remembers when the feed was last heard of, so that the
// gap until it is heard of again is known exactly: also over a restart, and over a crash, when it is
// longer by what had come and not become durable.
type unplaced struct {
	source *Source
	heard  time.Time // when the newest bytes came; zero: never
	blank  uint64    // as in place
	gap    gap       // not told yet
}

// gap is a time without the feed.
type gap struct{ from, to time.Time }

// storedUnplaced is an unplaced as the cursor holds it, in JSON.
type storedUnplaced struct {
	Heard int64  `json:"heard,omitempty"` // Unix milliseconds
	Blank uint64 `json:"blank,omitempty"`
}

func parseUnplaced(s *Source, c millrace.Cursor) (*unplaced, error) {
	u := &unplaced{source: s}
	if c == "" {
		return u, nil
	}
	var stored storedUnplaced
	if err := json.Unmarshal([]byte(c), &stored); err != nil {
		return nil, errCursor(c, err)
	}
	if u.blank = stored.Blank; stored.Heard > 0 {
		u.heard = time.UnixMilli(stored.Heard)
	}
	return u, nil
}

func errCursor(c millrace.Cursor, err error) error {
	return millrace.Errorf(millrace.Internal, "resume the feed",
		"the stored cursor %.200q was not written by an SSE source: %w", string(c), err)
}

func (u *unplaced) resume() string { return "" }
func (u *unplaced) begin() string  { return "" }

// connected ends a gap, if there was one: the feed is there again.
func (u *unplaced) connected() {
	if u.heard.IsZero() {
		u.heard = u.source.o.Now()
		return
	}
	now := u.source.o.Now()
	if u.gap.from.IsZero() {
		u.gap.from = u.heard
	}
	u.gap.to = now
	u.source.instruments.gaps.Inc()
	u.source.instruments.gapSeconds.Add(max(now.Sub(u.heard), 0).Seconds())
	u.source.log.Warn("the feed cannot resume: what it sent meanwhile is lost", "gap_from", u.heard.UTC(), "gap_to", now.UTC())
	u.heard = now
}

func (u *unplaced) take(dst []byte, _ *Event, _, connection string) ([]byte, bool) {
	dst = append(append(dst, connection...), '#')
	dst = strconv.AppendUint(dst, u.blank, 10)
	u.blank++
	return dst, true
}

func (u *unplaced) settle([]byte) { u.heard = u.source.o.Now() }

// attributes returns those of the first event after a gap, and forgets the gap.
func (u *unplaced) attributes() map[string]string {
	if u.gap.from.IsZero() {
		return nil
	}
	g := u.gap
	u.gap = gap{}
	return map[string]string{
		"gap_from": g.from.UTC().Format(time.RFC3339Nano),
		"gap_to":   g.to.UTC().Format(time.RFC3339Nano),
	}
}

// cursor keeps the beginning of a gap that no event has told of yet.
func (u *unplaced) cursor() millrace.Cursor {
	heard := u.heard
	if !u.gap.from.IsZero() {
		heard = u.gap.from
	}
	stored := storedUnplaced{Blank: u.blank}
	if !heard.IsZero() {
		stored.Heard = heard.UnixMilli()
	}
	text, err := json.Marshal(stored)
	if err != nil { // numbers can always be written
		panic(err)
	}
	return millrace.Cursor(text)
}

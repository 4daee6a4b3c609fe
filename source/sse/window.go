package sse

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"hash/maphash"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
	"github.com/millrace/millrace/jsonpath"
)

// window is how a source goes on where a feed's own resume skips or repeats: it resumes a little
// earlier than where it stood (rewind) and drops what has come, by an id inside the events (dedupe).
// That id becomes the event's ID.
//
// # Where it stands
//
// The id that it resumes with is the greatest of all that came, for a vector the greatest of each
// element: events that a server sends again, with earlier ids, move nothing back.
//
// # What it remembers
//
// The ids inside of all events that a server may send again: those whose time is not more than the
// rewind before where the window stands. Which those are is known by when they arrived: for each
// element of the vector the window knows when the oldest event arrived that is within the rewind of
// the element's newest. The cursor holds the earliest of these times, and after a restart the source's own
// blocks stored since then are read back. An element more than an hour behind the newest is settled:
// it isn't rewound, so that a topic in which nothing happens does not keep a day of ids.
//
// Where ids are no times nothing can be rewound; then the ids inside of the last ten minutes are
// remembered.
type window struct {
	source *Source
	rewind time.Duration
	path   *jsonpath.Set

	id    []byte // to resume with
	marks []mark // its
	fresh []mark // scratch
	last  []byte // the id that was merged last: most ids come several times

	topics map[string]*topic
	seed   maphash.Seed
	seen   map[uint64]struct{}
	order  []remembered // oldest first, from head on
	head   int
}

// topic is the history of one element of the vector.
type topic struct {
	at    int64     // the newest time
	trail []arrival // rising, a second of the feed's time apart; all but the first are within the span of at
}

// arrival says when an event of a certain time arrived. Both in Unix nanoseconds.
type arrival struct{ of, at int64 }

type remembered struct {
	hash uint64
	at   int64
}

const (
	settledAfter  = time.Hour
	opaqueSpan    = 10 * time.Minute
	spanMargin    = 2 * time.Second // trails are a second apart
	clockMargin   = time.Minute     // between the source's clock and the stream's
	maxRemembered = 1 << 20         // ids, some 50 bytes each
)

// storedWindow is a window as the cursor holds it, in JSON.
type storedWindow struct {
	ID    string `json:"id"`
	Since int64  `json:"since,omitempty"` // Unix milliseconds
}

// parseWindow returns the window at a cursor, with what it remembered.
func parseWindow(ctx context.Context, s *Source, from millrace.Resume) (*window, error) {
	path, err := jsonpath.Compile(s.config.Dedupe)
	if err != nil {
		return nil, err
	}
	w := &window{
		source: s, rewind: s.config.Rewind, path: path, topics: make(map[string]*topic),
		seed: maphash.MakeSeed(), seen: make(map[uint64]struct{}),
	}
	if from.Cursor == "" {
		return w, nil
	}
	var stored storedWindow
	if err := json.Unmarshal([]byte(from.Cursor), &stored); err != nil {
		return nil, errCursor(from.Cursor, err)
	}
	now := s.o.Now()
	since := now.Add(-opaqueSpan)
	if stored.Since > 0 {
		since = time.UnixMilli(stored.Since)
	}
	w.merge([]byte(stored.ID), since.UnixNano())
	for _, t := range w.topics {
		// When the events within the span arrived is not known any more, only that none came earlier.
		t.trail = []arrival{{math.MinInt64, since.UnixNano()}}
	}
	return w, w.recall(ctx, from.Recent, since)
}

// recall reads back the ids of the source's own blocks.
func (w *window) recall(ctx context.Context, recent recentBlocks, since time.Time) error {
	if recent == nil {
		return nil
	}
	var r block.Reader
	for b, err := range recent(ctx, since.Add(-clockMargin)) {
		if err == nil {
			err = r.Reset(b.Raw)
		}
		if err == nil {
			err = r.Load(block.IDs)
		}
		if err != nil {
			return millrace.Errorf(millrace.CodeOf(err), "read back what the feed has sent", "%w", err)
		}
		at := b.Stored.UnixNano()
		for i := range r.Len() {
			id := r.ID(i)
			w.remember(maphash.Bytes(w.seed, id), at)
			// The elements of an array that was split have numbers behind the input's id.
			if n := strings.LastIndexByte(string(id), '#'); n > 0 {
				w.remember(maphash.Bytes(w.seed, id[:n]), at)
			}
		}
	}
	return nil
}

func (w *window) begin() string { return w.resume() }

// resume returns the id, rewound.
func (w *window) resume() string {
	if w.rewind <= 0 || len(w.marks) == 0 {
		return string(w.id)
	}
	newest := w.newest()
	var out []byte
	done := 0
	for _, m := range w.marks {
		if m.at == noMark || settled(m.at, newest) {
			continue
		}
		out = append(out, w.id[done:m.from]...)
		out = appendRewound(out, w.id[m.from:m.to], w.rewind)
		done = m.to
	}
	return string(append(out, w.id[done:]...))
}

func settled(at, newest int64) bool { return newest-at > int64(settledAfter) }

func (w *window) newest() int64 {
	newest := int64(noMark)
	for _, m := range w.marks {
		newest = max(newest, m.at)
	}
	return newest
}

func (w *window) take(dst []byte, e *Event, _, _ string) ([]byte, bool) {
	now := w.source.o.Now().UnixNano()
	w.merge(e.ID, now)
	before := len(dst)
	dst = w.inner(dst, e)
	return dst, w.remember(maphash.Bytes(w.seed, dst[before:]), now)
}

// inner appends the id inside the event. An event without one is known by what it holds.
func (w *window) inner(dst []byte, e *Event) []byte {
	var v [1]jsonpath.Value
	if !e.TooLarge && w.path.Find(e.Data, v[:]) == nil {
		switch v[0].Kind {
		case jsonpath.String, jsonpath.Number:
			if len(v[0].Raw) > 2 && len(v[0].Raw) <= fieldLimit || v[0].Kind == jsonpath.Number {
				return v[0].Append(dst)
			}
		default:
		}
	}
	dst = append(dst, "sha256-"...)
	sum := e.sum()
	return hex.AppendEncode(dst, sum[:16])
}

// remember adds an id; it returns false if it is known.
func (w *window) remember(hash uint64, at int64) bool {
	if _, known := w.seen[hash]; known {
		return false
	}
	w.seen[hash] = struct{}{}
	w.order = append(w.order, remembered{hash, at})
	for len(w.order)-w.head > maxRemembered {
		w.forget()
	}
	return true
}

func (w *window) forget() {
	delete(w.seen, w.order[w.head].hash)
	if w.head++; w.head > 1024 && w.head > len(w.order)/2 {
		w.order = w.order[:copy(w.order, w.order[w.head:])]
		w.head = 0
	}
}

// merge moves the window to an id that came, wherever that is ahead of it.
func (w *window) merge(id []byte, now int64) {
	if string(id) == string(w.last) && len(w.topics) > 0 {
		if len(w.marks) == 0 {
			w.arrived("", now, now)
		}
		return
	}
	if !sendable(id) {
		return
	}
	w.last = append(w.last[:0], id...)
	var ok bool
	if w.fresh, ok = parseMarks(w.fresh[:0], id); !ok {
		// Opaque: the newest counts, and the time of arrival is as good as any.
		w.id, w.marks = append(w.id[:0], id...), w.marks[:0]
		w.arrived("", now, now)
		return
	}
	for _, m := range w.fresh {
		if m.at != noMark {
			w.arrived(m.name, m.at, now)
		}
	}
	w.adopt(id)
}

// adopt takes the greater element of the window's id and of another one, whose marks are fresh.
func (w *window) adopt(id []byte) {
	if w.follows() {
		w.id = append(w.id[:0], id...)
		w.marks, w.fresh = w.fresh, w.marks
		return
	}
	old := make(map[string]mark, len(w.marks))
	for _, m := range w.marks {
		old[m.name] = m
	}
	ahead := true
	for _, m := range w.fresh {
		o, known := old[m.name]
		delete(old, m.name)
		if known && o.at > m.at {
			ahead = false
		}
	}
	if !ahead || len(old) > 0 {
		id = w.blend(id, old)
		var ok bool
		if w.fresh, ok = parseMarks(w.fresh[:0], id); !ok {
			return
		}
	}
	w.id = append(w.id[:0], id...)
	w.marks, w.fresh = w.fresh, w.marks
}

// follows says whether the fresh marks are those of the window, in the same order, and none is behind: nearly
// always it is so.
func (w *window) follows() bool {
	return slices.EqualFunc(w.marks, w.fresh, func(o, m mark) bool { return o.name == m.name && o.at <= m.at })
}

// blend builds an id of the greater elements. missing are those of the window that id lacks.
func (w *window) blend(id []byte, missing map[string]mark) []byte {
	if id[0] != '[' || len(w.id) == 0 || w.id[0] != '[' {
		if len(w.marks) == 1 && len(w.fresh) == 1 && w.marks[0].at > w.fresh[0].at {
			return append([]byte(nil), w.id...)
		}
		return append([]byte(nil), id...)
	}
	out := []byte{'['}
	add := func(element []byte) {
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(out, element...)
	}
	for _, m := range w.fresh {
		element := id[m.start:m.end]
		for _, o := range w.marks {
			if o.name == m.name && o.at > m.at {
				element = w.id[o.start:o.end]
			}
		}
		add(element)
	}
	for _, o := range w.marks {
		if _, lacks := missing[o.name]; lacks {
			add(w.id[o.start:o.end])
		}
	}
	return append(out, ']')
}

// arrived notes that an event of that time, or one of a topic that has come so far, arrived now.
func (w *window) arrived(name string, of, now int64) {
	t := w.topics[name]
	if t == nil {
		if len(w.topics) > 4*maxMarks { // no feed has so many: their names are garbage
			clear(w.topics)
		}
		t = &topic{at: of, trail: []arrival{{of, now}}}
		w.topics[name] = t
		return
	}
	if of <= t.at {
		return
	}
	t.at = of
	if of-t.trail[len(t.trail)-1].of >= int64(time.Second) || t.trail[len(t.trail)-1].of == math.MinInt64 {
		t.trail = append(t.trail, arrival{of, now})
	}
	least := of - w.span(name)
	drop := 0
	for drop+1 < len(t.trail) && t.trail[drop+1].of <= least {
		drop++
	}
	t.trail = t.trail[:copy(t.trail, t.trail[drop:])]
}

// span is how far back of the newest a server may begin.
func (w *window) span(name string) int64 {
	if name == "" && len(w.marks) == 0 {
		return int64(opaqueSpan)
	}
	return int64(w.rewind + spanMargin)
}

// since returns when the oldest event arrived that a server may send again; 0 if none has come.
func (w *window) since() int64 {
	newest := w.newest()
	since := int64(0)
	for name, t := range w.topics {
		if name == "" && len(w.marks) > 1 || name != "" && settled(t.at, newest) {
			continue
		}
		if since == 0 || t.trail[0].at < since {
			since = t.trail[0].at
		}
	}
	return since
}

func (w *window) settle([]byte) {
	for since := w.since() - int64(clockMargin); w.head < len(w.order) && w.order[w.head].at < since; {
		w.forget()
	}
}

func (w *window) cursor() millrace.Cursor {
	stored := storedWindow{ID: string(w.id)}
	if since := w.since(); since > 0 {
		stored.Since = since / 1e6
	}
	text, err := json.Marshal(stored)
	if err != nil { // a string and a number can always be written
		panic(err)
	}
	return millrace.Cursor(text)
}

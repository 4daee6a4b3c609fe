package sse

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
)

// PrintOptions say how Print connects and what it prints.
type PrintOptions struct {
	// LastEventID to begin with.
	LastEventID string
	// Count ends the printing after so many events; 0: never.
	Count int
	// Comments are printed too, as {"comment":TEXT}.
	Comments bool
}

// printed is a line that Print writes.
type printed struct {
	ID   string `json:"id"`
	Type string `json:"type"`
	Data string `json:"data"`
}

type printedComment struct {
	Comment string `json:"comment"`
}

// Print writes a feed's events to w as they come, one JSON object in a line: {"id","type","data"},
// where id is the last event ID as the standard defines it. It returns when ctx ends, when Count
// events were written, when the feed is over, and, with o.Once, at the end of the first connection. A
// request whose method is neither safe nor idempotent (POST, PATCH) is made once: who asks a second
// time may pay a second time.
//
// With the Ingest policy what a server repeats after a reconnect is left out, as when events are
// stored; with the Standard policy everything is printed as it comes. An event over the configuration's
// EventLimit is left out, which the log says.
func Print(ctx context.Context, c Config, o Options, p PrintOptions, w io.Writer) error {
	switch o.Method {
	case http.MethodPost, http.MethodPatch, http.MethodConnect:
		o.Once = true
	}
	s := New(c, o)
	out := &printer{options: p, source: s, w: bufio.NewWriterSize(w, 64<<10), place: new(place)}
	out.json = json.NewEncoder(out.w)
	out.json.SetEscapeHTML(false)
	out.place.begin()
	out.place.settle([]byte(p.LastEventID))
	err := s.run(ctx, out)
	if errors.Is(err, errCounted) {
		err = nil
	}
	return errors.Join(err, out.w.Flush())
}

// errCounted ends the printing.
var errCounted = errors.New("all events that were asked for have come")

type printer struct {
	options PrintOptions
	source  *Source
	w       *bufio.Writer
	json    *json.Encoder
	place   *place
	ids     []byte // unused, but place.take appends to it
	events  int
}

func (p *printer) begin() string {
	if p.source.o.Policy == Standard {
		p.place.shared = false // which makes begin return the newest id, as the standard says
	}
	return p.place.begin()
}

func (p *printer) resume() string { return p.place.resume() }
func (p *printer) connected()     {}

func (p *printer) comment(text []byte) {
	if p.options.Comments {
		_ = p.json.Encode(printedComment{string(text)}) // the writer keeps its error for Flush
	}
}

func (p *printer) take(_ context.Context, e *Event) error {
	typ := string(e.Type)
	var isNew bool
	p.ids, isNew = p.place.take(p.ids[:0], e, typ, "")
	types := p.source.types
	switch {
	case !isNew && p.source.o.Policy != Standard, types != nil && !types[typ]:
		return nil
	case e.TooLarge:
		p.source.log.Error("an event over the limit was left out", "id", string(e.ID), "bytes", e.Length,
			"limit", p.source.config.EventLimit)
		return nil
	}
	_ = p.json.Encode(printed{string(e.ID), typ, string(e.Data)})
	if p.events++; p.events == p.options.Count {
		return errCounted
	}
	return nil
}

func (p *printer) flush(_ context.Context, lastEventID []byte) error {
	p.place.settle(lastEventID)
	if p.w.Buffered() == 0 {
		return nil
	}
	return p.w.Flush()
}

package gateway

import (
	"testing"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
	"github.com/millrace/millrace/expr"
)

// Attributes are decompressed before anybody waits for them, and only for as long as a filter looks at them.
func TestSections(t *testing.T) {
	p := newPushing(t, 3, v1, func(int) string { return "" }, []millrace.Event{
		{Key: "1", Attributes: map[string]string{"a": "b"}},
	})
	loaded := func() (attributes bool) {
		t.Helper()
		p.part.reader = block.Reader{}
		d := delivery{block: millrace.StoredBlock{Block: millrace.Block{Header: millrace.Header{Events: 1}, Raw: p.raw}}}
		if err := p.feed.decode(p.part, &d); err != nil {
			t.Fatal(err)
		}
		for range p.part.reader.Attributes(0) {
			attributes = true
		}
		return attributes
	}
	filtered := func(s *subscription, text string) {
		t.Helper()
		p.feed.remove(s)
		var err error
		if s.filter, err = expr.Compile(text); err != nil {
			t.Fatal(err)
		}
		p.feed.joinLive(s, nil)
	}
	first, second, third := p.feed.joined[0], p.feed.joined[1], p.feed.joined[2]
	filtered(first, "n > 5")
	if loaded() {
		t.Error("attributes are loaded for nobody")
	}
	filtered(second, `exists($attributes.a)`)
	filtered(third, `exists($attributes.a)`)
	p.feed.leave(second)
	if !loaded() {
		t.Error("attributes are not loaded for the one who filters by them")
	}
	p.feed.leave(third)
	p.feed.leave(third)
	if loaded() || p.feed.sections() != block.Keys|block.IDs|block.Data {
		t.Error("attributes are loaded when nobody filters by them any more")
	}
}

package gateway

import (
	"testing"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/stream/memory"
)

// A quiet client is told how far its partitions have come, once each time; of others it is not told.
func TestProgressIsOfOnesPartitions(t *testing.T) {
	var c Config
	c.SetDefaults()
	c.Endpoints = map[string]Endpoint{"/e": {From: "s"}}
	g, err := New(c, Options{Streams: map[string]millrace.Stream{"s": memory.New("s", memory.Options{Partitions: 2})}})
	if err != nil {
		t.Fatal(err)
	}
	f := g.feeds[0]
	if err := f.open(t.Context()); err != nil {
		t.Fatal(err)
	}
	follow := func(parts []int) *subscription {
		server := drained(t, func(int) {})
		c := &connection{gateway: g, endpoint: g.endpoints["/e"], form: v1, conn: server}
		c.out = outlet{conn: server, form: v1, limit: 1 << 20, flows: &g.flows, done: c.flushed, opening: true} // it all waits
		s := &subscription{c: c, endpoint: c.endpoint, feed: f, parts: parts, dialect: dialect{form: v1.over(len(parts))}}
		s.prefix = "of nobody"
		f.joinLive(s, nil)
		return s
	}
	one, both := follow(f.parts[0].only), follow(f.every)
	told := func(s *subscription) bool {
		before := len(s.c.out.queue)
		f.progress(s)
		return len(s.c.out.queue) > before
	}
	expect := func(what string, wantOne, wantBoth bool) {
		t.Helper()
		if got := told(one); got != wantOne {
			t.Errorf("%s: the client of one partition is told: %t", what, got)
		}
		if got := told(both); got != wantBoth {
			t.Errorf("%s: the client of both partitions is told: %t", what, got)
		}
	}
	blocks := &stored{t: t, stream: memory.New("blocks", memory.Options{})}
	pass := func(p *part) {
		d, more := delivery{block: blocks.append(broadcast(1)...)}, true
		for more {
			d, more = f.pass(p, d, &lookahead{})
		}
	}
	expect("at first", false, false)
	pass(f.parts[1])
	expect("the other partition", false, true)
	expect("nothing", false, false)
	pass(f.parts[0])
	expect("its partition", true, true)
	pass(f.parts[0])
	pass(f.parts[1])
	expect("both", true, true)
	expect("nothing more", false, false)
}

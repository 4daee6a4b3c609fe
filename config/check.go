package config

import (
	"fmt"
	"maps"
	"net"
	"path"
	"reflect"
	"slices"
	"strings"

	"github.com/millrace/millrace/gateway"
	"github.com/millrace/millrace/stream/nats"
)

// check reports what no room can see alone: names, references between sections, and streams that feed
// themselves.
func (d *decoder) check(c *Config) {
	if len(c.Streams) == 0 {
		d.problemAt("streams", "declares no stream; name at least one, such as streams: {events: {}}")
	}
	for name := range sorted(c.Streams) {
		d.checkName("streams", name)
	}
	c.Engine.SetDefaults() // the embedded one if the file names none
	for name, s := range sorted(c.Sources) {
		d.checkName("sources", name)
		section := join("sources", name)
		switch {
		case s.SSE == nil && s.HTTP == nil:
			d.problemAt(join(section, "sse"), "is missing; it says which feed to read: sse: {url: ...} (or http: {...}, to take what is posted)")
		case s.SSE != nil && s.HTTP != nil:
			d.problemAt(join(section, "http"), "a source has one kind, and this one has sse, too; make two sources")
		}
		d.checkInto(c, section, s.Into)
	}
	d.checkIngest(c)
	for name, q := range sorted(c.Queries) {
		d.checkName("queries", name)
		section := join("queries", name)
		switch {
		case q.SQL != "":
			d.problemAt(join(section, "sql"), "SQL is not supported yet; use fence")
		case q.Query.Fence == nil:
			d.problemAt(join(section, "fence"), "is missing; it says what to compute: fence: {fences: FILE, lat: PATH, lon: PATH}")
		case q.Query.Fence.Key != "" && c.Streams[q.Query.From].Partitions > 1:
			d.problemAt(join(section, "fence.key"), "another key than the event's own needs a stream of one partition; %q has %d",
				q.Query.From, c.Streams[q.Query.From].Partitions)
		}
		if q.Query.From == DeadStream {
			d.problemAt(join(section, "from"), "%q takes the query's own dead letters, so the query would feed itself", DeadStream)
		} else {
			d.checkFrom(c, section, q.Query.From)
		}
		d.checkInto(c, section, q.Query.Into)
	}
	d.checkCycles(c)
	d.checkArchives(c)
	if c.Gateway != nil {
		for route, e := range sorted(c.Gateway.Endpoints) {
			switch {
			case e.APIGateway != nil && e.APIGateway.Subscribe != nil:
				d.checkFrom(c, "gateway.endpoints."+route+".apigateway.subscribe", e.Source())
			case e.APIGateway == nil && !e.Messages:
				d.checkFrom(c, "gateway.endpoints."+route, e.From)
			}
			if c.Gateway.Page != "" && (route == "/" || strings.HasPrefix(route, "/map/")) {
				d.problemAt("gateway.endpoints."+route, "%q is where the page is; choose another path", route)
			}
		}
	}
	if c.Gateway != nil && c.Admin != nil && sameAddress(c.Gateway.Listen, c.Admin.Listen) {
		d.problemAt("admin.listen", "%q is the gateway's address, too; choose another port", c.Admin.Listen)
	}
	if c.Gateway != nil && c.Gateway.Presence != nil {
		d.checkInto(c, "gateway.presence", c.Gateway.Presence.Into)
	}
	if c.DrainTimeout <= 0 {
		d.problemAt("drain_timeout", "must be positive, such as 30s")
	}
	d.declare(c, DeadStream)
	if c.Gateway != nil && c.Gateway.Journal() == gateway.ConnectionsStream {
		d.declare(c, gateway.ConnectionsStream)
	}
}

// checkIngest reports sources that take posts at the same place, or where something else listens.
func (d *decoder) checkIngest(c *Config) {
	type endpoint struct{ listen, stream string }
	taken := map[endpoint]string{}
	for name, s := range sorted(c.Sources) {
		if s.HTTP == nil {
			continue
		}
		key := join(join("sources", name), "http.listen")
		if c.Gateway != nil && sameAddress(s.HTTP.Listen, c.Gateway.Listen) {
			d.problemAt(key, "%q is the gateway's address, too; choose another port", s.HTTP.Listen)
		}
		if c.Admin != nil && sameAddress(s.HTTP.Listen, c.Admin.Listen) {
			d.problemAt(key, "%q is the admin listener's address, too; choose another port", s.HTTP.Listen)
		}
		for other, o := range sorted(c.Sources) {
			if other < name && o.HTTP != nil && o.HTTP.Listen != s.HTTP.Listen && sameAddress(o.HTTP.Listen, s.HTTP.Listen) {
				d.problemAt(key, "%q collides with %q of the source %q; write the same address to share a listener", s.HTTP.Listen, o.HTTP.Listen, other)
			}
			if other < name && o.HTTP != nil && o.HTTP.Listen == s.HTTP.Listen && !reflect.DeepEqual(o.HTTP.Listener, s.HTTP.Listener) {
				d.problemAt(key, "the source %q listens there, too, with another tls, proxy_protocol or trusted_proxies; "+
					"write the same or choose another port", other)
			}
		}
		at := endpoint{s.HTTP.Listen, s.Into}
		if other, ok := taken[at]; ok && s.Into != "" {
			d.problemAt(join(join("sources", name), "into"), "the source %q takes posts for %q at the same address; "+
				"choose another stream or another listen", other, s.Into)
		}
		taken[at] = name
	}
}

// checkName reports a name that could not stand in a file name, a metric's label or a producer's name.
func (d *decoder) checkName(section, name string) {
	bad := name == "" || len(name) > 64 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" ||
		name[0] == '-' || name[0] == '_'
	if !bad {
		return
	}
	hint := ""
	if s := plainName(name); s != "" && s != name {
		hint = fmt.Sprintf("; write %q", s)
	}
	d.problemAt(join(section, name), "%.80q is no name: 1 to 64 lower-case letters, digits, hyphens and underscores%s", name, hint)
}

// plainName makes a name of what was written.
func plainName(name string) string {
	s := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '-', r == '_':
			return r
		case r == ' ' || r == '.' || r == '/':
			return '-'
		}
		return -1
	}, strings.ToLower(name))
	s = strings.TrimLeft(s, "-_")
	return s[:min(len(s), 64)]
}

// checkInto reports an output that is missing, not declared, or reserved.
func (d *decoder) checkInto(c *Config, section, stream string) {
	key := join(section, "into")
	switch _, declared := c.Streams[stream]; {
	case stream == "":
		d.problemAt(key, "is missing; name the stream that takes the events")
	case stream == DeadStream:
		d.problemAt(key, "%q takes dead letters only; name another stream", stream)
	case !declared:
		d.dangling(c, key, stream, false)
	}
}

// checkFrom reports an input that is missing or not declared.
func (d *decoder) checkFrom(c *Config, section, stream string) {
	key := join(section, "from")
	switch _, declared := c.Streams[stream]; {
	case stream == "":
		d.problemAt(key, "is missing; name the stream to read")
	case stream != DeadStream && !declared:
		d.dangling(c, key, stream, true)
	}
}

func (d *decoder) dangling(c *Config, key, stream string, reads bool) {
	known := slices.Collect(maps.Keys(c.Streams))
	if reads {
		known = append(known, DeadStream)
	}
	hint := fmt.Sprintf("; declare it under streams: {%s: {}}", stream)
	if s := closest(stream, known); s != "" {
		hint = fmt.Sprintf("; did you mean %q?", s)
	}
	if _, ok := d.hidden[key]; ok {
		hint = "" // it quotes the value
	}
	d.problemAt(key, "no stream %.80q is declared%s", stream, verbatim(hint))
}

// checkCycles reports each loop of queries once, at the query that closes it.
func (d *decoder) checkCycles(c *Config) {
	names := slices.Sorted(maps.Keys(c.Queries))
	done := map[string]bool{} // streams that lead into no loop, or into one that was reported
	var trail []string        // stream, query, stream, query...
	var follow func(stream string)
	follow = func(stream string) {
		if i := slices.Index(trail, stream); i >= 0 && i%2 == 0 {
			loop := append(slices.Clone(trail[i:]), stream)
			closing := loop[len(loop)-2]
			d.problemAt(join(join("queries", closing), "into"), "the stream %q feeds itself: %s", stream, strings.Join(loop, " → "))
			return
		}
		if done[stream] || len(trail) > 2*len(names) {
			return
		}
		for _, q := range names {
			if c.Queries[q].Query.From == stream && c.Queries[q].Query.Into != "" {
				trail = append(trail, stream, q)
				follow(c.Queries[q].Query.Into)
				trail = trail[:len(trail)-2]
			}
		}
		done[stream] = true
	}
	for _, q := range names {
		if from := c.Queries[q].Query.From; from != "" {
			follow(from)
		}
	}
}

func (d *decoder) checkArchives(c *Config) {
	type destination struct{ disk, prefix, from string }
	taken := map[destination]string{}
	for name, a := range sorted(c.Archives) {
		d.checkName("archives", name)
		section := join("archives", name)
		d.checkFrom(c, section, a.Archive.From)
		if a.To.Disk == "" {
			d.problemAt(join(section, "to"), "is missing; it says where the objects go: to: {disk: DIRECTORY}")
			continue
		}
		place := destination{disk: path.Clean(a.To.Disk), prefix: a.Archive.Prefix, from: a.Archive.From}
		if other, ok := taken[place]; ok {
			d.problemAt(join(section, "to"), "the archive %q writes the same stream to the same place; change the prefix or remove one", other)
			continue
		}
		taken[place] = name
	}
}

// declare declares a stream that need not be declared.
func (d *decoder) declare(c *Config, name string) {
	if _, declared := c.Streams[name]; declared {
		return
	}
	if c.Streams == nil {
		c.Streams = map[string]nats.StreamConfig{}
	}
	var s nats.StreamConfig
	setDefaultsOf(&s)
	c.Streams[name] = s
}

// sameAddress says whether two listeners are sure to collide.
func sameAddress(a, b string) bool {
	hostA, portA, errA := net.SplitHostPort(a)
	hostB, portB, errB := net.SplitHostPort(b)
	if errA != nil || errB != nil || portA != portB || portA == "0" {
		return false
	}
	everywhere := func(host string) bool { ip := net.ParseIP(host); return host == "" || ip != nil && ip.IsUnspecified() }
	return hostA == hostB || everywhere(hostA) || everywhere(hostB)
}

// sorted yields a map's entries by name.
func sorted[V any](m map[string]V) func(yield func(string, V) bool) {
	return func(yield func(string, V) bool) {
		for _, name := range slices.Sorted(maps.Keys(m)) {
			if !yield(name, m[name]) {
				return
			}
		}
	}
}

package gateway

import (
	"cmp"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/gateway/apigateway"
	"github.com/millrace/millrace/gateway/auth"
	"github.com/millrace/millrace/gateway/limit"
	"github.com/millrace/millrace/jsonpath"
	"github.com/millrace/millrace/listener"
)

// Config describes the gateway.
type Config struct {
	// Listen is the address to serve on. Port 0 chooses a free one, which is logged.
	Listen string `yaml:"listen"`
	// Listener stands beside it: tls, proxy_protocol, trusted_proxies.
	Listener listener.Config `yaml:",inline"`
	// Page is what / serves: map. None if absent.
	Page string `yaml:"page"`
	// Origins are the exact origins (https://app.example.org) whose pages may connect, besides pages
	// served from the gateway's own host. "*" allows every origin. Clients that send no Origin are no
	// browsers and are not held to it.
	Origins []string `yaml:"origins"`
	// Auth says who may connect; an endpoint may say otherwise. Everyone if absent.
	Auth *auth.Config `yaml:"auth"`
	// Limits bound what one client may take.
	Limits limit.Config `yaml:"limits"`
	// Presence writes an event for each connection that comes and goes. None if absent, but for endpoints
	// of API Gateway, which need it: then into is connections, a stream that need not be declared.
	Presence *Presence `yaml:"presence"`
	// Endpoints by path.
	Endpoints map[string]Endpoint `yaml:"endpoints"`
	// Ping is how often a quiet connection hears a ping (WebSocket) or a comment (SSE). A client that
	// answers none or takes no byte for twice as long is cut. Default 25s.
	Ping time.Duration `yaml:"ping"`
	// Queue bounds what waits for one connection, in bytes, beyond what its socket has taken; a client
	// that falls further behind is cut. An event larger than the queue still goes to a client whose
	// queue is empty. Default 64KiB, at least 4KiB.
	Queue int64 `yaml:"queue,size"`
	// Compression offers permessage-deflate (RFC 7692) to WebSocket clients that ask for it. An event is
	// compressed once for all of them. Default true.
	Compression bool `yaml:"compression"`
	// ReplayCache bounds the memory for recent blocks, in bytes, with what is made of them: clients that come
	// back find there what they have missed, and share what has to be read. 0 keeps nothing. Default 64MiB.
	ReplayCache int64 `yaml:"replay_cache,size"`
	// MaxConnections bounds the connections of all endpoints together; over it new ones are answered
	// 503. Default 100000.
	MaxConnections int `yaml:"max_connections"`
	// Drain is the longest time over which a gateway that ends spreads the closing of its connections, so
	// that their clients do not all come back at once. Few connections take less. Default 5s.
	Drain time.Duration `yaml:"drain"`
}

// Endpoint serves a stream's events at a path. One segment of the path may be {NAME}: what stands there is
// the key, as in /vehicles/{id}.
type Endpoint struct {
	// From is the stream. Without it, and with messages: true, a client subscribes by messages to other
	// endpoints.
	From string `yaml:"from"`
	// Key says where a client names the key it wants: "query:NAME", a parameter of the query string.
	// Without the parameter it gets every key; given several times, several keys. Or "claim:NAME", a claim
	// of its token, a dotted path: then it sees no other keys than those.
	Key string `yaml:"key"`
	// Messages says that there is no stream: a connection begins with no subscription.
	Messages bool `yaml:"messages"`
	// Latest lets clients begin with the newest event of each key (since=latest). The newest events are kept
	// in memory, some 240 bytes each beside the event itself, and in snapshots.
	Latest bool `yaml:"latest"`
	// LatestKeys bounds the keys whose newest event is kept; beyond it the one that was updated longest ago
	// is forgotten. Default 1000000.
	LatestKeys int `yaml:"latest_keys"`
	// Location says where the position of an event's object stands, so that clients can ask for an area.
	// It implies latest.
	Location *Location `yaml:"location"`
	// Queue bounds what waits for one connection, instead of the gateway's.
	Queue int64 `yaml:"queue,size"`
	// Slow says what becomes of a client that does not take events as fast as they come, when they are more than
	// the queue: disconnect (it is cut, and resumes), drop_oldest (the events that wait longest are dropped), or
	// newest_per_key (of the events that wait only the newest of each key is kept; then as drop_oldest). A client
	// is told how many events were dropped. An event that waits counts some 140 bytes beside its own where events may
	// be dropped. Default disconnect.
	Slow string `yaml:"slow"`
	// Auth says who may connect, instead of the gateway's.
	Auth *auth.Config `yaml:"auth"`
	// APIGateway makes the endpoint behave like an API Gateway WebSocket API. It stands alone, or beside auth
	// and queue, and slow if it subscribes.
	APIGateway *apigateway.Config `yaml:"apigateway"`
}

// ConnectionsStream is the stream that takes presence events if the configuration names none.
const ConnectionsStream = "connections"

// Journal is the stream that takes presence events; "" if there are none.
func (c *Config) Journal() string {
	if c.Presence != nil {
		return c.Presence.Into
	}
	for _, e := range c.Endpoints {
		if e.APIGateway != nil {
			return ConnectionsStream
		}
	}
	return ""
}

// Source is the stream whose events the endpoint pushes; "" if it pushes none by itself.
func (e Endpoint) Source() string {
	if e.APIGateway != nil && e.APIGateway.Subscribe != nil {
		return e.APIGateway.Subscribe.From
	}
	return e.From
}

// Tables are the streams whose newest events are kept.
func (c *Config) Tables() map[string]bool {
	tables := map[string]bool{}
	if journal := c.Journal(); journal != "" {
		tables[journal] = true
	}
	for _, e := range c.Endpoints {
		if e.latest() {
			tables[e.From] = true
		}
	}
	return tables
}

// defaultLatestKeys is how many keys a table has if nothing is said.
const defaultLatestKeys = 1_000_000

// latest says whether the newest event of each key is kept.
func (e Endpoint) latest() bool { return e.Latest || e.Location != nil }

func (e Endpoint) latestKeys() int {
	if e.LatestKeys > 0 {
		return e.LatestKeys
	}
	return defaultLatestKeys
}

// SetDefaults sets what the configuration may leave out.
func (c *Config) SetDefaults() {
	c.Listen = "127.0.0.1:8080"
	c.Ping = 25 * time.Second
	c.Queue = 64 << 10
	c.Compression = true
	c.ReplayCache = 64 << 20
	c.MaxConnections = 100_000
	c.Drain = 5 * time.Second
	c.Limits.SetDefaults()
}

// The least values that make sense.
const (
	leastQueue = 4 << 10
	leastPing  = 10 * time.Millisecond
)

// Validate reports every problem with the dotted path of its key. Whether the streams exist is the
// business of the configuration as a whole; New checks it again.
func (c *Config) Validate(problem func(path, format string, args ...any)) {
	if !listener.IsAddress(c.Listen) {
		problem("listen", "%q is not HOST:PORT; write 127.0.0.1:8080, or :8080 for every address", c.Listen)
	}
	if c.Page != "" && c.Page != "map" {
		problem("page", "%q is no page; the only one is map (or leave the key out)", c.Page)
	}
	for _, origin := range c.Origins {
		if origin != "*" && !exactOrigin(origin) {
			problem("origins", "%q is not an exact origin; write scheme://host or scheme://host:port, "+
				"such as https://app.example.org, or \"*\" for every origin", origin)
		}
	}
	below := func(section string) func(path, format string, args ...any) {
		return func(path, format string, args ...any) {
			problem(strings.TrimSuffix(section+"."+path, "."), format, args...)
		}
	}
	c.Listener.Validate(problem)
	if c.Auth != nil {
		c.Auth.Validate(below("auth"))
		validateToken(c.Auth, below("auth"))
	}
	c.Limits.Validate(below("limits"))
	if c.Presence != nil && c.Presence.Into == "" {
		problem("presence.into", "it is missing; write the name of a stream")
	}
	if c.Auth != nil && c.Auth.UsesCookie() && slices.Contains(c.Origins, "*") {
		problem("auth.token.cookie", "browsers send cookies for pages of every origin, and origins allow all; list the origins, or take the token elsewhere")
	}
	if len(c.Endpoints) == 0 && c.Page == "" {
		problem("endpoints", "there are none; write at least one, such as /vehicles: {from: STREAM, key: \"query:VehicleID\"}")
	}
	for path, e := range c.Endpoints {
		a := cmp.Or(e.Auth, c.Auth)
		if a != nil && a.Token.Query != "" && e.Key == "query:"+a.Token.Query {
			problem("endpoints."+path+".key", "%q is the parameter of the token, too; choose another name", e.Key)
		}
		if strings.HasPrefix(e.Key, "claim:") && (a == nil || a.Open) {
			problem("endpoints."+path+".key", "%q needs a token, and none is asked for: nobody could connect; write auth", e.Key)
		}
		if e.Auth != nil && e.Auth.UsesCookie() && slices.Contains(c.Origins, "*") {
			problem("endpoints."+path+".auth.token.cookie", "browsers send cookies for pages of every origin, and origins allow all; "+
				"list the origins, or take the token elsewhere")
		}
		e.validate(path, func(key, format string, args ...any) {
			at := "endpoints." + path
			if key != "" {
				at += "." + key
			}
			problem(at, format, args...)
		})
	}
	if c.Ping < leastPing {
		problem("ping", "%s is too short; write a duration of at least %s, such as 25s", c.Ping, leastPing)
	}
	if c.Queue < leastQueue || c.Queue > 1<<30 {
		problem("queue", "%d bytes are out of range; write a size from 4KiB to 1GiB, such as 64KiB", c.Queue)
	}
	if c.ReplayCache < 0 || c.ReplayCache > 1<<40 {
		problem("replay_cache", "%d bytes are out of range; write a size such as 64MiB, or 0 to keep nothing", c.ReplayCache)
	}
	if c.MaxConnections < 1 {
		problem("max_connections", "%d is too few; write a number of at least 1", c.MaxConnections)
	}
	if c.Drain < 0 {
		problem("drain", "%s is negative; write a duration such as 5s, or 0s to close all connections at once", c.Drain)
	}
}

func (e Endpoint) validate(path string, problem func(key, format string, args ...any)) {
	if u, err := url.Parse(path); !strings.HasPrefix(path, "/") || err != nil || u.Path != path || !wellPlaced(path) {
		problem("", "%q is no path; write it with a leading slash and without ?, # or %%, such as /vehicles, "+
			"with a segment for the key if you like, such as /vehicles/{id}", path)
	}
	if e.Auth != nil {
		inAuth := func(key, format string, args ...any) {
			problem(strings.TrimSuffix("auth."+key, "."), format, args...)
		}
		e.Auth.Validate(inAuth)
		validateToken(e.Auth, inAuth)
	}
	if e.Queue != 0 && (e.Queue < leastQueue || e.Queue > 1<<30) {
		problem("queue", "%d bytes are out of range; write a size from 4KiB to 1GiB, such as 64KiB", e.Queue)
	}
	switch e.Slow {
	case "", Disconnect, DropOldest, NewestPerKey:
	default:
		problem("slow", "%q is not known; write %s, %s or %s", e.Slow, Disconnect, DropOldest, NewestPerKey)
	}
	if e.LatestKeys < 0 || e.LatestKeys > 0 && !e.latest() {
		problem("latest_keys", "%d makes no sense here; write a positive number beside latest: true", e.LatestKeys)
	}
	if api := e.APIGateway; api != nil {
		if e.From != "" || e.Key != "" || e.Messages || e.latest() || strings.Contains(path, "{") {
			problem("apigateway", "it stands alone: leave from, key, messages, latest, location and {...} in the path out; "+
				"what is pushed to its clients is said by apigateway.subscribe")
			return
		}
		api.Validate(func(key, format string, args ...any) { problem("apigateway."+key, format, args...) })
		if api.Subscribe == nil && e.Slow != "" {
			problem("slow", "%q has no effect here; it is about the events of apigateway.subscribe", e.Slow)
		}
		if api.Subscribe != nil {
			e.From, e.Key = api.Subscribe.From, api.Subscribe.Key
			e.validateKey(path, func(key, format string, args ...any) { problem("apigateway.subscribe."+key, format, args...) })
		}
		return
	}
	switch {
	case e.Messages && (e.From != "" || e.Key != "" || e.latest()):
		problem("messages", "true says that there is no stream; leave from, key, latest and location out, or messages")
	case e.From == "" && !e.Messages:
		problem("from", "it is missing; write the name of a stream")
	}
	if e.Messages && e.Slow != "" {
		problem("slow", "%q has no effect here; write it at the endpoints to which clients subscribe by messages", e.Slow)
	}
	if e.Location != nil {
		for name, path := range map[string]string{"lat": e.Location.Lat, "lon": e.Location.Lon} {
			if _, err := jsonpath.Compile(path); err != nil || path == "" {
				problem("location."+name, "%q is no path into the data; write one such as position.%s", path, name)
			}
		}
	}
	e.validateKey(path, problem)
}

func (e Endpoint) validateKey(path string, problem func(key, format string, args ...any)) {
	if e.Key == "" {
		return
	}
	claim, claimed := strings.CutPrefix(e.Key, "claim:")
	name, found := strings.CutPrefix(e.Key, "query:")
	switch {
	case strings.Contains(path, "{"):
		problem("key", "%q is one too many: the path names the key", e.Key)
	case claimed && e.APIGateway == nil:
		if claim == "" {
			problem("key", "%q does not say which claim; write such as \"claim:vehicle\"", e.Key)
		}
	case !found || name == "" || strings.ContainsAny(name, "&=#;+% \t\r\n"):
		problem("key", "%q does not say where the key stands; write \"query:NAME\", NAME being a parameter "+
			"of the query string such as VehicleID, or \"claim:NAME\", a claim of the token", e.Key)
	case reserved(name):
		problem("key", "%q is taken: the parameter %s has a meaning of its own; choose another name", e.Key, name)
	}
}

// validateToken keeps the token from a parameter that says something else. What else is wrong with it, auth knows.
func validateToken(a *auth.Config, problem func(key, format string, args ...any)) {
	if reserved(a.Token.Query) {
		problem("token.query", "%q is taken: the parameter has a meaning of its own; choose another name", a.Token.Query)
	}
}

// wellPlaced says whether braces stand around one whole segment, or nowhere.
func wellPlaced(path string) bool {
	keys := 0
	for segment := range strings.SplitSeq(path, "/") {
		switch inner := strings.Trim(segment, "{}"); {
		case segment == inner:
		case segment == "{"+inner+"}" && inner != "":
			keys++
		default:
			return false
		}
	}
	return keys <= 1
}

// exactOrigin says whether s is what a browser sends as Origin: a scheme, a host in lower case, and a
// port unless it is the scheme's own (RFC 6454, section 6.2).
func exactOrigin(s string) bool {
	u, err := url.Parse(s)
	return err == nil && u.Scheme != "" && u.Host != "" && u.Hostname() != "" &&
		s == u.Scheme+"://"+u.Host && s == strings.ToLower(s) &&
		(u.Scheme != "https" || u.Port() != "443") && (u.Scheme != "http" || u.Port() != "80") &&
		!strings.Contains(u.Host, "*")
}

package sse

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/jsonpath"
)

// Config describes one feed.
type Config struct {
	// Preset sets what a well-known feed needs: wikimedia, mbta, firebase; generic (the default) sets
	// nothing. Whatever is written besides wins. The pages in docs/feeds say what each one sets, also of
	// the keys beside sse (key, time).
	Preset string `yaml:"preset"`
	// URL of the feed, http or https. Required, unless the preset has one. Its query string may hold secrets
	// and is never logged.
	URL string `yaml:"url"`
	// Headers sent with every request, in place of the source's own of the same name (Accept,
	// User-Agent...). Values may hold secrets: they are never logged, and when a feed redirects to
	// another host, that one gets none of them but User-Agent.
	Headers map[string]string `yaml:"headers,secret"`
	// Types are the SSE event types to keep; all if absent. What is dropped still moves the cursor.
	Types []string `yaml:"types"`
	// Drop says which events are dropped: PATH=VALUE, such as meta.domain=canary, where the path is one
	// into the event's JSON data, or =TEXT for events whose whole data is that text. Like those of other
	// types they are a sign of life and move the cursor.
	Drop []string `yaml:"drop"`
	// Resume says how the feed goes on after an interruption.
	Resume Resume `yaml:"resume"`
	// Rewind begins each connection so much before where the last one stood, for feeds whose own resume
	// loses events. The feed's ids, or the values of resume.from, must be times: RFC 3339, or Unix
	// seconds to nanoseconds by magnitude, or a JSON array of objects with topic, partition and such a
	// timestamp. Needs dedupe.
	Rewind time.Duration `yaml:"rewind"`
	// Dedupe is the dotted path of an id inside each event's JSON data, a string or a number. It becomes
	// the event's ID, and an event that has come already is dropped, also after a restart. What is
	// remembered is what rewind may bring again; without times in the ids, the last ten minutes. An array,
	// also one that is split afterwards, is one event. An event in which the path leads nowhere, as in an
	// array, is known by all that it holds. Cannot be had with resume.snapshot and resume.none.
	Dedupe string `yaml:"dedupe"`
	// ReadTimeout: no byte for this long means a stalled connection, which is replaced. 0 = never.
	// Default 60s.
	ReadTimeout time.Duration `yaml:"read_timeout"`
	// MaxConnection replaces a connection that has lasted so long before the feed cuts it: the next one
	// is opened, and goes on where the first one stands, before the first one is closed. 0 = never, the
	// default. It waits for the next bytes after that time. It cannot be had with resume.none: what the feed
	// sends between the last read from the old connection and the beginning of the new one would be lost
	// each time, while a feed that is left to end its connections loses no more than it must.
	MaxConnection time.Duration `yaml:"max_connection"`
	// Proxy is the URL of an HTTP, HTTPS or SOCKS5 proxy. Absent: those of the environment
	// (HTTPS_PROXY, HTTP_PROXY, NO_PROXY). May hold user and password.
	Proxy string `yaml:"proxy"`
	// TLS says whom to trust, and who we are.
	TLS TLS `yaml:"tls"`
	// AllowPrivate lets the feed redirect to private, loopback and link-local addresses, which is refused
	// unless the url leads to such an address itself.
	AllowPrivate bool `yaml:"allow_private"`
	// ReportEvery logs how many events arrived, this often. 0 = never, the default.
	ReportEvery time.Duration `yaml:"report_every"`
	// EventLimit bounds the data of one event; what is over it becomes a dead letter. Default 8MiB.
	EventLimit int64 `yaml:"event_limit,size"`
}

// Resume says how a feed goes on after an interruption. Empty: by Last-Event-ID, as the standard says.
// At most one of query, snapshot and none may be set.
type Resume struct {
	// Query is the name of a parameter of the url that says where to go on (since, cursor,
	// starting_after); the header Last-Event-ID is not sent then.
	Query string `yaml:"query"`
	// From is where the parameter's value is found: the dotted path of a string or a number in the
	// event's JSON data. Absent: the event's own id, as Last-Event-ID would carry it.
	From string `yaml:"from"`
	// Snapshot names the format of a feed that sends its whole state instead of going on: mbta (reset,
	// add, update, remove) or firebase (put, patch). Each object becomes an event of its own with the
	// type add, update or remove, and of a snapshot only what has changed becomes events: also what
	// changed and what ended while nobody listened. The source's own blocks tell what was known.
	Snapshot string `yaml:"snapshot"`
	// Key is the dotted path of the key in an mbta object. Default id.
	Key string `yaml:"key"`
	// None says that the feed cannot resume. The first event after each gap has the attributes gap_from
	// and gap_to (RFC 3339), the log has a warning, and metrics count the gaps and their seconds.
	None bool `yaml:"none"`
}

// TLS is how connections to the feed are secured. Certificates are always verified.
type TLS struct {
	// CA is a file of certificates (PEM) that are trusted instead of the system's.
	CA string `yaml:"ca,path"`
	// Cert and Key are files (PEM) of a client certificate, with its chain, and its key.
	Cert string `yaml:"cert,path"`
	Key  string `yaml:"key,path"`
}

// Validate reports every problem with the path of its key.
func (c *TLS) Validate(problem func(path, format string, args ...any)) {
	if c.Cert != "" && c.Key == "" {
		problem("key", "is missing: the file with the key of cert")
	}
	if c.Key != "" && c.Cert == "" {
		problem("cert", "is missing: the file with the certificate of key")
	}
}

// Validate reports every problem with the path of its key.
func (r *Resume) Validate(problem func(path, format string, args ...any)) {
	ways := 0
	for _, set := range []bool{r.Query != "", r.Snapshot != "", r.None} {
		if set {
			ways++
		}
	}
	if ways > 1 {
		problem("", "takes only one of query, snapshot and none")
	}
	if r.Snapshot != "" && r.Snapshot != formatMBTA && r.Snapshot != formatFirebase {
		problem("snapshot", "%q is no format; write mbta or firebase", r.Snapshot)
	}
	if r.From != "" && r.Query == "" {
		problem("from", "%q needs query: the name of the parameter that gets the value", r.From)
	}
	checkPath(problem, "from", r.From)
	checkPath(problem, "key", r.Key)
}

func checkPath(problem func(path, format string, args ...any), key, path string) {
	if path == "" {
		return
	}
	if _, err := jsonpath.Compile(path); err != nil {
		problem(key, "%v", err)
	}
}

// SetDefaults sets what the configuration may leave out.
func (c *Config) SetDefaults() {
	c.ReadTimeout = 60 * time.Second
	c.EventLimit = 8 << 20
}

// Validate reports every problem with the path of its key.
func (c *Config) Validate(problem func(path, format string, args ...any)) {
	if _, known := presets[c.Preset]; !known {
		problem("preset", "%.80q is none; write wikimedia, mbta, firebase or generic", c.Preset)
	}
	switch u, err := url.Parse(c.URL); {
	case c.URL == "":
		problem("url", "a feed needs a url, such as https://example.org/events")
	case err != nil:
		problem("url", "not a URL") // the text may hold a secret
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		problem("url", "must begin with http:// or https:// and name a host")
	}
	for name, value := range c.Headers {
		switch {
		case name == "" || strings.ContainsFunc(name, notToken):
			problem("headers."+name, "is no name of a header: letters, digits and hyphens, such as x-api-key")
		case http.CanonicalHeaderKey(name) == "Last-Event-Id":
			problem("headers."+name, "is sent by the source itself, from the stored cursor")
		case !sendable([]byte(value)) && len(value) <= maxID: // the value may be a secret
			problem("headers."+name, "holds a control character, perhaps a line break at its end: remove it")
		}
	}
	for i, t := range c.Types {
		if t == "" {
			problem("types."+strconv.Itoa(i), "is empty; events without a type of their own have the type message")
		}
	}
	for i, rule := range c.Drop {
		if path, _, ok := strings.Cut(rule, "="); !ok {
			problem("drop."+strconv.Itoa(i), "%q is no rule; write PATH=VALUE, such as meta.domain=canary", rule)
		} else {
			checkPath(problem, "drop."+strconv.Itoa(i), path)
		}
	}
	checkPath(problem, "dedupe", c.Dedupe)
	switch {
	case c.Rewind < 0:
		problem("rewind", "%s is negative", c.Rewind)
	case c.Rewind > 0 && c.Dedupe == "":
		problem("rewind", "%s brings events twice; name the id inside them: dedupe: PATH", c.Rewind)
	}
	if c.Dedupe != "" && (c.Resume.Snapshot != "" || c.Resume.None) {
		problem("dedupe", "%q is of no use with resume.snapshot and resume.none", c.Dedupe)
	}
	if c.ReadTimeout < 0 {
		problem("read_timeout", "%s is negative; 0 means never", c.ReadTimeout)
	}
	switch {
	case c.MaxConnection < 0:
		problem("max_connection", "%s is negative; 0 means never", c.MaxConnection)
	case c.MaxConnection > 0 && c.MaxConnection < time.Second:
		problem("max_connection", "%s is too short; write some minutes less than the feed allows, such as 14m", c.MaxConnection)
	case c.MaxConnection > 0 && c.Resume.None:
		problem("max_connection", "%s would lose events where the feed cannot resume (resume.none); remove one", c.MaxConnection)
	}
	if c.Proxy != "" {
		if u, err := url.Parse(c.Proxy); err != nil {
			problem("proxy", "not a URL") // the text may hold a secret
		} else if u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "socks5" || u.Host == "" {
			problem("proxy", "must begin with http://, https:// or socks5:// and name a host")
		}
	}
	if c.ReportEvery < 0 {
		problem("report_every", "%s is negative; 0 means never", c.ReportEvery)
	}
	if c.EventLimit <= 0 {
		problem("event_limit", "must be positive, such as 8MiB")
	}
}

// notToken says whether a character may not stand in a header's name (RFC 9110, section 5.6.2).
func notToken(c rune) bool {
	return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("!#$%&'*+-.^_`|~", c)
}

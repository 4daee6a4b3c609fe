package sse

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Config describes one feed.
type Config struct {
	// URL of the feed, http or https. Required. Its query string may hold secrets and is never logged.
	URL string `yaml:"url"`
	// Headers sent with every request, in place of the source's own of the same name (Accept,
	// User-Agent...). Values may hold secrets: they are never logged, and when a feed redirects to
	// another host, that one gets none of them but User-Agent.
	Headers map[string]string `yaml:"headers,secret"`
	// Types are the SSE event types to keep; all if absent. What is dropped still moves the cursor.
	Types []string `yaml:"types"`
	// ReadTimeout: no byte for this long means a stalled connection, which is replaced. 0 = never.
	// Default 60s.
	ReadTimeout time.Duration `yaml:"read_timeout"`
	// ReportEvery logs how many events arrived, this often. 0 = never, the default.
	ReportEvery time.Duration `yaml:"report_every"`
	// EventLimit bounds the data of one event; what is over it becomes a dead letter. Default 8MiB.
	EventLimit int64 `yaml:"event_limit,size"`
}

// SetDefaults sets what the configuration may leave out.
func (c *Config) SetDefaults() {
	c.ReadTimeout = 60 * time.Second
	c.EventLimit = 8 << 20
}

// Validate reports every problem with the path of its key.
func (c *Config) Validate(problem func(path, format string, args ...any)) {
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
	if c.ReadTimeout < 0 {
		problem("read_timeout", "%s is negative; 0 means never", c.ReadTimeout)
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

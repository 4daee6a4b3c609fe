package sse

import (
	"net/http"
	"net/url"
	"time"
)

// Config describes one feed.
type Config struct {
	// URL of the feed, http or https. Required. Its query string may hold secrets and is never logged.
	URL string `yaml:"url"`
	// Headers sent with every request. Values may hold secrets.
	Headers map[string]string `yaml:"headers"`
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
	for name := range c.Headers {
		if http.CanonicalHeaderKey(name) == "Last-Event-Id" {
			problem("headers."+name, "is sent by the client itself, from the stored cursor")
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

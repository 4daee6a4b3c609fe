package sse

import (
	"maps"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/millrace/millrace/mapping"
)

// preset is what a well-known feed needs. The zero value of a field sets nothing.
type preset struct {
	url           string
	headers       map[string]string
	drop          []string
	resume        Resume
	rewind        time.Duration
	dedupe        string
	readTimeout   time.Duration // some of the feed's heartbeats
	maxConnection time.Duration
	eventLimit    int64
	mapping       func(u *url.URL) mapping.Config
}

var presets = map[string]preset{
	"":        {},
	"generic": {},

	"wikimedia": {
		url: "https://stream.wikimedia.org/v2/stream/recentchange",
		// Without a User-Agent that names a contact it answers 403.
		headers: map[string]string{"User-Agent": "millrace (https://github.com/millrace/millrace)"},
		drop:    []string{"meta.domain=canary"},
		// Events of the millisecond in which a connection ends are lost by Last-Event-ID alone, and its
		// servers' copies of the history may differ by some seconds.
		rewind: 5 * time.Second, dedupe: "meta.id",
		readTimeout:   60 * time.Second,
		maxConnection: 14 * time.Minute, // it cuts after 15
		mapping: func(*url.URL) mapping.Config {
			return mapping.Config{Key: "meta.domain", Time: "meta.dt"}
		},
	},

	"mbta": {
		url:         "https://api-v3.mbta.com/vehicles",
		resume:      Resume{Snapshot: formatMBTA, Key: "id"},
		readTimeout: 60 * time.Second, // at night nothing but keep-alives comes
		eventLimit:  64 << 20,         // a reset of many predictions is one event
		mapping: func(u *url.URL) mapping.Config {
			m := mapping.Config{Key: "id"}
			if strings.HasSuffix(u.Path, "/vehicles") { // predictions do not say when they were made
				m.Time = "attributes.updated_at"
			}
			return m
		},
	},

	"firebase": {
		resume:      Resume{Snapshot: formatFirebase},
		readTimeout: 75 * time.Second, // keep-alive comes every 30
		eventLimit:  64 << 20,         // the first put is the whole location
	},
}

// ApplyPreset sets what the preset says, where set says that the key is not in the configuration. Keys
// of structs inside are dotted. The ways to resume are set together: who sets one sets all.
func (c *Config) ApplyPreset(set func(key string) bool) {
	p := presets[c.Preset]
	if p.url != "" && !set("url") {
		c.URL = p.url
	}
	for name, value := range p.headers {
		c.addHeader(name, value)
	}
	if p.drop != nil && !set("drop") {
		c.Drop = p.drop
	}
	if !set("resume") {
		if p.resume != (Resume{}) {
			c.Resume = p.resume
		}
		if p.dedupe != "" && !set("dedupe") {
			c.Dedupe = p.dedupe
		}
		if p.rewind > 0 && !set("rewind") && c.Dedupe != "" {
			c.Rewind = p.rewind
		}
	}
	if p.readTimeout > 0 && !set("read_timeout") {
		c.ReadTimeout = p.readTimeout
	}
	if p.maxConnection > 0 && !set("max_connection") && !c.Resume.None {
		c.MaxConnection = p.maxConnection
	}
	if p.eventLimit > 0 && !set("event_limit") {
		c.EventLimit = p.eventLimit
	}
}

// addHeader adds a header unless there is one of that name.
func (c *Config) addHeader(name, value string) {
	for own := range c.Headers {
		if strings.EqualFold(http.CanonicalHeaderKey(own), name) {
			return
		}
	}
	with := map[string]string{name: value}
	maps.Copy(with, c.Headers)
	c.Headers = with
}

// ApplyMapping sets what the preset says about the keys beside sse, where set says that they are not in
// the configuration.
func (c *Config) ApplyMapping(m *mapping.Config, set func(key string) bool) {
	p := presets[c.Preset]
	u, err := url.Parse(c.URL)
	if p.mapping == nil || err != nil {
		return
	}
	preset := p.mapping(u)
	if !set("key") {
		m.Key = preset.Key
	}
	if !set("time") {
		m.Time = preset.Time
	}
}

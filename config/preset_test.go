package config

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// parsePreset returns the source of a configuration whose source has these keys.
func parsePreset(t *testing.T, keys string) (Source, error) {
	t.Helper()
	text := "streams: {s: {}}\nsources:\n  a:\n    into: s\n    " + strings.ReplaceAll(keys, "\n", "\n    ") + "\n"
	c, err := Parse("x.yaml", []byte(text), func(string) (string, bool) { return "", false })
	if err != nil {
		return Source{}, err
	}
	wantSameWhenPrinted(t, c, nil)
	return c.Sources["a"], nil
}

// TestPresets: they set what is not written, and nothing that is.
func TestPresets(t *testing.T) {
	s, err := parsePreset(t, "sse: {preset: wikimedia}")
	if err != nil {
		t.Fatal(err)
	}
	if s.SSE.URL == "" || s.SSE.Rewind != 5*time.Second || s.SSE.Dedupe != "meta.id" || s.SSE.MaxConnection != 14*time.Minute ||
		s.SSE.Headers["User-Agent"] == "" || fmt.Sprint(s.SSE.Drop) != "[meta.domain=canary]" || s.Mapping.Key != "meta.domain" || s.Mapping.Time != "meta.dt" {
		t.Errorf("wikimedia: %+v %+v", s.SSE, s.Mapping)
	}
	s, err = parsePreset(t, "key: wiki\ntime: \"\"\nsse: {url: http://h/, max_connection: 0, headers: {user-agent: me, x: y}, drop: [], rewind: 1s, preset: wikimedia}")
	if err != nil {
		t.Fatal(err)
	}
	if s.SSE.URL != "http://h/" || s.SSE.Rewind != time.Second || s.SSE.Dedupe != "meta.id" || s.SSE.MaxConnection != 0 ||
		len(s.SSE.Headers) != 2 || s.SSE.Headers["user-agent"] != "me" || len(s.SSE.Drop) != 0 || s.Mapping.Key != "wiki" {
		t.Errorf("written: %+v %+v", s.SSE, s.Mapping)
	}
	s, err = parsePreset(t, "sse: {preset: wikimedia, resume: {none: true}}")
	if err != nil || s.SSE.Dedupe != "" || s.SSE.Rewind != 0 || s.SSE.MaxConnection != 0 {
		t.Errorf("another way to resume: %+v %v", s.SSE, err)
	}
	for url, time := range map[string]string{"https://api-v3.mbta.com/vehicles": "attributes.updated_at", "https://api-v3.mbta.com/predictions?filter[route]=Red": ""} {
		s, err = parsePreset(t, "sse: {preset: mbta, url: '"+url+"'}")
		if err != nil || s.SSE.Resume.Snapshot != "mbta" || s.Mapping.Key != "id" || s.Mapping.Time != time {
			t.Errorf("mbta: %+v %+v %v", s.SSE, s.Mapping, err)
		}
	}
	s, err = parsePreset(t, "sse: {preset: firebase, url: http://h/x.json}")
	if err != nil || s.SSE.Resume.Snapshot != "firebase" || s.SSE.ReadTimeout != 75*time.Second || s.Mapping.Key != "" {
		t.Errorf("firebase: %+v %+v %v", s.SSE, s.Mapping, err)
	}
	if _, err = parsePreset(t, "sse: {preset: generic, url: http://h/}"); err != nil {
		t.Error(err)
	}
	for keys, want := range map[string]string{
		"sse: {preset: firebase}":                                         "a feed needs a url",
		"sse: {preset: mtba}":                                             `"mtba" is none; write wikimedia, mbta, firebase or generic`,
		"sse: {url: http://h/, resume: {none: true, query: x}}":           "takes only one",
		"sse: {url: http://h/, tls: {cert: x}}":                           "the file with the key of cert",
		"sse: {url: http://h/, tls: {key: x}}":                            "the file with the certificate of key",
		"sse: {url: http://h/, proxy: h}":                                 "must begin with http://",
		"sse: {url: http://h/, max_connection: 10ms}":                     "is too short",
		"sse: {url: http://h/, max_connection: 1m, resume: {none: true}}": "would lose events",
	} {
		if _, err := parsePreset(t, keys); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", keys, err)
		}
	}
}

// TestPresetsArePrinted: whatever a file says beside a preset, also that a value is empty, what is printed
// is the same configuration.
func TestPresetsArePrinted(t *testing.T) {
	type key struct {
		name   string
		values []string // "" leaves it out
	}
	beside := []key{
		{"key", []string{"", "''", "id"}},
		{"time", []string{"", "''", "id"}},
		{"split", []string{"", "false", "true"}},
	}
	keys := []key{
		{"preset", []string{"", "wikimedia", "mbta", "firebase", "generic"}},
		{"url", []string{"", "http://h/vehicles", "http://h/x.json?auth=1", "http://me:you@h/predictions"}},
		{"headers", []string{"", "{}", "{user-agent: me}", "{User-Agent: ''}", "{x: y}"}},
		{"types", []string{"", "[]", "[a, b]"}},
		{"drop", []string{"", "[]", "[a=b]", "['=canary']"}},
		{"resume", []string{
			"", "{}", "{none: true}", "{none: false}", "{query: since}", "{query: since, from: id, key: ''}",
			"{snapshot: mbta}", "{snapshot: mbta, key: n}", "{snapshot: '', key: ''}", "{snapshot: firebase}",
		}},
		{"rewind", []string{"", "0", "1s"}},
		{"dedupe", []string{"", "''", "id"}},
		{"read_timeout", []string{"", "0", "10s"}},
		{"max_connection", []string{"", "0", "1m"}},
		{"proxy", []string{"", "''", "http://me:you@p:1"}},
		{"event_limit", []string{"", "1MiB"}},
	}
	good := 0
	rapid.Check(t, func(t *rapid.T) {
		var text strings.Builder
		text.WriteString("streams: {s: {}}\nsources:\n  a:\n    into: s\n")
		for _, k := range beside {
			if value := rapid.SampledFrom(k.values).Draw(t, k.name); value != "" {
				fmt.Fprintf(&text, "    %s: %s\n", k.name, value)
			}
		}
		text.WriteString("    sse:\n")
		for _, k := range keys {
			if value := rapid.SampledFrom(k.values).Draw(t, k.name); value != "" {
				fmt.Fprintf(&text, "      %s: %s\n", k.name, value)
			}
		}
		c, err := Parse("x.yaml", []byte(text.String()), nil)
		if err != nil {
			return // keys that do not go together
		}
		good++
		wantSameWhenPrinted(t, c, nil)
	})
	if good == 0 {
		t.Error("no configuration was good")
	}
	t.Log(good, "were good")
}

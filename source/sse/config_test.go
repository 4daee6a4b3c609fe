package sse

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestValidate(t *testing.T) {
	for _, c := range []struct {
		change func(*Config)
		want   string // path and a part of the message; "" if there is no problem
	}{
		{func(*Config) {}, ""},
		{func(c *Config) { c.URL = "" }, "url: a feed needs a url"},
		{func(c *Config) { c.URL = "ftp://example.org/" }, "url: must begin with http:// or https://"},
		{func(c *Config) { c.URL = "example.org/x" }, "url: must begin"},
		{func(c *Config) { c.URL = "http://%zz/?token=secret" }, "url: not a URL"},
		{func(c *Config) { c.Headers = map[string]string{"x-api-key": "k"} }, ""},
		{func(c *Config) { c.Headers = map[string]string{"last-event-id": "k"} }, "headers.last-event-id: is sent by the source"},
		{func(c *Config) { c.Headers = map[string]string{"x api": "k"} }, "headers.x api: is no name"},
		{func(c *Config) { c.Headers = map[string]string{"": "k"} }, "headers.: is no name"},
		{func(c *Config) { c.Headers = map[string]string{"x": "secret\n"} }, "headers.x: holds a control character"},
		{func(c *Config) { c.Types = []string{"a", ""} }, "types.1: is empty"},
		{func(c *Config) { c.ReadTimeout = 0; c.ReportEvery = 0 }, ""},
		{func(c *Config) { c.ReadTimeout = -1 }, "read_timeout: -1ns is negative"},
		{func(c *Config) { c.ReportEvery = -1 }, "report_every: -1ns is negative"},
		{func(c *Config) { c.EventLimit = 0 }, "event_limit: must be positive"},
	} {
		config := config("https://example.org/events?token=x")
		c.change(&config)
		var problems []string
		config.Validate(func(path, format string, args ...any) {
			problems = append(problems, path+": "+fmt.Sprintf(format, args...))
		})
		if c.want == "" && len(problems) > 0 || c.want != "" && (len(problems) != 1 || !strings.Contains(problems[0], c.want)) {
			t.Errorf("got %q, want %q", problems, c.want)
		}
		if slices.ContainsFunc(problems, func(p string) bool { return strings.Contains(p, "secret") }) {
			t.Errorf("a secret is told: %q", problems)
		}
	}
}

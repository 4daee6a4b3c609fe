package apigateway

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace"
)

func problems(c Config) []string {
	var found []string
	c.Validate(func(path, format string, args ...any) { found = append(found, path+": "+fmt.Sprintf(format, args...)) })
	slices.Sort(found)
	return found
}

func TestValidate(t *testing.T) {
	good := configured(func(c *Config) {
		c.Routes = map[string]Integration{
			"$connect":    {HTTP: "http://127.0.0.1:9000/connect"},
			"$disconnect": {Lambda: &Lambda{URL: "http://127.0.0.1:9001/2015-03-31/functions/app/invocations"}},
			"$default":    {Lambda: &Lambda{Function: "app", Region: "eu-west-1"}},
			"join":        {Lambda: &Lambda{Function: "arn:aws:lambda:eu-west-1:123456789012:function:app"}},
		}
		c.Keys = []KeyPair{testPair, {AccessKeyID: "OTHER", SecretAccessKey: "x"}}
		c.Subscribe = &Subscribe{From: "crossings", Key: "query:VehicleID"}
	})
	if found := problems(good); found != nil {
		t.Errorf("%q", found)
	}
	strict := good
	strict.Strict = true
	if found := problems(strict); found != nil || strict.Limits() != AWS {
		t.Errorf("%q, %+v", found, strict.Limits())
	}
	if l := good.Limits(); l != (Limits{Message: 128 << 10, Integration: 29 * time.Second}) {
		t.Errorf("%+v", l)
	}
	route := func(key string, i Integration) func(*Config) {
		return func(c *Config) { c.Routes = map[string]Integration{key: i} }
	}
	for path, change := range map[string]func(*Config){
		"routes.$other":                     route("$other", Integration{HTTP: "http://x/"}),
		"routes.a":                          route("a", Integration{}),
		"routes.b":                          route("b", Integration{HTTP: "http://x/", Lambda: &Lambda{URL: "http://x/"}}),
		"routes.c.http":                     route("c", Integration{HTTP: "127.0.0.1:9000"}),
		"routes.d.lambda":                   route("d", Integration{Lambda: &Lambda{}}),
		"routes.e.lambda":                   route("e", Integration{Lambda: &Lambda{URL: "http://x/", Function: "app"}}),
		"routes.f.lambda.url":               route("f", Integration{Lambda: &Lambda{URL: "http://x/", Region: "eu-west-1"}}),
		"routes.g.lambda.url":               route("g", Integration{Lambda: &Lambda{URL: "ftp://x/"}}),
		"routes.h.lambda.region":            route("h", Integration{Lambda: &Lambda{Function: "app"}}),
		"routes.i.lambda.function":          route("i", Integration{Lambda: &Lambda{Function: "a b", Region: "eu-west-1"}}),
		"routes.j.lambda.region":            route("j", Integration{Lambda: &Lambda{Function: "app", Region: "evil.example/"}}),
		"routes.k.lambda.endpoint":          route("k", Integration{Lambda: &Lambda{Function: "app", Region: "eu-west-1", Endpoint: "x"}}),
		"routes.l.lambda.qualifier":         route("l", Integration{Lambda: &Lambda{Function: "app", Region: "eu-west-1", Qualifier: "a b"}}),
		"route_selection":                   func(c *Config) { c.RouteSelection = "$body.action" },
		"keys[0].access_key_id":             func(c *Config) { c.Keys = []KeyPair{{AccessKeyID: "A/B", SecretAccessKey: "x"}} },
		"keys[1].access_key_id":             func(c *Config) { c.Keys = []KeyPair{testPair, testPair} },
		"keys[0].secret_access_key":         func(c *Config) { c.Keys = []KeyPair{{AccessKeyID: "A", SecretAccessKey: "x\n"}} },
		"keys[0].session_token":             func(c *Config) { c.Keys = []KeyPair{{AccessKeyID: "A", SecretAccessKey: "x", SessionToken: "a b"}} },
		"subscribe.from":                    func(c *Config) { c.Subscribe = &Subscribe{} },
		"stage":                             func(c *Config) { c.Stage = "a/b" },
		"message_limit":                     func(c *Config) { c.MessageLimit = 1 },
		"frame_limit":                       func(c *Config) { c.FrameLimit = -1 },
		"frame_limit: 67108865 bytes":       func(c *Config) { c.FrameLimit = 64<<20 + 1 },
		"idle_timeout":                      func(c *Config) { c.IdleTimeout = -1 },
		"max_duration":                      func(c *Config) { c.MaxDuration = -1 },
		"integration_timeout":               func(c *Config) { c.IntegrationTimeout = 0 },
		"concurrency":                       func(c *Config) { c.Concurrency = 0 },
		"disconnect_retry":                  func(c *Config) { c.DisconnectRetry = -1 },
		"message_limit: strict":             func(c *Config) { c.Strict, c.MessageLimit = true, 1<<20 },
		"frame_limit: strict":               func(c *Config) { c.Strict, c.FrameLimit = true, 1<<20 },
		"idle_timeout: strict":              func(c *Config) { c.Strict, c.IdleTimeout = true, time.Hour },
		"max_duration: strict":              func(c *Config) { c.Strict, c.MaxDuration = true, time.Hour },
		"integration_timeout: strict":       func(c *Config) { c.Strict, c.IntegrationTimeout = true, time.Second },
		"binary: strict closes connections": func(c *Config) { c.Strict, c.Binary = true, true },
	} {
		c := configured(change)
		found := problems(c)
		if len(found) != 1 || !strings.HasPrefix(found[0], path) {
			t.Errorf("%s: %q", path, found)
		}
		if _, err := New("/prod", c, Options{}); millrace.CodeOf(err) != millrace.Invalid {
			t.Errorf("%s: New gives %v", path, err)
		}
	}
}

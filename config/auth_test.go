package config

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/gateway/auth"
	"github.com/millrace/millrace/gateway/limit"
)

// guarded is a configuration of who may connect, as it stands in the gateway's.
type guarded struct {
	Auth   auth.Config  `yaml:"auth"`
	Limits limit.Config `yaml:"limits"`
}

// readGuarded decodes a text as Parse does.
func readGuarded(text string) (g guarded, printed string, problems Problems) {
	d := newDecoder("x.yaml", "/etc/millrace", environment)
	v := reflect.ValueOf(&g).Elem()
	setDefaults(v)
	if root, ok := d.parse([]byte(text)); ok {
		d.value(root, v, "", option{}, nil)
	}
	p := printer{hidden: d.hidden}
	p.structure(v, "", "")
	return g, p.out.String(), d.problems
}

func TestWhoMayConnect(t *testing.T) {
	const text = `
auth:
  api_keys:
    - {name: web, key: "0123456789abcdef", claims: {vehicle: "42"}}
    - name: app
      key: "a ${env:SECRET} of sixteen" # the space is a problem
  jwt:
    issuer: https://issuer.example.org
    audience: [millrace]
    keys:
      - {alg: RS256, file: keys/issuer.pem, kid: "1"}
      - {alg: HS256, secret: "too short"}
    leeway: 1m
  callback: {url: "https://auth.example.org/?a=b", headers: [Cookie]}
  token: {query: token, message: true}
limits: {connections_per_token: 5, messages_per_connection: {rate: 7}}
`
	g, _, problems := readGuarded(text)
	want := []string{"auth.api_keys[1].key", "auth.jwt.keys[1].secret"}
	if len(problems) != len(want) {
		t.Fatalf("problems: %v", problems)
	}
	for i, p := range problems.Sorted() {
		if p.Path != want[i] || p.Line == 0 || strings.Contains(p.Message, secret) {
			t.Errorf("%v, want one of %s", p, want[i])
		}
	}
	if k := g.Auth.APIKeys[0]; k.Name != "web" || k.Claims["vehicle"] != "42" {
		t.Errorf("the API key is %+v", k)
	}
	if j := g.Auth.JWT; j.Leeway != time.Minute || j.Refresh != 15*time.Minute || j.Keys[0].File != "/etc/millrace/keys/issuer.pem" {
		t.Errorf("JWT is %+v", j)
	}
	if c := g.Auth.Callback; c.Timeout != 5*time.Second || c.Headers[0] != "Cookie" {
		t.Errorf("the callback is %+v", c)
	}
	if l := g.Limits; l.ConnectionsPerToken != 5 || l.SubscriptionsPerConnection != 100 || l.MessagesPerConnection.Rate != 7 {
		t.Errorf("the limits are %+v", l)
	}
}

// TestPrintedLists prints lists of sections so that they are read again.
func TestPrintedLists(t *testing.T) {
	const text = `
auth:
  api_keys:
    - {name: web, key: "${env:SECRET}-and-sixteen-more"}
    - {name: app, key: "0123456789abcdef", claims: {vehicle: "42"}}
  jwt: {issuer: a, audience: [b, c], jwks: "https://a.example.org/"}
`
	_, printed, problems := readGuarded(text)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	for _, secret := range []string{secret, "0123456789abcdef"} {
		if strings.Contains(printed, secret) {
			t.Errorf("it prints the secret:\n%s", printed)
		}
	}
	const part = `  api_keys:
    - name: web
      key: "${env:SECRET}-and-sixteen-more"
    - name: app
      key: "(hidden)"
      claims:
        vehicle: "42"
`
	if !strings.Contains(printed, part) {
		t.Errorf("got\n%s\nwant\n%s", printed, part)
	}
	g, again, problems := readGuarded(strings.Replace(printed, "(hidden)", "0123456789abcdef", 1))
	if len(problems) > 0 || again != printed || g.Auth.APIKeys[1].Claims["vehicle"] != "42" {
		t.Errorf("%v; printed again it is\n%s\nwhere it was\n%s", problems, again, printed)
	}
	for text, want := range map[string]string{
		"auth: {api_keys: []}":      "names no way in",
		"auth: {}":                  "names no way in",
		"auth: {open: false}":       "names no way in",
		"auth: {api_keys: [web]}":   "must be a mapping",
		"auth: {jwt: {}}":           "is missing",
		"auth: {api_keys: [{}]}":    "is no name",
		"auth: {token: {query: t}}": "names no way in",
	} {
		if _, _, problems := readGuarded(text); !strings.Contains(problems.Error(), want) {
			t.Errorf("%s: %v, want %q", text, problems, want)
		}
	}
}

package auth

import (
	"context"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/millrace/millrace"
)

func TestOpen(t *testing.T) {
	for name, c := range map[string]Config{"nothing configured": {}, "said so": {Open: true}} {
		g := newGuard(t, c, Options{})
		if !g.Open() || g.AwaitsMessage(request("/")) {
			t.Errorf("%s: open %t", name, g.Open())
		}
		start(t, g)
		if id := allows(t, g, "whatever"); id.Key != "" || !id.Expires.IsZero() || id.Claims != nil {
			t.Errorf("%s: %+v", name, id)
		}
		if _, err := g.CheckToken(context.Background(), strings.Repeat("x", 2*maxToken), request("/"), remote); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAPIKeys(t *testing.T) {
	c := Config{APIKeys: []APIKey{
		{Name: "web", Key: "0123456789abcdef"},
		{Name: "bus-42", Key: "fedcba9876543210-longer", Claims: map[string]string{"vehicle": "42"}},
	}}
	g := newGuard(t, c, Options{})
	if id := allows(t, g, "0123456789abcdef"); id.Subject != "web" || id.Key != "key:web" || !id.Expires.IsZero() {
		t.Errorf("it is %+v", id)
	}
	id := allows(t, g, "fedcba9876543210-longer")
	if v, ok := id.Claim("vehicle"); !ok || len(v) != 1 || v[0] != "42" {
		t.Errorf("vehicle %q, %t", v, ok)
	}
	for _, wrong := range []string{"0123456789abcdeF", "0123456789abcde", "0123456789abcdef0", "web", "key:web"} {
		denies(t, g, wrong, 401, "the token is wrong")
	}
	denies(t, g, strings.Repeat("x", maxToken+1), 401, "too long")
	d := denies(t, g, "", 401, "a token is needed: the header Authorization: Bearer TOKEN")
	if d.Challenge() != `Bearer realm="millrace"` || millrace.CodeOf(d) != millrace.Denied {
		t.Errorf("challenge %s, code %s", d.Challenge(), millrace.CodeOf(d))
	}
}

func TestAnyWayInWillDo(t *testing.T) {
	var asked int
	c := jwtConfig(Key{Alg: hs256, Secret: secret})
	c.APIKeys = []APIKey{{Name: "web", Key: "0123456789abcdef"}}
	c.Callback = callbackConfig("https://auth.example.org/").Callback
	reg := prometheus.NewRegistry()
	logger, text := logged()
	g := newGuard(t, c, Options{
		Metrics: NewMetrics(reg), Logger: logger,
		Client: inProcess(func(w http.ResponseWriter, r *http.Request) {
			asked++
			answer(403, `{"reason":"nobody"}`)(w, r)
		}),
	})
	token := sign(t, jwt.SigningMethodHS256, []byte(secret), claims(nil))
	expired := sign(t, jwt.SigningMethodHS256, []byte(secret), claims(map[string]any{"exp": 1}))
	if key := allows(t, g, "0123456789abcdef").Key; key != "key:web" || asked > 0 {
		t.Errorf("%s, asked %d times", key, asked)
	}
	if key := allows(t, g, token).Key; !strings.HasPrefix(key, "jwt:") || asked > 0 {
		t.Errorf("%s, asked %d times", key, asked)
	}
	denies(t, g, expired, 403, "nobody")
	denies(t, g, "", 403, "nobody") // it may know the client by something else
	if asked != 2 {
		t.Errorf("asked %d times", asked)
	}
	c.Callback = nil
	g = newGuard(t, c, Options{Metrics: g.metrics, Logger: logger})
	denies(t, g, "a mistyped API key", 401, "the token is wrong")
	denies(t, g, expired, 401, "expired")
	denies(t, g, "", 401, "a token is needed")
	want := `
# HELP millrace_gateway_auth_total Clients that were let in or not (result: allowed, denied, unavailable), by what decided (kind: key, jwt, callback, none).
# TYPE millrace_gateway_auth_total counter
millrace_gateway_auth_total{kind="callback",result="denied"} 2
millrace_gateway_auth_total{kind="jwt",result="allowed"} 1
millrace_gateway_auth_total{kind="jwt",result="denied"} 1
millrace_gateway_auth_total{kind="key",result="allowed"} 1
millrace_gateway_auth_total{kind="key",result="denied"} 1
millrace_gateway_auth_total{kind="none",result="denied"} 1
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "millrace_gateway_auth_total"); err != nil {
		t.Error(err)
	}
	for _, s := range []string{token, expired, "0123456789abcdef", secret} {
		if strings.Contains(text.String(), s) {
			t.Errorf("the log holds a secret:\n%s", text)
		}
	}
}

func TestWhereTokensStand(t *testing.T) {
	const good, wrong = "0123456789abcdef", "0123456789abcdeX"
	every := Token{Query: "token", Cookie: "session", Message: true}
	for name, tt := range map[string]struct {
		token   Token
		request *http.Request
		reason  string // "" is let in
		awaits  bool
	}{
		"header":                      {Token{}, request("/", "Authorization", "Bearer "+good), "", false},
		"scheme in lower case":        {Token{}, request("/", "Authorization", "bearer  "+good), "", false},
		"another scheme":              {every, request("/", "Authorization", "Basic "+good), "a token is needed", true},
		"no scheme":                   {every, request("/", "Authorization", good), "a token is needed", true},
		"two headers":                 {every, request("/", "Authorization", "Bearer "+good, "Authorization", "Bearer "+good), "more than once", false},
		"another header":              {Token{Header: "x-api-key"}, request("/", "X-Api-Key", good), "", false},
		"the header is another":       {Token{Header: "x-api-key"}, bearer(good), "the header X-Api-Key", false},
		"query":                       {every, request("/?a=b&token=" + good), "", false},
		"query, escaped":              {every, request("/?token=%30123456789abcdef"), "", false},
		"query that is not asked for": {Token{}, request("/?token=" + good), "a token is needed", false},
		"query in another case":       {every, request("/?Token=" + good), "a token is needed", true},
		"query twice":                 {every, request("/?token=" + good + "&token=" + wrong), "more than once", false},
		"empty query":                 {every, request("/?token="), "a token is needed", true},
		"malformed query":             {every, request("/?token=" + good + "&%zz"), "malformed", false},
		"cookie":                      {every, request("/", "Cookie", "a=b; session="+good), "", false},
		"cookie's name is exact":      {every, request("/", "Cookie", "Session="+good+"; xsession="+good), "a token is needed", true},
		"cookie twice":                {every, request("/", "Cookie", "session="+good+"; session="+wrong), "more than once", false},
		"cookie not asked for":        {Token{}, request("/", "Cookie", "session="+good), "a token is needed", false},
		"the header counts first":     {every, request("/?token="+good, "Authorization", "Bearer "+wrong), "wrong", false},
		"then the query":              {every, request("/?token="+good, "Cookie", "session="+wrong), "", false},
		"nothing":                     {every, request("/"), "first message", true},
	} {
		t.Run(name, func(t *testing.T) {
			c := Config{APIKeys: []APIKey{{Name: "web", Key: good}}, Token: tt.token}
			g := newGuard(t, c, Options{})
			id, err := g.Check(context.Background(), tt.request, remote)
			if tt.reason != "" {
				isDenied(t, id, err, good, 401, tt.reason)
			} else if err != nil {
				t.Errorf("denied: %v", err)
			}
			if got := g.AwaitsMessage(tt.request); got != tt.awaits {
				t.Errorf("awaits a message: %t", got)
			}
			if tt.awaits {
				if _, err := g.CheckToken(context.Background(), good, tt.request, remote); err != nil {
					t.Errorf("as first message: %v", err)
				}
				id, err := g.CheckToken(context.Background(), "", tt.request, remote)
				isDenied(t, id, err, "", 401, "a token is needed")
			}
		})
	}
}

func TestClaim(t *testing.T) {
	id, err := parseAnswer([]byte(`{"claims":{
		"text":"a","empty":"","number":42,"big":12345678901234567890,"fraction":4.50,"yes":true,"null":null,
		"list":["a",7,false],"none":[],"nested":[["a"]],"objects":[{"a":1}],"holes":["a",null],
		"org":{"vehicle":"42","depot":{"id":"x"}},"org.depot.id":"by name","https://example.org/vehicle":"43","a.b":{"c":"dotted"}
	}}`))
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string][]string{
		"text": {"a"}, "empty": {""}, "number": {"42"}, "big": {"12345678901234567890"}, "fraction": {"4.50"}, "yes": {"true"},
		"list": {"a", "7", "false"}, "org.vehicle": {"42"}, "org.depot.id": {"by name"},
		"https://example.org/vehicle": {"43"}, "a.b.c": {"dotted"},
		"null": nil, "none": nil, "nested": nil, "objects": nil, "holes": nil, "org": nil, "absent": nil, "": nil,
		"text.a": nil, "org.": nil, ".org": nil, "org..vehicle": nil, "list.0": nil,
	} {
		got, ok := id.Claim(path)
		if !reflect.DeepEqual(got, want) && (ok || want != nil) || ok != (want != nil) {
			t.Errorf("%q: %q, %t, want %q", path, got, ok, want)
		}
	}
	if _, ok := (Identity{}).Claim("a"); ok {
		t.Error("an identity without claims has one")
	}
	if v, ok := (Identity{Claims: map[string]any{"n": 4e6}}).Claim("n"); !ok || v[0] != "4000000" {
		t.Errorf("%q", v)
	}
}

func TestValidate(t *testing.T) {
	good := func() Config {
		c := jwtConfig(Key{Alg: hs256, Secret: secret})
		c.APIKeys = []APIKey{{Name: "web", Key: "0123456789abcdef"}}
		c.Callback = &Callback{URL: "https://auth.example.org/"}
		c.Callback.SetDefaults()
		return c
	}
	for name, tt := range map[string]struct {
		change func(*Config)
		path   string // "-": none
		text   string
	}{
		"good":                    {func(*Config) {}, "-", ""},
		"nothing":                 {func(c *Config) { *c = Config{} }, "", "names no way in"},
		"only a place of tokens":  {func(c *Config) { *c = Config{Token: Token{Query: "t"}} }, "", "names no way in"},
		"open":                    {func(c *Config) { *c = Config{Open: true} }, "-", ""},
		"open and guarded":        {func(c *Config) { c.Open = true }, "open", "contradicts"},
		"no name":                 {func(c *Config) { c.APIKeys[0].Name = "" }, "api_keys[0].name", "no name"},
		"a name with a colon":     {func(c *Config) { c.APIKeys[0].Name = "a:b" }, "api_keys[0].name", "no name"},
		"a short key":             {func(c *Config) { c.APIKeys[0].Key = "0123456789abcde" }, "api_keys[0].key", "fewer than 16"},
		"a key with a line break": {func(c *Config) { c.APIKeys[0].Key += "\n" }, "api_keys[0].key", "line break"},
		"a long key":              {func(c *Config) { c.APIKeys[0].Key = strings.Repeat("x", maxToken+1) }, "api_keys[0].key", "more than"},
		"the same name": {func(c *Config) {
			c.APIKeys = append(c.APIKeys, APIKey{Name: "web", Key: "another-key-of-16"})
		}, "api_keys[1].name", "another key"},
		"the same key": {func(c *Config) {
			c.APIKeys = append(c.APIKeys, APIKey{Name: "app", Key: "0123456789abcdef"})
		}, "api_keys[1].key", "the same"},
		"no issuer":               {func(c *Config) { c.JWT.Issuer = "" }, "jwt.issuer", "missing"},
		"no audience":             {func(c *Config) { c.JWT.Audience = nil }, "jwt.audience", "missing"},
		"an empty audience":       {func(c *Config) { c.JWT.Audience = []string{"a", ""} }, "jwt.audience", "missing"},
		"no keys":                 {func(c *Config) { c.JWT.Keys = nil }, "jwt", "no key"},
		"an unknown algorithm":    {func(c *Config) { c.JWT.Algorithms = []string{"HS256", "none"} }, "jwt.algorithms[1]", "not supported"},
		"an algorithm and no key": {func(c *Config) { c.JWT.Algorithms = []string{"RS256"} }, "jwt.algorithms[0]", "no key verifies"},
		"HS256 from a key set": {func(c *Config) {
			c.JWT.Keys, c.JWT.JWKS, c.JWT.Algorithms = nil, "https://a.example.org", []string{"HS256"}
		}, "jwt.algorithms[0]", "no key verifies"},
		"jwks over http":         {func(c *Config) { c.JWT.JWKS = "http://issuer.example.org/" }, "jwt.jwks", "write https"},
		"jwks over http, hidden": {func(c *Config) { c.JWT.JWKS = "http://localhost.example.org/" }, "jwt.jwks", "write https"},
		"jwks on loopback":       {func(c *Config) { c.JWT.JWKS = "http://127.0.0.1:8000/" }, "-", ""},
		"jwks on IPv6 loopback":  {func(c *Config) { c.JWT.JWKS = "http://[::1]:8000/" }, "-", ""},
		"jwks in a file":         {func(c *Config) { c.JWT.JWKS = "file:///etc/keys" }, "jwt.jwks", "no URL"},
		"jwks over ftp":          {func(c *Config) { c.JWT.JWKS = "ftp://a/keys" }, "jwt.jwks", "no scheme"},
		"refreshed too often":    {func(c *Config) { c.JWT.JWKS, c.JWT.Refresh = "https://a/", 1 }, "jwt.refresh", "too short"},
		"much leeway":            {func(c *Config) { c.JWT.Leeway = mostLeeway + 1 }, "jwt.leeway", "out of range"},
		"negative leeway":        {func(c *Config) { c.JWT.Leeway = -1 }, "jwt.leeway", "out of range"},
		"a long kid":             {func(c *Config) { c.JWT.Keys[0].KID = strings.Repeat("x", 257) }, "jwt.keys[0].kid", "more than 256"},
		"no callback URL":        {func(c *Config) { c.Callback.URL = "" }, "callback.url", "missing"},
		"callback over http":     {func(c *Config) { c.Callback.URL = "http://auth:9000/" }, "callback.url", "write https"},
		"callback, knowing that": {func(c *Config) { c.Callback.URL, c.Callback.Insecure = "http://auth:9000/", true }, "-", ""},
		"no timeout":             {func(c *Config) { c.Callback.Timeout = 0 }, "callback.timeout", "out of range"},
		"a header with a space":  {func(c *Config) { c.Callback.Headers = []string{"a b"} }, "callback.headers[0]", "no header's name"},
		"a negative cache":       {func(c *Config) { c.Callback.Cache = -1 }, "callback.cache", "out of range"},
		"a header of tokens":     {func(c *Config) { c.Token.Header = "a:b" }, "token.header", "no header's name"},
		"a parameter with &":     {func(c *Config) { c.Token.Query = "a&b" }, "token.query", "no parameter"},
		"a cookie with =":        {func(c *Config) { c.Token.Cookie = "a=b" }, "token.cookie", "no cookie's name"},
	} {
		t.Run(name, func(t *testing.T) {
			c := good()
			tt.change(&c)
			var paths, texts []string
			c.Validate(func(path, format string, args ...any) {
				paths = append(paths, path)
				texts = append(texts, millrace.Errorf(millrace.Invalid, "", format, args...).Error())
			})
			if tt.path == "-" {
				if len(paths) > 0 {
					t.Errorf("%q: %q", paths, texts)
				}
				return
			}
			if len(paths) != 1 || paths[0] != tt.path || !strings.Contains(texts[0], tt.text) {
				t.Errorf("%q: %q, want %q: %q", paths, texts, tt.path, tt.text)
			}
			if strings.Contains(strings.Join(texts, ""), "0123456789abc") {
				t.Errorf("a message holds a key: %q", texts)
			}
		})
	}
}

func TestChallengesAreHeaders(t *testing.T) {
	d := &Denied{Status: 401, Reason: "no \"ünïcode\"\r\n\\", given: true}
	if got, want := d.Challenge(), `Bearer realm="millrace", error="invalid_token", error_description="no ''n'code''''"`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := (&Denied{Status: 403, Reason: "no"}).Challenge(); got != "" {
		t.Errorf("403 has the challenge %s", got)
	}
}

func TestWhatTheGatewayHasToKnow(t *testing.T) {
	c := Config{APIKeys: []APIKey{{Name: "web", Key: "0123456789abcdef"}}}
	if c.UsesCookie() || c.TokenHeader() != "Authorization" {
		t.Errorf("cookie %t, header %s", c.UsesCookie(), c.TokenHeader())
	}
	c.Token = Token{Cookie: "session", Header: "x-api-key"}
	if !c.UsesCookie() || c.TokenHeader() != "X-Api-Key" {
		t.Errorf("cookie %t, header %s", c.UsesCookie(), c.TokenHeader())
	}
}

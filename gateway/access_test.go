package gateway_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/millrace/millrace/gateway"
	"github.com/millrace/millrace/gateway/auth"
	"github.com/millrace/millrace/gateway/limit"
	"github.com/millrace/millrace/millracetest"
)

const secret = "a secret that is thirty-two bytes long, or more"

// token returns a signed JWT with these claims besides iss and aud.
func token(t testing.TB, expires time.Time, claims map[string]any) string {
	t.Helper()
	all := map[string]any{"iss": "https://id.example.org", "aud": "millrace", "exp": expires.Unix()}
	maps.Copy(all, claims)
	body, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	encode := base64.RawURLEncoding.EncodeToString
	text := encode([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + encode(body)
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(text))
	return text + "." + encode(mac.Sum(nil))
}

func guarded() *auth.Config {
	jwt := &auth.JWT{Issuer: "https://id.example.org", Audience: []string{"millrace"}, Keys: []auth.Key{{Alg: "HS256", Secret: secret}}}
	jwt.SetDefaults()
	jwt.Leeway = 0
	return &auth.Config{
		JWT: jwt, APIKeys: []auth.APIKey{{Name: "web", Key: "0123456789abcdef", Claims: map[string]string{"vehicle": "42"}}},
		Token: auth.Token{Query: "token", Message: true},
	}
}

func status(err error) int {
	if refused, ok := errors.AsType[*millracetest.Refused](err); ok {
		return refused.Status
	}
	return 0
}

func TestAccess(t *testing.T) {
	s := newStream(1)
	w := newWriter(t, s)
	server := serve(t, s, func(c *gateway.Config, _ *gateway.Options) {
		c.Auth = guarded()
		c.Endpoints["/mine"] = gateway.Endpoint{From: "crossings", Key: "claim:vehicle"}
		c.Endpoints["/open"] = gateway.Endpoint{From: "crossings", Auth: &auth.Config{Open: true}}
		c.Endpoints["/other"] = gateway.Endpoint{From: "crossings", Auth: &auth.Config{APIKeys: []auth.APIKey{{Name: "x", Key: "another-secret-of-it"}}}}
		c.Endpoints["/live"] = gateway.Endpoint{Messages: true}
	})
	soon := time.Now().Add(time.Hour)
	for path, want := range map[string]int{
		"/vehicles":                                                    401,
		"/vehicles?token=0123456789abcdeX":                             401,
		"/vehicles?token=0123456789abcdef":                             0,
		"/vehicles?token=" + token(t, soon, nil):                       0,
		"/vehicles?token=" + token(t, time.Now().Add(-time.Hour), nil): 401,
		"/open":                              0,
		"/mine?token=" + token(t, soon, nil): 403, // does not claim a vehicle
		"/mine?token=0123456789abcdef":       0,
		"/other?token=0123456789abcdef":      401,
	} {
		c, err := server.tryDial(path, "")
		if got := status(err); got != want || (err == nil) != (want == 0) {
			t.Errorf("%s: got %d (%v), want %d", path, got, err, want)
		}
		if c != nil {
			_ = c.Close()
		}
	}
	r := server.get(t, http.MethodGet, "/vehicles", nil, "text/event-stream")
	if r.StatusCode != 401 || !strings.HasPrefix(r.Header.Get("WWW-Authenticate"), "Bearer") {
		t.Errorf("an event stream without a token: %s, %q", r.Status, r.Header)
	}
	e := server.listen(t, "/mine", map[string]string{"Authorization": "Bearer " + token(t, soon, map[string]any{"vehicle": 42})})
	if _, ok := e.read(); !ok {
		t.Fatal("the event stream has ended")
	}

	// The token comes in the first message, and then what the URL asks for begins.
	mine := server.dial(t, "/mine?since=0", v1)
	mine.say(`{"auth":%q}`, token(t, soon, map[string]any{"vehicle": []string{"42", "43"}, "sub": "alice"}))
	if got := mine.next(); got != `{"authenticated":{"subject":"alice"}}` {
		t.Fatalf("got %s", got)
	}
	mine.live()
	w.put("41", "1")
	w.put("42", "2")
	mine.expect("42 2")
	if m := e.next(); m.data != "2" {
		t.Errorf("got %+v", m)
	}
	mine.say(`{"subscribe":"a","to":"/mine","keys":["41"]}`)
	mine.expect("a error denied")
	mine.say(`{"subscribe":"a","to":"/mine","prefix":"4"}`)
	mine.expect("a error invalid")
	mine.say(`{"subscribe":"a","to":"/mine","keys":["43"]}`)
	mine.expect("subscribed a", "a live")
	mine.say(`{"subscribe":"b","to":"/other"}`)
	mine.expect("b error denied")
	mine.say(`{"subscribe":"c","to":"/open"}`)
	mine.expect("subscribed c", "c live")
	mine.say(`{"auth":"again"}`)
	mine.expect("error conflict")

	late := server.dial(t, "/live", v1)
	late.say(`{"subscribe":"a","to":"/vehicles"}`)
	if closed := late.closed(); closed.Code != 4001 {
		t.Errorf("got %v", closed)
	}
	wrong := server.dial(t, "/live", v1)
	wrong.say(`{"auth":"nothing good"}`)
	if closed := wrong.closed(); closed.Code != 4001 || closed.Reason != "the token is wrong" {
		t.Errorf("got %v", closed)
	}
}

// A good token over a limit is not called a bad one: the client may come back with it.
func TestTokenOverLimit(t *testing.T) {
	server := serve(t, newStream(1), func(c *gateway.Config, _ *gateway.Options) {
		c.Auth, c.Limits = guarded(), limit.Config{ConnectionsPerToken: 1}
		c.Endpoints["/live"] = gateway.Endpoint{Messages: true}
	})
	for i := range 2 {
		c := server.dial(t, "/live", v1)
		c.say(`{"auth":"0123456789abcdef"}`)
		if i == 0 {
			if got := c.next(); got != `{"authenticated":{"subject":"web"}}` {
				t.Fatalf("got %s", got)
			}
		} else if closed := c.closed(); closed.Code != 1013 {
			t.Errorf("got %v", closed)
		}
	}
}

// A connection ends with its token, and one that never says who it is, too.
func TestTokenExpires(t *testing.T) {
	t.Parallel()
	clock := millracetest.NewClock()
	clock.Set(time.Now())
	server := serve(t, newStream(1), func(c *gateway.Config, o *gateway.Options) {
		c.Auth, o.Now, c.Ping = guarded(), clock.Now, 50*time.Millisecond
		c.Endpoints["/live"] = gateway.Endpoint{Messages: true}
	})
	c := server.dial(t, "/vehicles?token="+token(t, clock.Now().Add(time.Hour), nil), v1)
	c.live()
	silent := server.dial(t, "/live", v1)
	clock.Advance(30 * time.Second)
	if closed := silent.closed(); closed.Code != 4001 {
		t.Errorf("got %v", closed)
	}
	clock.Advance(time.Hour)
	if closed := c.closed(); closed.Code != 4001 || !strings.Contains(closed.Reason, "expired") {
		t.Errorf("got %v", closed)
	}
}

func TestLimits(t *testing.T) {
	server := serve(t, newStream(1), func(c *gateway.Config, _ *gateway.Options) {
		c.Limits = limit.Config{ConnectionsPerAddress: 2, SubscriptionsPerConnection: 2, MessagesPerConnection: limit.Rate{Rate: 1000, Burst: 1}}
	})
	first := server.dial(t, "/vehicles", v1)
	first.live()
	second := server.dial(t, "/vehicles", v1)
	if _, err := server.tryDial("/vehicles", ""); status(err) != 429 {
		t.Errorf("a third connection: %v", err)
	}
	first.say(`{"subscribe":"a"}`)
	first.say(`{"subscribe":"b"}`) // waits for the rate, and is over the other limit
	first.expect("subscribed a", "a live", "b error too_large")
	first.say(`{"unsubscribe":"a"}`)
	first.say(`{"subscribe":"b"}`)
	first.expect("unsubscribed a", "subscribed b", "b live")
	_ = second.WriteClose(1000, "")
	second.closed()
	_ = second.Close()
	for range 100 {
		c, err := server.tryDial("/vehicles", "")
		if err == nil {
			_ = c.Close()
			return
		}
		time.Sleep(10 * time.Millisecond) // until the gateway has noticed, which nothing tells
	}
	t.Error("a connection that is gone still counts")
}

// A message that waits for its turn counts as limited once, however often it is looked at.
func TestLimitedMessageCountsOnce(t *testing.T) {
	reg := prometheus.NewRegistry()
	var late atomic.Bool
	begun := time.Now()
	server := serve(t, newStream(1), func(c *gateway.Config, o *gateway.Options) {
		c.Limits.MessagesPerConnection = limit.Rate{Rate: 100, Burst: 1}
		o.Metrics, o.Now = gateway.NewMetrics(reg), func() time.Time {
			if late.Load() {
				return begun.Add(time.Second)
			}
			return begun
		}
	})
	c := server.dial(t, "/vehicles", v1)
	c.live()
	c.say(`{"ping":1}`)
	c.say(`{"ping":2}`)
	c.expect("pong 1")
	time.Sleep(50 * time.Millisecond) // five times as long as it is to wait at a time
	late.Store(true)
	c.expect("pong 2")
	if err := testutil.GatherAndCompare(reg, strings.NewReader(`
# HELP millrace_gateway_limited_total What was refused for a limit (what: connections, subscriptions, messages), by whose it is (scope: connection, address, token).
# TYPE millrace_gateway_limited_total counter
millrace_gateway_limited_total{scope="connection",what="messages"} 1
`), "millrace_gateway_limited_total"); err != nil {
		t.Error(err)
	}
}

func TestControl(t *testing.T) {
	s := newStream(1)
	var g *gateway.Gateway
	server := serveKeeping(t, listen(t), s, &g, func(c *gateway.Config, _ *gateway.Options) { c.Auth = guarded() })
	a := server.dial(t, "/vehicles?VehicleID=1&token=0123456789abcdef", v1)
	a.live()
	b := server.dial(t, "/vehicles?token="+token(t, time.Now().Add(time.Hour), map[string]any{"sub": "bob"}), v1)
	b.live()
	control := func(method, path string) (int, string) {
		w := newRecorder()
		r, err := http.NewRequestWithContext(t.Context(), method, path, nil)
		if err != nil {
			t.Fatal(err)
		}
		g.Control().ServeHTTP(w, r)
		return w.Code, strings.TrimSpace(w.Body.String())
	}
	var listing struct {
		Connections []gateway.Connected
		Total       int
	}
	_, body := control("GET", "/connections")
	if err := json.Unmarshal([]byte(body), &listing); err != nil || listing.Total != 2 || len(listing.Connections) != 2 {
		t.Fatalf("%s: %v", body, err)
	}
	_, body = control("GET", "/connections?key=1")
	if err := json.Unmarshal([]byte(body), &listing); err != nil || listing.Total != 1 {
		t.Fatalf("%s: %v", body, err)
	}
	only := listing.Connections[0]
	if only.Subject != "web" || only.Protocol != v1 || only.Endpoint != "/vehicles" || len(only.Subscriptions) != 1 || !only.Subscriptions[0].Live {
		t.Errorf("got %+v", only)
	}
	if code, body := control("GET", "/connections/"+only.ID); code != 200 || !strings.Contains(body, only.ID) {
		t.Errorf("got %d %s", code, body)
	}
	for path, want := range map[string]int{
		"DELETE /connections": 400, "DELETE /connections/" + only.ID + "?code=1005": 400, "DELETE /connections/nobody": 404,
		"GET /connections/nobody": 404, "GET /connections?limit=x": 400,
	} {
		method, path, _ := strings.Cut(path, " ")
		if code, body := control(method, path); code != want {
			t.Errorf("%s %s: %d %s", method, path, code, body)
		}
	}
	if code, _ := control("DELETE", "/connections/"+only.ID+"?code=4100&reason=moved"); code != 204 {
		t.Errorf("DELETE: %d", code)
	}
	if closed := a.closed(); closed.Code != 4100 || closed.Reason != "moved" {
		t.Errorf("got %v", closed)
	}
	if code, body := control("DELETE", "/connections?subject=bob"); code != 200 || body != `{"disconnected":1}` {
		t.Errorf("%d %s", code, body)
	}
	if closed := b.closed(); closed.Code != 1000 {
		t.Errorf("got %v", closed)
	}
}

// Each connection that comes has an event, and each that goes; a gateway that died makes up for it.
func TestPresence(t *testing.T) {
	s, journal := newStream(1), newStreamNamed("connections")
	with := func(c *gateway.Config, o *gateway.Options) {
		c.Presence = &gateway.Presence{Into: "connections"}
		o.Streams["connections"], o.Dead = journal, newStreamNamed("dead")
		c.Endpoints["/who"] = gateway.Endpoint{From: "connections", Latest: true}
	}
	server := serve(t, s, with)
	watch := server.dial(t, "/who?since=0", v1)
	next := func(c *client) (kind string, data map[string]any) {
		f := c.event()
		if err := json.Unmarshal(f.Data, &data); err != nil {
			t.Fatalf("%s: %v", f.Data, err)
		}
		return f.Type, data
	}
	if kind, data := next(watch); kind != "connect" || data["endpoint"] != "/who" {
		t.Fatalf("got %s %v", kind, data)
	}
	c := server.dial(t, "/vehicles", v1)
	kind, data := next(watch)
	if kind != "connect" || data["endpoint"] != "/vehicles" || data["protocol"] != v1 || data["remote"] != "127.0.0.1" {
		t.Fatalf("got %s %v", kind, data)
	}
	id := data["connection"]
	_ = c.WriteClose(4000, "enough")
	if kind, data := next(watch); kind != "disconnect" || data["connection"] != id || fmt.Sprint(data["code"]) != "4000" {
		t.Fatalf("got %s %v", kind, data)
	}
	_ = watch.Close()
	if err := server.stop(); err != nil {
		t.Fatal(err)
	}

	// What a life that died has left, the next one ends.
	newWriter(t, journal).appendRaw("connect", "gone!", `{"connection":"gone!","endpoint":"/vehicles","connected_at":"2026-01-02T03:04:05Z"}`)
	server = serve(t, s, with)
	watch = server.dial(t, "/who?since=0", v1)
	open := map[string]bool{}
	for {
		kind, data := next(watch)
		id := data["connection"].(string)
		if kind == "connect" {
			open[id] = true
			continue
		}
		if !open[id] {
			t.Errorf("%s is disconnected twice, or before it is connected", id)
		}
		delete(open, id)
		if id == "gone!" {
			if fmt.Sprint(data["code"]) != "1006" {
				t.Errorf("got %v", data)
			}
			break
		}
	}
	latest := server.dial(t, "/who?since=latest", v1)
	if kind, data := next(latest); kind != "connect" || data["endpoint"] != "/who" {
		t.Errorf("got %s %v", kind, data)
	}
}

package apigateway

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

var (
	connectedAt = time.Date(2024, 1, 20, 11, 55, 0, 123e6, time.UTC)
	testInfo    = Info{
		ID: "R1kmxc2VNjMCFIA=", ConnectedAt: connectedAt, SourceIP: "203.0.113.7", UserAgent: "agent/1.0",
		Host: "abcd1234.execute-api.us-east-1.amazonaws.com",
	}
)

func fixedAPI(t *testing.T, set func(*Config)) *API {
	return newAPI(t, "/prod", configured(set), Options{
		Now:    func() time.Time { return connectedAt.Add(time.Millisecond).In(time.FixedZone("CET", 3600)) },
		Random: &alphabet{},
	})
}

func upgrade(target string) *http.Request {
	r := httptest.NewRequest("GET", target, nil)
	r.Host = testInfo.Host
	for _, h := range [][2]string{
		{"Connection", "Upgrade"},
		{"Upgrade", "websocket"},
		{"Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="},
		{"Sec-WebSocket-Version", "13"},
		{"Sec-WebSocket-Protocol", "chat"},
		{"User-Agent", "agent/1.0"},
		{"X-Many", "one"},
		{"X-Many", "two"},
	} {
		r.Header.Add(h[0], h[1])
	}
	return r
}

// The events are what the golden files say, field by field and in this order.
func TestEvents(t *testing.T) {
	authorized := testInfo
	authorized.Authorizer = map[string]any{"principalId": "user-7", "VehicleID": "42"}
	noAgent := testInfo
	noAgent.UserAgent = ""
	forwarded := upgrade("/prod")
	forwarded.Header.Set("X-Forwarded-For", "198.51.100.1")
	forwarded.Header.Set("X-Forwarded-Proto", "https")
	for name, make := range map[string]func(a *API) event{
		"connect": func(a *API) event { return a.connectEvent(upgrade("/prod"), testInfo) },
		"connect-query": func(a *API) event {
			return a.connectEvent(upgrade("/prod?VehicleID=7&VehicleID=42&x=a%20b+c&empty"), testInfo)
		},
		"connect-authorizer":   func(a *API) event { return a.connectEvent(forwarded, authorized) },
		"message":              func(a *API) event { return a.messageEvent(testInfo, "$default", `{"action":"<&>é"}`) },
		"message-empty":        func(a *API) event { return a.messageEvent(noAgent, "$default", "") },
		"disconnect":           func(a *API) event { return a.disconnectEvent(testInfo, 1001, "going away") },
		"disconnect-no-reason": func(a *API) event { return a.disconnectEvent(testInfo, 1005, "") },
		"disconnect-no-frame":  func(a *API) event { return a.disconnectEvent(testInfo, 1006, "") },
	} {
		t.Run(name, func(t *testing.T) {
			text, err := make(fixedAPI(t, nil)).encode()
			if err != nil {
				t.Fatal(err)
			}
			var pretty bytes.Buffer
			if err := json.Indent(&pretty, append(text, '\n'), "", "  "); err != nil {
				t.Fatal(err)
			}
			golden(t, name+".json", pretty.Bytes())
		})
	}
}

// What the configuration says of itself stands in the events.
func TestEventNames(t *testing.T) {
	a := newAPI(t, "/a/live", configured(func(c *Config) { c.DomainName = "api.example.org" }), Options{})
	e := a.disconnectEvent(testInfo, 1000, "")
	if e.Context.Stage != "live" || e.Context.DomainName != "api.example.org" || e.Headers["Host"] != "api.example.org" || len(e.Context.APIID) != 10 {
		t.Errorf("%+v", e)
	}
	a = newAPI(t, "/", configured(func(c *Config) { c.APIID, c.Stage = "abcd1234", "beta" }), Options{})
	if e := a.disconnectEvent(testInfo, 1000, ""); e.Context.Stage != "beta" || e.Context.APIID != "abcd1234" {
		t.Errorf("%+v", e)
	}
	if a := newAPI(t, "/", configured(nil), Options{}); a.stage != "default" {
		t.Errorf("stage of /: %q", a.stage)
	}
}

// What $disconnect needs outlives the process as JSON.
func TestInfoJSON(t *testing.T) {
	c := testInfo
	c.Authorizer = map[string]any{"principalId": "user-7"}
	text, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	var back Info
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	before, _ := fixedAPI(t, nil).disconnectEvent(c, 1000, "").encode()
	after, _ := fixedAPI(t, nil).disconnectEvent(back, 1000, "").encode()
	if !bytes.Equal(before, after) {
		t.Errorf("%s\nwant\n%s", after, before)
	}
}

func TestConnectionID(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		id := NewConnectionID()
		if !validID(id) || seen[id] || id[0] == '-' {
			t.Fatalf("%q is malformed, there twice, or an option of a command", id)
		}
		seen[id] = true
	}
	for _, id := range []string{"", "R1kmxc2VNjMCFIA", "R1kmxc2VNjMCFIA==", "R1kmxc2VNjMCFIB=", "R1kmxc2V/jMCFIA=", "R1kmxc2VNjMCFI\n="} {
		if validID(id) {
			t.Errorf("%q is taken for an id", id)
		}
	}
	if !validID("R1kmxc2VNjMCFIA=") {
		t.Error("AWS's example is no id")
	}
}

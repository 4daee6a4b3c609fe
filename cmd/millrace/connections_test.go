package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace/millrace/config"
	"github.com/millrace/millrace/gateway"
)

// Of the gateways that come one after the other, or overlap, the newest answers; between them nobody does.
func TestConnectionsOfTheGatewayThatRuns(t *testing.T) {
	var c connections
	ask := func() string {
		w := httptest.NewRecorder()
		c.handlers()["/connections"].ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/connections", nil))
		return strings.TrimSpace(w.Body.String())
	}
	of := func(name string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, name) })
	}
	const none = "no gateway runs at the moment"
	if got := ask(); got != none {
		t.Errorf("before there is one: %s", got)
	}
	hideFirst := c.show(of("first"))
	if got := ask(); got != "first" {
		t.Error(got)
	}
	hideSecond := c.show(of("second"))
	hideFirst()
	if got := ask(); got != "second" {
		t.Error(got)
	}
	hideSecond()
	if got := ask(); got != none {
		t.Errorf("after the last: %s", got)
	}
}

// The admin listener shows who is connected to the gateway, and disconnects them.
func TestPipelineShowsConnections(t *testing.T) {
	c, err := config.Parse(filepath.Join(t.TempDir(), "x.yaml"), []byte(`
streams: {events: {}}
gateway: {listen: "127.0.0.1:0", endpoints: {/e: {from: events, key: "query:id"}}}
admin: {listen: "127.0.0.1:0"}
`), func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal(err)
	}
	stream, listener, end := begin(t, c)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	request := func(method, url string, header ...string) *http.Response {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		response, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		return response
	}
	text := func(r *http.Response) string {
		t.Helper()
		defer r.Body.Close()
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(body)
	}
	events := request("GET", "http://"+stream+"/e?id=7", "Accept", "text/event-stream")
	admin := "http://" + listener
	var list struct{ Connections []gateway.Connected }
	body := text(request("GET", admin+"/connections?key=7"))
	if err := json.Unmarshal([]byte(body), &list); err != nil || len(list.Connections) != 1 || list.Connections[0].Endpoint != "/e" {
		t.Fatalf("%s: %v", body, err)
	}
	one := admin + "/connections/" + list.Connections[0].ID + "?code=4001&reason=enough"
	if r := request("DELETE", one); r.StatusCode != http.StatusUnauthorized {
		t.Errorf("DELETE without a token: %s %s", r.Status, text(r))
	}
	own, err := readControl(c.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	if r := request("DELETE", one, "Authorization", "Bearer "+own.Token); r.StatusCode != http.StatusNoContent {
		t.Errorf("DELETE: %s %s", r.Status, text(r))
	}
	if got := text(events); !strings.Contains(got, `{"code":4001,"reason":"enough"}`) {
		t.Errorf("the client got %q", got)
	}
	end()
}

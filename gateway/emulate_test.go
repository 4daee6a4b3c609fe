package gateway_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/gateway"
	"github.com/millrace/millrace/gateway/apigateway"
	"github.com/millrace/millrace/millracetest"
)

// function is what a Lambda integration calls. It notes the events and answers what the test says.
type function struct {
	*httptest.Server
	mu     sync.Mutex
	events []lambdaEvent
	more   chan struct{} // has a token after each event
	answer func(lambdaEvent) string
}

type lambdaEvent struct {
	Headers               map[string]string
	QueryStringParameters map[string]string
	Body                  string
	RequestContext        struct {
		RouteKey, EventType, ConnectionID, DisconnectReason string
		DisconnectStatusCode                                int
	}
}

func newFunction(t testing.TB, answer func(lambdaEvent) string) *function {
	f := &function{more: make(chan struct{}, 1000), answer: answer}
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var e lambdaEvent
		if err := json.NewDecoder(r.Body).Decode(&e); err != nil {
			t.Error(err)
		}
		f.mu.Lock()
		f.events = append(f.events, e)
		f.mu.Unlock()
		_, _ = io.WriteString(w, f.answer(e))
		f.more <- struct{}{}
	}))
	t.Cleanup(f.Close)
	return f
}

// next waits for the next event.
func (f *function) next(t testing.TB) lambdaEvent {
	t.Helper()
	select {
	case <-f.more:
	case <-time.After(patience):
		t.Fatal("the function is not called")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.events[len(f.events)-1]
}

// emulating serves an endpoint /prod of API Gateway's kind.
func emulating(f *function, change func(*apigateway.Config)) func(*gateway.Config, *gateway.Options) {
	api := apigateway.Config{}
	api.SetDefaults()
	call := apigateway.Integration{Lambda: &apigateway.Lambda{URL: f.URL + "/2015-03-31/functions/app/invocations"}}
	api.Routes = map[string]apigateway.Integration{"$connect": call, "$disconnect": call, "$default": call}
	api.Keys = []apigateway.KeyPair{{AccessKeyID: "AKID", SecretAccessKey: "SECRET"}}
	api.RouteResponses = true
	if change != nil {
		change(&api)
	}
	return func(c *gateway.Config, o *gateway.Options) {
		c.Endpoints["/prod"] = gateway.Endpoint{APIGateway: &api}
		o.Dead = newStreamNamed("dead")
	}
}

// manage makes a signed call of the management API.
func (s *server) manage(t testing.TB, method, path string, body string) (int, http.Header, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://"+s.address+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(body))
	err = v4.NewSigner().SignHTTP(context.Background(), aws.Credentials{AccessKeyID: "AKID", SecretAccessKey: "SECRET"}, r,
		hex.EncodeToString(sum[:]), "execute-api", "eu-west-1", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	response, err := transport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, _ := io.ReadAll(response.Body)
	return response.StatusCode, response.Header, string(text)
}

func escapeID(id string) string { return strings.ReplaceAll(id, "=", "%3D") }

func TestAPIGateway(t *testing.T) {
	f := newFunction(t, func(e lambdaEvent) string {
		switch {
		case e.RequestContext.EventType == "CONNECT" && e.QueryStringParameters["VehicleID"] == "":
			return `{"statusCode":400,"body":"VehicleID is missing"}`
		case e.RequestContext.EventType == "MESSAGE":
			return `{"statusCode":200,"body":"echo of ` + e.Body + `"}`
		}
		return `{"statusCode":200}`
	})
	journal, s := newStreamNamed("connections"), newStream(1)
	w := newWriter(t, s)
	with := emulating(f, func(c *apigateway.Config) {
		c.Subscribe = &apigateway.Subscribe{From: "crossings", Key: "query:VehicleID"}
	})
	start := func() *server {
		return serve(t, s, func(c *gateway.Config, o *gateway.Options) {
			with(c, o)
			o.Streams["connections"] = journal
		})
	}
	server := start()

	if _, err := server.tryDial("/prod", ""); status(err) != 400 {
		t.Errorf("a denied connection: %v", err)
	}
	f.next(t)
	if r := server.get(t, http.MethodGet, "/prod?VehicleID=1", nil, "text/event-stream"); r.StatusCode != 426 {
		t.Errorf("no upgrade: %s", r.Status)
	}
	c := server.dial(t, "/prod?VehicleID=42&since=0&filter=nonsense(", "") // other parameters are the application's
	e := f.next(t)
	id := e.RequestContext.ConnectionID
	if e.RequestContext.RouteKey != "$connect" || e.QueryStringParameters["VehicleID"] != "42" || len(id) != 16 {
		t.Fatalf("got %+v", e)
	}
	c.say("hello")
	if e := f.next(t); e.RequestContext.RouteKey != "$default" || e.Body != "hello" || e.RequestContext.ConnectionID != id {
		t.Errorf("got %+v", e)
	}
	c.want("echo of hello")

	// Events of the stream, posts to the connection and posts to the key all arrive.
	w.put("41", "1")
	w.put("42", "2")
	c.want("2")
	path := "/prod/@connections/" + escapeID(id)
	if code, _, text := server.manage(t, "POST", path, "posted"); code != 200 || text != "" {
		t.Errorf("POST: %d %s", code, text)
	}
	c.want("posted")
	if code, _, text := server.manage(t, "POST", "/@connections/"+escapeID(id), "posted, too"); code != 200 {
		t.Errorf("POST without the stage: %d %s", code, text)
	}
	c.want("posted, too")
	if code, _, text := server.manage(t, "POST", "/prod/@connections?key=42", "to the key"); code != 200 {
		t.Errorf("POST to a key: %d %s", code, text)
	}
	c.want("to the key")
	code, _, text := server.manage(t, "GET", path, "")
	var info struct {
		ConnectedAt, LastActiveAt time.Time
		Identity                  struct{ SourceIP, UserAgent string }
	}
	if err := json.Unmarshal([]byte(text), &info); err != nil || code != 200 || info.Identity.SourceIP != "127.0.0.1" || info.LastActiveAt.Before(info.ConnectedAt) {
		t.Errorf("GET: %d %s, %v", code, text, err)
	}
	if code, header, _ := server.manage(t, "POST", path, strings.Repeat("x", 128<<10+1)); code != 413 || header.Get("x-amzn-ErrorType") != "PayloadTooLargeException" {
		t.Errorf("a large post: %d %v", code, header)
	}
	if code, _, _ := server.manage(t, "DELETE", path, ""); code != 204 {
		t.Errorf("DELETE: %d", code)
	}
	if closed := c.closed(); closed.Code != 1000 {
		t.Errorf("got %v", closed)
	}
	_ = c.Close()
	if e := f.next(t); e.RequestContext.EventType != "DISCONNECT" || e.RequestContext.ConnectionID != id || e.RequestContext.DisconnectStatusCode != 1000 {
		t.Errorf("got %+v", e)
	}
	if code, header, text := server.manage(t, "POST", path, "late"); code != 410 || text != "" || header.Get("x-amzn-ErrorType") != "GoneException" {
		t.Errorf("a post to one that is gone: %d %q %v", code, text, header)
	}

	binary := server.dial(t, "/prod?VehicleID=1", "")
	f.next(t)
	if err := binary.WriteFrame(millracetest.Frame{Op: 2, Payload: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	if closed := binary.closed(); closed.Code != 1003 {
		t.Errorf("a binary message: %v", closed)
	}
	_ = binary.Close()
	f.next(t)
	large := server.dial(t, "/prod?VehicleID=1", "")
	f.next(t)
	large.say("%s", bytes.Repeat([]byte("x"), 128<<10+1))
	if closed := large.closed(); closed.Code != 1009 {
		t.Errorf("a large message: %v", closed)
	}
	_ = large.Close()
	f.next(t)
	fits := server.dial(t, "/prod?VehicleID=1", "")
	f.next(t)
	fits.say("%s", bytes.Repeat([]byte("y"), 128<<10))
	if e := f.next(t); len(e.Body) != 128<<10 {
		t.Errorf("a message at the limit: %d bytes", len(e.Body))
	}

	// Whoever is connected when the gateway ends is told of to $disconnect.
	if err := server.stop(); err != nil {
		t.Fatal(err)
	}
	if e := f.next(t); e.RequestContext.EventType != "DISCONNECT" {
		t.Errorf("got %+v", e)
	}

	// And whoever was connected when one died, by the next one.
	newWriter(t, journal).appendRaw("connect", "kkkkkkkkkkkkkkk=", `{"connection":"kkkkkkkkkkkkkkk=","endpoint":"/prod","protocol":"apigateway",`+
		`"connected_at":"2026-01-02T03:04:05Z","api":{"id":"kkkkkkkkkkkkkkk=","connected_at":"2026-01-02T03:04:05Z","source_ip":"192.0.2.1","host":"example.org"}}`)
	server = start()
	if e := f.next(t); e.RequestContext.EventType != "DISCONNECT" || e.RequestContext.ConnectionID != "kkkkkkkkkkkkkkk=" || e.RequestContext.DisconnectStatusCode != 1006 {
		t.Errorf("got %+v", e)
	}
	if err := server.stop(); err != nil {
		t.Fatal(err)
	}
	start() // has nothing to tell any more
	select {
	case <-f.more:
		t.Error("$disconnect is called again")
	case <-time.After(50 * time.Millisecond):
	}
}

// An endpoint that is gone leaves no metrics behind.
func TestForget(t *testing.T) {
	f := newFunction(t, func(lambdaEvent) string { return `{"statusCode":200}` })
	with, reg := emulating(f, nil), prometheus.NewRegistry()
	metrics := gateway.NewMetrics(reg)
	server := serve(t, newStream(1), func(c *gateway.Config, o *gateway.Options) {
		with(c, o)
		o.Streams["connections"], o.Metrics = newStreamNamed("connections"), metrics
	})
	_ = server.dial(t, "/prod", "").Close()
	f.next(t)
	server.manage(t, "GET", "/prod/@connections", "")
	named := func() (names []string) {
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, family := range families {
			for _, m := range family.GetMetric() {
				for _, l := range m.GetLabel() {
					if l.GetName() == "endpoint" && l.GetValue() == "/prod" {
						names = append(names, family.GetName())
					}
				}
			}
		}
		return slices.Compact(names)
	}
	if names := named(); !slices.Contains(names, "millrace_gateway_connects_total") || !slices.Contains(names, "millrace_gateway_apigateway_management_total") {
		t.Errorf("measured is %q", names)
	}
	if err := server.stop(); err != nil {
		t.Fatal(err)
	}
	metrics.Forget("/prod")
	if names := named(); names != nil {
		t.Errorf("left is %q", names)
	}
}

// A post to all reaches every connection of its endpoint, and no others; so does a large one.
func TestPostToAll(t *testing.T) {
	f := newFunction(t, func(lambdaEvent) string { return `{"statusCode":200}` })
	with, s := emulating(f, nil), newStream(1)
	w := newWriter(t, s)
	server := serve(t, s, func(c *gateway.Config, o *gateway.Options) {
		with(c, o)
		c.Endpoints["/beta"] = c.Endpoints["/prod"]
		o.Streams["connections"] = newStreamNamed("connections")
	})
	var all []*client
	for range 3 {
		all = append(all, server.dial(t, "/prod", ""))
	}
	other, beside := server.dial(t, "/beta", ""), server.dial(t, "/vehicles", "")
	const limit = 128 << 10 // more than a queue
	for _, text := range []string{"to all", strings.Repeat("x", limit)} {
		if code, _, counts := server.manage(t, "POST", "/prod/@connections?all=true", text); code != 200 || counts != `{"sent":3,"failed":0}` {
			t.Errorf("POST: %d %s", code, counts)
		}
		for _, c := range all {
			c.want(text)
		}
	}
	if code, _, counts := server.manage(t, "POST", "/beta/@connections?all=true", "to the other"); code != 200 || counts != `{"sent":1,"failed":0}` {
		t.Errorf("POST: %d %s", code, counts)
	}
	other.want("to the other")
	w.put("1", "an event")
	beside.want("an event")
}

// A connection that waits for its $connect is not there yet.
func TestPendingConnection(t *testing.T) {
	asked, proceed := make(chan string, 1), make(chan struct{})
	f := newFunction(t, func(e lambdaEvent) string {
		if e.RequestContext.EventType == "CONNECT" {
			asked <- e.RequestContext.ConnectionID
			<-proceed
		}
		return `{"statusCode":200}`
	})
	with := emulating(f, nil)
	server := serve(t, newStream(1), func(c *gateway.Config, o *gateway.Options) {
		with(c, o)
		o.Streams["connections"] = newStreamNamed("connections")
	})
	dialled := make(chan *client, 1)
	go func() { dialled <- server.dial(t, "/prod", "") }()
	path := "/prod/@connections/" + escapeID(<-asked)
	if code, _, _ := server.manage(t, "POST", path, "early"); code != 410 {
		t.Errorf("a post to a pending connection: %d", code)
	}
	close(proceed)
	c := <-dialled
	if code, _, _ := server.manage(t, "POST", path, "now"); code != 200 {
		t.Errorf("a post to a connection: %d", code)
	}
	c.want("now")
}

// An integration may take longer to decide than a page to be served, whatever it decides.
func TestSlowConnect(t *testing.T) {
	const page = 50 * time.Millisecond
	f := newFunction(t, func(e lambdaEvent) string {
		if e.RequestContext.EventType == "CONNECT" {
			time.Sleep(4 * page)
			if e.QueryStringParameters["VehicleID"] == "" {
				return `{"statusCode":418,"body":"VehicleID is missing"}`
			}
		}
		return `{"statusCode":200}`
	})
	with := emulating(f, nil)
	server := serve(t, newStream(1), func(c *gateway.Config, o *gateway.Options) {
		with(c, o)
		o.Streams["connections"] = newStreamNamed("connections")
		o.SetPageTimeout(page)
	})
	c := server.dial(t, "/prod?VehicleID=42", "")
	id := f.next(t).RequestContext.ConnectionID
	if code, _, _ := server.manage(t, "POST", "/prod/@connections/"+escapeID(id), "here"); code != 200 {
		t.Errorf("POST: %d", code)
	}
	c.want("here")
	if _, err := server.tryDial("/prod", ""); status(err) != 418 {
		t.Errorf("a denied connection: %v", err)
	}
}

// A client whose message an integration is busy with is not silent, however short the pings' interval: what it answers
// to them is read afterwards.
func TestSlowIntegration(t *testing.T) {
	t.Parallel()
	const ping = 100 * time.Millisecond
	f := newFunction(t, func(e lambdaEvent) string {
		if e.RequestContext.EventType == "MESSAGE" {
			time.Sleep(4 * ping)
		}
		return `{"statusCode":200,"body":"at last"}`
	})
	with := emulating(f, nil)
	server := serve(t, newStream(1), func(c *gateway.Config, o *gateway.Options) {
		with(c, o)
		c.Ping = ping
		o.Streams["connections"] = newStreamNamed("connections")
	})
	c := server.dial(t, "/prod", "")
	for range 2 {
		c.say("hello")
		c.want("at last")
	}
}

// However many connections a life that died has left, $disconnect is told of each: more than may wait at a time, too.
func TestManyAreLeft(t *testing.T) {
	const left, atATime = 45, 10
	var mu sync.Mutex
	told := map[string]int{}
	full := make(chan struct{}) // closed when as many wait as may
	all := make(chan struct{})
	application := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var e lambdaEvent
		if err := json.NewDecoder(r.Body).Decode(&e); err != nil {
			t.Error(err)
		}
		mu.Lock()
		told[e.RequestContext.ConnectionID]++
		if n := len(told); told[e.RequestContext.ConnectionID] == 1 {
			switch n {
			case atATime:
				close(full)
			case left:
				close(all)
			}
		}
		mu.Unlock()
		<-full
		_, _ = io.WriteString(w, `{"statusCode":200}`)
	}))
	defer application.Close()
	journal := newStreamNamed("connections")
	var events []millrace.Event
	for i := range left {
		id := fmt.Sprintf("connection%05d=", i)
		events = append(events, millrace.Event{ID: id, Key: id, Type: "connect", Data: fmt.Appendf(nil, `{"connection":%q,"endpoint":"/prod",`+
			`"connected_at":"2026-01-02T03:04:05Z","api":{"id":%[1]q,"connected_at":"2026-01-02T03:04:05Z"}}`, id)})
	}
	newWriter(t, journal).append(events...)
	with := emulating(&function{Server: application}, nil)
	server := serve(t, newStream(1), func(c *gateway.Config, o *gateway.Options) {
		with(c, o)
		o.Streams["connections"] = journal
		o.SetMaxWaiting(atATime)
	})
	select {
	case <-all:
	case <-time.After(patience):
		mu.Lock()
		t.Fatalf("$disconnect was told of %d connections of %d", len(told), left)
	}
	if err := server.stop(); err != nil {
		t.Error(err)
	}
	for id, n := range told {
		if n != 1 {
			t.Errorf("%s: told %d times", id, n)
		}
	}
}

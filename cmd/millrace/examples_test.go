package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
	"github.com/millrace/millrace/config"
	"github.com/millrace/millrace/millracetest"
	"github.com/millrace/millrace/producer"
	"github.com/millrace/millrace/source/sse"
	"github.com/millrace/millrace/stream/memory"
)

// secrets are what examples take from the environment.
func secrets(t *testing.T) {
	for _, name := range []string{"MBTA_KEY", "MASTODON_TOKEN", "HASS_TOKEN", "FACEBOOK_TOKEN", "QUOTES_TOKEN", "STRIPE_SECRET", "APIGATEWAY_SECRET"} {
		t.Setenv(name, "secret")
	}
	t.Setenv("FACEBOOK_VIDEO", "77")
	t.Setenv("SHOP_TOKEN", "0123456789abcdef")
	t.Setenv("OPERATIONS_KEY", "0123456789abcdef")
	t.Setenv("JWT_SECRET", "0123456789abcdef0123456789abcdef")
}

// TestExamples: each is a good configuration, and its feed has a page.
func TestExamples(t *testing.T) {
	secrets(t)
	files, err := filepath.Glob("../../examples/*.yaml")
	if err != nil || len(files) < 10 {
		t.Fatal(files, err)
	}
	below, err := filepath.Glob("../../examples/*/*.yaml")
	if err != nil || len(below) == 0 {
		t.Fatal(below, err)
	}
	for _, file := range append(files, below...) {
		if _, err := load(file); err != nil {
			t.Errorf("%s:\n%v", file, err)
		}
	}
	pages, err := filepath.Glob("../../docs/feeds/*.md")
	if err != nil || len(pages) < 9 {
		t.Error(pages, err)
	}
}

// example runs the source of an example against a server, until n events are stored.
func example(t *testing.T, file string, h http.Handler, n int) []millrace.Event {
	t.Helper()
	secrets(t)
	server := httptest.NewServer(h)
	defer server.Close()
	defer server.CloseClientConnections()
	c, err := load(filepath.Join("../../examples", file))
	if err != nil {
		t.Fatal(err)
	}
	var feed config.Source
	for _, feed = range c.Sources {
	}
	u, err := url.Parse(feed.SSE.URL)
	if err != nil {
		t.Fatal(err)
	}
	at, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	u.Scheme, u.Host = at.Scheme, at.Host
	feed.SSE.URL = u.String()
	into, dead := memory.New("into", memory.Options{}), memory.New("dead", memory.Options{})
	s := &source{config: feed, opening: make(chan struct{}, 1), producer: producer.Config{Name: "source/x", Into: into, Dead: dead}, open: func() millrace.Source {
		return sse.New(*feed.SSE, sse.Options{Logger: slog.New(slog.DiscardHandler), Random: func() float64 { return 0 }})
	}}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- s.run(ctx, func() {}) }()
	read := func(s *memory.Stream, most int) (events []millrace.Event) {
		partitions, err := s.Partitions(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for b, err := range s.Read(ctx, partitions[0].Name, millrace.Position{}) {
			if err != nil {
				t.Fatalf("after %d events: %v", len(events), err)
			}
			more, err := block.Events(b.Raw)
			if err != nil {
				t.Fatal(err)
			}
			if events = append(events, more...); len(events) >= most {
				break
			}
		}
		return events
	}
	events := read(into, n)
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if len(events) != n {
		t.Errorf("%d events, want %d", len(events), n)
	}
	ids := map[string]bool{}
	for _, e := range events {
		if ids[e.ID] {
			t.Errorf("the id %s comes twice", e.ID)
		}
		ids[e.ID] = true
	}
	return events
}

// needs answers 401 where a request lacks a secret.
func needs(h http.Handler, has func(r *http.Request) bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !has(r) {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		h.ServeHTTP(w, r)
	})
}

func bearer(r *http.Request) bool { return r.Header.Get("Authorization") == "Bearer secret" }

func keys(events []millrace.Event) string {
	var all []string
	for _, e := range events {
		all = append(all, e.Key)
	}
	return strings.Join(all, " ")
}

func TestMastodonExample(t *testing.T) {
	feed := millracetest.NewFeedHandler(millracetest.FeedOptions{EventsEach: 4, Resume: millracetest.ResumeNever, Live: true})
	defer feed.Close()
	post := func(who string) millracetest.FeedEvent {
		return millracetest.FeedEvent{Type: "update", Data: fmt.Sprintf(`{"id":"1","created_at":"2026-01-02T03:04:05.678Z","account":{"acct":%q}}`, who)}
	}
	go func() {
		_ = feed.WaitRequests(t.Context(), 1)
		feed.Send(millracetest.FeedEvent{Raw: ":thump\n"}, post("ann"), millracetest.FeedEvent{Type: "delete", Data: "1"}, post("bob@b.example"))
		_ = feed.WaitRequests(t.Context(), 2)
		feed.Send(post("cid"))
	}()
	events := example(t, "mastodon.yaml", needs(feed, bearer), 3)
	if keys(events) != "ann bob@b.example cid" || events[0].Time.Year() != 2026 {
		t.Errorf("%v", events)
	}
	if events[0].Attributes != nil || events[2].Attributes["gap_from"] == "" || events[2].Attributes["gap_to"] == "" {
		t.Errorf("gaps: %v, %v", events[0].Attributes, events[2].Attributes)
	}
}

func TestNtfyExample(t *testing.T) {
	feed := millracetest.NewFeedHandler(millracetest.FeedOptions{
		EventsEach: 2, Query: "since",
		Preamble: "event: open\ndata: {\"id\":\"random\",\"time\":1700000000,\"event\":\"open\",\"topic\":\"alerts\"}\n\n",
		Value: func(e millracetest.FeedEvent) string {
			var v struct{ ID string }
			_ = json.Unmarshal([]byte(e.Data), &v)
			return v.ID
		},
	})
	defer feed.Close()
	for i := range 5 {
		feed.Send(millracetest.FeedEvent{Type: "message", Data: fmt.Sprintf(`{"id":"m%d","time":%d,"event":"message","topic":"alerts","message":"hi"}`, i, 1700000000+i)})
	}
	events := example(t, "ntfy.yaml", feed, 5)
	if keys(events) != "alerts alerts alerts alerts alerts" || events[4].ID != "m4" || events[4].Time.Unix() != 1700000004 {
		t.Errorf("%v", events)
	}
	if q := feed.Requests()[1].Query.Get("since"); q != "m1" {
		t.Errorf("resumed with %q", q)
	}
}

func TestHorizonExample(t *testing.T) {
	feed := millracetest.NewFeedHandler(millracetest.FeedOptions{
		EventsEach: 2, Query: "cursor", Preamble: "retry: 50\nevent: open\ndata: \"hello\"\n\n",
	})
	defer feed.Close()
	for i := range 5 {
		feed.Send(millracetest.FeedEvent{ID: fmt.Sprint(100 + i), Data: fmt.Sprintf(`{"source_account":"G%d","created_at":"2026-01-02T03:04:05Z"}`, i)})
	}
	events := example(t, "horizon.yaml", feed, 5)
	if keys(events) != "G0 G1 G2 G3 G4" || events[4].ID != "104" {
		t.Errorf("%v", events)
	}
	requests := feed.Requests()
	if requests[0].Query.Get("cursor") != "now" || requests[1].Query.Get("cursor") != "101" {
		t.Errorf("asked for %v and %v", requests[0].Query, requests[1].Query)
	}
}

func TestHomeAssistantExample(t *testing.T) {
	feed := millracetest.NewFeedHandler(millracetest.FeedOptions{})
	defer feed.Close()
	feed.Send(
		millracetest.FeedEvent{Data: "ping"},
		millracetest.FeedEvent{Data: `{"event_type":"state_changed","data":{"entity_id":"light.hall"},"time_fired":"2026-01-02T03:04:05.123456+00:00"}`},
		millracetest.FeedEvent{Data: "ping"},
		millracetest.FeedEvent{Data: `{"event_type":"state_changed","data":{"entity_id":"light.door"},"time_fired":"2026-01-02T03:04:06.123456+00:00"}`},
	)
	if events := example(t, "homeassistant.yaml", needs(feed, bearer), 2); keys(events) != "light.hall light.door" {
		t.Errorf("%v", events)
	}
}

func TestFacebookExample(t *testing.T) {
	feed := millracetest.NewFeedHandler(millracetest.FeedOptions{})
	defer feed.Close()
	feed.Send(millracetest.FeedEvent{Raw: ": ping\n\n"}, millracetest.FeedEvent{Data: `{"id":"77_1","message":"hi"}`}, millracetest.FeedEvent{Data: `{"id":"77_2","message":"ho"}`})
	feed.End()
	h := needs(feed, func(r *http.Request) bool {
		return r.URL.Path == "/77/live_comments" && r.URL.Query().Get("access_token") == "secret"
	})
	if events := example(t, "facebook.yaml", h, 2); keys(events) != "77_1 77_2" {
		t.Errorf("%v", events)
	}
}

func TestQuotesExample(t *testing.T) {
	feed := millracetest.NewFeedHandler(millracetest.FeedOptions{})
	defer feed.Close()
	feed.Send(
		millracetest.FeedEvent{Data: `[{"symbol":"SPY","latestPrice":1.5,"latestUpdate":1700000000000},{"symbol":"AAPL","latestPrice":2,"latestUpdate":1700000000001}]`},
		millracetest.FeedEvent{Data: `[{"symbol":"SPY","latestPrice":1.6,"latestUpdate":1700000000002}]`},
	)
	h := needs(feed, func(r *http.Request) bool { return r.URL.Query().Get("token") == "secret" })
	if events := example(t, "quotes.yaml", h, 3); keys(events) != "SPY AAPL SPY" || events[2].Time.UnixMilli() != 1700000000002 {
		t.Errorf("%v", events)
	}
}

func TestHackerNewsExample(t *testing.T) {
	feed := millracetest.NewFirebase(t, millracetest.SimulatorOptions{})
	feed.Put("/", `{"items":[1,2],"profiles":["ann"]}`)
	forward := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, feed.URL+r.URL.Path, http.StatusTemporaryRedirect)
	})
	if events := example(t, "hackernews.yaml", forward, 2); keys(events) != "items profiles" || string(events[0].Data) != "[1,2]" {
		t.Errorf("%v", events)
	}
}

func TestWikimediaExample(t *testing.T) {
	feed := millracetest.NewWikimedia(t, millracetest.SimulatorOptions{}, "eqiad.mediawiki.recentchange")
	feed.SendCanary("eqiad.mediawiki.recentchange", time.UnixMilli(1700000000000), "c")
	feed.Send("eqiad.mediawiki.recentchange", time.UnixMilli(1700000000001), "e1", "enwiki", 1)
	forward := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, feed.URL+r.URL.Path, http.StatusTemporaryRedirect)
	})
	if events := example(t, "wikimedia.yaml", forward, 1); keys(events) != "enwiki" || events[0].ID != "e1" || events[0].Time.UnixMilli() != 1700000000001 {
		t.Errorf("%v", events)
	}
	if got := feed.Requests()[0].Header.Get("User-Agent"); !strings.HasPrefix(got, "millrace") {
		t.Errorf("User-Agent %q", got)
	}
}

func TestMBTAExamples(t *testing.T) {
	for file, path := range map[string]string{"mbta.yaml": "/vehicles", "mbta-predictions.yaml": "/predictions"} {
		feed := millracetest.NewMBTA(t, millracetest.SimulatorOptions{})
		feed.Set(path, "y1", `{"updated_at":"2026-01-02T03:04:05-05:00"}`)
		feed.Set(path, "y2", `{"updated_at":"2026-01-02T03:04:05-05:00"}`)
		forward := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, feed.URL+r.URL.RequestURI(), http.StatusTemporaryRedirect)
		})
		events := example(t, file, forward, 2)
		if keys(events) != "y1 y2" || events[0].Type != "add" || (events[0].Time.Month() == 1) != (path == "/vehicles") {
			t.Errorf("%s: %v", file, events)
		}
	}
}

package auth

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace"
)

func callbackConfig(url string) Config {
	c := &Callback{URL: url}
	c.SetDefaults()
	return Config{Callback: c, Token: Token{Query: "token", Cookie: "session"}}
}

func answer(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func TestCallbackIsAsked(t *testing.T) {
	var got string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = r.Method + " " + r.Header.Get("Content-Type") + " " + string(body)
		_, _ = io.WriteString(w, `{"subject":"alice","claims":{"vehicle":42,"more":{"depots":["a",7]}},"expires":"2026-01-31T13:00:00Z","new":1}`)
	}))
	defer server.Close()
	c := callbackConfig(server.URL + "/decide")
	c.Callback.Headers = []string{"cookie", "X-Tenant"}
	g := newGuard(t, c, Options{})
	start(t, g)
	r := request("/vehicles?VehicleID=42&token=the-token", "Origin", "https://app.example.org", "User-Agent", "test",
		"Cookie", "a=b", "X-Tenant", "t1", "X-Tenant", "t2", "X-Secret", "s")
	id, err := g.Check(context.Background(), r, netip.MustParseAddr("::ffff:203.0.113.7"))
	if err != nil {
		t.Fatal(err)
	}
	want := `POST application/json {"path":"/vehicles","query":"VehicleID=42\u0026token=the-token",` +
		`"headers":{"Cookie":"a=b","Origin":"https://app.example.org","User-Agent":"test","X-Tenant":"t1, t2"},` +
		`"remote":"203.0.113.7","token":"the-token"}`
	if got != want {
		t.Errorf("asked\n%s, want\n%s", got, want)
	}
	wantID := Identity{
		Subject: "alice", Key: "callback:alice", Expires: now.Add(time.Hour),
		Claims: map[string]any{"vehicle": json.Number("42"), "more": map[string]any{"depots": []any{"a", json.Number("7")}}},
	}
	if !reflect.DeepEqual(id, wantID) {
		t.Errorf("it is %+v, want %+v", id, wantID)
	}
}

func TestAnswersOfTheCallback(t *testing.T) {
	for name, tt := range map[string]struct {
		status int
		body   string
		want   int // 0: let in
		reason string
	}{
		"empty object":             {200, `{}`, 0, ""},
		"in seconds":               {200, `{"expires":1769864400}`, 0, ""},
		"nulls":                    {200, `{"subject":null,"claims":null,"expires":null,"key":null}`, 0, ""},
		"expired":                  {200, `{"expires":"2026-01-31T12:00:00Z"}`, 401, "expired"},
		"no body":                  {200, ``, 503, "cannot be checked"},
		"null":                     {200, `null`, 503, ""},
		"a list":                   {200, `[]`, 503, ""},
		"true":                     {200, `true`, 503, ""},
		"garbage behind":           {200, `{} {}`, 503, ""},
		"half":                     {200, `{"subject":"al`, 503, ""},
		"subject is a number":      {200, `{"subject":1}`, 503, ""},
		"claims are a list":        {200, `{"claims":[]}`, 503, ""},
		"expires is a date":        {200, `{"expires":"2026-01-31"}`, 503, ""},
		"expires is true":          {200, `{"expires":true}`, 503, ""},
		"expires is beyond time":   {200, `{"expires":1e300}`, 503, ""},
		"too large":                {200, `{"subject":"` + strings.Repeat("x", answerBytes) + `"}`, 503, ""},
		"another success":          {204, ``, 503, ""},
		"201":                      {201, `{}`, 503, ""},
		"401":                      {401, `{"reason":"the session is over"}`, 401, "the session is over"},
		"401 without a reason":     {401, ``, 401, "not allowed"},
		"403":                      {403, `{"reason":"no such vehicle"}`, 403, "no such vehicle"},
		"403 with HTML":            {403, `<html>`, 403, "not allowed"},
		"a reason with line break": {403, `{"reason":"a\r\nSet-Cookie: b=c"}`, 403, "a  Set-Cookie: b=c"},
		"a redirect":               {302, ``, 503, ""},
		"404":                      {404, `{"reason":"x"}`, 503, "cannot be checked"},
		"500":                      {500, `{"reason":"x"}`, 503, "cannot be checked"},
		"429":                      {429, ``, 503, ""},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(answer(tt.status, tt.body))
			defer server.Close()
			g := newGuard(t, callbackConfig(server.URL), Options{})
			start(t, g)
			if tt.want == 0 {
				allows(t, g, "the-token-itself")
				return
			}
			d := denies(t, g, "the-token-itself", tt.want, tt.reason)
			code := millrace.Denied
			if tt.want == 503 {
				code = millrace.Unavailable
			}
			if millrace.CodeOf(d) != code {
				t.Errorf("the code is %s", millrace.CodeOf(d))
			}
		})
	}
	long := parseReason([]byte(`{"reason":"` + strings.Repeat("ä", 150) + `"}`))
	if long != strings.Repeat("ä", 100) {
		t.Errorf("a long reason becomes %q", long)
	}
}

func TestCallbackThatDoesNotAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		logger, text := logged()
		var hang atomic.Bool
		hang.Store(true)
		g := newGuard(t, callbackConfig("https://auth.example.org/?secret=s3cr3t"), Options{
			Logger: logger,
			Client: inProcess(func(w http.ResponseWriter, r *http.Request) {
				if hang.Load() {
					<-r.Context().Done()
				}
				_, _ = io.WriteString(w, `{}`)
			}),
		})
		for range 3 {
			began := time.Now()
			denies(t, g, "the-token-itself", 503, "cannot be checked")
			if waited := time.Since(began); waited != 5*time.Second {
				t.Errorf("waited %s", waited)
			}
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		began := time.Now()
		id, err := g.Check(ctx, bearer("the-token-itself"), remote) // the client goes
		isDenied(t, id, err, "", 503, "")
		if waited := time.Since(began); waited != time.Second {
			t.Errorf("waited %s", waited)
		}
		hang.Store(false)
		allows(t, g, "the-token-itself")
		logged := text.String()
		if strings.Count(logged, "does not answer") != 1 || strings.Count(logged, "answers again") != 1 {
			t.Errorf("logged:\n%s", logged)
		}
		if strings.Contains(logged, "s3cr3t") || strings.Contains(logged, "the-token-itself") {
			t.Errorf("the log holds a secret:\n%s", logged)
		}
	})
}

func TestQuestionsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked, most atomic.Int64
		g := newGuard(t, callbackConfig("https://auth.example.org/"), Options{
			Client: inProcess(func(w http.ResponseWriter, _ *http.Request) {
				n := asked.Add(1)
				for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
				}
				time.Sleep(2 * time.Second)
				asked.Add(-1)
				_, _ = io.WriteString(w, `{}`)
			}),
		})
		var clients sync.WaitGroup
		var in, unavailable atomic.Int64
		for range 3 * mostAsked {
			clients.Go(func() {
				if _, err := g.Check(context.Background(), bearer("x"), remote); err != nil {
					unavailable.Add(1)
				} else {
					in.Add(1)
				}
			})
		}
		clients.Wait()
		// Within 5 s two rounds of 2 s are answered; the third is under way when its time is over.
		if most.Load() != mostAsked || in.Load() != 2*mostAsked || unavailable.Load() != mostAsked {
			t.Errorf("%d at a time, %d let in, %d turned away for now", most.Load(), in.Load(), unavailable.Load())
		}
	})
}

func TestAnswersAreKeptOnlyIfConfigured(t *testing.T) {
	var asked atomic.Int64
	at := now
	client := inProcess(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		var q question
		_ = json.NewDecoder(r.Body).Decode(&q)
		switch q.Token {
		case "deny":
			answer(403, `{"reason":"no"}`)(w, r)
		case "break":
			answer(500, ``)(w, r)
		case "short":
			answer(200, `{"subject":"short","expires":`+strconv.FormatInt(at.Add(10*time.Second).Unix(), 10)+`}`)(w, r)
		default:
			answer(200, `{"subject":`+strconv.Quote(q.Token)+`}`)(w, r)
		}
	})
	ask := func(g *Guard, token, target string) {
		_, _ = g.CheckToken(context.Background(), token, request(target), remote)
	}
	options := Options{Client: client, Now: func() time.Time { return at }}
	never := newGuard(t, callbackConfig("https://auth.example.org/"), options)
	for range 3 {
		ask(never, "a", "/")
	}
	if n := asked.Swap(0); n != 3 {
		t.Errorf("asked %d times, want 3", n)
	}
	c := callbackConfig("https://auth.example.org/")
	c.Callback.Cache = time.Minute
	g := newGuard(t, c, options)
	for _, tt := range []struct {
		token, target string
		after         time.Duration
		asked         int64
	}{
		{"a", "/", 0, 1},
		{"a", "/", 59 * time.Second, 0},
		{"a", "/", time.Second, 1}, // a minute old
		{"a", "/other", 0, 1},      // another question
		{"a", "/?x", 0, 1},
		{"deny", "/", 0, 1},
		{"deny", "/", 0, 0},
		{"break", "/", 0, 1},
		{"break", "/", 0, 1},
		{"short", "/", 0, 1},
		{"short", "/", 9 * time.Second, 0},
		{"short", "/", time.Second, 1},
	} {
		at = at.Add(tt.after)
		ask(g, tt.token, tt.target)
		if n := asked.Swap(0); n != tt.asked {
			t.Errorf("%s %s after %s: asked %d times, want %d", tt.token, tt.target, tt.after, n, tt.asked)
		}
	}
	id, err := g.CheckToken(context.Background(), "a", request("/"), remote)
	if err != nil || id.Key != "callback:a" {
		t.Errorf("from the cache: %+v, %v", id, err)
	}
}

func TestCacheIsBounded(t *testing.T) {
	c := &cache{life: time.Hour, now: clock, decisions: map[[32]byte]kept{}}
	at := func(i int) (q [32]byte) {
		copy(q[:], strconv.Itoa(i))
		return q
	}
	for i := range 3*mostKept + 5 {
		c.put(at(i), decision{})
		c.put(at(i), decision{}) // again
	}
	if len(c.decisions) != mostKept || len(c.order) != mostKept {
		t.Errorf("%d kept, %d in order", len(c.decisions), len(c.order))
	}
	_, oldest := c.get(at(2*mostKept + 5))
	_, gone := c.get(at(2*mostKept + 4))
	if !oldest || gone {
		t.Errorf("the oldest that may be kept is there: %t; the one before: %t", oldest, gone)
	}
}

// TestNobodyListens has neither the callback nor the key set there: what is logged holds no URL's query.
func TestNobodyListens(t *testing.T) {
	server := httptest.NewServer(nil)
	url := server.URL + "/?secret=s3cr3t"
	server.Close()
	logger, text := logged()
	c := callbackConfig(url)
	c.JWT = jwksConfig(url).JWT
	g := newGuard(t, c, Options{Logger: logger})
	start(t, g)
	d := denies(t, g, "the-token-itself", 503, "cannot be checked")
	g.jwt.set.refresh(context.Background())
	if logged := text.String() + d.Error(); strings.Contains(logged, "s3cr3t") || strings.Count(logged, "refused") < 2 {
		t.Errorf("logged:\n%s", logged)
	}
}

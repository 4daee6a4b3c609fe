package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/listener"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func get(t *testing.T, h http.Handler, path string, set func(*http.Request)) (int, string) {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, path, nil)
	r.Host = "127.0.0.1:8081"
	if set != nil {
		set(r)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

func TestReady(t *testing.T) {
	var stages []Stage
	h := New(Config{}, Options{Stages: func() []Stage { return stages }}).Handler(false)
	if code, body := get(t, h, "/readyz", nil); code != 200 || body != "ready\n" {
		t.Errorf("no stages: %d %q", code, body)
	}
	stages = []Stage{
		{Name: "gateway", Ready: true, State: "running"},
		{Name: "source/buses", State: "failed", Err: errors.New("connect:\n  refused")},
		{Name: "query/crossings", State: "starting"},
	}
	want := "source/buses: failed: connect: refused\nquery/crossings: starting\n"
	if code, body := get(t, h, "/readyz", nil); code != 503 || body != want {
		t.Errorf("%d %q, want %q", code, body, want)
	}
	if code, body := get(t, h, "/healthz", nil); code != 200 || body != "ok\n" {
		t.Errorf("healthz: %d %q", code, body)
	}
}

func TestMetrics(t *testing.T) {
	h := New(Config{}, Options{Metrics: NewRegistry()}).Handler(false)
	code, body := get(t, h, "/metrics", nil)
	if code != 200 || !strings.Contains(body, "go_goroutines") {
		t.Errorf("%d %.200s", code, body)
	}
}

func TestProfilesOnLoopbackOnly(t *testing.T) {
	s := New(Config{}, Options{})
	if code, _ := get(t, s.Handler(true), "/debug/pprof/", nil); code != 200 {
		t.Errorf("on loopback: %d", code)
	}
	if code, _ := get(t, s.Handler(false), "/debug/pprof/", nil); code != 404 {
		t.Errorf("elsewhere: %d", code)
	}
	for address, want := range map[string]bool{"127.0.0.1": true, "::1": true, "0.0.0.0": false, "10.0.0.1": false} {
		if got := listener.Loopback((&net.TCPAddr{IP: net.ParseIP(address)}).String()); got != want {
			t.Errorf("%s: %t", address, got)
		}
	}
}

// What a browser sends for a page elsewhere is refused; what tools send is not.
func TestGuard(t *testing.T) {
	h := New(Config{Hosts: []string{"millrace.example.org"}}, Options{}).Handler(false)
	for _, tt := range []struct {
		host, origin, site string
		want               int
	}{
		{host: "127.0.0.1:8081", want: 200},
		{host: "127.0.0.1", want: 200},
		{host: "[::1]:8081", want: 200},
		{host: "[::1]", want: 200},
		{host: "10.1.2.3:8081", want: 200},
		{host: "localhost:8081", want: 200},
		{host: "LOCALHOST.", want: 200},
		{host: "millrace.localhost:1", want: 200},
		{host: "Millrace.Example.Org:8081", want: 200},
		{host: "evil.example:8081", want: 421},
		{host: "localhost.evil.example", want: 421},
		{host: "127.0.0.1.evil.example", want: 421},
		{host: "", want: 421},
		{host: "127.0.0.1:8081", origin: "http://127.0.0.1:8081", site: "same-origin", want: 200},
		{host: "127.0.0.1:8081", origin: "http://127.0.0.1:9999", want: 403},
		{host: "127.0.0.1:8081", origin: "https://evil.example", want: 403},
		{host: "127.0.0.1:8081", origin: "null", want: 403},
		{host: "127.0.0.1:8081", site: "cross-site", want: 403},
		{host: "127.0.0.1:8081", site: "same-site", want: 403},
		{host: "127.0.0.1:8081", site: "none", want: 200},
	} {
		code, _ := get(t, h, "/healthz", func(r *http.Request) {
			r.Host = tt.host
			if tt.origin != "" {
				r.Header.Set("Origin", tt.origin)
			}
			if tt.site != "" {
				r.Header.Set("Sec-Fetch-Site", tt.site)
			}
		})
		if code != tt.want {
			t.Errorf("host %q origin %q site %q: %d, want %d", tt.host, tt.origin, tt.site, code, tt.want)
		}
	}
	r := httptest.NewRequest(http.MethodPost, "http://127.0.0.1/healthz", nil)
	w := httptest.NewRecorder()
	if h.ServeHTTP(w, r); w.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", w.Code)
	}
}

// With a token every path takes it but /healthz, also those that there are not.
func TestToken(t *testing.T) {
	const token = "0123456789abcdef"
	h := New(Config{Token: token}, Options{}).Handler(true)
	for _, path := range []string{"/healthz", "/readyz", "/metrics", "/debug/pprof/", "/", "/nowhere", "/healthz/", "//healthz"} {
		for authorization, right := range map[string]bool{
			"": false, "Bearer " + token: true, "bearer  " + token: true, "Bearer": false, "Bearer ": false,
			"Bearer " + token + "0": false, "Bearer 0123456789abcdeF": false, "Basic " + token: false, token: false,
		} {
			code, body := get(t, h, path, func(r *http.Request) {
				if authorization != "" {
					r.Header.Set("Authorization", authorization)
				}
			})
			if refused := code == http.StatusUnauthorized; refused == (right || path == "/healthz") {
				t.Errorf("%s with %q: %d", path, authorization, code)
			}
			if strings.Contains(body, token) {
				t.Errorf("%s tells the token", path)
			}
		}
	}
	if code, _ := get(t, New(Config{}, Options{}).Handler(false), "/readyz", nil); code != 200 {
		t.Errorf("without a token: %d", code)
	}
}

// What others add is refused to whom the rest is refused, and stands in the index. Whoever only looks needs no token
// where none is configured; whoever does more needs that of the program.
func TestHandlers(t *testing.T) {
	const token = "0123456789abcdef"
	more := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { text(w, 200, r.Method+" "+r.URL.Path) })
	h := New(Config{Token: token}, Options{Handlers: map[string]http.Handler{"/things": more, "/things/": more}}).Handler(false)
	right := func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+token) }
	for _, tt := range []struct {
		path string
		set  func(*http.Request)
		code int
		body string
	}{
		{"/things", right, 200, "GET /things"},
		{"/things/1", func(r *http.Request) { right(r); r.Method = http.MethodDelete }, 200, "DELETE /things/1"},
		{"/things/1", nil, 401, "takes the header"},
		{"/things", func(r *http.Request) { right(r); r.Host = "evil.example" }, 421, "no name of this listener"},
		{"/things", func(r *http.Request) { right(r); r.Header.Set("Origin", "http://evil.example") }, 403, "refused"},
		{"/", right, 200, "/metrics\n/things\n/things/\n"},
	} {
		if code, body := get(t, h, tt.path, tt.set); code != tt.code || !strings.Contains(body, tt.body) {
			t.Errorf("%s: %d %q, want %d %q", tt.path, code, body, tt.code, tt.body)
		}
	}
	h = New(Config{}, Options{Handlers: map[string]http.Handler{"/things": more}, Token: token}).Handler(false)
	for _, tt := range []struct {
		method string
		set    func(*http.Request)
		code   int
	}{
		{"GET", nil, 200}, {"HEAD", nil, 200}, {"DELETE", nil, 401}, {"POST", nil, 401}, {"DELETE", right, 200},
	} {
		code, body := get(t, h, "/things", func(r *http.Request) {
			r.Method = tt.method
			if tt.set != nil {
				tt.set(r)
			}
		})
		if code != tt.code {
			t.Errorf("%s: %d %q, want %d", tt.method, code, body, tt.code)
		}
	}
}

func TestValidate(t *testing.T) {
	files := &listener.TLS{Cert: "cert.pem", Key: "key.pem"}
	for _, tt := range []struct {
		c    Config
		want string // the key that is wrong
	}{
		{Config{Listen: "127.0.0.1:8081"}, ""},
		{Config{Listen: "[::1]:8081"}, ""},
		{Config{Listen: "localhost:8081", Token: "0123456789abcdef"}, ""},
		{Config{Listen: ":8081"}, "listen"},
		{Config{Listen: ":8081", TLS: files}, "listen"},
		{Config{Listen: "10.0.0.1:8081", Token: "0123456789abcdef"}, "listen"},
		{Config{Listen: "admin.internal:8081"}, "listen"},
		{Config{Listen: ":8081", TLS: files, Token: "0123456789abcdef"}, ""},
		{Config{Listen: ":8081", TLS: files, Token: "0123456789abcde"}, "token"},
		{Config{Listen: "127.0.0.1:8081", Token: "0123456789 abcdef"}, "token"},
		{Config{Listen: "8081"}, "listen"},
		{Config{Listen: "127.0.0.1:80810"}, "listen"},
	} {
		got := ""
		tt.c.Validate(func(path, format string, args ...any) {
			got = path
			if message := fmt.Sprintf(format, args...); tt.c.Token != "" && strings.Contains(message, tt.c.Token) {
				t.Errorf("%q tells the token", message)
			}
		})
		if got != tt.want {
			t.Errorf("%+v: %q, want %q", tt.c, got, tt.want)
		}
	}
}

func TestRun(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- New(Config{}, Options{}).Run(ctx, listener) }()
	client := &http.Client{Transport: &http.Transport{}, Timeout: 10 * time.Second}
	defer client.CloseIdleConnections()
	response, err := client.Get("http://" + listener.Addr().String() + "/")
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(response.Body)
	response.Body.Close()
	if response.StatusCode != 200 || !strings.Contains(string(body), "/debug/pprof/") {
		t.Errorf("%d %q", response.StatusCode, body)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A listener that fails ends Run with the reason.
func TestRunFails(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener.Close()
	if err := New(Config{}, Options{}).Run(t.Context(), listener); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
}

// A reload takes one of the two tokens, and says by its status what became of it.
func TestReload(t *testing.T) {
	const configured, own = "0123456789abcdef", "fedcba9876543210"
	var fails error
	var asked []string
	o := Options{Token: own, Reload: func(file string) (Changes, error) {
		asked = append(asked, file)
		return Changes{Added: []string{"source/a"}}, fails
	}}
	post := func(s *Server, token string) (int, string) {
		r := httptest.NewRequest(http.MethodPost, "http://127.0.0.1/reload?file=/etc/m.yaml", nil)
		r.Header.Set("Authorization", "Bearer "+token)
		w := httptest.NewRecorder()
		s.Handler(false).ServeHTTP(w, r)
		return w.Code, strings.TrimSpace(w.Body.String())
	}
	with, without := New(Config{Token: configured}, o), New(Config{}, o)
	for _, tt := range []struct {
		s     *Server
		token string
		want  int
	}{{with, configured, 200}, {with, own, 200}, {with, "", 401}, {without, own, 200}, {without, configured, 401}, {without, "", 401}} {
		if code, body := post(tt.s, tt.token); code != tt.want || code == 200 && body != `{"added":["source/a"]}` {
			t.Errorf("token %q: %d %s, want %d", tt.token, code, body, tt.want)
		}
	}
	if len(asked) != 3 || asked[0] != "/etc/m.yaml" {
		t.Errorf("it was asked to reload %q", asked)
	}
	for code, want := range map[millrace.Code]int{
		millrace.Invalid: 422, millrace.Conflict: 409, millrace.Unavailable: 503, millrace.Internal: 500,
	} {
		fails = millrace.Errorf(code, "reload", "no: %s", code)
		if got, body := post(without, own); got != want || !strings.HasSuffix(body, `"problem":"no: `+string(code)+`"}`) {
			t.Errorf("%s: %d %s, want %d", code, got, body, want)
		}
	}
}

package apigateway

import (
	"context"
	"encoding/json"
	"io"
	"iter"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/millrace/millrace"
)

// table is Connections in memory: it keeps what was sent, and fails as told.
type table struct {
	infos  map[string]Info
	sent   []string // ID: TEXT
	closed []string
	fail   error
}

func (c *table) Send(_ context.Context, id string, data []byte) error {
	if _, err := c.Info(id); err != nil {
		return err
	}
	if c.fail != nil {
		return c.fail
	}
	c.sent = append(c.sent, id+": "+string(data))
	return nil
}

func (c *table) Info(id string) (Info, error) {
	if i, ok := c.infos[id]; ok {
		return i, nil
	}
	return Info{}, millrace.Errorf(millrace.NotFound, "find connection", "gone")
}

func (c *table) Close(id string, code int, reason string) error {
	if _, err := c.Info(id); err != nil {
		return err
	}
	c.closed = append(c.closed, http.StatusText(code)+reason)
	c.closed[len(c.closed)-1] = strings.TrimSpace(jsonOf(code) + " " + reason)
	return nil
}

func (c *table) All() iter.Seq[Info] {
	return func(yield func(Info) bool) {
		for _, i := range c.infos {
			if !yield(i) {
				return
			}
		}
	}
}

func (c *table) SendKey(_ context.Context, key string, data []byte) (int, error) {
	if c.fail != nil {
		return 0, c.fail
	}
	c.sent = append(c.sent, key+": "+string(data))
	return 3, nil
}

func (c *table) SendAll(ctx context.Context, data []byte) (sent, failed int) {
	for id := range c.infos {
		if c.Send(ctx, id, data) == nil {
			sent++
		} else {
			failed++
		}
	}
	return sent, failed
}

func jsonOf(v any) string {
	text, _ := json.Marshal(v)
	return string(text)
}

func managed(t *testing.T, set func(*Config)) (*API, *table) {
	c := &table{infos: map[string]Info{testInfo.ID: testInfo}}
	return newAPI(t, "/prod", configured(func(config *Config) {
		config.Keys = []KeyPair{testPair}
		if set != nil {
			set(config)
		}
	}), Options{Connections: c, Now: func() time.Time { return signedAt }, Random: &alphabet{}}), c
}

func ask(a *API, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	a.ServeManagement(w, r)
	return w
}

const base = "https://api.example.org/prod/"

// Each call of the management API and each of its errors, as the AWS SDK for Go signs them.
func TestManagement(t *testing.T) {
	const gone = "AAAAAAAAAAAAAAA%3D"
	for _, tt := range []struct {
		method, target, body string
		fail                 error
		status               int
		name                 string // x-amzn-ErrorType
		answer               string // the body; "*": some message
		done                 string // what was sent or closed
	}{
		{"POST", "%40connections/R1kmxc2VNjMCFIA%3D", "hello", nil, 200, "", "", "R1kmxc2VNjMCFIA=: hello"},
		{"POST", "@connections/R1kmxc2VNjMCFIA=", "hello", nil, 200, "", "", "R1kmxc2VNjMCFIA=: hello"},
		{"POST", "@connections/R1kmxc2VNjMCFIA%3d", "", nil, 200, "", "", "R1kmxc2VNjMCFIA=: "},
		{"POST", "@connections/" + gone, "hello", nil, 410, "GoneException", "", ""},
		{"POST", "@connections/short", "hello", nil, 400, "BadRequestException", `{"message":"Invalid connectionId: short"}`, ""},
		{"POST", "@connections/", "hello", nil, 400, "BadRequestException", "*", ""},
		{"POST", "@connections/R1kmxc2VNjMCFIA%3D", "\xff", nil, 400, "BadRequestException", "*", ""},
		{"POST", "@connections/R1kmxc2VNjMCFIA%3D", strings.Repeat("x", 128<<10), nil, 200, "", "", "R1kmxc2VNjMCFIA=: " + strings.Repeat("x", 128<<10)},
		{"POST", "@connections/R1kmxc2VNjMCFIA%3D", strings.Repeat("x", 128<<10+1), nil, 413, "PayloadTooLargeException", "*", ""},
		{"POST", "@connections/R1kmxc2VNjMCFIA%3D", "hello", millrace.Errorf(millrace.Unavailable, "", "full"), 429, "LimitExceededException", "*", ""},
		{"POST", "@connections/R1kmxc2VNjMCFIA%3D", "hello", millrace.Errorf(millrace.TooLarge, "", "large"), 413, "PayloadTooLargeException", "*", ""},
		{"POST", "@connections/R1kmxc2VNjMCFIA%3D", "hello", io.ErrUnexpectedEOF, 500, "InternalServerErrorException", "*", ""},
		{"GET", "@connections/R1kmxc2VNjMCFIA%3D", "", nil, 200, "", `{"connectedAt":"2024-01-20T11:55:00.123Z","identity":{"userAgent":"agent/1.0","sourceIp":"203.0.113.7"},"lastActiveAt":"2024-01-20T11:55:00.123Z"}`, ""},
		{"GET", "@connections/" + gone, "", nil, 410, "GoneException", "", ""},
		{"DELETE", "@connections/R1kmxc2VNjMCFIA%3D", "", nil, 204, "", "", "1000"},
		{"DELETE", "@connections/" + gone, "", nil, 410, "GoneException", "", ""},
		{"DELETE", "@connections/R1kmxc2VNjMCFIA%3D?code=4001&reason=moved%20on", "", nil, 204, "", "", "4001 moved on"},
		{"DELETE", "@connections/R1kmxc2VNjMCFIA%3D?code=1006", "", nil, 400, "BadRequestException", "*", ""},
		{"DELETE", "@connections/R1kmxc2VNjMCFIA%3D?code=x", "", nil, 400, "BadRequestException", "*", ""},
		{"DELETE", "@connections/R1kmxc2VNjMCFIA%3D?reason=" + strings.Repeat("x", 124), "", nil, 400, "BadRequestException", "*", ""},
		{"PUT", "@connections/R1kmxc2VNjMCFIA%3D", "", nil, 405, "BadRequestException", "*", ""},
		{"GET", "@connections", "", nil, 200, "", `{"connections":[{"connectionId":"R1kmxc2VNjMCFIA=","connectedAt":"2024-01-20T11:55:00.123Z","identity":{"userAgent":"agent/1.0","sourceIp":"203.0.113.7"},"lastActiveAt":"2024-01-20T11:55:00.123Z"}]}`, ""},
		{"POST", "@connections?key=a%2Fb", "hello", nil, 200, "", `{"sent":3}`, "a/b: hello"},
		{"POST", "@connections?key=", "hello", nil, 400, "BadRequestException", "*", ""},
		{"POST", "@connections?key=a", "hello", millrace.Errorf(millrace.Invalid, "", "no subscriptions"), 400, "BadRequestException", `{"message":"no subscriptions"}`, ""},
		{"POST", "@connections?all=true", "hello", nil, 200, "", `{"sent":1,"failed":0}`, "R1kmxc2VNjMCFIA=: hello"},
		{"POST", "@connections", "hello", nil, 400, "BadRequestException", "*", ""},
		{"DELETE", "@connections", "", nil, 405, "BadRequestException", "*", ""},
	} {
		t.Run(tt.method+" "+tt.target, func(t *testing.T) {
			a, connections := managed(t, nil)
			connections.fail = tt.fail
			r := sent(t, signed(t, tt.method, base+tt.target, tt.body))
			if Managing([]*API{a}, r) != a {
				t.Fatal("it is not taken for the management API's")
			}
			w := ask(a, r)
			if w.Code != tt.status || w.Header().Get("x-amzn-ErrorType") != tt.name {
				t.Errorf("%d %s %s; want %d %s", w.Code, w.Header().Get("x-amzn-ErrorType"), w.Body, tt.status, tt.name)
			}
			if body := w.Body.String(); body != tt.answer && (tt.answer != "*" || !strings.HasPrefix(body, `{"message":"`)) {
				t.Errorf("%s, want %s", body, tt.answer)
			}
			if done := strings.Join(append(connections.sent, connections.closed...), ","); done != tt.done {
				t.Errorf("done %.100q, want %.100q", done, tt.done)
			}
			if len(w.Header().Get("x-amzn-RequestId")) != idLength {
				t.Errorf("header %v", w.Header())
			}
		})
	}
}

// Without a signature, with a wrong one, or where there are no keys, everything is forbidden, and the
// connection's being there or not does not show.
func TestManagementForbidden(t *testing.T) {
	for name, r := range map[string]*http.Request{
		"unsigned":  httptest.NewRequest("POST", base+"@connections/R1kmxc2VNjMCFIA=", strings.NewReader("hello")),
		"gone":      httptest.NewRequest("GET", base+"@connections/AAAAAAAAAAAAAAA=", nil),
		"malformed": httptest.NewRequest("GET", base+"@connections/x", nil),
		"list":      httptest.NewRequest("GET", base+"@connections", nil),
		"method":    httptest.NewRequest("PATCH", base+"@connections", nil),
		"large":     httptest.NewRequest("POST", base+"@connections/R1kmxc2VNjMCFIA=", strings.NewReader(strings.Repeat("x", 1<<20))),
	} {
		a, connections := managed(t, nil)
		w := ask(a, r)
		if w.Code != 403 || w.Header().Get("x-amzn-ErrorType") != "ForbiddenException" || connections.sent != nil {
			t.Errorf("%s: %d %v", name, w.Code, w.Header())
		}
	}
	a, _ := managed(t, func(c *Config) { c.Keys = nil })
	if w := ask(a, sent(t, signed(t, "GET", base+"@connections", ""))); w.Code != 403 {
		t.Errorf("without keys: %d", w.Code)
	}
	if n := testutil.ToFloat64(a.metrics.management.WithLabelValues("/prod", "list", "403")); n != 1 {
		t.Errorf("counted %v", n)
	}
}

func TestManages(t *testing.T) {
	a := newAPI(t, "/app/prod", configured(nil), Options{})
	for target, want := range map[string]bool{
		"/app/prod/@connections/x":     true,
		"/app/prod/%40connections/x":   true,
		"/app%2Fprod/@connections/x":   true, // decoded it is the same path
		"/prod/@connections/x":         true,
		"/@connections/x":              true,
		"/@connections":                true,
		"/app/prod/@connections":       true,
		"/prod/@connections/":          true,
		"/app/prod":                    false,
		"/app/prod/":                   false,
		"/app/@connections/x":          false,
		"/app/prod/@connections/x/y":   false,
		"/x/app/prod/@connections/x":   false,
		"/@connectionsx/x":             false,
		"/app/prod//@connections/x":    false,
		"/%2F/@connections/x":          false,
		"/app/prod/@connections/%2Fxy": true,
		"/":                            false,
		"/connections":                 false,
	} {
		r := httptest.NewRequest("GET", "http://api.example.org"+target, nil)
		if got := Managing([]*API{a}, r) == a; got != want {
			t.Errorf("%s: %t", target, got)
		}
	}
}

// Of several endpoints the path chooses one; where it names none, the connection, then the key.
func TestManaging(t *testing.T) {
	endpoint := func(path, id, key string) *API {
		info := testInfo
		info.ID = id
		return newAPI(t, path, configured(func(c *Config) { c.Keys = []KeyPair{{AccessKeyID: key, SecretAccessKey: testSecret}} }),
			Options{Connections: &table{infos: map[string]Info{id: info}}, Now: func() time.Time { return signedAt }})
	}
	one := endpoint("/a/prod", "AAAAAAAAAAAAAAA=", "ONE")
	two := endpoint("/b/prod", "BAAAAAAAAAAAAAA=", testKey)
	beta := endpoint("/beta", "CAAAAAAAAAAAAAA=", "THREE")
	all := []*API{one, two, beta}
	for target, want := range map[string]*API{
		"/a/prod/@connections/BAAAAAAAAAAAAAA=": one,
		"/b/prod/@connections":                  two,
		"/prod/@connections/AAAAAAAAAAAAAAA=":   one,
		"/prod/@connections/BAAAAAAAAAAAAAA=":   two,
		"/prod/@connections":                    two,
		"/@connections/CAAAAAAAAAAAAAA=":        beta,
		"/@connections/DAAAAAAAAAAAAAA=":        two,
		"/beta/@connections/AAAAAAAAAAAAAAA=":   beta,
		"/gamma/@connections/AAAAAAAAAAAAAAA=":  nil,
		"/prod":                                 nil,
	} {
		if got := Managing(all, sent(t, signed(t, "GET", "https://api.example.org"+target, ""))); got != want {
			t.Errorf("%s: %v", target, got)
		}
	}
	if Managing(nil, httptest.NewRequest("GET", "/@connections", nil)) != nil {
		t.Error("there is no endpoint")
	}
	if got := Managing(all, httptest.NewRequest("GET", "/@connections", nil)); got != one {
		t.Errorf("nothing to choose by: %v", got)
	}
}

// Whatever a path says, it is read in one way: what is served has the id that the path ends with.
func FuzzResource(f *testing.F) {
	f.Add("/prod/%40connections/R1kmxc2VNjMCFIA%3D")
	f.Add("/@connections")
	f.Add("//@connections/%2F")
	f.Add("/%zz/@connections/%")
	f.Fuzz(func(t *testing.T, path string) {
		r, ok := resourceOf(path)
		if ok && r.all && r.id != "" {
			t.Errorf("%q: %+v", path, r)
		}
		if ok && !r.all && validID(r.id) && !strings.Contains(path, r.id) && !strings.Contains(path, "%") {
			t.Errorf("%q: %+v", path, r)
		}
	})
}

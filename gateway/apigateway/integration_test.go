package apigateway

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/millrace/millrace"
)

// function answers like a Lambda function behind /2015-03-31/functions/NAME/invocations.
func function(answer string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, answer)
	}
}

// failing is how Lambda says that a function raised an exception.
func failing(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("X-Amz-Function-Error", "Unhandled")
	_, _ = io.WriteString(w, `{"errorMessage":"it broke","errorType":"KeyError","stackTrace":[]}`)
}

func status(code int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-From", "integration")
		w.WriteHeader(code)
		_, _ = io.WriteString(w, body)
	}
}

// slow answers after the integration timeout of these tests.
func slow(_ http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body) // so that the end of the request is noticed
	<-r.Context().Done()
}

const shortTimeout = 50 * time.Millisecond

func TestConnect(t *testing.T) {
	for _, tt := range []struct {
		name        string
		function    bool
		answer      http.HandlerFunc
		status      int
		subprotocol string
		body        string // what the body holds
		header      [2]string
	}{
		{name: "function allows", function: true, answer: function(`{"statusCode":200,"body":"ignored"}`), status: 101},
		{name: "status as text", function: true, answer: function(`{"statusCode":"204"}`), status: 101},
		{name: "subprotocol", function: true, answer: function(`{"statusCode":200,"headers":{"Sec-WebSocket-Protocol":"chat"}}`), status: 101, subprotocol: "chat"},
		{name: "subprotocol in lists", function: true, answer: function(`{"statusCode":200,"multiValueHeaders":{"sec-websocket-protocol":["chat"]}}`), status: 101, subprotocol: "chat"},
		{name: "subprotocol not offered", function: true, answer: function(`{"statusCode":200,"headers":{"Sec-WebSocket-Protocol":"other"}}`), status: 101},
		{name: "function denies", function: true, answer: function(`{"statusCode":403,"body":"no","headers":{"X-Why":"because","Connection":"close","X-Break":"a\r\nb","X-Number":7}}`), status: 403, body: "no", header: [2]string{"X-Why", "because"}},
		{name: "base64", function: true, answer: function(`{"statusCode":400,"body":"bm8=","isBase64Encoded":true}`), status: 400, body: "no"},
		{name: "redirect", function: true, answer: function(`{"statusCode":302,"headers":{"Location":"/x"}}`), status: 302, header: [2]string{"Location", "/x"}},
		{name: "exception", function: true, answer: failing, status: 502, body: "Internal server error"},
		{name: "exception in the body alone", function: true, answer: function(`{"errorMessage":"it broke","errorType":"KeyError"}`), status: 502},
		{name: "null", function: true, answer: function(`null`), status: 502},
		{name: "no statusCode", function: true, answer: function(`{"body":"x"}`), status: 502},
		{name: "text", function: true, answer: function(`"ok"`), status: 502},
		{name: "impossible status", function: true, answer: function(`{"statusCode":101}`), status: 502},
		{name: "body is no text", function: true, answer: function(`{"statusCode":200,"body":{}}`), status: 502},
		{name: "body is no base64", function: true, answer: function(`{"statusCode":200,"body":"!","isBase64Encoded":true}`), status: 502},
		{name: "no function", function: true, answer: status(404, `{"Message":"Function not found"}`), status: 502},
		{name: "function too slow", function: true, answer: slow, status: 504, body: "Endpoint request timed out"},
		{name: "HTTP allows", answer: status(204, ""), status: 101},
		{name: "HTTP allows with a body", answer: status(200, "welcome"), status: 101},
		{name: "HTTP answers like a function", answer: status(200, `{"statusCode":401,"body":"who?"}`), status: 401, body: "who?"},
		{name: "HTTP denies", answer: status(403, "no"), status: 403, body: "no", header: [2]string{"X-From", "integration"}},
		{name: "HTTP fails", answer: status(500, "oops"), status: 500, body: "oops"},
		{name: "HTTP redirects", answer: status(302, ""), status: 302},
		{name: "HTTP too slow", answer: slow, status: 504},
	} {
		t.Run(tt.name, func(t *testing.T) {
			url := answering(t, tt.answer)
			a := newAPI(t, "/prod", configured(func(c *Config) {
				c.Routes = map[string]Integration{"$connect": {HTTP: url}}
				if tt.function {
					c.Routes["$connect"] = Integration{Lambda: &Lambda{URL: url + "/2015-03-31/functions/app/invocations"}}
				}
				c.IntegrationTimeout = 10 * time.Second
				if strings.Contains(tt.name, "slow") {
					c.IntegrationTimeout = shortTimeout
				}
			}), Options{})
			d, err := a.Connect(t.Context(), upgrade("/prod"), testInfo)
			if d.Status != tt.status || d.Allowed != (tt.status == 101) || d.Subprotocol != tt.subprotocol || !strings.Contains(string(d.Body), tt.body) {
				t.Errorf("%+v, %v; want %d", d, err, tt.status)
			}
			if (err != nil) != (tt.status == 502 || tt.status == 504) {
				t.Errorf("error %v with status %d", err, d.Status)
			}
			if tt.header[0] != "" && d.Header.Get(tt.header[0]) != tt.header[1] {
				t.Errorf("header %v", d.Header)
			}
			if d.Header.Get("Connection") != "" || d.Header.Get("X-Break") != "" || d.Header.Get("Content-Length") != "" {
				t.Errorf("header %v", d.Header)
			}
		})
	}
	t.Run("nobody there", func(t *testing.T) {
		s := httptest.NewServer(nil)
		s.Close()
		a := newAPI(t, "/prod", configured(func(c *Config) { c.Routes = map[string]Integration{"$connect": {HTTP: s.URL}} }), Options{})
		if d, err := a.Connect(t.Context(), upgrade("/prod"), testInfo); d.Allowed || d.Status != 502 || err == nil {
			t.Errorf("%+v, %v", d, err)
		}
	})
	t.Run("no route", func(t *testing.T) {
		if d, err := fixedAPI(t, nil).Connect(t.Context(), upgrade("/prod"), testInfo); !d.Allowed || d.Status != 101 || err != nil {
			t.Errorf("%+v, %v", d, err)
		}
	})
}

// The route of a message is the one that the expression yields, else $default; $connect and
// $disconnect are never chosen.
func TestMessageRoutes(t *testing.T) {
	var mu sync.Mutex
	var got []event
	url := answering(t, func(w http.ResponseWriter, r *http.Request) {
		var e event
		if err := json.NewDecoder(r.Body).Decode(&e); err != nil || r.Method != "POST" || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s %v: %v", r.Method, r.Header, err)
		}
		mu.Lock()
		defer mu.Unlock()
		got = append(got, e)
		_, _ = io.WriteString(w, `{"statusCode":200,"body":"not sent back"}`)
	})
	a := newAPI(t, "/prod", configured(func(c *Config) {
		c.Binary = true
		c.Routes = map[string]Integration{}
		for _, key := range []string{"$connect", "$disconnect", "$default", "join", "7"} {
			c.Routes[key] = Integration{HTTP: url}
		}
	}), Options{})
	for _, tt := range []struct {
		body   string
		binary bool
		route  string
	}{
		{`{"action":"join","x":1}`, false, "join"},
		{`{"action":7}`, false, "7"},
		{`{"action":"leave"}`, false, "$default"},
		{`{"action":"$connect"}`, false, "$default"},
		{`{"action":"$default"}`, false, "$default"},
		{`{}`, false, "$default"},
		{"text", false, "$default"},
		{"", false, "$default"},
		{"\xff\x00", true, "$default"},
		{`{"action":"join"}`, true, "$default"},
	} {
		reply, closing, err := a.Message(t.Context(), testInfo, []byte(tt.body), tt.binary)
		if reply != nil || closing != 0 || err != nil {
			t.Errorf("%s: %s, %d, %v", tt.body, reply, closing, err)
		}
		e := got[len(got)-1]
		body := *e.Body
		if e.IsBase64Encoded {
			decoded, _ := base64.StdEncoding.DecodeString(body)
			body = string(decoded)
		}
		if e.Context.RouteKey != tt.route || body != tt.body || e.IsBase64Encoded != tt.binary {
			t.Errorf("%q went as %q to %s, base64 %t", tt.body, body, e.Context.RouteKey, e.IsBase64Encoded)
		}
	}
}

func TestMessageReplies(t *testing.T) {
	const wrong = `{"message":"Internal server error","connectionId":"R1kmxc2VNjMCFIA=","requestId":"AAECAwQFBgcICQo="}`
	for _, tt := range []struct {
		name    string
		lambda  bool
		answer  http.HandlerFunc
		silent  bool // no route responses
		reply   string
		failure bool
	}{
		{name: "function", lambda: true, answer: function(`{"statusCode":200,"body":"hello"}`), reply: "hello"},
		{name: "another status", lambda: true, answer: function(`{"statusCode":500,"body":"hello"}`), reply: "hello"},
		{name: "base64", lambda: true, answer: function(`{"statusCode":200,"body":"aGVsbG8=","isBase64Encoded":true}`), reply: "hello"},
		{name: "no body", lambda: true, answer: function(`{"statusCode":200}`)},
		{name: "no route responses", lambda: true, answer: function(`{"statusCode":200,"body":"hello"}`), silent: true},
		{name: "exception", lambda: true, answer: failing, reply: wrong, failure: true},
		{name: "exception without route responses", lambda: true, answer: failing, silent: true, reply: wrong, failure: true},
		{name: "null", lambda: true, answer: function(`null`), reply: wrong, failure: true},
		{name: "not UTF-8", lambda: true, answer: function(`{"statusCode":200,"body":"/w==","isBase64Encoded":true}`), reply: wrong, failure: true},
		{name: "too large", lambda: true, answer: function(`{"statusCode":200,"body":"` + strings.Repeat("x", 128<<10+1) + `"}`), reply: wrong, failure: true},
		{name: "far too large", lambda: true, answer: function(strings.Repeat(" ", responseLimit+1)), reply: wrong, failure: true},
		{name: "HTTP", answer: status(200, "hello"), reply: "hello"},
		{name: "HTTP like a function", answer: status(200, `{"statusCode":200,"body":"hello"}`), reply: "hello"},
		{name: "HTTP fails", answer: status(500, "hello"), reply: wrong, failure: true},
		{name: "HTTP refuses", answer: status(404, "hello"), reply: wrong, failure: true},
		{
			name: "slow", answer: slow, failure: true,
			reply: `{"message":"Endpoint request timed out","connectionId":"R1kmxc2VNjMCFIA=","requestId":"AAECAwQFBgcICQo="}`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			url := answering(t, tt.answer)
			a := fixedAPI(t, func(c *Config) {
				c.RouteResponses = !tt.silent
				c.Routes = map[string]Integration{"$default": {HTTP: url}}
				if tt.lambda {
					c.Routes["$default"] = Integration{Lambda: &Lambda{URL: url}}
				}
				if tt.name == "slow" {
					c.IntegrationTimeout = shortTimeout
				}
			})
			reply, closing, err := a.Message(t.Context(), testInfo, []byte("x"), false)
			if string(reply) != tt.reply || closing != 0 || (err != nil) != tt.failure {
				t.Errorf("%.200s, %d, %v; want %s", reply, closing, err, tt.reply)
			}
		})
	}
	t.Run("no route", func(t *testing.T) {
		reply, closing, err := fixedAPI(t, nil).Message(t.Context(), testInfo, []byte("x"), false)
		if want := strings.Replace(wrong, "Internal server error", "Forbidden", 1); string(reply) != want || closing != 0 || err != nil {
			t.Errorf("%s, %d, %v; want %s", reply, closing, err, want)
		}
	})
}

func TestMessageViolations(t *testing.T) {
	a := fixedAPI(t, nil)
	if _, closing, _ := a.Message(t.Context(), testInfo, []byte("x"), true); closing != 1003 {
		t.Errorf("binary: %d", closing)
	}
	if _, closing, _ := a.Message(t.Context(), testInfo, make([]byte, 128<<10+1), false); closing != 1009 {
		t.Errorf("too large: %d", closing)
	}
	if _, closing, _ := a.Message(t.Context(), testInfo, make([]byte, 128<<10), false); closing != 0 {
		t.Errorf("as large as may be: %d", closing)
	}
}

// Calls beyond the limit wait, and those that wait too long fail.
func TestConcurrency(t *testing.T) {
	entered, leave := make(chan bool, 2), make(chan bool)
	url := answering(t, func(http.ResponseWriter, *http.Request) { entered <- true; <-leave })
	a := newAPI(t, "/prod", configured(func(c *Config) {
		c.Routes = map[string]Integration{"$default": {HTTP: url}}
		c.Concurrency = 1
		c.IntegrationTimeout = time.Second
	}), Options{})
	var first sync.WaitGroup
	first.Go(func() {
		if _, _, err := a.Message(t.Context(), testInfo, []byte("1"), false); err != nil {
			t.Error(err)
		}
	})
	<-entered
	a.routes["$default"].timeout = shortTimeout
	if reply, _, err := a.Message(t.Context(), testInfo, []byte("2"), false); millrace.CodeOf(err) != millrace.Unavailable || !strings.Contains(string(reply), "timed out") {
		t.Errorf("%s, %v", reply, err)
	}
	leave <- true
	first.Wait()
	select {
	case <-entered:
		t.Error("two calls were in flight")
	default:
	}
}

// Without a client an API has its own, whose connections end with it (or TestMain finds them).
func TestOwnClient(t *testing.T) {
	url := answering(t, status(200, "hello"))
	a, err := New("/prod", configured(func(c *Config) {
		c.Routes = map[string]Integration{"$default": {HTTP: url}}
		c.RouteResponses = true
	}), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if reply, _, err := a.Message(t.Context(), testInfo, []byte("x"), false); string(reply) != "hello" || err != nil {
		t.Errorf("%s, %v", reply, err)
	}
}

// A function by name is invoked with a signature for Lambda.
func TestLambdaByName(t *testing.T) {
	v := testVerifier()
	v.service, v.region = "lambda", "eu-west-1"
	var target string
	url := answering(t, func(w http.ResponseWriter, r *http.Request) {
		target = r.URL.RequestURI()
		if err := v.check(r); err != nil {
			t.Error(err)
		}
		_, _ = io.WriteString(w, `{"statusCode":200,"body":"hello"}`)
	})
	for _, tt := range []struct {
		lambda Lambda
		target string
	}{
		{Lambda{Function: "app", Region: "eu-west-1"}, "/2015-03-31/functions/app/invocations"},
		{Lambda{Function: "app", Region: "eu-west-1", Qualifier: "$LATEST"}, "/2015-03-31/functions/app/invocations?Qualifier=%24LATEST"},
		{Lambda{Function: "arn:aws:lambda:eu-west-1:123456789012:function:app:live"}, "/2015-03-31/functions/arn%3Aaws%3Alambda%3Aeu-west-1%3A123456789012%3Afunction%3Aapp%3Alive/invocations"},
	} {
		tt.lambda.Endpoint = url
		a := newAPI(t, "/prod", configured(func(c *Config) {
			c.Routes = map[string]Integration{"$default": {Lambda: &tt.lambda}}
			c.RouteResponses = true
		}), Options{
			Credentials: credentials.NewStaticCredentialsProvider(testKey, testSecret, ""), Now: func() time.Time { return signedAt },
		})
		if reply, _, err := a.Message(t.Context(), testInfo, []byte("x"), false); string(reply) != "hello" || err != nil {
			t.Errorf("%s, %v", reply, err)
		}
		if target != tt.target {
			t.Errorf("it was invoked at %s, want %s", target, tt.target)
		}
	}
	for region, want := range map[string]string{
		"eu-west-1":  "https://lambda.eu-west-1.amazonaws.com/2015-03-31/functions/app/invocations",
		"cn-north-1": "https://lambda.cn-north-1.amazonaws.com.cn/2015-03-31/functions/app/invocations",
	} {
		if got := (&Lambda{Function: "app", Region: region}).invokeURL(); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

// Without other credentials those of the environment sign.
func TestLambdaDefaultCredentials(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", testKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", testSecret)
	t.Setenv("AWS_SESSION_TOKEN", "session")
	t.Setenv("AWS_CONFIG_FILE", "/nonexistent")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
	pair := testPair
	pair.SessionToken = "session"
	v := newVerifier([]KeyPair{pair}, "", time.Now)
	v.service = "lambda"
	url := answering(t, func(w http.ResponseWriter, r *http.Request) {
		if err := v.check(r); err != nil {
			t.Error(err)
		}
		_, _ = io.WriteString(w, `{"statusCode":200}`)
	})
	a := newAPI(t, "/prod", configured(func(c *Config) {
		c.Routes = map[string]Integration{"$default": {Lambda: &Lambda{Function: "app", Region: "eu-west-1", Endpoint: url}}}
	}), Options{})
	if reply, _, err := a.Message(t.Context(), testInfo, []byte("x"), false); reply != nil || err != nil {
		t.Errorf("%s, %v", reply, err)
	}
}

// Whatever an integration answers, it is a status that can be passed on, or an error.
func FuzzAnswer(f *testing.F) {
	f.Add(200, "", `{"statusCode":200,"headers":{"a":"b"},"multiValueHeaders":{"c":["d",1]},"body":"e","isBase64Encoded":false}`, true)
	f.Add(200, "Unhandled", `{"errorMessage":"x"}`, true)
	f.Add(403, "", "no", false)
	f.Add(200, "", `{"statusCode":"204","body":null}`, false)
	f.Fuzz(func(t *testing.T, status int, functionError, body string, function bool) {
		header := http.Header{}
		if functionError != "" {
			header.Set("X-Amz-Function-Error", functionError)
		}
		read := httpAnswer
		if function {
			read = functionAnswer
		}
		if status < 200 || status > 599 {
			status = 200
		}
		a, err := read(status, header, []byte(body))
		if a.status != 0 && (a.status < 200 || a.status > 599) || a.status == 0 && err == nil {
			t.Errorf("status %d, %v", a.status, err)
		}
		a.header.Del("X-Amz-Function-Error") // it came over HTTP, not in the body
		for name, values := range a.header {
			for _, value := range values {
				if strings.ContainsAny(name+value, "\r\n\x00") {
					t.Errorf("%q: %q breaks a head", name, value)
				}
			}
		}
	})
}

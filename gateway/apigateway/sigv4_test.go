package apigateway

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"pgregory.net/rapid"
)

const (
	testKey    = "AKIDEXAMPLE"
	testSecret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
)

var testPair = KeyPair{AccessKeyID: testKey, SecretAccessKey: testSecret}

// signedAt is when the test's requests are signed.
var signedAt = time.Date(2015, 8, 30, 12, 36, 0, 0, time.UTC)

func testVerifier(keys ...KeyPair) *verifier {
	if keys == nil {
		keys = []KeyPair{testPair}
	}
	return newVerifier(keys, "", func() time.Time { return signedAt })
}

// check verifies a request as the management API does.
func (v *verifier) check(r *http.Request) error {
	c, err := v.claim(r)
	if err != nil {
		return err
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	return c.verify(r, body)
}

// sent returns a request as a server sees it that a client sends.
func sent(t testing.TB, r *http.Request) *http.Request {
	t.Helper()
	var wire bytes.Buffer
	if err := r.Write(&wire); err != nil {
		t.Fatal(err)
	}
	return received(t, wire.String())
}

func hashed(body string) string {
	sum := sha256.Sum256([]byte(body))
	return hex.EncodeToString(sum[:])
}

// signed returns a request that the AWS SDK for Go has signed.
func signed(t testing.TB, method, url, body string, options ...func(*http.Request, *aws.Credentials)) *http.Request {
	t.Helper()
	r, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	credentials := aws.Credentials{AccessKeyID: testKey, SecretAccessKey: testSecret}
	payload := hashed(body)
	for _, o := range options {
		o(r, &credentials)
	}
	if stated := r.Header.Get("X-Amz-Content-Sha256"); stated != "" {
		payload = stated
	}
	if err := v4.NewSigner().SignHTTP(context.Background(), credentials, r, payload, "execute-api", "eu-west-1", signedAt); err != nil {
		t.Fatal(err)
	}
	return r
}

const connectionURL = "https://api.example.org/prod/%40connections/R1kmxc2VNjMCFIA%3D"

// What AWS publishes as examples verifies. The secret is the one above, the time is signedAt.
func TestPublishedSignatures(t *testing.T) {
	const head = "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/%s/aws4_request, SignedHeaders=%s, Signature=%s"
	for _, tt := range []struct{ name, service, method, target, host, headers, signed, signature string }{
		{
			"get-vanilla", "service", "GET", "/", "example.amazonaws.com", "", "host;x-amz-date",
			"5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
		},
		{
			"post-vanilla", "service", "POST", "/", "example.amazonaws.com", "", "host;x-amz-date",
			"5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
		},
		{
			"get-vanilla-query-order-key-case", "service", "GET", "/?Param2=value2&Param1=value1", "example.amazonaws.com", "", "host;x-amz-date",
			"b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
		},
		{
			"IAM ListUsers", "iam", "GET", "/?Action=ListUsers&Version=2010-05-08", "iam.amazonaws.com",
			"Content-Type: application/x-www-form-urlencoded; charset=utf-8\r\n", "content-type;host;x-amz-date",
			"5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := testVerifier()
			v.service = tt.service
			r := received(t, tt.method+" "+tt.target+" HTTP/1.1\r\nHost: "+tt.host+"\r\n"+tt.headers+
				"X-Amz-Date: 20150830T123600Z\r\nAuthorization: "+fmt.Sprintf(head, tt.service, tt.signed, tt.signature)+"\r\n\r\n")
			if err := v.check(r); err != nil {
				t.Error(err)
			}
		})
	}
}

// What the AWS SDK for Go signs verifies, for any path, query string, header and body.
func TestSDKSignatures(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		segment := rapid.StringMatching(`[A-Za-z0-9@=+&:;,()!*' ~._é%/-]{1,12}`)
		u := url.URL{Scheme: "https", Host: rapid.SampledFrom([]string{"api.example.org", "127.0.0.1:8080", "[::1]:8080"}).Draw(rt, "host")}
		escaped := ""
		for _, s := range rapid.SliceOfN(segment, 1, 4).Draw(rt, "path") {
			if rapid.Bool().Draw(rt, "whole") {
				escaped += "/" + escape(s, false) // as the SDKs do
			} else {
				escaped += "/" + url.PathEscape(s)
			}
		}
		u.Path, _ = url.PathUnescape(escaped)
		u.RawPath = escaped
		query := url.Values{}
		for range rapid.IntRange(0, 3).Draw(rt, "parameters") {
			query.Add(segment.Draw(rt, "name"), segment.Draw(rt, "value"))
		}
		u.RawQuery = query.Encode()
		body := rapid.StringN(0, 40, 200).Draw(rt, "body")
		r := signed(t, rapid.SampledFrom([]string{"GET", "POST", "DELETE"}).Draw(rt, "method"), u.String(), body,
			func(r *http.Request, _ *aws.Credentials) {
				r.Header.Set("X-Amz-Meta", rapid.StringMatching(`[a-z ]{0,8}[a-z]  [a-z]`).Draw(rt, "header"))
				r.Header.Add("X-Amz-Meta", "second")
			})
		if err := testVerifier().check(sent(t, r)); err != nil {
			rt.Fatalf("%s: %v", r.URL, err)
		}
	})
}

// Whatever is changed of a signed request makes it fail.
func TestSignatureMismatch(t *testing.T) {
	for name, change := range map[string]func(r *http.Request){
		"method":        func(r *http.Request) { r.Method = "DELETE" },
		"path":          func(r *http.Request) { r.URL.Path, r.URL.RawPath = r.URL.Path+"x", r.URL.RawPath+"x" },
		"path's escape": func(r *http.Request) { r.URL.RawPath = strings.Replace(r.URL.RawPath, "%40", "@", 1) },
		"query":         func(r *http.Request) { r.URL.RawQuery = "code=4001" },
		"host":          func(r *http.Request) { r.Host = "evil.example.org" },
		"header":        func(r *http.Request) { r.Header.Set("X-Amz-Meta", "b") },
		"second value":  func(r *http.Request) { r.Header.Add("X-Amz-Meta", "b") },
		"no header":     func(r *http.Request) { r.Header.Del("X-Amz-Meta") },
		"body":          func(r *http.Request) { r.Body, r.ContentLength = io.NopCloser(strings.NewReader("hallo")), 5 },
		"date":          func(r *http.Request) { r.Header.Set("X-Amz-Date", "20150830T123601Z") },
		"other day":     func(r *http.Request) { r.Header.Set("X-Amz-Date", "20150831T000000Z") },
		"no date":       func(r *http.Request) { r.Header.Del("X-Amz-Date") },
		"two dates":     func(r *http.Request) { r.Header.Add("X-Amz-Date", "20150830T123600Z") },
		"unsigned body": func(r *http.Request) { r.Header.Set("X-Amz-Content-Sha256", unsigned) },
		"hash of other": func(r *http.Request) { r.Header.Set("X-Amz-Content-Sha256", hashed("other")) },
		"streaming":     func(r *http.Request) { r.Header.Set("X-Amz-Content-Sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD") },
		"no signature":  func(r *http.Request) { r.Header.Del("Authorization") },
		"two": func(r *http.Request) {
			r.Header.Add("Authorization", r.Header.Get("Authorization"))
		},
		"both forms": func(r *http.Request) { r.URL.RawQuery = "X-Amz-Signature=" + strings.Repeat("0", 64) },
		"malformed":  func(r *http.Request) { r.URL.RawQuery = "a=%zz" },
		"token":      func(r *http.Request) { r.Header.Set("X-Amz-Security-Token", "token") },
	} {
		t.Run(name, func(t *testing.T) {
			r := signed(t, "POST", connectionURL, "hello", func(r *http.Request, _ *aws.Credentials) { r.Header.Set("X-Amz-Meta", "a") })
			if err := testVerifier().check(sent(t, r.Clone(t.Context()))); err != nil {
				t.Fatal("unchanged:", err)
			}
			r.Body = io.NopCloser(strings.NewReader("hello"))
			change(r)
			if err := testVerifier().check(sent(t, r)); err == nil {
				t.Error("it verifies")
			}
		})
	}
	t.Run("secret", func(t *testing.T) {
		if err := testVerifier(KeyPair{AccessKeyID: testKey, SecretAccessKey: "other"}).check(sent(t, signed(t, "GET", connectionURL, ""))); err == nil {
			t.Error("it verifies")
		}
	})
	t.Run("key", func(t *testing.T) {
		if err := testVerifier(KeyPair{AccessKeyID: "OTHER", SecretAccessKey: testSecret}).check(sent(t, signed(t, "GET", connectionURL, ""))); err == nil {
			t.Error("it verifies")
		}
	})
	t.Run("region", func(t *testing.T) {
		v := testVerifier()
		if v.region = "eu-west-1"; v.check(sent(t, signed(t, "GET", connectionURL, ""))) != nil {
			t.Error("the configured region is refused")
		}
		if v.region = "us-east-1"; v.check(sent(t, signed(t, "GET", connectionURL, ""))) == nil {
			t.Error("another region verifies")
		}
	})
	t.Run("service", func(t *testing.T) {
		v := testVerifier()
		v.service = "s3"
		if v.check(sent(t, signed(t, "GET", connectionURL, ""))) == nil {
			t.Error("another service verifies")
		}
	})
}

func TestSkew(t *testing.T) {
	r := sent(t, signed(t, "GET", connectionURL, ""))
	for _, tt := range []struct {
		ahead time.Duration
		ok    bool
	}{
		{0, true}, {5 * time.Minute, true}, {-5 * time.Minute, true}, {5*time.Minute + time.Second, false}, {-5*time.Minute - time.Second, false},
	} {
		v := testVerifier()
		v.now = func() time.Time { return signedAt.Add(tt.ahead) }
		if err := v.check(r); (err == nil) != tt.ok {
			t.Errorf("after %s: %v", tt.ahead, err)
		}
	}
}

// The body may be left out of the signature, if the signature says so.
func TestUnsignedPayload(t *testing.T) {
	r := signed(t, "POST", connectionURL, "hello", func(r *http.Request, _ *aws.Credentials) { r.Header.Set("X-Amz-Content-Sha256", unsigned) })
	if err := testVerifier().check(sent(t, r)); err != nil {
		t.Error(err)
	}
}

func TestSessionToken(t *testing.T) {
	withToken := func(_ *http.Request, c *aws.Credentials) { c.SessionToken = "session" }
	pair := testPair
	pair.SessionToken = "session"
	if err := testVerifier(pair).check(sent(t, signed(t, "GET", connectionURL, "", withToken))); err != nil {
		t.Error(err)
	}
	if testVerifier(pair).check(sent(t, signed(t, "GET", connectionURL, ""))) == nil {
		t.Error("a request without the token verifies")
	}
	if testVerifier().check(sent(t, signed(t, "GET", connectionURL, "", withToken))) == nil {
		t.Error("a token that is not configured verifies")
	}
	unsignedToken := signed(t, "GET", connectionURL, "")
	unsignedToken.Header.Set("X-Amz-Security-Token", "session")
	if testVerifier(pair).check(sent(t, unsignedToken)) == nil {
		t.Error("a token that is not signed verifies")
	}
}

func TestPresigned(t *testing.T) {
	presign := func(t *testing.T, credentials aws.Credentials, method, url, payload, expires string) *http.Request {
		r, err := http.NewRequest(method, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		query := r.URL.Query()
		query.Set("X-Amz-Expires", expires)
		if payload == unsigned {
			query.Set("X-Amz-Content-Sha256", unsigned)
		}
		r.URL.RawQuery = query.Encode()
		signedURL, _, err := v4.NewSigner().PresignHTTP(t.Context(), credentials, r, payload, "execute-api", "eu-west-1", signedAt)
		if err != nil {
			t.Fatal(err)
		}
		p, err := http.NewRequest(method, signedURL, nil)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	pair := testPair
	pair.SessionToken = "session"
	plain := aws.Credentials{AccessKeyID: testKey, SecretAccessKey: testSecret}
	temporary := plain
	temporary.SessionToken = "session"
	for _, tt := range []struct {
		name    string
		request *http.Request
		pair    KeyPair
		later   time.Duration
		ok      bool
	}{
		{"GET", presign(t, plain, "GET", connectionURL, hashed(""), "60"), testPair, time.Minute, true},
		{"with a query", presign(t, plain, "DELETE", connectionURL+"?reason=a+b%2Fc&code=4000", hashed(""), "60"), testPair, 0, true},
		{"unsigned body", presign(t, plain, "POST", connectionURL, unsigned, "60"), testPair, 0, true},
		{"expired", presign(t, plain, "GET", connectionURL, hashed(""), "60"), testPair, time.Minute + time.Second, false},
		{"too early", presign(t, plain, "GET", connectionURL, hashed(""), "60"), testPair, -6 * time.Minute, false},
		{"for too long", presign(t, plain, "GET", connectionURL, hashed(""), "604801"), testPair, 0, false},
		{"for no time", presign(t, plain, "GET", connectionURL, hashed(""), "0"), testPair, 0, false},
		{"token", presign(t, temporary, "GET", connectionURL, hashed(""), "60"), pair, 0, true},
		{"unknown token", presign(t, temporary, "GET", connectionURL, hashed(""), "60"), testPair, 0, false},
		{"other body", presign(t, plain, "POST", connectionURL, hashed("hello"), "60"), testPair, 0, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := testVerifier(tt.pair)
			v.now = func() time.Time { return signedAt.Add(tt.later) }
			if err := v.check(sent(t, tt.request)); (err == nil) != tt.ok {
				t.Errorf("%s: %v", tt.request.URL, err)
			}
		})
	}
	t.Run("longer than signed", func(t *testing.T) {
		r := presign(t, plain, "GET", connectionURL, hashed(""), "60")
		r.URL.RawQuery = strings.Replace(r.URL.RawQuery, "X-Amz-Expires=60", "X-Amz-Expires=600", 1)
		if testVerifier().check(sent(t, r)) == nil {
			t.Error("it verifies")
		}
	})
}

// Nothing that a sender writes into Authorization or the query string makes the verifier panic or
// accept it.
func FuzzVerifier(f *testing.F) {
	valid := signed(f, "POST", connectionURL, "hello").Header.Get("Authorization")
	f.Add(valid, "")
	f.Add("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/eu-west-1/execute-api/aws4_request,SignedHeaders=host;x-amz-date,Signature="+strings.Repeat("0", 64), "a=b")
	f.Add("", "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIDEXAMPLE%2F20150830%2Feu-west-1%2Fexecute-api%2Faws4_request"+
		"&X-Amz-Date=20150830T123600Z&X-Amz-Expires=60&X-Amz-SignedHeaders=host&X-Amz-Signature="+strings.Repeat("0", 64))
	f.Add("AWS4-HMAC-SHA256 Credential=,Credential=,=", "X-Amz-Signature=&X-Amz-Signature=%")
	f.Fuzz(func(t *testing.T, authorization, query string) {
		r := httptest.NewRequest("POST", "/prod/@connections/R1kmxc2VNjMCFIA=", strings.NewReader("hello"))
		r.Host = "other.example.org"
		r.URL.RawQuery = query
		r.Header.Set("X-Amz-Date", "20150830T123600Z")
		if authorization != "" {
			r.Header.Set("Authorization", authorization)
		}
		if err := testVerifier().check(r); err == nil {
			t.Errorf("%q with %q verifies", authorization, query)
		}
	})
}

// Of a signed request no byte can be changed so that another request verifies: what verifies is the
// same call with the same body.
func FuzzTampered(f *testing.F) {
	var wire bytes.Buffer
	if err := signed(f, "POST", connectionURL+"?key=a%20b&x=", "hello").Write(&wire); err != nil {
		f.Fatal(err)
	}
	original := wire.Bytes()
	parse := func(wire []byte) (*http.Request, []byte, error) {
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(wire)))
		if err != nil {
			return nil, nil, err
		}
		body, err := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		return r, body, err
	}
	want, wantBody, err := parse(original)
	if err == nil {
		err = testVerifier().check(want)
	}
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint16(0), uint16(0), []byte("GET"))
	f.Add(uint16(8), uint16(3), []byte("@"))
	f.Add(uint16(60), uint16(1), []byte("&"))
	f.Add(uint16(len(original)-5), uint16(5), []byte("hallo"))
	f.Add(uint16(len(original)), uint16(0), []byte("o"))
	f.Fuzz(func(t *testing.T, at, n uint16, with []byte) {
		from := min(int(at), len(original))
		changed := append(append(bytes.Clone(original[:from]), with...), original[min(from+int(n), len(original)):]...)
		r, body, err := parse(changed)
		if err != nil || testVerifier().check(r) != nil {
			return
		}
		if r.Method != want.Method || r.URL.EscapedPath() != want.URL.EscapedPath() || r.Host != want.Host ||
			!maps.EqualFunc(r.URL.Query(), want.URL.Query(), slices.Equal) || !bytes.Equal(body, wantBody) {
			t.Errorf("%q verifies", changed)
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	r := sent(b, signed(b, "POST", connectionURL, "hello"))
	v := testVerifier()
	b.ReportAllocs()
	for b.Loop() {
		c, err := v.claim(r)
		if err != nil {
			b.Fatal(err)
		}
		if err := c.verify(r, []byte("hello")); err != nil {
			b.Fatal(err)
		}
	}
}

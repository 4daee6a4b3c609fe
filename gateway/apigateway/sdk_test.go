package apigateway

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
)

// sdk is a client of AWS that was not changed: a command that makes one call of the management API and
// prints {"status", "error", "body"}.
type sdk struct {
	name    string
	command []string
	missing string // why it cannot run here
}

func sdks() []sdk {
	js := sdk{name: "JavaScript", command: []string{"node", filepath.Join("testdata", "sdk", "calls.mjs")}}
	if err := exec.Command("node", "-e", "process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)").Run(); err != nil {
		js.missing = "Node 20 or newer, which the AWS SDK for JavaScript takes, is not installed"
	} else if _, err := os.Stat("testdata/sdk/node_modules/@aws-sdk/client-apigatewaymanagementapi"); err != nil {
		js.missing = "the AWS SDK for JavaScript is not installed: run npm ci in gateway/apigateway/testdata/sdk"
	}
	return []sdk{js, {name: "boto3", command: []string{"python3", filepath.Join("testdata", "sdk", "calls.py")}, missing: noBoto3()}}
}

// noBoto3 says why boto3 cannot be used here; "" if it can.
func noBoto3() string {
	if err := exec.Command("python3", "-c", "import boto3, sqlite3").Run(); err != nil {
		return "python3 with boto3 is not installed"
	}
	return ""
}

// environment is that of a process that has the test's key and nothing else of AWS.
func environment() []string {
	kept := []string{
		"NODE_NO_WARNINGS=1", "AWS_ACCESS_KEY_ID=" + testKey, "AWS_CONFIG_FILE=" + os.DevNull,
		"AWS_SHARED_CREDENTIALS_FILE=" + os.DevNull, "AWS_EC2_METADATA_DISABLED=true", "AWS_DEFAULT_REGION=eu-west-1",
	}
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "AWS_") && !strings.HasPrefix(strings.ToLower(v), "http_proxy=") {
			kept = append(kept, v)
		}
	}
	return kept
}

type sdkCall struct {
	Endpoint string `json:"endpoint"`
	Secret   string `json:"secret"`
	Verb     string `json:"verb"`
	ID       string `json:"id"`
	Text     string `json:"text"`
}

type sdkAnswer struct {
	Status  int             `json:"status"`
	Error   string          `json:"error"`
	Message string          `json:"message"`
	Body    json.RawMessage `json:"body"`
}

// start starts the SDK's process and returns how to call it.
func (s sdk) start(t *testing.T) func(sdkCall) sdkAnswer {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	c := exec.CommandContext(ctx, s.command[0], s.command[1:]...)
	c.Env = environment()
	c.Stderr = os.Stderr
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := c.Wait(); err != nil {
			t.Error(err)
		}
		cancel()
	})
	calls, answers := json.NewEncoder(in), json.NewDecoder(out)
	return func(call sdkCall) (a sdkAnswer) {
		t.Helper()
		if err := calls.Encode(call); err != nil {
			t.Fatal(err)
		}
		if err := answers.Decode(&a); err != nil {
			t.Fatalf("%+v: %v", call, err)
		}
		return a
	}
}

// Unmodified SDKs post to, look at and close a real connection, with a stage in the endpoint and without.
func TestSDKs(t *testing.T) {
	for _, s := range sdks() {
		t.Run(s.name, func(t *testing.T) {
			if s.missing != "" {
				t.Skip(s.missing)
			}
			server := newServer(t, "/prod", configured(func(c *Config) { c.Keys = []KeyPair{testPair} }), Options{})
			conn, id := server.dial(t, "/prod")
			call := s.start(t)
			do := func(verb, id, text string) sdkAnswer {
				return call(sdkCall{server.url + "/prod", testSecret, verb, id, text})
			}
			const text = `{"über": "alles <&> 你好"}`
			for _, endpoint := range []string{server.url + "/prod", server.url} {
				if a := call(sdkCall{endpoint, testSecret, "post", id, text}); a.Status != 200 || a.Error != "" {
					t.Errorf("post: %+v", a)
				}
				if got := conn.read(t); got != text {
					t.Errorf("the client got %q", got)
				}
			}
			var body struct {
				ConnectedAt, LastActiveAt time.Time
				Identity                  map[string]string
			}
			a := do("get", id, "")
			if err := json.Unmarshal(a.Body, &body); a.Status != 200 || a.Error != "" || err != nil ||
				time.Since(body.ConnectedAt) > time.Minute || time.Since(body.LastActiveAt) > time.Minute ||
				!maps.Equal(body.Identity, map[string]string{"sourceIp": "127.0.0.1", "userAgent": "test/1.0"}) &&
					!maps.Equal(body.Identity, map[string]string{"SourceIp": "127.0.0.1", "UserAgent": "test/1.0"}) {
				t.Errorf("get: %+v: %s, %v", a, a.Body, err)
			}
			if a := do("post", id, strings.Repeat("x", 128<<10)); a.Status != 200 {
				t.Errorf("post of 128 KiB: %+v", a)
			}
			conn.read(t)
			for _, tt := range []struct {
				secret, id, text string
				status           int
				name             string
			}{
				{testSecret, "AAAAAAAAAAAAAAA=", "x", 410, "GoneException"},
				{testSecret, "x", "x", 400, "BadRequestException"},
				{testSecret, id, strings.Repeat("x", 128<<10+1), 413, "PayloadTooLargeException"},
				{"wrong", id, "x", 403, "ForbiddenException"},
			} {
				if a := call(sdkCall{server.url + "/prod", tt.secret, "post", tt.id, tt.text}); a.Status != tt.status || a.Error != tt.name {
					t.Errorf("post to %s: %+v; want %d %s", tt.id, a, tt.status, tt.name)
				}
			}
			server.stall(id, true)
			if a := do("post", id, "x"); a.Status != 429 || a.Error != "LimitExceededException" {
				t.Errorf("post to a full buffer: %+v", a)
			}
			server.stall(id, false)
			if a := do("delete", id, ""); a.Status != 204 || a.Error != "" {
				t.Errorf("delete: %+v", a)
			}
			if code, _ := conn.closed(t); code != 1000 {
				t.Errorf("the client saw close code %d", code)
			}
			conn.Close()
			server.gone(t, id)
			for _, verb := range []string{"get", "delete"} {
				if a := do(verb, id, ""); a.Status != 410 || a.Error != "GoneException" {
					t.Errorf("%s after delete: %+v", verb, a)
				}
			}
		})
	}
}

// The aws command works unchanged.
func TestAWSCommandLine(t *testing.T) {
	if err := exec.Command("aws", "--version").Run(); err != nil {
		t.Skip("the aws command is not installed")
	}
	server := newServer(t, "/prod", configured(func(c *Config) { c.Keys = []KeyPair{testPair} }), Options{})
	conn, id := server.dial(t, "/prod")
	file := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(file, []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, "aws", "--endpoint-url", server.url+"/prod", "apigatewaymanagementapi", "post-to-connection",
		"--connection-id", id, "--data", "fileb://"+file)
	c.Env = append(environment(), "AWS_SECRET_ACCESS_KEY="+testSecret)
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v", out, err)
	}
	if got := conn.read(t); got != "hello" {
		t.Errorf("the client got %q", got)
	}
}

// socket is a WebSocket client.
type socket struct{ net.Conn }

// dial connects, and returns the connection and its id.
func (s *server) dial(t *testing.T, target string) (socket, string) {
	t.Helper()
	d := ws.Dialer{Header: ws.HandshakeHeaderHTTP{"User-Agent": {"test/1.0"}}}
	conn, _, _, err := d.Dial(t.Context(), "ws"+strings.TrimPrefix(s.url, "http")+target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(2 * time.Minute))
	return socket{conn}, <-s.arrived
}

func (s socket) read(t *testing.T) string {
	t.Helper()
	text, err := wsutil.ReadServerText(s.Conn)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func (s socket) closed(t *testing.T) (int, string) {
	t.Helper()
	_, err := wsutil.ReadServerText(s.Conn)
	if closed, ok := errors.AsType[wsutil.ClosedError](err); ok {
		return int(closed.Code), closed.Reason
	}
	t.Fatalf("it is not closed: %v", err)
	return 0, ""
}

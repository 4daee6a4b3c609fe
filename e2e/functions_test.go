package e2e

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace/millracetest"
)

const functionsConfig = `
data_dir: data
streams: {events: {}}
gateway:
  listen: "${env:GATEWAY}"
  endpoints:
    /prod:
      apigateway:
        routes:
          $connect: {lambda: {url: "${env:FUNCTIONS}/connections/invocations"}}
          $disconnect: {lambda: {url: "${env:FUNCTIONS}/connections/invocations"}}
        keys: [{access_key_id: AKIDEXAMPLE, secret_access_key: "${env:AWS_SECRET_ACCESS_KEY}"}]
admin: {listen: "127.0.0.1:0"}
`

const functionsSecret = "a-secret-of-the-test"

// ofAWS is the environment of whatever uses an SDK of AWS: the test's key, and nothing of this machine.
func ofAWS(more ...string) []string {
	environment := slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "AWS_") || strings.HasPrefix(strings.ToLower(v), "http_proxy=")
	})
	return append(append(environment,
		"AWS_ACCESS_KEY_ID=AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY="+functionsSecret, "AWS_DEFAULT_REGION=eu-west-1",
		"AWS_CONFIG_FILE="+os.DevNull, "AWS_SHARED_CREDENTIALS_FILE="+os.DevNull, "AWS_EC2_METADATA_DISABLED=true",
		"PYTHONDONTWRITEBYTECODE=1", "NODE_NO_WARNINGS=1"), more...)
}

// functions are those of examples/apigateway at work.
type functions struct {
	url string // before their names
	db  string // the table of the connections
}

func runFunctions(t *testing.T, gateway string) functions {
	t.Helper()
	if err := exec.Command("python3", "-c", "import boto3, sqlite3").Run(); err != nil {
		t.Skip("python3 with boto3 is not installed")
	}
	c := exec.Command("python3", "invoke.py", "--port", "0", "connections=connections.py", "analytics=analytics.py")
	c.Dir = filepath.Join("..", "examples", "apigateway")
	f := functions{db: filepath.Join(t.TempDir(), "connections.db")}
	c.Env = ofAWS("ENDPOINT_URL=http://"+gateway+"/prod", "CONNECTIONS_DB="+f.db)
	c.SysProcAttr = groupThatDiesWithParent() // python3 may be a script that starts another
	c.Stderr = os.Stderr
	out, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		killGroup(c.Process)
		_ = c.Wait() // it was killed
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	f.url = strings.TrimSpace(line) + "/2015-03-31/functions"
	return f
}

// table returns the ids of the connections in the table, sorted.
func (f functions) table(t *testing.T) []string {
	t.Helper()
	const query = `import sqlite3, sys
for row in sqlite3.connect(sys.argv[1]).execute("SELECT ConnectionID FROM connections"): print(row[0])`
	output, err := exec.Command("python3", "-c", query, f.db).Output()
	if err != nil {
		t.Fatalf("read the table: %v", err)
	}
	return slices.Sorted(slices.Values(strings.Fields(string(output))))
}

// Functions written for API Gateway, which keep their connections in a table and push results by post_to_connection,
// work against the program as they are: each client gets the results of its vehicle, before and after kill -9,
// and the unmodified SDK for JavaScript posts, looks and disconnects.
func TestFunctionsOfAWS(t *testing.T) {
	t.Parallel()
	need(t)
	address := millracetest.FreeAddress(t)
	functions := runFunctions(t, address)
	pipeline := newPipeline(t, "", map[string]string{"config.yaml": functionsConfig},
		"GATEWAY="+address, "FUNCTIONS="+functions.url, "AWS_SECRET_ACCESS_KEY="+functionsSecret)
	p := pipeline.start()
	const vehicles, each = 10, 2
	connect := func() (clients [vehicles][]*millracetest.WebSocket) {
		t.Helper()
		for v := range vehicles {
			for range each {
				clients[v] = append(clients[v], dial(t, p, fmt.Sprintf("/prod?VehicleID=%d", v), ""))
			}
		}
		var ids []string
		for _, c := range p.connections("?endpoint=/prod") {
			ids = append(ids, c.ID)
		}
		slices.Sort(ids)
		if table := functions.table(t); len(ids) != vehicles*each || !slices.Equal(table, ids) {
			t.Errorf("connected are %q, in the table %q", ids, table)
		}
		return clients
	}
	// push invokes the function at the end of the analytics with a result for each vehicle.
	push := func(n int) (texts [vehicles]string) {
		t.Helper()
		var records []map[string]string
		for v := range vehicles {
			texts[v] = fmt.Sprintf(`{"VehicleID": %d, "n": %d, "name": "Mühle"}`, v, n)
			records = append(records, map[string]string{"recordId": fmt.Sprint(v), "data": base64.StdEncoding.EncodeToString([]byte(texts[v]))})
		}
		event, err := json.Marshal(map[string]any{"records": records})
		if err != nil {
			t.Fatal(err)
		}
		client := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
		response, err := client.Post(functions.url+"/analytics/invocations", "application/json", strings.NewReader(string(event)))
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		body, _ := io.ReadAll(response.Body)
		if response.Header.Get("X-Amz-Function-Error") != "" || strings.Count(string(body), `"Ok"`) != vehicles {
			t.Fatalf("the function answers %s %s", response.Status, body)
		}
		return texts
	}
	clients := connect()
	if w, err := tryDial(t.Context(), p, "/prod", ""); err == nil || !strings.Contains(err.Error(), "400 VehicleID is missing") {
		t.Errorf("a client without a vehicle: %v, %v", w, err)
	}
	expect := func(texts [vehicles]string) {
		t.Helper()
		for v, list := range clients {
			for _, w := range list {
				if got := read(t, w); got != texts[v] {
					t.Errorf("a client of vehicle %d gets %s, want %s", v, got, texts[v])
				}
			}
		}
	}
	for n := range 3 {
		expect(push(n))
	}

	// After a kill the functions are told who is gone: the table has the new clients only, each of which gets each
	// result once.
	p.kill()
	p = pipeline.start()
	for end := time.Now().Add(patience); len(functions.table(t)) > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("after a kill the table keeps %q", functions.table(t))
		}
	}
	clients = connect()
	expect(push(3))
	nobody := func(when string) {
		t.Helper()
		if table := functions.table(t); len(table) > 0 {
			t.Errorf("%s the table has %q", when, table)
		}
	}
	p.end(syscall.SIGTERM)
	nobody("after an end in order")
	p = pipeline.start()
	clients = connect()
	for n := range 2 {
		expect(push(4 + n))
	}

	t.Run("JavaScript", func(t *testing.T) { callFromJavaScript(t, p) })
	p.end(syscall.SIGTERM)
	nobody("at the end")
}

func callFromJavaScript(t *testing.T, p *program) {
	directory := filepath.Join("..", "gateway", "apigateway", "testdata", "sdk")
	if err := exec.Command("node", "-e", "process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)").Run(); err != nil {
		t.Skip("Node 20 or newer, which the AWS SDK for JavaScript takes, is not installed")
	}
	if _, err := os.Stat(filepath.Join(directory, "node_modules", "@aws-sdk", "client-apigatewaymanagementapi")); err != nil {
		t.Skip("the AWS SDK for JavaScript is not installed: run npm ci in gateway/apigateway/testdata/sdk")
	}
	known := map[string]bool{}
	for _, c := range p.connections("") {
		known[c.ID] = true
	}
	w := dial(t, p, "/prod?VehicleID=js", "")
	id := ""
	for _, c := range p.connections("?endpoint=/prod") {
		if !known[c.ID] {
			id = c.ID
		}
	}
	c := exec.Command("node", "calls.mjs")
	c.Dir, c.Env, c.Stderr = directory, ofAWS(), os.Stderr
	c.SysProcAttr = dieWithParent()
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
	defer func() {
		in.Close()
		if err := c.Wait(); err != nil {
			t.Error(err)
		}
	}()
	answers := json.NewDecoder(out)
	call := func(verb, text string, status int, name string) json.RawMessage {
		t.Helper()
		err := json.NewEncoder(in).Encode(map[string]string{
			"endpoint": "http://" + p.gateway + "/prod", "secret": functionsSecret, "verb": verb, "id": id, "text": text,
		})
		if err != nil {
			t.Fatal(err)
		}
		var a struct {
			Status         int
			Error, Message string
			Body           json.RawMessage
		}
		if err := answers.Decode(&a); err != nil {
			t.Fatal(err)
		}
		if a.Status != status || a.Error != name {
			t.Errorf("%s: %d %s %s, want %d %s", verb, a.Status, a.Error, a.Message, status, name)
		}
		return a.Body
	}
	call("post", `{"from":"JavaScript"}`, 200, "")
	if got := read(t, w); got != `{"from":"JavaScript"}` {
		t.Errorf("the client gets %s", got)
	}
	var seen struct{ ConnectedAt, LastActiveAt time.Time }
	if body := call("get", "", 200, ""); json.Unmarshal(body, &seen) != nil || seen.ConnectedAt.IsZero() || seen.LastActiveAt.Before(seen.ConnectedAt) {
		t.Errorf("get: %s", body)
	}
	call("delete", "", 204, "")
	if closed := readClose(t, w); closed.Code != 1000 {
		t.Errorf("the client sees %v", closed)
	}
	_ = w.Close()
	for end := time.Now().Add(patience); len(p.connections("")) > len(known); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) { // nothing tells that its end has been noticed
			t.Fatal("the connection is still listed")
		}
	}
	call("post", "late", 410, "GoneException")
}

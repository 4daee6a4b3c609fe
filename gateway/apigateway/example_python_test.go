package apigateway

import (
	"bufio"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gobwas/ws"
)

// functions runs the functions of examples/apigateway and returns how to invoke one.
func functions(t *testing.T, endpoint, secret string) (base string) {
	t.Helper()
	if missing := noBoto3(); missing != "" {
		t.Skip(missing)
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := exec.CommandContext(ctx, "python3", "invoke.py", "--port", "0", "connections=connections.py", "analytics=analytics.py")
	c.Dir = filepath.Join("..", "..", "examples", "apigateway")
	c.Env = append(environment(), "AWS_SECRET_ACCESS_KEY="+secret, "ENDPOINT_URL="+endpoint,
		"CONNECTIONS_DB="+filepath.Join(t.TempDir(), "connections.db"), "PYTHONDONTWRITEBYTECODE=1")
	c.Stderr = os.Stderr
	out, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); _ = c.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(line) + "/2015-03-31/functions/"
}

func invoke(t *testing.T, url, event string) string {
	t.Helper()
	response, err := http.Post(url, "application/json", strings.NewReader(event))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	defer http.DefaultClient.CloseIdleConnections()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != 200 || response.Header.Get("X-Amz-Function-Error") != "" {
		t.Fatalf("%s: %s %s, %v", url, response.Status, body, err)
	}
	return string(body)
}

// The functions of the design that users have today: connections in a table of their own, results by
// post_to_connection.
func TestFunctionsOfAWS(t *testing.T) {
	h := httptest.NewUnstartedServer(nil) // the functions get its address, and the endpoint theirs
	run := functions(t, "http://"+h.Listener.Addr().String()+"/prod", testSecret)
	app := Integration{Lambda: &Lambda{URL: run + "connections/invocations"}}
	s := newServerAt(t, h, "/prod", configured(func(c *Config) {
		c.Keys = []KeyPair{testPair}
		c.Routes = map[string]Integration{"$connect": app, "$disconnect": app}
	}), Options{})

	one, oneID := s.dial(t, "/prod?VehicleID=42")
	two, _ := s.dial(t, "/prod?VehicleID=42")
	other, _ := s.dial(t, "/prod?VehicleID=7")
	push := func(vehicle int, n int) string {
		text := fmt.Sprintf(`{"VehicleID": %d, "n": %d}`, vehicle, n)
		got := invoke(t, run+"analytics/invocations", fmt.Sprintf(`{"records": [{"recordId": "r%d", "data": %q}]}`,
			n, base64.StdEncoding.EncodeToString([]byte(text))))
		if want := fmt.Sprintf(`{"records": [{"recordId": "r%d", "result": "Ok"}]}`, n); got != want {
			t.Errorf("%s, want %s", got, want)
		}
		return text
	}
	first := push(42, 1)
	for _, c := range []socket{one, two} {
		if got := c.read(t); got != first {
			t.Errorf("got %s, want %s", got, first)
		}
	}
	one.Close()
	s.gone(t, oneID)
	second, third := push(42, 2), push(7, 3)
	if got := two.read(t); got != second {
		t.Errorf("got %s, want %s", got, second)
	}
	if got := other.read(t); got != third {
		t.Errorf("got %s, want %s", got, third)
	}
	// The function refuses a connection without a vehicle.
	_, _, _, err := ws.Dial(t.Context(), "ws"+strings.TrimPrefix(s.url, "http")+"/prod")
	if refused, ok := err.(ws.StatusError); !ok || int(refused) != 400 { //nolint:errorlint // gobwas/ws returns it bare
		t.Errorf("a connection without a vehicle: %v", err)
	}
}

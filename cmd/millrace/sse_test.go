package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestSSEFlags: each flag of millrace sse, against a server that says in an event what it was asked.
func TestSSEFlags(t *testing.T) {
	for _, tt := range []struct {
		name  string
		flags []string
		want  string // stdout; @ stands for the server's request
		code  int
		err   string
	}{
		{name: "none", want: `GET   2`},
		{name: "headers", flags: []string{"--header", "X-A: one", "--header", "X-B:two:three"}, want: `GET  X-A=one X-B=two:three 2`},
		{name: "last event id", flags: []string{"--last-event-id", "é7"}, want: `GET  Last-Event-Id=é7 1`}, // the second is a repeat
		{name: "last event id, as browsers do", flags: []string{"--last-event-id", "7", "--policy", "standard"}, want: `GET  Last-Event-Id=7 2`},
		{name: "method", flags: []string{"--method", "put"}, want: `PUT   2`},
		{name: "data", flags: []string{"--data", `{"a":1}`}, want: `POST {"a":1}  1`}, // made once
		{name: "method and data", flags: []string{"--method", "PUT", "--data", "b"}, want: `PUT b  2`},
		{name: "no reconnect", flags: []string{"--no-reconnect"}, want: `GET   1`},
		{name: "count", flags: []string{"--count", "1"}, want: `GET   1`},
		{name: "retry", flags: []string{"--retry", "1ms"}, want: `GET   2`},
		{name: "policies", flags: []string{"--policy", "standard", "--retry", "1ms"}, want: `GET   2`},
		{name: "ingest", flags: []string{"--policy", "ingest"}, want: `GET   2`},
		{name: "read timeout", flags: []string{"--read-timeout", "0"}, want: `GET   2`},
		{name: "a wrong policy", flags: []string{"--policy", "browser"}, code: usage, err: "write standard or ingest"},
		{name: "a wrong header", flags: []string{"--header", "X-A"}, code: usage, err: "write NAME: VALUE"},
		{name: "a wrong header's name", flags: []string{"--header", "X A: 1"}, code: usage, err: "is no name of a header"},
		{name: "an id as header", flags: []string{"--header", "last-event-id: 7"}, code: usage, err: "use --last-event-id"},
		{name: "a negative count", flags: []string{"--count", "-1"}, code: usage, err: "must not be negative"},
		{name: "a negative retry", flags: []string{"--retry", "-1s"}, code: usage, err: "must not be negative"},
		{name: "a negative timeout", flags: []string{"--read-timeout", "-1s"}, code: usage, err: "is negative"},
		{name: "no number", flags: []string{"--count", "x"}, code: usage, err: "count"},
		{name: "an unknown flag", flags: []string{"--nothing"}, code: usage, err: "nothing"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			requests := 0
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				requests++
				if requests > 2 {
					w.WriteHeader(http.StatusNoContent)
					return
				}
				body, _ := io.ReadAll(r.Body)
				var headers []string
				for _, name := range []string{"Last-Event-Id", "X-A", "X-B"} {
					if value, sent := r.Header[name]; sent {
						headers = append(headers, name+"="+value[0])
					}
				}
				w.Header().Set("Content-Type", "text/event-stream")
				fmt.Fprintf(w, "retry:50\n: comment\n\ndata: %s %s %s\n\n", r.Method, body, strings.Join(headers, " "))
			}))
			defer server.Close()
			var out, log bytes.Buffer
			code := run(t.Context(), append(append([]string{"sse"}, tt.flags...), server.URL), terminal{out: &out, err: &log})
			if code != tt.code || !strings.Contains(log.String(), tt.err) {
				t.Fatalf("it ended with %d\n%s", code, &log)
			}
			if tt.code != done {
				if requests > 0 || out.Len() > 0 {
					t.Errorf("%d requests; printed %s", requests, &out)
				}
				return
			}
			var last struct{ ID, Type, Data string }
			lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
			if err := json.Unmarshal([]byte(lines[0]), &last); err != nil {
				t.Fatalf("%s: %v", lines[0], err)
			}
			if got := fmt.Sprint(last.Data, " ", len(lines)); last.Type != "message" || got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}

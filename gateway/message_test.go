package gateway

import (
	"encoding/json"
	"testing"
)

func TestPingValue(t *testing.T) {
	for message, want := range map[string]string{
		`{"ping":1}`: `1`,
		"\t{ \"ping\" :\r\n {\"a\" : [1, 2.50]} } \n": `{"a" : [1, 2.50]}`,
		`{"ping":null}`:       `null`,
		`{"ping":"}"}`:        `"}"`,
		`{"ping":{"ping":2}}`: `{"ping":2}`,
		`{"ping":"\u00e9 é"}`: `"\u00e9 é"`,
		`{"ping":}`:           ``,
		`{"ping":1,"x":2}`:    ``,
		`{"ping":1,"ping":2}`: ``,
		`{"ping":1}}`:         ``,
		`{"ping":1`:           ``,
		`{"pong":1}`:          ``,
		`{"Ping":1}`:          ``,
		`{"ping":01}`:         ``,
		`[{"ping":1}]`:        ``,
		`{}`:                  ``,
		``:                    ``,
	} {
		got, ok := pingValue([]byte(message))
		if ok != (want != "") || ok && string(got) != want {
			t.Errorf("%s: got %q, %t", message, got, ok)
		}
	}
}

func FuzzPingValue(f *testing.F) {
	f.Add([]byte(`{"ping":1}`))
	f.Add([]byte(` { "ping" : {"a":[1,"}"]} } `))
	f.Add([]byte(`{"ping":1,"x":2}`))
	f.Fuzz(func(t *testing.T, message []byte) {
		value, ok := pingValue(message)
		var members map[string]json.RawMessage
		isObject := json.Unmarshal(message, &members) == nil
		if ok && (!isObject || len(members) != 1 || string(members["ping"]) != string(value)) {
			t.Fatalf("%q: got %q", message, value)
		}
	})
}

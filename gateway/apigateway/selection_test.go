package apigateway

import (
	"strings"
	"testing"
)

func TestSelection(t *testing.T) {
	const body = `{"service":"chat", "action":"join", "version":2, "on":true, "none":null, "data":{"room":"room 1234", "a":["x",["y"]]}, "$x":1}`
	for _, tt := range []struct{ expression, body, key string }{ // key "": $default
		{"$request.body.action", body, "join"},
		{"${request.body.action}", body, "join"},
		{"${request.body.service}/${request.body.action}", body, "chat/join"},
		{"$request.body.service/$request.body.action", body, "chat/join"},
		{"${request.body.version}-beta", body, "2-beta"},
		{"$request.body.on", body, "true"},
		{"$request.body.none", body, ""},
		{"$request.body.missing", body, ""},
		{"$request.body.action.deeper", body, ""},
		{"$request.body.data.room", body, "room 1234"},
		{"$request.body.data.a[0]", body, "x"},
		{"$request.body.data.a[1][0]", body, "y"},
		{"$request.body.data.a[2]", body, ""},
		{"$request.body.data.a", body, `["x",["y"]]`},
		{"$request.body[1]", `["a", "b"]`, "b"},
		{"$request.body", `"all"`, "all"},
		{`\$default`, body, "$default"},
		{`a\$${request.body.action}`, body, "a$join"},
		{"fixed", body, "fixed"},
		{"$request.body.action", "not JSON", ""},
		{"$request.body.action", `{"action":"join"`, ""},
		{"$request.body.action", "", ""},
		{"$request.body.action", `{"action":"é\n"}`, "é\n"},
	} {
		s, err := parseSelection(tt.expression)
		if err != nil {
			t.Errorf("%s: %v", tt.expression, err)
			continue
		}
		key, ok := s.route([]byte(tt.body))
		if ok != (tt.key != "") || key != tt.key {
			t.Errorf("%s of %s: %q, %t, want %q", tt.expression, tt.body, key, ok, tt.key)
		}
	}
}

func TestSelectionErrors(t *testing.T) {
	for _, expression := range []string{
		"", "$", "$request", "$request.header.x", "$request.bodyaction", "${request.body.action", "$request.body.", "$request.body..a",
		"$request.body.a[", "$request.body.a[x]", "$request.body.a[-1]", "$request.body.a[1]b", "$context.routeKey", strings.Repeat("a", 2000),
	} {
		if _, err := parseSelection(expression); err == nil {
			t.Errorf("%q is taken", expression)
		}
	}
}

// Whatever expressions and messages say, a route is found or not, and the same one each time.
func FuzzSelection(f *testing.F) {
	f.Add("$request.body.action", `{"action":"join"}`)
	f.Add("${request.body.a[0].b}-x\\$", `{"a":[{"b":[1,null]}]}`)
	f.Add("$request.body", `null`)
	f.Add("$request.body[0]", ` [ "a" ] `)
	f.Fuzz(func(t *testing.T, expression, body string) {
		s, err := parseSelection(expression)
		if err != nil {
			return
		}
		key, ok := s.route([]byte(body))
		if again, same := s.route([]byte(body)); again != key || same != ok || !ok && key != "" {
			t.Errorf("%q, %t, then %q, %t", key, ok, again, same)
		}
	})
}

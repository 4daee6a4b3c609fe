package config

import "testing"

// What API Gateway's selection expressions name is no reference of ours; all else is, or is wrong.
func TestExpandSelectionExpressions(t *testing.T) {
	for text, want := range map[string]string{
		"${request.body.version}-beta":               "${request.body.version}-beta",
		"${request.body.a}/$${request.body.b}":       "${request.body.a}/${request.body.b}",
		"${request.body.a}${env:DRAIN}$request.body": "${request.body.a}45s$request.body",
	} {
		d := newDecoder("test.yaml", ".", environment)
		if got, ok := d.expand(text, nil, "a"); !ok || got != want {
			t.Errorf("%s: %q, %t, want %q", text, got, ok, want)
		}
	}
}

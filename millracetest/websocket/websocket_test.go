package websocket

import "testing"

// Every case has a name of its own, and says which section it is of.
func TestCases(t *testing.T) {
	names := map[string]bool{}
	for _, c := range Cases(Target{MaxMessage: 32 << 10, Deflate: true}) {
		if names[c.Name] || c.Section == "" || c.run == nil {
			t.Errorf("%q: there already: %t, section %q", c.Name, names[c.Name], c.Section)
		}
		names[c.Name] = true
	}
	t.Logf("%d cases", len(names))
	if len(names) < 300 {
		t.Errorf("%d cases, want 300 or more", len(names))
	}
}

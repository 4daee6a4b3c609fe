package listener

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
)

func TestRemoteAddr(t *testing.T) {
	proxies := []string{"10.0.0.0/8", "2001:db8:1::/48", "192.0.2.7"}
	for _, tt := range []struct {
		name, peer     string
		xff, forwarded []string
		want           string
	}{
		{name: "no proxy", peer: "203.0.113.9:5000", want: "203.0.113.9"},
		{name: "a stranger says so", peer: "203.0.113.9:5000", xff: []string{"198.51.100.1"}, forwarded: []string{"for=198.51.100.1"}, want: "203.0.113.9"},
		{name: "a proxy speaks for itself", peer: "10.0.0.1:5000", want: "10.0.0.1"},
		{name: "one proxy", peer: "10.0.0.1:5000", xff: []string{"203.0.113.9"}, want: "203.0.113.9"},
		{name: "a single address as proxy", peer: "192.0.2.7:5000", xff: []string{"203.0.113.9"}, want: "203.0.113.9"},
		{name: "its neighbour", peer: "192.0.2.8:5000", xff: []string{"203.0.113.9"}, want: "192.0.2.8"},
		{name: "IPv4 in IPv6", peer: "[::ffff:10.0.0.1]:5000", xff: []string{"::ffff:203.0.113.9"}, want: "203.0.113.9"},
		{name: "spoofed", peer: "10.0.0.1:5000", xff: []string{"1.1.1.1, 203.0.113.9"}, want: "203.0.113.9"},
		{name: "spoofed proxies", peer: "10.0.0.1:5000", xff: []string{"1.1.1.1, 10.0.0.3, 203.0.113.9, 10.0.0.2"}, want: "203.0.113.9"},
		{name: "several lines", peer: "10.0.0.1:5000", xff: []string{"1.1.1.1", "203.0.113.9", "10.0.0.2"}, want: "203.0.113.9"},
		{name: "only proxies", peer: "10.0.0.1:5000", xff: []string{"10.0.0.3,10.0.0.2"}, want: "10.0.0.3"},
		{name: "with ports", peer: "10.0.0.1:5000", xff: []string{"203.0.113.9:4711"}, want: "203.0.113.9"},
		{name: "IPv6", peer: "[2001:db8:1::5]:5000", xff: []string{"2001:db8:2::9"}, want: "2001:db8:2::9"},
		{name: "IPv6 in brackets", peer: "10.0.0.1:5000", xff: []string{"[2001:db8:2::9]"}, want: "2001:db8:2::9"},
		{name: "IPv6 with a port", peer: "10.0.0.1:5000", xff: []string{"[2001:db8:2::9]:4711"}, want: "2001:db8:2::9"},
		{name: "a zone", peer: "10.0.0.1:5000", xff: []string{"fe80::1%eth0"}, want: "fe80::1"},
		{name: "empty elements", peer: "10.0.0.1:5000", xff: []string{" ,203.0.113.9,, "}, want: "203.0.113.9"},
		{name: "empty", peer: "10.0.0.1:5000", xff: []string{""}, want: "10.0.0.1"},
		{name: "unknown", peer: "10.0.0.1:5000", xff: []string{"1.1.1.1, unknown"}, want: "10.0.0.1"},
		{name: "unknown behind a proxy", peer: "10.0.0.1:5000", xff: []string{"1.1.1.1, unknown, 10.0.0.2"}, want: "10.0.0.2"},
		{name: "garbage", peer: "10.0.0.1:5000", xff: []string{"1.1.1.1, 1.2.3.4.5"}, want: "10.0.0.1"},
		{name: "a port that is none", peer: "10.0.0.1:5000", xff: []string{"203.0.113.9:http"}, want: "10.0.0.1"},

		{name: "forwarded", peer: "10.0.0.1:5000", forwarded: []string{"for=203.0.113.9"}, want: "203.0.113.9"},
		{name: "all parameters", peer: "10.0.0.1:5000", forwarded: []string{`proto=https;For="203.0.113.9:4711" ; by=_x;host="a,b;c\"d"`}, want: "203.0.113.9"},
		{name: "forwarded IPv6", peer: "10.0.0.1:5000", forwarded: []string{`for="[2001:db8:2::9]:4711"`}, want: "2001:db8:2::9"},
		{name: "forwarded obfuscated port", peer: "10.0.0.1:5000", forwarded: []string{`for="203.0.113.9:_p"`}, want: "203.0.113.9"},
		{name: "a port without quotes", peer: "10.0.0.1:5000", forwarded: []string{`for=203.0.113.9:80`}, want: "203.0.113.9"},
		{name: "escapes", peer: "10.0.0.1:5000", forwarded: []string{`for="\203.0.113.9"`}, want: "203.0.113.9"},
		{name: "forwarded spoofed", peer: "10.0.0.1:5000", forwarded: []string{`for=1.1.1.1, for=203.0.113.9, for=10.0.0.2;by=10.0.0.1`}, want: "203.0.113.9"},
		{name: "forwarded lines", peer: "10.0.0.1:5000", forwarded: []string{`for=1.1.1.1`, `for=203.0.113.9`}, want: "203.0.113.9"},
		{name: "obfuscated", peer: "10.0.0.1:5000", forwarded: []string{`for=1.1.1.1, for=_hidden`}, want: "10.0.0.1"},
		{name: "unknown, quoted", peer: "10.0.0.1:5000", forwarded: []string{`for=1.1.1.1, for="unknown", for=10.0.0.2`}, want: "10.0.0.2"},
		{name: "an element without for", peer: "10.0.0.1:5000", forwarded: []string{`for=1.1.1.1, by=10.0.0.1`}, want: "10.0.0.1"},
		{name: "empty elements", peer: "10.0.0.1:5000", forwarded: []string{`,for=203.0.113.9, ,`}, want: "203.0.113.9"},
		{name: "an open quote", peer: "10.0.0.1:5000", forwarded: []string{`for=1.1.1.1;x=", for=203.0.113.9`}, want: "10.0.0.1"},
		{name: "an open quote that a proxy closes", peer: "10.0.0.1:5000", forwarded: []string{`for=1.1.1.1;x=", for="[2001:db8:2::9]:1"`}, want: "10.0.0.1"},
		{name: "an escape before what a proxy appends", peer: "10.0.0.1:5000", forwarded: []string{`for=1.1.1.1;x="\, for="203.0.113.9"`}, want: "10.0.0.1"},
		{name: "an open quote in an earlier line", peer: "10.0.0.1:5000", forwarded: []string{`for="`, `for=203.0.113.9`}, want: "203.0.113.9"},
		{name: "for twice", peer: "10.0.0.1:5000", forwarded: []string{`for=203.0.113.9;for=1.1.1.1`}, want: "10.0.0.1"},
		{name: "no value", peer: "10.0.0.1:5000", forwarded: []string{`for=`}, want: "10.0.0.1"},
		{name: "no name", peer: "10.0.0.1:5000", forwarded: []string{`=203.0.113.9`}, want: "10.0.0.1"},
		{name: "no pair", peer: "10.0.0.1:5000", forwarded: []string{`203.0.113.9`}, want: "10.0.0.1"},
		{name: "space in a pair", peer: "10.0.0.1:5000", forwarded: []string{`for = 203.0.113.9`}, want: "10.0.0.1"},
		{name: "after a quote", peer: "10.0.0.1:5000", forwarded: []string{`for="203.0.113.9"x`}, want: "10.0.0.1"},

		{name: "both agree", peer: "10.0.0.1:5000", xff: []string{"203.0.113.9"}, forwarded: []string{"for=203.0.113.9"}, want: "203.0.113.9"},
		{name: "both, one made up", peer: "10.0.0.1:5000", xff: []string{"203.0.113.9"}, forwarded: []string{"for=1.1.1.1"}, want: "10.0.0.1"},
		{name: "no address", peer: "@", xff: []string{"203.0.113.9"}, want: "invalid IP"},
		{name: "no address", peer: "", want: "invalid IP"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.RemoteAddr = tt.peer
			for _, line := range tt.xff {
				r.Header.Add("X-Forwarded-For", line)
			}
			for _, line := range tt.forwarded {
				r.Header.Add("Forwarded", line)
			}
			if got := (Config{TrustedProxies: proxies}).RemoteAddr(r).String(); got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
			r.Header.Del("X-Forwarded-For")
			r.Header.Del("Forwarded")
			want := Config{}.RemoteAddr(r)
			r.Header.Set("X-Forwarded-For", "1.1.1.1")
			if got := (Config{}).RemoteAddr(r); got != want {
				t.Errorf("without trusted proxies: %s, want %s", got, want)
			}
		})
	}
}

func TestParsePrefix(t *testing.T) {
	for s, want := range map[string]string{
		"10.0.0.0/8": "10.0.0.0/8", "10.1.2.3/8": "10.0.0.0/8", "192.0.2.7": "192.0.2.7/32", "::1": "::1/128",
		"::ffff:10.0.0.0/104": "10.0.0.0/8", "::ffff:10.0.0.1": "10.0.0.1/32", "0.0.0.0/0": "0.0.0.0/0",
		"example.org": "", "10.0.0.0/33": "", "": "", "fe80::1%eth0": "", "10.0.0.1:80": "",
	} {
		p, err := parsePrefix(s)
		if got := p.String(); err == nil && got != want || err != nil && want != "" {
			t.Errorf("%q: %s %v, want %q", s, got, err, want)
		}
	}
}

// Whatever a client writes to the left, a proxy that appends has the last word: the client gets the address
// that the proxy has seen, or the proxy's, never one of its choice.
func FuzzRemoteAddr(f *testing.F) {
	for _, s := range []string{
		"", "1.1.1.1", "unknown", `for=1.1.1.1`, `for="1.1.1.1`, `for="[2001:db8::1]:80";by=_x, for=10.0.0.3`, `x="\`, `for=1.1.1.1;`, `a="b"c`,
	} {
		f.Add(s, true)
		f.Add(s, false)
	}
	const seen, proxy = "203.0.113.9", "10.0.0.1"
	c := Config{TrustedProxies: []string{"10.0.0.0/8"}}
	f.Fuzz(func(t *testing.T, client string, line bool) {
		if strings.ContainsAny(client, "\r\n") {
			return
		}
		for header, appended := range map[string]string{
			"X-Forwarded-For": seen, "Forwarded": "for=" + seen, "Forwarded ": `proto=https;for="` + seen + `:4711"`,
		} {
			r := &http.Request{Header: http.Header{}, RemoteAddr: proxy + ":5000"}
			header = strings.TrimSpace(header)
			if line {
				r.Header[header] = []string{client, appended}
			} else {
				r.Header[header] = []string{client + ", " + appended}
			}
			got := c.RemoteAddr(r)
			if got != netip.MustParseAddr(seen) && (got != netip.MustParseAddr(proxy) || line || header != "Forwarded") {
				t.Errorf("%s: %q: %s", header, r.Header[header], got)
			}
		}
	})
}

func BenchmarkRemoteAddr(b *testing.B) {
	c := Config{TrustedProxies: []string{"10.0.0.0/8", "2001:db8::/32"}}
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.RemoteAddr = "10.0.0.1:5000"
	r.Header.Set("X-Forwarded-For", "1.1.1.1, 203.0.113.9, 10.0.0.2")
	b.ReportAllocs()
	for b.Loop() {
		c.RemoteAddr(r)
	}
}

func TestIsAddress(t *testing.T) {
	for text, want := range map[string]bool{
		"127.0.0.1:8080": true, ":8080": true, "[::1]:0": true, "name.example:65535": true,
		"": false, "8080": false, ":": false, "127.0.0.1": false, "127.0.0.1:": false, ":8080x": false, ":65536": false, ":-1": false, "::1:80": false,
	} {
		if IsAddress(text) != want {
			t.Errorf("%q: %t", text, !want)
		}
	}
}

package websocket

import (
	"bufio"
	"crypto/sha1" //nolint:gosec // RFC 6455, section 1.3, names it
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/millrace/millrace/millracetest"
)

// request is an opening handshake as it is sent.
type request struct {
	method, version string
	query           string
	lines           []string // NAME: VALUE
}

// sampleKey is that of section 1.3.
const sampleKey = "dGhlIHNhbXBsZSBub25jZQ=="

// newRequest returns a handshake that is right.
func newRequest(target *Target) *request {
	u, _ := url.Parse(target.URL) // connect has parsed it
	r := &request{method: "GET", version: "HTTP/1.1", lines: []string{
		"Host: " + u.Host, "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Key: " + sampleKey, "Sec-WebSocket-Version: 13",
	}}
	if target.Protocol != "" {
		r.lines = append(r.lines, "Sec-WebSocket-Protocol: "+target.Protocol)
	}
	return r
}

// with replaces the lines of one name by others; without any it takes the header away.
func (r *request) with(name string, values ...string) *request {
	r.lines = slices.DeleteFunc(r.lines, func(line string) bool { return strings.HasPrefix(line, name+":") })
	for _, v := range values {
		r.lines = append(r.lines, name+": "+v)
	}
	return r
}

func (r *request) bytes(target *Target) []byte {
	u, _ := url.Parse(target.URL) // connect has parsed it
	return []byte(r.method + " " + u.RequestURI() + r.query + " " + r.version + "\r\n" + strings.Join(r.lines, "\r\n") + "\r\n\r\n")
}

// shake sends a handshake, in pieces of so many bytes, and returns the response, and a client that reads what
// follows it.
func shake(t *testing.T, target *Target, sent []byte, pieces int) (*http.Response, *client) {
	t.Helper()
	conn := connect(t, target)
	for piece := range slices.Chunk(sent, pieces) {
		if _, err := conn.Write(piece); err != nil {
			break // the server was quicker to answer; reading tells
		}
	}
	in := bufio.NewReader(conn)
	response, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatalf("%q: %v", sent, err)
	}
	// The body is not closed, which would read all of it: the connection ends with the test.
	return response, &client{WebSocket: millracetest.NewWebSocket(conn, in)}
}

// accepted checks what section 4.2.2 asks of a response with status 101, and that the connection works.
func accepted(t *testing.T, target *Target, r *request, pieces int) http.Header {
	t.Helper()
	response, c := shake(t, target, r.bytes(target), pieces)
	if response.StatusCode != http.StatusSwitchingProtocols {
		body, _ := io.ReadAll(io.LimitReader(response.Body, 1<<10)) // as much as there is
		t.Fatalf("%s: %s", response.Status, body)
	}
	h := response.Header
	sum := sha1.Sum([]byte(sampleKey + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) //nolint:gosec // as above
	for name, want := range map[string]string{"Sec-WebSocket-Accept": base64.StdEncoding.EncodeToString(sum[:]), "Upgrade": "websocket", "Connection": "upgrade"} {
		if got := h.Values(name); len(got) != 1 || !strings.EqualFold(got[0], want) || name == "Sec-WebSocket-Accept" && got[0] != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	if h.Get("Content-Length") != "" || len(response.TransferEncoding) > 0 {
		t.Errorf("the response has a body: %v", h)
	}
	c.deflate = strings.HasPrefix(h.Get("Sec-WebSocket-Extensions"), "permessage-deflate")
	if got := c.send(t, frames(text(say("1")), ping(theEnd))); got.closes != alive {
		t.Errorf("got %s", outcome(got.closes, got.reason))
	}
	return h
}

// handshakes are the cases of section 4.
func handshakes(l *cases) {
	for name, change := range map[string]func(r *request){
		"the example":                func(*request) {},
		"no subprotocol":             func(r *request) { r.with("Sec-WebSocket-Protocol") },
		"names in lower case":        func(r *request) { lower(r) },
		"names in upper case":        func(r *request) { upper(r) },
		"upgrade in upper case":      func(r *request) { r.with("Upgrade", "WEBSOCKET") },
		"upgrade in mixed case":      func(r *request) { r.with("Upgrade", "WebSocket") },
		"upgrade in a list":          func(r *request) { r.with("Upgrade", "foo/1, websocket") },
		"upgrade in two lines":       func(r *request) { r.with("Upgrade", "foo", "websocket") },
		"connection in lower case":   func(r *request) { r.with("Connection", "upgrade") },
		"connection in upper case":   func(r *request) { r.with("Connection", "UPGRADE") },
		"connection in a list":       func(r *request) { r.with("Connection", "keep-alive, Upgrade") },
		"connection first in a list": func(r *request) { r.with("Connection", "Upgrade,keep-alive") },
		"connection in two lines":    func(r *request) { r.with("Connection", "keep-alive", "Upgrade") },
		"spaces around values": func(r *request) {
			r.with("Sec-WebSocket-Version", "  13 \t").with("Sec-WebSocket-Key", "\t"+sampleKey+"  ")
		},
		"no spaces": func(r *request) {
			r.lines = each(r.lines, func(s string) string { return strings.Replace(s, ": ", ":", 1) })
		},
		"lines in another order":         func(r *request) { slices.Reverse(r.lines) },
		"headers that nobody knows":      func(r *request) { r.with("X-Any", "1", "2").with("Cookie", "a=b; c=d") },
		"a long header":                  func(r *request) { r.with("X-Any", strings.Repeat("x", 4<<10)) },
		"a query":                        func(r *request) { r.query = "?x=1&y=%20" },
		"an extension that nobody knows": func(r *request) { r.with("Sec-WebSocket-Extensions", `foo; bar=1; baz="q"`) },
	} {
		l.add("handshake", "4.2.1", name, func(t *testing.T, target *Target) {
			r := newRequest(target)
			change(r)
			if h := accepted(t, target, r, 1<<20); len(h.Values("Sec-WebSocket-Extensions")) > 0 {
				t.Errorf("the extensions %q were not offered", h.Values("Sec-WebSocket-Extensions"))
			}
		})
	}
	l.add("handshake", "4.2.1", "byte by byte", func(t *testing.T, target *Target) { accepted(t, target, newRequest(target), 1) })
	for name, protocols := range map[string][]string{
		"none": nil, "one that nobody knows": {"foo"}, "several that nobody knows": {"foo, bar", "baz"}, "another case": {"MILLRACE.V1-"},
	} {
		l.add("handshake", "4.2.2", "subprotocol: "+name, func(t *testing.T, target *Target) {
			if got := accepted(t, target, newRequest(target).with("Sec-WebSocket-Protocol", protocols...), 1<<20).Values("Sec-WebSocket-Protocol"); len(got) > 0 {
				t.Errorf("got %q, none of which was offered", got)
			}
		})
	}
	for name, protocols := range map[string][]string{
		"alone": {"%s"}, "last of a list": {"foo, bar , %s"}, "first of a list": {"%s,foo"}, "in the second line": {"foo", "%s"},
	} {
		l.add("handshake", "4.2.2", "subprotocol: "+name, func(t *testing.T, target *Target) {
			if target.Protocol == "" {
				t.Skip("the server has none")
			}
			offer := each(protocols, func(s string) string { return strings.Replace(s, "%s", target.Protocol, 1) })
			if got := accepted(t, target, newRequest(target).with("Sec-WebSocket-Protocol", offer...), 1<<20).Values("Sec-WebSocket-Protocol"); len(got) != 1 || got[0] != target.Protocol {
				t.Errorf("got %q, want %s", got, target.Protocol)
			}
		})
	}

	for name, change := range map[string]func(r *request){
		"POST":                         func(r *request) { r.method = "POST"; r.with("Content-Length", "0") },
		"PUT":                          func(r *request) { r.method = "PUT"; r.with("Content-Length", "0") },
		"HEAD":                         func(r *request) { r.method = "HEAD" },
		"DELETE":                       func(r *request) { r.method = "DELETE" },
		"get in lower case":            func(r *request) { r.method = "get" },
		"HTTP/1.0":                     func(r *request) { r.version = "HTTP/1.0" },
		"no host":                      func(r *request) { r.with("Host") },
		"two hosts":                    func(r *request) { r.with("Host", "a.example", "b.example") },
		"no upgrade":                   func(r *request) { r.with("Upgrade") },
		"upgrade to something else":    func(r *request) { r.with("Upgrade", "h2c") },
		"upgrade to something like it": func(r *request) { r.with("Upgrade", "websockets") },
		"no connection":                func(r *request) { r.with("Connection") },
		"connection kept alive":        func(r *request) { r.with("Connection", "keep-alive") },
		"connection like an upgrade":   func(r *request) { r.with("Connection", "Upgraded, no-Upgrade") },
		"no key":                       func(r *request) { r.with("Sec-WebSocket-Key") },
		"empty key":                    func(r *request) { r.with("Sec-WebSocket-Key", "") },
		"key that is no base64":        func(r *request) { r.with("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=!") },
		"key without padding":          func(r *request) { r.with("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ") },
		"key for URLs":                 func(r *request) { r.with("Sec-WebSocket-Key", "________________-----w==") },
		"two keys":                     func(r *request) { r.with("Sec-WebSocket-Key", sampleKey, sampleKey) },
		"two keys in a line":           func(r *request) { r.with("Sec-WebSocket-Key", sampleKey+", "+sampleKey) },
		"no version":                   func(r *request) { r.with("Sec-WebSocket-Version") },
		"two versions":                 func(r *request) { r.with("Sec-WebSocket-Version", "13", "13") },
		"version in another line":      func(r *request) { r.with("Sec-WebSocket-Version", "8", "13") },
		"extensions cut short":         func(r *request) { r.with("Sec-WebSocket-Extensions", "foo;") },
		"extension without a name":     func(r *request) { r.with("Sec-WebSocket-Extensions", "; bar") },
		"extension without a value":    func(r *request) { r.with("Sec-WebSocket-Extensions", "foo; bar=") },
		"extension with a bad quote":   func(r *request) { r.with("Sec-WebSocket-Extensions", `foo; bar="baz`) },
		"extension with a bad value":   func(r *request) { r.with("Sec-WebSocket-Extensions", `foo; bar="b z"`) },
		"extensions without a comma":   func(r *request) { r.with("Sec-WebSocket-Extensions", "foo bar") },
	} {
		l.add("refused handshake", "4.2.1", name, func(t *testing.T, target *Target) {
			r := newRequest(target)
			change(r)
			if response, _ := shake(t, target, r.bytes(target), 1<<20); response.StatusCode < 400 || response.StatusCode >= 500 {
				t.Errorf("got %s", response.Status)
			}
		})
	}
	for _, size := range []int{1, 8, 15, 17, 20, 32} {
		l.add("refused handshake", "4.1", fmt.Sprintf("key of %d bytes", size), func(t *testing.T, target *Target) {
			r := newRequest(target).with("Sec-WebSocket-Key", base64.StdEncoding.EncodeToString(make([]byte, size)))
			if response, _ := shake(t, target, r.bytes(target), 1<<20); response.StatusCode != http.StatusBadRequest {
				t.Errorf("got %s", response.Status)
			}
		})
	}
	for _, version := range []string{"0", "7", "8", "12", "14", "255", "256", "-13", "013", "13.0", "13, 8", "8, 13", "x"} {
		l.add("refused handshake", "4.4", "version "+version, func(t *testing.T, target *Target) {
			response, _ := shake(t, target, newRequest(target).with("Sec-WebSocket-Version", version).bytes(target), 1<<20)
			if response.StatusCode != http.StatusUpgradeRequired && response.StatusCode != http.StatusBadRequest || response.Header.Get("Sec-WebSocket-Version") != "13" {
				t.Errorf("got %s, version %q, want 426 and 13", response.Status, response.Header.Get("Sec-WebSocket-Version"))
			}
		})
	}

	// A client may send at once; it does not wait for the response (section 4.1 lets it wait).
	l.add("handshake", "4.1", "frames in the same packet", func(t *testing.T, target *Target) {
		sent := append(newRequest(target).bytes(target), frames(text(say("1")), ping(theEnd))...)
		response, c := shake(t, target, sent, 1<<20)
		if response.StatusCode != http.StatusSwitchingProtocols {
			t.Fatal(response.Status)
		}
		if got := c.observe(t); len(got.echoes) != 1 || got.echoes[0] != "1" {
			t.Errorf("got %+v", got)
		}
	})
	l.add("handshake", "4.1", "a frame that begins in the same packet", func(t *testing.T, target *Target) {
		end := frames(ping(theEnd))
		for at := range len(end) {
			_, c := shake(t, target, append(newRequest(target).bytes(target), end[:at]...), 1<<20)
			if got := c.send(t, end[at:]); got.closes != alive {
				t.Errorf("cut at %d: got %+v", at, got)
			}
		}
	})
	l.add("handshake", "5.1", "a violation in the same packet", func(t *testing.T, target *Target) {
		_, c := shake(t, target, append(newRequest(target).bytes(target), frames(frame{Op: 15})...), 1<<20)
		if got := c.observe(t); got.closes != 1002 {
			t.Errorf("got %+v", got)
		}
	})
}

func lower(r *request) {
	r.lines = each(r.lines, func(s string) string {
		name, value, _ := strings.Cut(s, ":")
		return strings.ToLower(name) + ":" + value
	})
}

func upper(r *request) {
	r.lines = each(r.lines, func(s string) string {
		name, value, _ := strings.Cut(s, ":")
		return strings.ToUpper(name) + ":" + value
	})
}

func each(list []string, change func(string) string) []string {
	var changed []string
	for _, s := range list {
		changed = append(changed, change(s))
	}
	return changed
}

package listener

import (
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// IsAddress says whether a text is HOST:PORT, or :PORT for every address, as listeners take it. A port is a number up to
// 65535, or a service's name that this machine knows; 0 is one that is free. The host is not looked up.
func IsAddress(text string) bool {
	_, port, err := net.SplitHostPort(text)
	if err != nil || port == "" {
		return false
	}
	_, err = net.LookupPort("tcp", port)
	return err == nil
}

// RemoteAddr returns the address of a request's client, IPv4 as such and without a zone. If the connection
// comes from a trusted proxy, that is the rightmost address of X-Forwarded-For, or else of Forwarded (RFC 7239),
// that is no trusted proxy's: what stands left of it the client may have made up. Where the trusted part ends
// in something that is no address (unknown, _hidden), or in nothing, it is the last proxy that is known. It is the
// zero Addr if the connection has no IP address.
func (c Config) RemoteAddr(r *http.Request) netip.Addr {
	peer := parseAddress(r.RemoteAddr)
	if len(c.TrustedProxies) == 0 {
		return peer
	}
	trusted := c.trusted()
	if !contains(trusted, peer) {
		return peer
	}
	xff, forwarded := r.Header["X-Forwarded-For"], r.Header["Forwarded"]
	switch {
	case len(forwarded) == 0:
		return walk(peer, trusted, xff, splitXFF)
	case len(xff) == 0:
		return walk(peer, trusted, forwarded, splitForwarded)
	}
	// A proxy that appends to one passes on what the client wrote into the other.
	a, b := walk(peer, trusted, xff, splitXFF), walk(peer, trusted, forwarded, splitForwarded)
	if a != b {
		return peer
	}
	return a
}

// trusted returns the networks of the proxies; what is no network has been refused.
func (c *Config) trusted() []netip.Prefix {
	prefixes := make([]netip.Prefix, 0, len(c.TrustedProxies))
	for _, s := range c.TrustedProxies {
		if p, err := parsePrefix(s); err == nil {
			prefixes = append(prefixes, p)
		}
	}
	return prefixes
}

func contains(networks []netip.Prefix, a netip.Addr) bool {
	for _, p := range networks {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// walk goes from the connection towards the client for as long as it meets trusted proxies. split returns the
// nodes of one header line from left to right, and false if the line can't be read.
func walk(at netip.Addr, trusted []netip.Prefix, lines []string, split func(string) ([]string, bool)) netip.Addr {
	for _, line := range slices.Backward(lines) {
		nodes, ok := split(line)
		if !ok {
			return at
		}
		for _, node := range slices.Backward(nodes) {
			next := parseAddress(node)
			if !next.IsValid() {
				return at
			}
			at = next
			if !contains(trusted, at) {
				return at
			}
		}
	}
	return at
}

func splitXFF(line string) ([]string, bool) {
	nodes := strings.Split(line, ",")
	kept := nodes[:0]
	for _, n := range nodes {
		if n = strings.Trim(n, " \t"); n != "" { // an empty element is none (RFC 9110, section 5.6.1)
			kept = append(kept, n)
		}
	}
	return kept, true
}

// splitForwarded returns the for parameters of a line's elements, "" where an element has none (RFC 7239,
// section 4). It reads strictly: a quote that a client has left open must not swallow what a proxy appended.
func splitForwarded(line string) (nodes []string, ok bool) {
	rest := line
	for {
		node, seen, empty := "", false, true
		for {
			rest = strings.TrimLeft(rest, " \t")
			if rest == "" || rest[0] == ',' {
				break
			}
			if rest[0] == ';' {
				rest = rest[1:]
				continue
			}
			var name, value string
			name, rest, ok = strings.Cut(rest, "=")
			if !ok || !isToken(name) {
				return nil, false
			}
			if value, rest, ok = forwardedValue(rest); !ok {
				return nil, false
			}
			empty = false
			if strings.EqualFold(name, "for") {
				if seen {
					return nil, false
				}
				node, seen = value, true
			}
			rest = strings.TrimLeft(rest, " \t")
			if rest != "" && rest[0] != ',' && rest[0] != ';' {
				return nil, false
			}
		}
		if !empty {
			nodes = append(nodes, node)
		}
		if rest == "" {
			return nodes, true
		}
		rest = rest[1:]
	}
}

// forwardedValue reads a token or a quoted string. Tokens may hold what an address without its quotes would.
func forwardedValue(s string) (value, rest string, ok bool) {
	if !strings.HasPrefix(s, `"`) {
		end := strings.IndexAny(s, " \t,;")
		if end < 0 {
			end = len(s)
		}
		return s[:end], s[end:], end > 0 && !strings.ContainsAny(s[:end], `"\=`)
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '"':
			return b.String(), s[i+1:], true
		case '\\':
			if i++; i == len(s) {
				return "", "", false
			}
		}
		b.WriteByte(s[i])
	}
	return "", "", false
}

func isToken(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r)
	})
}

// parseAddress reads an address with or without brackets and a port (RFC 7239, section 6). It is the zero Addr
// if there is none.
func parseAddress(s string) netip.Addr {
	host, port := s, ""
	switch {
	case strings.HasPrefix(s, "["):
		end := strings.IndexByte(s, ']')
		if end < 0 {
			return netip.Addr{}
		}
		host, port = s[1:end], s[end+1:]
		if !strings.Contains(host, ":") {
			return netip.Addr{} // brackets are for IPv6
		}
	case strings.Count(s, ":") == 1:
		i := strings.IndexByte(s, ':')
		host, port = s[:i], s[i:]
	}
	if port != "" && (port[0] != ':' || !isPort(port[1:])) {
		return netip.Addr{}
	}
	a, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Addr{}
	}
	return a.Unmap().WithZone("")
}

// isPort says whether s is a port or an obfuscated one.
func isPort(s string) bool {
	if strings.HasPrefix(s, "_") {
		return isToken(s)
	}
	return s != "" && len(s) <= 5 && strings.Trim(s, "0123456789") == ""
}

// addressOf returns the IP address of a socket's end; the zero Addr if it has none.
func addressOf(a net.Addr) netip.Addr {
	if tcp, ok := a.(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap().WithZone("")
	}
	return netip.Addr{}
}

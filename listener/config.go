package listener

import (
	"crypto/tls"
	"net"
	"net/mail"
	"net/netip"
	"net/url"
	"strings"
)

// Config is what a listener does beside listening.
type Config struct {
	// TLS encrypts. None if absent.
	TLS *TLS `yaml:"tls"`
	// ProxyProtocol says that every connection begins with a header of the PROXY protocol, version 1 or 2,
	// that names the client. Connections without one within 5 seconds, and those that do not come from a
	// trusted proxy, are closed. Default false.
	ProxyProtocol bool `yaml:"proxy_protocol"`
	// TrustedProxies are networks (10.0.0.0/8, 2001:db8::/32) and addresses whose word on who the client is
	// counts: their PROXY headers, and X-Forwarded-For or Forwarded in their requests. A proxy must append to
	// one of the two and should remove the other: where both are there and disagree neither is believed.
	// Default none: the client is who connects.
	TrustedProxies []string `yaml:"trusted_proxies"`
}

// TLS says where the certificate comes from: from files (cert and key), or by ACME.
type TLS struct {
	// Cert is a file (PEM) with the certificate and those between it and its root. It is read again when it
	// changes, as are the other files: within 3 seconds, at the next connection. If what is found then is
	// wrong, it is logged and what was good before stays.
	Cert string `yaml:"cert,path,watched"`
	// Key is a file (PEM) with the certificate's private key.
	Key string `yaml:"key,path,watched"`
	// ClientCA is a file (PEM) of authorities. If set, every client must show a certificate of one of them.
	ClientCA string `yaml:"client_ca,path,watched"`
	// MinVersion is the oldest version of TLS that is spoken: "1.2" or "1.3". Default "1.2".
	MinVersion string `yaml:"min_version"`
	// ACME gets certificates, and renews them, instead of cert and key.
	ACME *ACME `yaml:"acme"`
}

// ACME gets certificates from an authority such as Let's Encrypt (RFC 8555). The authority connects to port 443
// of each domain to see who is there (RFC 8737), so that port must lead to this listener.
type ACME struct {
	// Domains are the names to get certificates for, without wildcards. A client that names none gets that of
	// the first. Until a certificate has been obtained, handshakes for its name fail.
	Domains []string `yaml:"domains"`
	// Email is whom the authority tells of trouble. None if absent.
	Email string `yaml:"email"`
	// AgreeTerms says that you agree to the authority's terms of service. Required.
	AgreeTerms bool `yaml:"agree_terms"`
	// Directory is the authority's URL. Default https://acme-v02.api.letsencrypt.org/directory.
	Directory string `yaml:"directory"`
	// CA is a file (PEM) of authorities by which the directory's own certificate is known, for an ACME
	// server inside a company. Default the system's.
	CA string `yaml:"ca,path"`
	// Storage is a directory for the account, the keys and the certificates. Several processes may share it.
	// Default acme in data_dir.
	Storage string `yaml:"storage,path"`
	// HTTPChallenge is an address to listen on for the authority's requests over plain HTTP, such as :80, where
	// port 443 does not lead here. Port 80 of each domain must then lead to it. None if absent.
	HTTPChallenge string `yaml:"http_challenge"`
}

// letsEncrypt is the default directory.
const letsEncrypt = "https://acme-v02.api.letsencrypt.org/directory"

// SetDefaults sets what the configuration may leave out.
func (t *TLS) SetDefaults() { t.MinVersion = "1.2" }

// SetDefaults sets what the configuration may leave out.
func (a *ACME) SetDefaults() { a.Directory = letsEncrypt }

// Validate reports every problem with the path of its key.
func (c *Config) Validate(problem func(path, format string, args ...any)) {
	for _, s := range c.TrustedProxies {
		if p, err := parsePrefix(s); err != nil {
			problem("trusted_proxies", "%q is neither a network nor an address; write 10.0.0.0/8, 192.0.2.7 or 2001:db8::/32", s)
		} else if p.Bits() == 0 {
			problem("trusted_proxies", "%q is everyone, so any client could pretend to be another; "+
				"write the networks that the proxies are in", s)
		}
	}
	if c.ProxyProtocol && len(c.TrustedProxies) == 0 {
		problem("proxy_protocol", "nobody may send headers; write the proxies' networks, such as trusted_proxies: [10.0.0.0/8]")
	}
}

// Validate reports every problem with the path of its key. It opens no files.
func (t *TLS) Validate(problem func(path, format string, args ...any)) {
	switch {
	case t.ACME != nil && (t.Cert != "" || t.Key != ""):
		problem("acme", "it replaces cert and key; remove it, or these")
	case t.ACME != nil:
	case t.Cert == "":
		problem("cert", "is missing; write cert: FILE and key: FILE, or acme: {domains: [...], agree_terms: true}")
	case t.Key == "":
		problem("key", "is missing; write the file with the certificate's private key")
	}
	if _, ok := versions[t.MinVersion]; !ok {
		problem("min_version", "%q is neither \"1.2\" nor \"1.3\"", t.MinVersion)
	}
	if t.ACME != nil {
		t.ACME.validate(func(key, format string, args ...any) { problem("acme."+key, format, args...) })
	}
}

var versions = map[string]uint16{"": tls.VersionTLS12, "1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13}

func (a *ACME) validate(problem func(key, format string, args ...any)) {
	if len(a.Domains) == 0 {
		problem("domains", "there are none; write the names that clients connect to, such as [push.example.org]")
	}
	for _, d := range a.Domains {
		if !domain(d) {
			problem("domains", "%q is no name that a certificate can be got for; write it like push.example.org, "+
				"without scheme, port and wildcard", d)
		}
	}
	if !a.AgreeTerms {
		problem("agree_terms", "certificates are given to those who agree to the authority's terms of service; "+
			"read them and write agree_terms: true")
	}
	if u, err := url.Parse(a.Directory); err != nil || u.Scheme != "https" || u.Host == "" {
		problem("directory", "%q is not the https URL of an ACME directory; leave it out for Let's Encrypt", a.Directory)
	}
	if a.Email != "" {
		if m, err := mail.ParseAddress(a.Email); err != nil || m.Address != a.Email {
			problem("email", "%q is no address; write it like ops@example.org", a.Email)
		}
	}
	if a.HTTPChallenge != "" {
		if !IsAddress(a.HTTPChallenge) {
			problem("http_challenge", "%q is not HOST:PORT; write :80", a.HTTPChallenge)
		}
	}
}

// domain says whether s is a fully qualified name of letters, digits and hyphens.
func domain(s string) bool {
	if len(s) > 253 || !strings.Contains(s, ".") {
		return false
	}
	if _, err := netip.ParseAddr(s); err == nil {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' ||
			strings.ContainsFunc(label, func(r rune) bool {
				return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-'
			}) {
			return false
		}
	}
	return true
}

// parsePrefix reads a network or an address, as IPv4 if it is one in the form of IPv6.
func parsePrefix(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		a, other := netip.ParseAddr(s)
		if other != nil || a.Zone() != "" {
			return netip.Prefix{}, err
		}
		p = netip.PrefixFrom(a, a.BitLen())
	}
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked(), nil
}

// Loopback says whether only this machine reaches an address HOST:PORT.
func Loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}

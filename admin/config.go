package admin

import (
	"strings"

	"github.com/millrace/millrace/listener"
)

// Config describes the admin listener.
type Config struct {
	// Listen is the address to serve health and metrics on. Port 0 chooses a free one, which is logged.
	// Default 127.0.0.1:8081. On any other address than loopback tls and token are required. Profiles are
	// served on loopback only.
	Listen string `yaml:"listen"`
	// TLS encrypts. None if absent.
	TLS *listener.TLS `yaml:"tls"`
	// Token is what every request but those for /healthz must carry: Authorization: Bearer TOKEN. At least
	// 16 characters, best taken from outside of the file: ${env:NAME} or ${file:PATH}. None if absent.
	Token string `yaml:"token,secret"`
	// Hosts are the names by which the listener may be asked for, without a port, besides localhost and
	// IP addresses: what a scraper inside a cluster uses, such as millrace.monitoring.svc. Any other name
	// is refused, so that a web page can't reach the listener by pointing its own name to it.
	Hosts []string `yaml:"hosts"`
}

// SetDefaults sets what the configuration may leave out.
func (c *Config) SetDefaults() { c.Listen = "127.0.0.1:8081" }

// minToken is the least length of a token, in bytes.
const minToken = 16

// Validate reports every problem with the path of its key. It quotes no token.
func (c *Config) Validate(problem func(path, format string, args ...any)) {
	if !listener.IsAddress(c.Listen) {
		problem("listen", "%q is not HOST:PORT; write 127.0.0.1:8081, or :8081 for every address", c.Listen)
	} else if !listener.Loopback(c.Listen) && (c.TLS == nil || c.Token == "") {
		problem("listen", "others reach %q, so it takes TLS and a token; write tls: {cert: FILE, key: FILE} and "+
			"token: \"${env:ADMIN_TOKEN}\", or listen on 127.0.0.1", c.Listen)
	}
	switch {
	case c.Token == "":
	case len(c.Token) < minToken:
		problem("token", "it has fewer than 16 characters and can be guessed; use as many random ones")
	case strings.ContainsFunc(c.Token, func(r rune) bool { return r <= ' ' || r > '~' }):
		problem("token", "it holds a space or a character that no header can carry, perhaps a line break at its end")
	}
	for _, host := range c.Hosts {
		if host == "" || strings.ContainsAny(host, ":/@*") {
			problem("hosts", "%q is not a host's name; write it without scheme and port, such as millrace.example.org", host)
		}
	}
}

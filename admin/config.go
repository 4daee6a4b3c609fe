package admin

import (
	"net"
	"strings"
)

// Config describes the admin listener.
type Config struct {
	// Listen is the address to serve health and metrics on. Port 0 chooses a free one, which is logged.
	// Default 127.0.0.1:8081. Profiles are served on loopback only.
	Listen string `yaml:"listen"`
	// Hosts are the names by which the listener may be asked for, without a port, besides localhost and
	// IP addresses: what a scraper inside a cluster uses, such as millrace.monitoring.svc. Any other name
	// is refused, so that a web page can't reach the listener by pointing its own name to it.
	Hosts []string `yaml:"hosts"`
}

// SetDefaults sets what the configuration may leave out.
func (c *Config) SetDefaults() { c.Listen = "127.0.0.1:8081" }

// Validate reports every problem with the path of its key.
func (c *Config) Validate(problem func(path, format string, args ...any)) {
	if _, port, err := net.SplitHostPort(c.Listen); err != nil || port == "" {
		problem("listen", "%q is not HOST:PORT; write 127.0.0.1:8081, or :8081 for every address", c.Listen)
	}
	for _, host := range c.Hosts {
		if host == "" || strings.ContainsAny(host, ":/@*") {
			problem("hosts", "%q is not a host's name; write it without scheme and port, such as millrace.example.org", host)
		}
	}
}

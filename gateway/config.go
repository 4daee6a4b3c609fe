package gateway

import "time"

// Config describes the gateway.
type Config struct {
	// Listen is the address to serve on. Port 0 chooses a free one, which is logged.
	Listen string `yaml:"listen"`
	// Page is what / serves: map. None if absent.
	Page string `yaml:"page"`
	// Origins are the exact origins (https://app.example.org) whose pages may connect, besides pages
	// served from the gateway's own host. "*" allows every origin. Clients that send no Origin are no
	// browsers and are not held to it.
	Origins []string `yaml:"origins"`
	// Endpoints by path.
	Endpoints map[string]Endpoint `yaml:"endpoints"`
	// Ping is how often a quiet connection hears a ping (WebSocket) or a comment (SSE). Default 25s.
	Ping time.Duration `yaml:"ping"`
	// Queue bounds what waits for one connection, in bytes; a client that falls further behind is cut.
	// Default 64KiB.
	Queue int64 `yaml:"queue,size"`
}

// Endpoint serves a stream's events at a path.
type Endpoint struct {
	// From is the stream.
	From string `yaml:"from"`
	// Key says where a client names the key it wants: "query:NAME", a parameter of the query string.
	// Without the parameter it gets every key.
	Key string `yaml:"key"`
}

// SetDefaults sets what the configuration may leave out.
func (c *Config) SetDefaults() {
	c.Listen = "127.0.0.1:8080"
	c.Ping = 25 * time.Second
	c.Queue = 64 << 10
}

package admin

// Config describes the admin listener.
type Config struct {
	// Listen is the address to serve health and metrics on. Default 127.0.0.1:8081.
	Listen string `yaml:"listen"`
}

// SetDefaults sets what the configuration may leave out.
func (c *Config) SetDefaults() { c.Listen = "127.0.0.1:8081" }

package limit

import "time"

// Config bounds what one client may take of the gateway. 0 is no limit, everywhere.
//
// An address is an IPv4 address or the /64 network of an IPv6 address. Where a proxy stands in front and
// is not among the trusted ones, all its clients have its address. A token is whose it is, not its text:
// an API key's name, a JWT's issuer and subject. Connections without one are not counted by token.
type Config struct {
	// ConnectionsPerAddress bounds the connections of an address. Default 0: many people may share one.
	ConnectionsPerAddress int `yaml:"connections_per_address"`
	// ConnectionsPerToken bounds the connections of a token. Default 0.
	ConnectionsPerToken int `yaml:"connections_per_token"`
	// SubscriptionsPerConnection bounds the subscriptions of a connection. Default 100.
	SubscriptionsPerConnection int `yaml:"subscriptions_per_connection"`
	// SubscriptionsPerAddress bounds the subscriptions of all connections of an address. Default 0.
	SubscriptionsPerAddress int `yaml:"subscriptions_per_address"`
	// SubscriptionsPerToken bounds the subscriptions of all connections of a token. Default 0.
	SubscriptionsPerToken int `yaml:"subscriptions_per_token"`
	// MessagesPerConnection bounds the messages that a connection sends. Default rate 100, burst 200.
	MessagesPerConnection Rate `yaml:"messages_per_connection"`
	// MessagesPerAddress bounds the messages of all connections of an address. Default 0.
	MessagesPerAddress Rate `yaml:"messages_per_address"`
	// MessagesPerToken bounds the messages of all connections of a token. Default 0.
	MessagesPerToken Rate `yaml:"messages_per_token"`
}

// Rate is what a token bucket gives: Burst at once, and Rate a second in the long run.
type Rate struct {
	// Rate is messages per second; 0 is no limit.
	Rate int `yaml:"rate"`
	// Burst is how many may come at once; 0 is as many as Rate. Default 0.
	Burst int `yaml:"burst"`
}

// most bounds rates and bursts.
const most = 1_000_000

// longest bounds how long an empty bucket takes to fill, for as long it is remembered.
const longest = time.Hour

// SetDefaults sets what the configuration may leave out.
func (c *Config) SetDefaults() {
	c.SubscriptionsPerConnection = 100
	c.MessagesPerConnection = Rate{Rate: 100, Burst: 200}
}

// Validate reports every problem with the path of its key.
func (c *Config) Validate(problem func(path, format string, args ...any)) {
	for _, n := range []struct {
		key   string
		value int
	}{
		{"connections_per_address", c.ConnectionsPerAddress},
		{"connections_per_token", c.ConnectionsPerToken},
		{"subscriptions_per_connection", c.SubscriptionsPerConnection},
		{"subscriptions_per_address", c.SubscriptionsPerAddress},
		{"subscriptions_per_token", c.SubscriptionsPerToken},
	} {
		if n.value < 0 || n.value > 1<<30 {
			problem(n.key, "%d is out of range; write a number from 1 to %d, or 0 for no limit", n.value, 1<<30)
		}
	}
	for _, r := range []struct {
		key   string
		value Rate
	}{
		{"messages_per_connection", c.MessagesPerConnection},
		{"messages_per_address", c.MessagesPerAddress},
		{"messages_per_token", c.MessagesPerToken},
	} {
		r.value.validate(r.key, problem)
	}
}

func (r Rate) validate(key string, problem func(path, format string, args ...any)) {
	switch {
	case r.Rate < 0 || r.Rate > most:
		problem(key+".rate", "%d is out of range; write messages per second from 1 to %d, or 0 for no limit", r.Rate, most)
	case r.Burst < 0 || r.Burst > most:
		problem(key+".burst", "%d is out of range; write a number from 1 to %d", r.Burst, most)
	case r.Rate > 0 && time.Duration(r.burst())*time.Second/time.Duration(r.Rate) > longest:
		problem(key+".burst", "%d messages take longer than %s to be earned at %d a second; write fewer", r.Burst, longest, r.Rate)
	}
}

func (r Rate) burst() int {
	if r.Burst == 0 {
		return r.Rate
	}
	return r.Burst
}

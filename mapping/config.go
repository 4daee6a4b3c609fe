package mapping

import "github.com/millrace/millrace/jsonpath"

// Config says how a source's inputs become events. It stands beside the kind of the source in the
// configuration.
//
// A path is dotted, as package jsonpath describes it: attributes.updated_at, links.0.self; a dot that
// belongs to a key is written \. there. If one is set, the input must be JSON.
//
// A source that answers its senders (http) refuses what would be a dead letter otherwise.
type Config struct {
	// Split makes one event of each element of a JSON array; their ids are the input's with #0, #1 and so
	// on behind it, their types and attributes are the input's. An input that is no array is one event.
	Split bool `yaml:"split"`
	// Key is the dotted path of the event's key in its JSON data: a string, a number or a bool; the last
	// two as they are written there. Absent: the feed's own key, if any. Set but missing in an event, or
	// null, or an object or array: dead letter.
	Key string `yaml:"key"`
	// Time is the dotted path of the event time in its JSON data: RFC 3339 text, with or without a
	// fraction; the same without a zone, which means UTC, and with a space for the T; or a number, also as
	// text, of Unix seconds (up to 10 digits before the point), milliseconds (13), microseconds (16) or
	// nanoseconds. Absent: the time of arrival. Set but missing in an event, or no such time, or one
	// outside the years 1678 to 2261: dead letter. Only an event that ends its key (a removal) may lack
	// it; its time is that of arrival.
	Time string `yaml:"time"`
}

// Validate reports every problem with the path of its key.
func (c *Config) Validate(problem func(path, format string, args ...any)) {
	for _, field := range []struct{ name, path string }{{"key", c.Key}, {"time", c.Time}} {
		if field.path == "" {
			continue
		}
		if _, err := jsonpath.Compile(field.path); err != nil {
			problem(field.name, "%v", err)
		}
	}
}

// SetDefaults sets what the configuration may leave out: nothing, a source without a mapping passes
// its inputs on as they are.
func (c *Config) SetDefaults() {}

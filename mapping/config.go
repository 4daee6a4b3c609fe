package mapping

// Config says how a source's inputs become events. It stands beside the kind of the source in the
// configuration.
type Config struct {
	// Split makes one event of each element of a JSON array. An input that is no array is one event.
	Split bool `yaml:"split"`
	// Key is the dotted path of the event's key in its JSON data. Absent: the feed's own key, if any.
	// Set but missing in an event: dead letter.
	Key string `yaml:"key"`
	// Time is the dotted path of the event time in its JSON data: RFC 3339 text, or a number of Unix
	// seconds, milliseconds, microseconds or nanoseconds, told apart by magnitude. Absent: the time of
	// arrival. Set but missing in an event: dead letter.
	Time string `yaml:"time"`
}

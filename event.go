package millrace

import "time"

// DefaultEventLimit is the size in bytes over which an event's data is refused, unless the
// configuration says otherwise.
const DefaultEventLimit = 8 << 20

// Event is one thing that happened.
type Event struct {
	// ID is unique within the event's producer. It is derived from the cursor where the feed gives
	// none, so that the same input yields the same id after a restart.
	ID string
	// Key says what the event is about (a vehicle). It orders events, chooses the partition and
	// selects subscribers. An empty key is a key like any other.
	Key string
	// Type is the feed's name for the kind of event; "message" where a feed names none.
	Type string
	// Time is the event time: from the data where the configuration names a field, of arrival
	// otherwise. Nanoseconds, between the years 1678 and 2262.
	Time time.Time
	// Attributes are few and small: trace context, content type, CloudEvents extensions.
	Attributes map[string]string
	// Deleted says that the key has ended: tables drop it.
	Deleted bool
	// Data is the payload, usually one JSON value.
	Data []byte
}

// Cursor is where a producer stands in its own input: a Last-Event-ID, the positions of a query's
// inputs. It is opaque to everyone but the source or query that wrote it. The empty cursor is the
// beginning.
type Cursor string

// Rejection is an input that could not be processed, on its way to the dead-letter stream.
type Rejection struct {
	// ID is derived like an event's, so that a replayed input is rejected once.
	ID string
	// Input is the input, whole up to the event limit; beyond it a prefix.
	Input []byte
	// Length of the whole input in bytes, and its SHA-256 in hexadecimal. Both may be zero when Input
	// is whole: the producer fills them in.
	Length int64
	SHA256 string
	// Key and Time of the input as far as they are known; Time is of arrival otherwise.
	Key  string
	Time time.Time
	// Reason is why. Its code (CodeOf) is kept beside its text.
	Reason error
}

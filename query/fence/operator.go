package fence

import (
	"strconv"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
	"github.com/millrace/millrace/jsonpath"
)

// Operator turns the positions of one partition into transitions. It is used by one goroutine at a time.
type Operator struct {
	set       *Set
	config    Config
	partition string
	paths     *jsonpath.Set // lat, lon, and the key if it is in the data
	values    []jsonpath.Value
	enters    bool // whether to report them
	exits     bool

	keys map[string]*track
	late uint64

	arena []byte   // the data of the results of one Process
	found []uint32 // the fences of one position
	key   []byte   // an unescaped key
	lat   []byte   // a number
	lon   []byte
}

// track is what is known of a key.
type track struct {
	at       int64 // the time of its newest position in Unix nanoseconds
	lat, lon float64
	inside   []uint32 // the fences around it, sorted
	cell     cell     // where it is, so that the next position is found faster
}

// New returns an operator without keys for one partition of the input, whose name its results' ids bear.
// It fails with Invalid if the configuration is.
func New(set *Set, c Config, partition string) (*Operator, error) {
	o := &Operator{set: set, config: c, partition: partition, keys: map[string]*track{}}
	paths := []string{c.Lat, c.Lon}
	if c.Key != "" {
		paths = append(paths, c.Key)
	}
	var err error
	if o.paths, err = jsonpath.Compile(paths...); err != nil {
		return nil, err
	}
	o.values = make([]jsonpath.Value, len(paths))
	for _, name := range c.Detect {
		switch name {
		case enter:
			o.enters = true
		case exit:
			o.exits = true
		default:
			return nil, millrace.Errorf(millrace.Invalid, "detect transitions", "%q is no transition: %s", name, suggest(name))
		}
	}
	return o, nil
}

// Needs names the sections of a block that Process reads.
func (o *Operator) Needs() block.Sections { return block.Keys | block.Data }

// enough bytes of results end a Process, so that a block of many transitions between fences with long
// properties does not fill the memory.
const enough = 1 << 20

// Process takes events number from to to-1 of a block, which stands at at. It appends the transitions to
// dst, in the order in which they happened; what they point to is valid until the next Process. An event
// that can't be processed is left out and its number and the reason (Invalid) given to reject: no JSON, no
// position in it (an event that ends its key needs none), no key where the configuration names a path. It may stop
// early, when it has many results; next is the first event that it did not take.
//
// A result's id is PARTITION/POSITION/N, where POSITION is the input event's and N counts the transitions
// reported at it from 0. Its type is the transition; its data is an object of key, fence, transition,
// time, lat, lon and properties, in this order; lat and lon are written as in the input.
func (o *Operator) Process(b *block.Reader, at millrace.StoredBlock, from, to int, dst []millrace.Event, reject func(i int, reason error)) (results []millrace.Event, next int) {
	o.arena = o.arena[:0]
	for next = from; next < to && len(o.arena) < enough; next++ {
		var err error
		if dst, err = o.event(b, at, next, dst); err != nil {
			reject(next, err)
		}
	}
	return dst, next
}

func (o *Operator) event(b *block.Reader, at millrace.StoredBlock, i int, dst []millrace.Event) ([]millrace.Event, error) {
	key, deleted := b.Key(i), b.Deleted(i)
	var lat, lon float64
	if !deleted || o.config.Key != "" {
		if err := o.paths.Find(b.Data(i), o.values); err != nil {
			return dst, millrace.Errorf(millrace.Invalid, "read position", "no JSON: %w", err)
		}
	}
	if o.config.Key != "" {
		var err error
		if key, err = o.keyFrom(o.values[2]); err != nil {
			return dst, err
		}
	}
	if !deleted {
		var err error
		if lat, o.lat, err = degrees(o.lat, "lat", o.config.Lat, o.values[0], 90); err != nil {
			return dst, err
		}
		if lon, o.lon, err = degrees(o.lon, "lon", o.config.Lon, o.values[1], 180); err != nil {
			return dst, err
		}
	}

	now := b.UnixNano(i)
	t := o.keys[string(key)]
	switch {
	case t != nil && now < t.at:
		o.late++
		return dst, nil
	case deleted && t == nil:
		return dst, nil
	case deleted:
		o.lat, o.lon = appendNumber(o.lat[:0], t.lat), appendNumber(o.lon[:0], t.lon)
		dst = o.transitions(dst, b, at, i, key, t.inside, nil)
		delete(o.keys, string(key))
		return dst, nil
	case t == nil:
		t = &track{}
		o.keys[string(key)] = t
	}
	t.at, t.lat, t.lon = now, lat, lon
	found, cell, same := o.set.find(o.found[:0], lat, lon, t.cell)
	t.cell, o.found = cell, found
	if same || equal(found, t.inside) {
		return dst, nil
	}
	dst = o.transitions(dst, b, at, i, key, t.inside, found)
	t.inside = append(t.inside[:0], found...)
	return dst, nil
}

// transitions appends what leads from the fences before to the fences after, both sorted.
func (o *Operator) transitions(dst []millrace.Event, b *block.Reader, at millrace.StoredBlock, i int, key []byte, before, after []uint32) []millrace.Event {
	n := 0
	r := result{key: key, at: b.Time(i), lat: o.lat, lon: o.lon}
	emit := func(fence uint32) {
		r.fence = &o.set.fences[fence]
		start := len(o.arena)
		o.arena = append(o.arena, o.partition...)
		o.arena = append(o.arena, '/')
		o.arena = append(o.arena, at.Position(i).String()...)
		o.arena = append(o.arena, '/')
		o.arena = strconv.AppendInt(o.arena, int64(n), 10)
		id := string(o.arena[start:])
		start = len(o.arena)
		o.arena = r.appendTo(o.arena)
		dst = append(dst, millrace.Event{ID: id, Key: string(key), Type: r.transition, Time: r.at, Data: o.arena[start:len(o.arena):len(o.arena)]})
		n++
	}
	if r.transition = exit; o.exits {
		missing(before, after, emit)
	}
	if r.transition = enter; o.enters {
		missing(after, before, emit)
	}
	return dst
}

// missing calls f with each element of a that is not in b; both are sorted.
func missing(a, b []uint32, f func(uint32)) {
	for _, v := range a {
		for len(b) > 0 && b[0] < v {
			b = b[1:]
		}
		if len(b) == 0 || b[0] != v {
			f(v)
		}
	}
}

func equal(a, b []uint32) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// keyFrom is the key in the data: a string's text, or a number as it is written.
func (o *Operator) keyFrom(v jsonpath.Value) ([]byte, error) {
	if v.Kind != jsonpath.String && v.Kind != jsonpath.Number {
		return nil, millrace.Errorf(millrace.Invalid, "read position", "key: %q is %s, not a string or a number", o.config.Key, v.Kind)
	}
	o.key = v.Append(o.key[:0])
	return o.key, nil
}

// degrees reads a number between -limit and limit, and returns it with its text in memory.
func degrees(memory []byte, name, path string, v jsonpath.Value, limit float64) (float64, []byte, error) {
	d, ok := v.Float()
	switch {
	case v.Kind == jsonpath.Missing, v.Kind == jsonpath.Null:
		return 0, memory, millrace.Errorf(millrace.Invalid, "read position", "%s: %q is %s", name, path, v.Kind)
	case v.Kind != jsonpath.Number:
		return 0, memory, millrace.Errorf(millrace.Invalid, "read position", "%s: %q is %s, not a number: %s", name, path, v.Kind, short(string(v.Raw[:min(len(v.Raw), 100)])))
	case !ok || d < -limit || d > limit:
		return 0, memory, millrace.Errorf(millrace.Invalid, "read position", "%s: %q is %s, not between -%v and %v degrees", name, path, short(string(v.Raw[:min(len(v.Raw), 100)])), limit, limit)
	case len(v.Raw) > 40: // far more digits than a position has
		return d, appendNumber(memory[:0], d), nil
	default:
		return d, append(memory[:0], v.Raw...), nil
	}
}

func appendNumber(dst []byte, v float64) []byte { return strconv.AppendFloat(dst, v, 'g', -1, 64) }

// Keys returns the number of keys that are known.
func (o *Operator) Keys() int { return len(o.keys) }

// Late returns how many late positions were ignored since New.
func (o *Operator) Late() uint64 { return o.late }

package sse

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"hash/maphash"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
	"github.com/millrace/millrace/jsonpath"
)

// The formats of feeds that begin with a snapshot.
const (
	// formatMBTA: the type reset carries all objects as an array, add and update one object, remove one
	// that names what is gone.
	formatMBTA = "mbta"
	// formatFirebase: put and patch carry {"path","data"}; put of "/" is everything.
	formatFirebase = "firebase"
)

// snapshot makes the events that changed of a feed that cannot resume but sends its whole state when a
// connection begins, and whenever it likes. It holds what is known of each key; after a restart that is
// read back from the source's own blocks, so that what changed and what ended meanwhile is told once.
//
// The types of the events are add (the key was not known), update and remove; the last one has
// Deleted set. Of a snapshot only what differs is told. JSON that differs only in white space, in the
// order of keys and in the notation of strings is the same.
type snapshot struct {
	format   string
	key      *jsonpath.Set // of an element, for formatMBTA
	segments []string      // of the key's path
	seed     maphash.Seed
	known    map[string]known
}

type known struct {
	hash uint64
	raw  []byte // for formatFirebase: parts of it may be put
}

// change is one event that a snapshot feed's message stands for.
type change struct {
	key, typ string
	deleted  bool
	data     []byte
}

// The types of changes.
const (
	typeAdd    = "add"
	typeUpdate = "update"
	typeRemove = "remove"
)

// newSnapshot returns the state as the source's own blocks tell it.
func newSnapshot(ctx context.Context, c *Resume, recent recentBlocks) (*snapshot, error) {
	s := &snapshot{format: c.Snapshot, seed: maphash.MakeSeed(), known: make(map[string]known)}
	if s.format == formatMBTA {
		path := cmp.Or(c.Key, "id")
		var err error
		if s.key, err = jsonpath.Compile(path); err != nil {
			return nil, err
		}
		if s.segments, err = jsonpath.Split(path); err != nil {
			return nil, err
		}
	}
	if recent == nil {
		return s, nil
	}
	var r block.Reader
	var e millrace.Event
	for b, err := range recent(ctx, time.Time{}) {
		if err == nil {
			err = r.Reset(b.Raw)
		}
		if err == nil {
			err = r.Load(block.All)
		}
		if err != nil {
			return nil, millrace.Errorf(millrace.CodeOf(err), "read back what the feed has sent", "%w", err)
		}
		for i := range r.Len() {
			r.Event(i, &e)
			s.recall(&e)
		}
	}
	return s, nil
}

func (s *snapshot) recall(e *millrace.Event) {
	key := e.Key
	if s.format == formatMBTA {
		if own, err := s.keyOf(e.Data); err == nil {
			key = own // the event's may be another one
		}
	}
	if e.Deleted {
		delete(s.known, key)
		return
	}
	if text, err := canonical(e.Data); err == nil {
		s.learn(strings.Clone(key), s.valueOf(text))
	}
}

// valueOf returns what is to be known of a value in canonical form.
func (s *snapshot) valueOf(text []byte) known {
	v := known{hash: maphash.Bytes(s.seed, text)}
	if s.format == formatFirebase {
		v.raw = text
	}
	return v
}

// learn takes a key's value; it says whether it was known, and the same.
func (s *snapshot) learn(key string, now known) (was, same bool) {
	before, was := s.known[key]
	s.known[key] = now
	return was, was && before.hash == now.hash
}

// take returns the changes that an event stands for, in its order, ends of keys last. Their data lives
// as long as the event's. It fails with Invalid if the event is none of the format's.
func (s *snapshot) take(typ string, data []byte) ([]change, error) {
	if s.format == formatFirebase {
		return s.firebase(typ, data)
	}
	switch typ {
	case "reset":
		return s.reset(data)
	case typeAdd, typeUpdate:
		o, err := s.read(data)
		if err != nil {
			return nil, err
		}
		c, _ := s.object(o)
		return []change{c}, nil
	case typeRemove:
		key, err := s.keyOf(data)
		if err != nil {
			return nil, err
		}
		delete(s.known, key)
		return []change{{key: key, typ: typeRemove, deleted: true, data: data}}, nil
	default:
		return nil, millrace.Errorf(millrace.Invalid, "read the snapshot feed",
			"the event type %.80q is none of reset, add, update, remove; check resume.snapshot", typ)
	}
}

func (s *snapshot) keyOf(data []byte) (string, error) {
	var v [1]jsonpath.Value
	if err := s.key.Find(data, v[:]); err != nil {
		return "", err
	}
	switch v[0].Kind {
	case jsonpath.String, jsonpath.Number, jsonpath.Bool:
		return strings.Clone(v[0].String()), nil
	default:
		return "", millrace.Errorf(millrace.Invalid, "read the snapshot feed", "an object has no key at resume.key")
	}
}

// object is one object of a feed.
type object struct {
	key   string
	value known
	data  []byte
}

// read reads one object, and learns nothing.
func (s *snapshot) read(data []byte) (object, error) {
	key, err := s.keyOf(data)
	if err != nil {
		return object{}, err
	}
	text, err := canonical(data)
	return object{key, s.valueOf(text), data}, err
}

// object learns one object.
func (s *snapshot) object(o object) (c change, same bool) {
	c = change{key: o.key, typ: typeAdd, data: o.data}
	was, same := s.learn(o.key, o.value)
	if was {
		c.typ = typeUpdate
	}
	return c, same
}

// reset learns all objects. A malformed reset changes nothing.
func (s *snapshot) reset(data []byte) ([]change, error) {
	if jsonpath.KindOf(data) != jsonpath.Array {
		return nil, millrace.Errorf(millrace.Invalid, "read the snapshot feed", "a reset that is no JSON array")
	}
	var objects []object
	for element, err := range jsonpath.Elements(data) {
		if err != nil {
			return nil, millrace.Errorf(millrace.Invalid, "read the snapshot feed", "a reset that is no JSON array: %w", err)
		}
		o, err := s.read(element)
		if err != nil {
			return nil, err
		}
		objects = append(objects, o)
	}
	present := make(map[string]bool, len(objects))
	var changes []change
	for _, o := range objects {
		present[o.key] = true
		if c, same := s.object(o); !same {
			changes = append(changes, c)
		}
	}
	return s.end(changes, present, s.removal), nil
}

// removal is what is told of an object that a snapshot lacks: an object that holds the key alone, where
// the key stands.
func (s *snapshot) removal(key string) []byte {
	text, _ := json.Marshal(key)
	for _, segment := range slices.Backward(s.segments) {
		name, _ := json.Marshal(segment)
		text = slices.Concat([]byte("{"), name, []byte(":"), text, []byte("}"))
	}
	return text
}

// end tells the end of all keys that are not present.
func (s *snapshot) end(changes []change, present map[string]bool, data func(key string) []byte) []change {
	for _, key := range slices.Sorted(maps.Keys(s.known)) {
		if !present[key] {
			delete(s.known, key)
			changes = append(changes, change{key: key, typ: typeRemove, deleted: true, data: data(key)})
		}
	}
	return changes
}

var null = []byte("null")

// firebaseMessage is the data of put and patch.
type firebaseMessage struct {
	Path *string         `json:"path"`
	Data json.RawMessage `json:"data"`
}

// firebase learns a put or a patch. Keys are the names of the location's direct children, the empty key
// the location itself where it holds no object; what is put deeper changes the child.
func (s *snapshot) firebase(typ string, data []byte) ([]change, error) {
	var m firebaseMessage
	switch typ {
	case "keep-alive", "cancel", "auth_revoked":
		return nil, nil
	case "put", "patch":
	default:
		return nil, millrace.Errorf(millrace.Invalid, "read the snapshot feed",
			"the event type %.80q is none of put, patch, keep-alive, cancel, auth_revoked; check resume.snapshot", typ)
	}
	if err := json.Unmarshal(data, &m); err != nil || m.Path == nil || m.Data == nil {
		return nil, millrace.Errorf(millrace.Invalid, "read the snapshot feed", "a %s without path and data", typ)
	}
	path := strings.FieldsFunc(*m.Path, func(c rune) bool { return c == '/' })
	if typ == "put" {
		return s.put(nil, path, m.Data)
	}
	var parts map[string]json.RawMessage
	if err := json.Unmarshal(m.Data, &parts); err != nil {
		return nil, millrace.Errorf(millrace.Invalid, "read the snapshot feed", "a patch whose data is no object")
	}
	var changes []change
	for _, name := range slices.Sorted(maps.Keys(parts)) {
		var err error
		// The names of a patch may be paths themselves.
		below := strings.FieldsFunc(name, func(c rune) bool { return c == '/' })
		if changes, err = s.put(changes, slices.Concat(path, below), parts[name]); err != nil {
			return nil, err
		}
	}
	return changes, nil
}

func (s *snapshot) put(changes []change, path []string, data []byte) ([]change, error) {
	if len(path) == 0 {
		return s.putAll(changes, data)
	}
	if len(path) > 1 {
		var err error
		if data, err = graft(s.known[path[0]].raw, path[1:], data); err != nil {
			return nil, err
		}
	}
	// A location that held a value of its own holds children now.
	if _, leaf := s.known[""]; leaf {
		changes = s.putOne(changes, "", null, false)
	}
	text, err := canonical(data)
	if err != nil {
		return nil, err
	}
	return s.putOne(changes, path[0], text, false), nil
}

// putOne learns a child in canonical form; null ends it.
func (s *snapshot) putOne(changes []change, key string, text []byte, onlyNews bool) []change {
	if bytes.Equal(text, null) {
		if _, was := s.known[key]; was {
			delete(s.known, key)
			changes = append(changes, change{key: key, typ: typeRemove, deleted: true, data: null})
		}
		return changes
	}
	was, same := s.learn(key, s.valueOf(text))
	if same && onlyNews {
		return changes
	}
	c := change{key: key, typ: typeAdd, data: text}
	if was {
		c.typ = typeUpdate
	}
	return append(changes, c)
}

// putAll learns everything.
func (s *snapshot) putAll(changes []change, data []byte) ([]change, error) {
	children := make(map[string][]byte)
	text, err := canonical(data)
	if err != nil {
		return nil, err
	}
	switch text[0] {
	case '{':
		var parts map[string]json.RawMessage
		if err := json.Unmarshal(text, &parts); err != nil {
			return nil, err
		}
		for name, part := range parts {
			children[name] = part
		}
	case '[':
		var parts []json.RawMessage
		if err := json.Unmarshal(text, &parts); err != nil {
			return nil, err
		}
		for i, part := range parts {
			children[strconv.Itoa(i)] = part
		}
	default:
		children[""] = text
	}
	present := make(map[string]bool)
	for _, key := range slices.Sorted(maps.Keys(children)) {
		if bytes.Equal(children[key], null) {
			continue
		}
		present[key] = true
		changes = s.putOne(changes, key, children[key], true)
	}
	return s.end(changes, present, func(string) []byte { return null }), nil
}

// graft returns a value with another one put at a path inside it; null takes away, and an object that
// becomes empty by that is null itself.
func graft(value []byte, path []string, data []byte) ([]byte, error) {
	if len(path) == 0 {
		return data, nil
	}
	object := make(map[string]json.RawMessage)
	switch {
	case len(value) == 0:
	case value[0] == '[':
		var list []json.RawMessage
		if err := json.Unmarshal(value, &list); err != nil {
			return nil, err
		}
		for i, part := range list {
			if !bytes.Equal(part, null) {
				object[strconv.Itoa(i)] = part
			}
		}
	case value[0] == '{':
		if err := json.Unmarshal(value, &object); err != nil {
			return nil, err
		}
	default: // a value of its own gives way to children
	}
	child, err := graft(object[path[0]], path[1:], data)
	if err != nil {
		return nil, err
	}
	if bytes.Equal(bytes.TrimSpace(child), null) {
		delete(object, path[0])
	} else {
		object[path[0]] = child
	}
	if len(object) == 0 {
		return null, nil
	}
	return json.Marshal(object)
}

// canonical returns JSON without white space and with the keys of objects in order. Numbers stay as
// they are written. It fails with Invalid.
func canonical(data []byte) ([]byte, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var v any
	err := d.Decode(&v)
	if err == nil && len(bytes.TrimSpace(data[d.InputOffset():])) > 0 {
		err = strconv.ErrSyntax
	}
	if err != nil {
		return nil, millrace.Errorf(millrace.Invalid, "read the snapshot feed", "no JSON: %w", err)
	}
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, millrace.Errorf(millrace.Invalid, "read the snapshot feed", "no JSON: %w", err)
	}
	return bytes.TrimSuffix(out.Bytes(), lineFeed), nil
}

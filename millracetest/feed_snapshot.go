package millracetest

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// MBTA simulates the streams of the MBTA's v3 API, /vehicles and /predictions: a reset with all objects
// at the beginning of each connection and whenever Reset is called, then add, update and remove; no
// ids; a stream of predictions needs a filter. Keep-alive comments.
type MBTA struct {
	simulator
	resources map[string]*mbtaResource // by path
}

type mbtaResource struct {
	objects map[string]string // JSON by id
	order   []string          // events since the beginning, as they are sent
}

// NewMBTA starts a simulator.
func NewMBTA(t testing.TB, o SimulatorOptions) *MBTA {
	t.Helper()
	m := &MBTA{resources: map[string]*mbtaResource{
		"/vehicles": {objects: map[string]string{}}, "/predictions": {objects: map[string]string{}},
	}}
	m.serve(t, o, m.handle)
	return m
}

// Set adds or updates a vehicle or a prediction (path says which); attributes is a JSON object.
func (m *MBTA) Set(path, id, attributes string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.resources[path]
	kind := map[string]string{"/vehicles": "vehicle", "/predictions": "prediction"}[path]
	object := fmt.Sprintf(`{"attributes":%s,"id":%q,"links":{"self":%q},"relationships":{},"type":%q}`, attributes, id, path+"/"+id, kind)
	typ := "add"
	if _, known := r.objects[id]; known {
		typ = "update"
	}
	r.objects[id] = object
	r.order = append(r.order, "event: "+typ+"\ndata: "+object+"\n\n")
	m.wake()
}

// Remove removes one.
func (m *MBTA) Remove(path, id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.resources[path]
	delete(r.objects, id)
	kind := strings.TrimSuffix(strings.TrimPrefix(path, "/"), "s")
	r.order = append(r.order, fmt.Sprintf("event: remove\ndata: {\"id\":%q,\"type\":%q}\n\n", id, kind))
	m.wake()
}

// Reset sends everything again to the open connections.
func (m *MBTA) Reset(path string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.resources[path]
	r.order = append(r.order, r.reset())
	m.wake()
}

func (r *mbtaResource) reset() string {
	var objects []string
	for _, id := range slices.Sorted(maps.Keys(r.objects)) {
		objects = append(objects, r.objects[id])
	}
	return "event: reset\ndata: [" + strings.Join(objects, ",") + "]\n\n"
}

func (m *MBTA) handle(w http.ResponseWriter, r *http.Request) {
	number, _ := m.admit(r)
	defer m.leave()
	resource := m.resources[r.URL.Path]
	filtered := false
	for name := range r.URL.Query() {
		filtered = filtered || strings.HasPrefix(name, "filter[")
	}
	switch {
	case resource == nil:
		http.NotFound(w, r)
		return
	case r.Header.Get("Accept") != "text/event-stream":
		http.Error(w, "not acceptable", http.StatusNotAcceptable)
		return
	case r.URL.Path == "/predictions" && !filtered:
		http.Error(w, "at least one filter[] is required", http.StatusBadRequest)
		return
	}
	first, i := true, 0
	m.stream(w, r, number, ": keep-alive\n\n", func() ([]byte, bool) {
		var text strings.Builder
		if first {
			first, i = false, len(resource.order)
			text.WriteString(resource.reset())
		}
		for ; i < len(resource.order); i++ {
			text.WriteString(resource.order[i])
		}
		return []byte(text.String()), false
	})
}

// Firebase simulates a Firebase Realtime Database: a redirect (307) to the host of the data, then a put
// of everything, put and patch as it changes, keep-alive events, and cancel and auth_revoked.
type Firebase struct {
	simulator
	root  map[string]any
	order []string
}

// NewFirebase starts a simulator of an empty database.
func NewFirebase(t testing.TB, o SimulatorOptions) *Firebase {
	t.Helper()
	f := &Firebase{root: map[string]any{}}
	f.serve(t, o, f.handle)
	return f
}

// Put sets what is at a path such as /rooms/7/open; null removes it. data is JSON.
func (f *Firebase) Put(path, data string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.set(path, data)
	f.order = append(f.order, fmt.Sprintf("event: put\ndata: {\"path\":%q,\"data\":%s}\n\n", path, data))
	f.wake()
}

// Patch sets several children of a path at once.
func (f *Firebase) Patch(path string, children map[string]string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(children)) {
		f.set(strings.TrimSuffix(path, "/")+"/"+name, children[name])
		parts = append(parts, fmt.Sprintf("%q:%s", name, children[name]))
	}
	f.order = append(f.order, fmt.Sprintf("event: patch\ndata: {\"path\":%q,\"data\":{%s}}\n\n", path, strings.Join(parts, ",")))
	f.wake()
}

// Revoke sends auth_revoked.
func (f *Firebase) Revoke() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.order = append(f.order, "event: auth_revoked\ndata: credential is no longer valid\n\n")
	f.wake()
}

func (f *Firebase) set(path, data string) {
	var value any
	if err := json.Unmarshal([]byte(data), &value); err != nil {
		panic(err)
	}
	segments := strings.FieldsFunc(path, func(c rune) bool { return c == '/' })
	if len(segments) == 0 {
		f.root, _ = value.(map[string]any)
		return
	}
	if f.root == nil {
		f.root = map[string]any{}
	}
	setIn(f.root, segments, value)
}

func setIn(at map[string]any, path []string, value any) {
	if len(path) > 1 {
		child, ok := at[path[0]].(map[string]any)
		if !ok {
			child = map[string]any{}
		}
		setIn(child, path[1:], value)
		if value = child; len(child) == 0 {
			value = nil
		}
	}
	if value == nil {
		delete(at, path[0])
		return
	}
	at[path[0]] = value
}

func (f *Firebase) handle(w http.ResponseWriter, r *http.Request) {
	number, _ := f.admit(r)
	defer f.leave()
	if !strings.HasPrefix(r.URL.Path, "/data/") {
		http.Redirect(w, r, f.URL+"/data"+r.URL.Path, http.StatusTemporaryRedirect)
		return
	}
	first, i := true, 0
	f.stream(w, r, number, "event: keep-alive\ndata: null\n\n", func() ([]byte, bool) {
		var text strings.Builder
		if first {
			first, i = false, len(f.order)
			var root any
			if len(f.root) > 0 {
				root = f.root
			}
			all, err := json.Marshal(root)
			if err != nil {
				panic(err)
			}
			fmt.Fprintf(&text, "event: put\ndata: {\"path\":\"/\",\"data\":%s}\n\n", all)
		}
		for ; i < len(f.order); i++ {
			text.WriteString(f.order[i])
		}
		return []byte(text.String()), false
	})
}

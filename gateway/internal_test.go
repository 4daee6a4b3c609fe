package gateway

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/gobwas/ws"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/block"
	"github.com/millrace/millrace/gateway/apigateway"
	"github.com/millrace/millrace/gateway/auth"
)

func TestPositionIDs(t *testing.T) {
	at := func(incarnation string, n uint64, event uint32) millrace.Position {
		return millrace.Position{Block: millrace.BlockName(incarnation, n), Event: event}
	}
	for _, test := range []struct {
		id     string
		places map[string]millrace.Position
	}{
		{"0_", map[string]millrace.Position{"0": {}}},
		{"0_abc-00000000001a.5", map[string]millrace.Position{"0": at("abc", 42, 5)}},
		{"0_abc-00000000001a.5~1__1b.0", map[string]millrace.Position{"0": at("abc", 42, 5), "1": at("abc", 43, 0)}},
		{"0_~1_abc-00000000001a.5~2_~3__1c.7", map[string]millrace.Position{"0": {}, "1": at("abc", 42, 5), "2": {}, "3": at("abc", 44, 7)}},
		{"a-b_other.1~c_abc-000000000001.2", map[string]millrace.Position{"a-b": {Block: "other", Event: 1}, "c": at("abc", 1, 2)}},
	} {
		var made []byte
		incarnation := ""
		for i, name := range slices.Sorted(maps.Keys(test.places)) {
			if i > 0 {
				made = append(made, '~')
			}
			made, incarnation = appendPlace(made, incarnation, name, test.places[name])
		}
		if string(made) != test.id {
			t.Errorf("made %s, want %s", made, test.id)
		}
		got, err := parseSince(test.id)
		if err != nil || !maps.Equal(got.places, test.places) {
			t.Errorf("%s: got %v, %v", test.id, got.places, err)
		}
	}
	for _, wrong := range []string{
		"_", "_x", "0_abc", "0_abc-00000000001a", "0_abc-00000000001a.-1", "0_abc-00000000001a.5~", "0__1.1",
		"0_other.1~1__1.1", "0_~0_", "A_", "0_abc-00000000001a.5~1__01.1", "0_abc-00000000001a.5~1__.1",
		"0_abc-00000000001a.5~1__1A.1", "0_abc-00000000001a.5~1__1", "0_ABC-00000000001a.5", strings.Repeat("0_~", 2000),
	} {
		if got, err := parseSince(wrong); millrace.CodeOf(err) != millrace.Invalid {
			t.Errorf("%.40s: got %v, %v", wrong, got, err)
		}
	}
}

func FuzzSince(f *testing.F) {
	for _, seed := range []string{
		"", "0", "1767322800000", "2026-01-02T03:04:05Z", "2026-01-02T03:04:05.5+02:00", "0_abc-00000000001a.5",
		"0_abc-00000000001a.5~1__1b.0", "0_~1_", "now", "99999999999999999999", "0001-01-01T00:00:00Z",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := parseSince(text)
		if err != nil {
			if millrace.CodeOf(err) != millrace.Invalid {
				t.Fatalf("%v", err)
			}
			return
		}
		if s.live() != (text == "") {
			t.Fatalf("%q is live: %t", text, s.live())
		}
		if len(s.places) == 0 {
			return
		}
		var id []byte
		incarnation := ""
		for name, at := range s.places {
			if len(id) > 0 {
				id = append(id, '~')
			}
			id, incarnation = appendPlace(id, incarnation, name, at)
		}
		again, err := parseSince(string(id))
		if err != nil || !maps.Equal(again.places, s.places) {
			t.Fatalf("%q became %q: %v, %v", text, id, again, err)
		}
	})
}

func FuzzWish(f *testing.F) {
	f.Add("VehicleID=42&since=0", "")
	f.Add("VehicleID=a%20b&VehicleID=&lastEventId=0_", "0_abc-00000000001a.5")
	f.Add("vehicleid=1;x=%", "x")
	f.Fuzz(func(t *testing.T, query, lastEventID string) {
		for _, sse := range []bool{false, true} {
			w, err := parseWish(query, "VehicleID", sse, lastEventID)
			if err != nil && millrace.CodeOf(err) != millrace.Invalid {
				t.Fatalf("%v", err)
			}
			if len(w.keys) > maxKeys && err == nil || !slices.IsSorted(w.keys) {
				t.Fatalf("keys %q", w.keys)
			}
		}
	})
}

// However keys come, those that were asked for are found, and no others.
func TestWantsKey(t *testing.T) {
	random := rand.New(rand.NewPCG(4, 4))
	for range 200 {
		asked := map[string]bool{}
		var keys []string
		for range 1 + random.IntN(maxKeys) {
			key := string(rune(random.IntN(300))) + strings.Repeat("k", random.IntN(40))
			keys = append(keys, key)
			asked[key] = true
		}
		var s subscription
		if err := s.setKeys(keys); err != nil {
			t.Fatal(err)
		}
		for range 200 {
			key := string(rune(random.IntN(300))) + strings.Repeat("k", random.IntN(40))
			if s.wantsKey([]byte(key)) != asked[key] || s.names(key) != asked[key] {
				t.Fatalf("%q is wanted: %t, of %q", key, !asked[key], s.keys)
			}
		}
		for key := range asked {
			if !s.wantsKey([]byte(key)) {
				t.Fatalf("%q is not wanted, of %q", key, s.keys)
			}
		}
	}
}

func FuzzJSONString(f *testing.F) {
	for _, seed := range []string{"", "plain", "\"\\\n\r\t\b\x00\x7f", "\xff\xc3(", "\u2028 🎉", "\xed\xa0\x80"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		made := appendJSONString(nil, []byte(s))
		var got string
		if err := json.Unmarshal(made, &got); err != nil {
			t.Fatalf("%q became %s: %v", s, made, err)
		}
		want := string([]rune(s)) // what is not UTF-8 becomes U+FFFD
		if got != want || !utf8.Valid(made) {
			t.Fatalf("%q became %s", s, made)
		}
	})
}

// FuzzEvent writes any event in every form, and takes the frames apart again.
func FuzzEvent(f *testing.F) {
	f.Add("42", "enter", []byte(`{"a":1}`), int64(0))
	f.Add("\xff", "millrace.gap", []byte("a\r\n\nb\r"), int64(-1))
	f.Add("", "message", bytes.Repeat([]byte("x"), 65500), int64(1<<60))
	f.Fuzz(func(t *testing.T, key, kind string, data []byte, ns int64) {
		r := readerOf(t, millrace.Event{Key: key, Type: kind, Data: data, Time: time.Unix(0, ns)})
		ids := idText{before: []byte("0_x-1."), after: []byte("~1_")}
		for form := range formsCount {
			d := dialect{form: form}
			frame, _ := d.appendEvent(nil, nil, itemOf(r, 0), 1, &ids)
			if form.frameSize(frame) != len(frame) || form.frameSize(append(bytes.Clone(frame), frame...)) != len(frame) {
				t.Fatalf("form %d: the size of %q is %d", form, frame, form.frameSize(frame))
			}
			for cut := range min(len(frame), 20) {
				if size := form.frameSize(frame[:cut]); size <= cut {
					t.Fatalf("form %d: the size of %q is %d", form, frame[:cut], size)
				}
			}
			if !form.websocket() {
				lines := strings.Split(strings.TrimSuffix(string(frame), "\n\n"), "\n")
				for i, line := range lines {
					name, _, _ := strings.Cut(line, ": ")
					if want := map[bool]string{true: "id", false: "data"}[i == 0]; name != want && (i != 1 || name != "event") || strings.Contains(line, "\r") {
						t.Fatalf("line %d is %q", i, line)
					}
				}
				continue
			}
			h, payload := splitFrame(t, frame)
			switch {
			case h == ws.OpText && !utf8.Valid(payload), h == ws.OpBinary && utf8.Valid(payload):
				t.Fatalf("form %d: opcode %d for %q", form, h, payload)
			case form == plain && !bytes.Equal(payload, data):
				t.Fatalf("plain: %q became %q", data, payload)
			case form == v1 && !json.Valid(payload):
				t.Fatalf("v1: %s", payload)
			}
		}
	})
}

func splitFrame(t testing.TB, frame []byte) (ws.OpCode, []byte) {
	t.Helper()
	h, err := ws.ReadHeader(bytes.NewReader(frame))
	if err != nil || !h.Fin || h.Masked || h.Rsv != 0 {
		t.Fatalf("%+v, %v", h, err)
	}
	n := ws.HeaderSize(h)
	if int64(len(frame)-n) != h.Length {
		t.Fatalf("%d bytes for a payload of %d", len(frame), h.Length)
	}
	return h.OpCode, frame[n:]
}

func readerOf(t testing.TB, events ...millrace.Event) *block.Reader {
	t.Helper()
	var b block.Builder
	for i := range events {
		if err := b.Add(&events[i]); err != nil {
			t.Skip(err)
		}
	}
	encoded, err := b.Encode(nil, millrace.Header{Producer: "test"})
	if err != nil {
		t.Fatal(err)
	}
	var r block.Reader
	if err := r.Reset(encoded.Raw); err != nil {
		t.Fatal(err)
	}
	if err := r.Load(block.All); err != nil {
		t.Fatal(err)
	}
	return &r
}

func TestConfig(t *testing.T) {
	valid := func() Config {
		var c Config
		c.SetDefaults()
		c.Endpoints = map[string]Endpoint{"/vehicles": {From: "crossings", Key: "query:VehicleID"}, "/a/b": {From: "x"}}
		c.Origins = []string{"https://app.example.org", "http://localhost:3000", "http://[::1]:80", "*"}
		return c
	}
	withToken := func(parameter string) *auth.Config {
		return &auth.Config{APIKeys: []auth.APIKey{{Name: "a", Key: "0123456789abcdef"}}, Token: auth.Token{Query: parameter}}
	}
	api := func(change func(*Endpoint)) func(*Config) {
		return func(c *Config) {
			e := Endpoint{APIGateway: &apigateway.Config{}}
			e.APIGateway.SetDefaults()
			e.APIGateway.Subscribe = &apigateway.Subscribe{From: "x", Key: "query:VehicleID"}
			change(&e)
			c.Endpoints = map[string]Endpoint{"/a": e}
		}
	}
	for name, test := range map[string]struct {
		change func(*Config)
		want   string // "PATH: part of the message"; "" for none
	}{
		"fine":          {func(*Config) {}, `origins: "http://[::1]:80" is not an exact origin`},
		"fine, too":     {func(c *Config) { c.Origins, c.Page, c.Listen = nil, "map", ":0" }, ""},
		"port":          {func(c *Config) { c.Listen = ":8080x" }, `listen: ":8080x" is not HOST:PORT`},
		"listen":        {func(c *Config) { c.Listen = "8080" }, `listen: "8080" is not HOST:PORT`},
		"page":          {func(c *Config) { c.Page = "maps" }, `page: "maps" is no page`},
		"origin path":   {func(c *Config) { c.Origins = []string{"https://a.org/"} }, `origins: "https://a.org/"`},
		"origin case":   {func(c *Config) { c.Origins = []string{"https://A.org"} }, `origins: "https://A.org"`},
		"origin star":   {func(c *Config) { c.Origins = []string{"https://*.a.org"} }, `origins: "https://*.a.org"`},
		"origin port":   {func(c *Config) { c.Origins = []string{"https://a.org:443"} }, `origins: "https://a.org:443"`},
		"origin bare":   {func(c *Config) { c.Origins = []string{"a.org"} }, `origins: "a.org"`},
		"no endpoints":  {func(c *Config) { c.Endpoints = nil }, "endpoints: there are none"},
		"path":          {func(c *Config) { c.Endpoints = map[string]Endpoint{"vehicles": {From: "x"}} }, `endpoints.vehicles: "vehicles" is no path`},
		"path query":    {func(c *Config) { c.Endpoints = map[string]Endpoint{"/a?b": {From: "x"}} }, `endpoints./a?b: "/a?b" is no path`},
		"no stream":     {func(c *Config) { c.Endpoints = map[string]Endpoint{"/a": {}} }, "endpoints./a.from: it is missing"},
		"key":           {func(c *Config) { c.Endpoints = map[string]Endpoint{"/a": {From: "x", Key: "VehicleID"}} }, `endpoints./a.key: "VehicleID" does not say`},
		"key reserved":  {func(c *Config) { c.Endpoints = map[string]Endpoint{"/a": {From: "x", Key: "query:Since"}} }, `endpoints./a.key: "query:Since" is taken`},
		"key malformed": {func(c *Config) { c.Endpoints = map[string]Endpoint{"/a": {From: "x", Key: "query:a b"}} }, "endpoints./a.key:"},
		"slow": {func(c *Config) {
			c.Endpoints = map[string]Endpoint{"/a": {From: "x", Slow: "newest"}, "/b": {From: "x", Slow: "drop_oldest"}, "/c": {From: "x", Slow: "newest_per_key"}, "/d": {From: "x", Slow: "disconnect"}}
		}, `endpoints./a.slow: "newest" is not known; write disconnect, drop_oldest or newest_per_key`},
		"slow messages": {func(c *Config) {
			c.Endpoints = map[string]Endpoint{"/a": {Messages: true, Slow: "disconnect"}}
		}, `endpoints./a.slow: "disconnect" has no effect here`},
		"api queue":        {api(func(e *Endpoint) { e.Queue = 100 }), "endpoints./a.queue: 100 bytes are out of range"},
		"api slow":         {api(func(e *Endpoint) { e.Slow = "newest" }), `endpoints./a.slow: "newest" is not known`},
		"api latest keys":  {api(func(e *Endpoint) { e.LatestKeys = 7 }), "endpoints./a.latest_keys: 7 makes no sense here"},
		"api slow, silent": {api(func(e *Endpoint) { e.Slow, e.APIGateway.Subscribe = DropOldest, nil }), `endpoints./a.slow: "drop_oldest" has no effect here`},
		"api":              {api(func(e *Endpoint) { e.Slow, e.Queue = DropOldest, 8<<10 }), ""},
		"token reserved":   {func(c *Config) { c.Auth = withToken("lasteventid") }, `auth.token.query: "lasteventid" is taken`},
		"token a filter":   {func(c *Config) { c.Auth = withToken("filter") }, `auth.token.query: "filter" is taken`},
		"endpoint's token a box": {func(c *Config) {
			c.Endpoints = map[string]Endpoint{"/a": {From: "x", Auth: withToken("Box")}}
		}, `endpoints./a.auth.token.query: "Box" is taken`},
		"token":        {func(c *Config) { c.Auth = withToken("token") }, ""},
		"ping":         {func(c *Config) { c.Ping = 0 }, "ping: 0s is too short"},
		"queue":        {func(c *Config) { c.Queue = 100 }, "queue: 100 bytes"},
		"connections":  {func(c *Config) { c.MaxConnections = 0 }, "max_connections: 0 is too few"},
		"drain":        {func(c *Config) { c.Drain = -1 }, "drain: -1ns is negative"},
		"replay cache": {func(c *Config) { c.ReplayCache = -1 }, "replay_cache: -1 bytes are out of range"},
	} {
		c := valid()
		if name != "fine" {
			c.Origins = c.Origins[:2]
		}
		test.change(&c)
		var problems []string
		c.Validate(func(path, format string, args ...any) {
			problems = append(problems, path+": "+fmt.Sprintf(format, args...))
		})
		if test.want == "" && len(problems) > 0 || test.want != "" && (len(problems) != 1 || !strings.HasPrefix(problems[0], test.want)) {
			t.Errorf("%s: got %q, want %q", name, problems, test.want)
		}
		if _, err := New(c, Options{}); millrace.CodeOf(err) != millrace.Invalid { // there are no streams, either
			t.Errorf("%s: New: %v", name, err)
		}
	}
}

package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace/millracetest"
)

const deadConfig = `
data_dir: data
streams:
  positions: {partitions: 2}
  crossings: {}
sources:
  feed:
    sse: {url: "${env:FEED}", event_limit: 1KiB}
    into: positions
    key: vehicle.id
    time: at
queries:
  crossings:
    from: positions
    fence: {fences: town.geojson, lat: lat, lon: lon}
    into: crossings
archives:
  dead: {from: dead, to: {disk: archive}, prefix: "dead/!{timestamp:yyyy/MM/dd/HH}/", buffer: {size: 4KiB, interval: 1s}}
gateway:
  listen: 127.0.0.1:0
  endpoints:
    /positions: {from: positions}
    /dead: {from: dead, key: "query:producer"}
admin: {listen: "127.0.0.1:0"}
`

// deadLetter is the documented schema of an event of the stream dead.
type deadLetter struct {
	Stream      string  `json:"stream"`
	Producer    string  `json:"producer"`
	Cursor      string  `json:"cursor"`
	ID          string  `json:"id"`
	Key         string  `json:"key"`
	Code        string  `json:"code"`
	Reason      string  `json:"reason"`
	Length      int64   `json:"length"`
	SHA256      string  `json:"sha256"`
	Truncated   bool    `json:"truncated"`
	Input       *string `json:"input"`
	InputBase64 []byte  `json:"input_base64"`
}

// badInputs are inputs of every kind that can't be processed; %d makes each one different.
var badInputs = []struct {
	data, code, reason string
	query              bool // the query rejects it, not the source
}{
	{`{"vehicle":{"id":"a"},"n":%d,"at":`, "invalid", "", false},
	{`not JSON %d`, "invalid", "", false},
	{`{"vehicle":{},"n":%d,"at":"2026-03-01T08:00:00Z"}`, "invalid", `"vehicle.id"`, false},
	{`{"vehicle":{"id":null},"n":%d,"at":"2026-03-01T08:00:00Z"}`, "invalid", `"vehicle.id"`, false},
	{`{"vehicle":{"id":["a"]},"n":%d,"at":"2026-03-01T08:00:00Z"}`, "invalid", `"vehicle.id"`, false},
	{`{"vehicle":{"id":"a"},"n":%d}`, "invalid", `"at"`, false},
	{`{"vehicle":{"id":"a"},"n":%d,"at":"yesterday"}`, "invalid", "yesterday", false},
	{`{"vehicle":{"id":"a"},"n":%d,"at":"9999-01-01T00:00:00Z"}`, "invalid", "9999", false},
	{`{"vehicle":{"id":"a"},"n":%d,"at":"2026-03-01T08:00:00Z","much":"` + strings.Repeat("x", 2000) + `"}`, "too_large", "event_limit", false},
	{`{"vehicle":{"id":"a"},"n":%d,"at":"2026-03-01T08:00:00Z","lat":91,"lon":20}`, "invalid", "91", true},
	{`{"vehicle":{"id":"a"},"n":%d,"at":"2026-03-01T08:00:00Z","lat":40}`, "invalid", `"lon"`, true},
	{`{"vehicle":{"id":"a"},"n":%d,"at":"2026-03-01T08:00:00Z","lat":"40","lon":20}`, "invalid", `"lat"`, true},
}

// letters are the dead letters that came to a place, by producer.
type letters struct {
	mu    sync.Mutex
	t     *testing.T
	place string
	came  map[string][]deadLetter
	news  chan struct{} // capacity 1
}

func newLetters(t *testing.T, place string) *letters {
	return &letters{t: t, place: place, came: map[string][]deadLetter{}, news: make(chan struct{}, 1)}
}

func (l *letters) take(data string) {
	var d deadLetter
	decoder := json.NewDecoder(strings.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&d); err != nil {
		l.t.Errorf("%s: the dead letter %s: %v", l.place, data, err)
	}
	l.mu.Lock()
	l.came[d.Producer] = append(l.came[d.Producer], d)
	l.mu.Unlock()
	select {
	case l.news <- struct{}{}:
	default:
	}
}

func (l *letters) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, came := range l.came {
		n += len(came)
	}
	return n
}

// wait returns whether n letters came before the program ended.
func (l *letters) wait(n int, ended <-chan struct{}) bool {
	l.t.Helper()
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for l.count() < n {
		select {
		case <-l.news:
		case <-ended:
			return false
		case <-timeout.C:
			l.t.Fatalf("%s: %d dead letters of %d have come", l.place, l.count(), n)
		}
	}
	return true
}

// Whatever can't be processed is in the stream dead, whole and with the reason: once, in order, also when the
// program is killed between the steps of the commit that it belongs to. It can be archived and served like any
// other event, and holds nothing up.
func TestDeadLetters(t *testing.T) {
	feed := millracetest.NewFeed(t, millracetest.FeedOptions{})
	p := newPipeline(t, "", map[string]string{"config.yaml": deadConfig, "town.geojson": geoJSON(town())}, "FEED="+feed.URL)
	good := newBooks("positions")
	good.expect("client")
	atClient, queryOnly := newLetters(t, "client"), newLetters(t, "client of one producer")
	stops := []func(){
		follow(t, p, &client{place: "dead", path: "/dead", take: func(m message) {
			if m.kind != "dead_letter" {
				t.Errorf("a dead letter has the type %q", m.kind)
			}
			atClient.take(m.data)
		}}),
		follow(t, p, &client{place: "dead of the query", path: "/dead?producer=query/crossings/0&producer=query/crossings/1", sse: true, take: func(m message) { queryOnly.take(m.data) }}),
		follow(t, p, &client{place: "client", path: "/positions", take: func(m message) { good.arrive("client", "", "", m.data) }}),
	}

	var sent []string // of bad inputs, the feed's data
	fromQuery := 0
	send := func() {
		for _, bad := range badInputs {
			n := len(sent)
			data := fmt.Sprintf(bad.data, n)
			sent = append(sent, data)
			if bad.query {
				fromQuery++
				good.send("a", "", data) // it is a good event, with which the query can do nothing
			}
			fine := fmt.Sprintf(`{"vehicle":{"id":"v%d"},"n":%d,"at":"2026-03-01T08:00:00Z","lat":40,"lon":20}`, n%5, n)
			good.send(fmt.Sprintf("v%d", n%5), "", fine)
			feed.Send(millracetest.FeedEvent{ID: fmt.Sprintf("bad-%d", n), Data: data}, millracetest.FeedEvent{ID: fmt.Sprintf("good-%d", n), Data: fine})
		}
	}
	for _, step := range []string{"", "producer.part-appended:1", "producer.partitions-appended:2", "producer.home-appended:3", "query.results-emitted:1"} {
		send()
		life := p.launch("MILLRACE_CRASH_AT=" + step)
		if atClient.wait(len(sent), life.ended) {
			life.kill() // it has done everything before it came to the step so often
		}
		life.waitEnd()
		if !life.killed() {
			t.Fatalf("the program ended with %v", life.wait)
		}
	}
	send()
	life := p.start()
	atClient.wait(len(sent), nil)
	queryOnly.wait(fromQuery, nil)
	good.await(t, "client")
	if metrics := life.get("/metrics"); !strings.Contains(metrics, "dead") {
		t.Errorf("the metrics say nothing of dead letters:\n%s", metrics)
	}
	life.end(syscall.SIGTERM)
	for _, stop := range stops {
		stop()
	}

	streams := readStreams(t, filepath.Join(p.dir, "data"), map[string]int{"positions": 2, "crossings": 1, "dead": 1})
	inStream, inArchive := newLetters(t, "stream"), newLetters(t, "archive")
	for _, e := range streams["dead"][0] {
		inStream.take(string(e.Data))
	}
	for _, line := range readArchive(t, filepath.Join(p.dir, "archive"), "dead", "dead")["0"] {
		inArchive.take(line)
	}
	for _, l := range []*letters{inStream, inArchive, atClient} {
		l.check(sent)
	}
	// One producer's, for who asks for that one.
	for name := range inStream.came {
		if strings.HasPrefix(name, "query/") && len(queryOnly.came[name]) != len(inStream.came[name]) {
			t.Errorf("the client of %s got %d dead letters, want %d", name, len(queryOnly.came[name]), len(inStream.came[name]))
		}
	}
	good.check(t)
}

// check compares the letters with the bad inputs.
func (l *letters) check(sent []string) {
	l.t.Helper()
	want := map[bool][]string{} // by who rejects them
	for i, data := range sent {
		want[badInputs[i%len(badInputs)].query] = append(want[badInputs[i%len(badInputs)].query], data)
	}
	got := map[bool][]string{}
	for _, producer := range slices.Sorted(maps.Keys(l.came)) {
		query := strings.HasPrefix(producer, "query/crossings/")
		for _, d := range l.came[producer] {
			var n int
			if !query {
				if _, err := fmt.Sscanf(d.ID, "bad-%d", &n); err != nil {
					l.t.Errorf("%s: the input's id is %q", l.place, d.ID)
					continue
				}
			} else if n = slices.IndexFunc(sent, func(data string) bool { return d.Input != nil && data == *d.Input }); n < 0 {
				l.t.Errorf("%s: a dead letter that nobody sent: %+v", l.place, d)
				continue
			}
			got[query] = append(got[query], sent[n])
			l.checkOne(d, n, sent[n])
		}
	}
	for query, name := range map[bool]string{false: "source", true: "query"} {
		if !slices.Equal(got[query], want[query]) {
			l.t.Errorf("%s: the %s rejected %d inputs, %d of them different, want %d, once and in order", l.place, name,
				len(got[query]), len(slices.Compact(slices.Sorted(slices.Values(got[query])))), len(want[query]))
		}
	}
	l.t.Logf("%s: %d dead letters of the source, %d of the query", l.place, len(got[false]), len(got[true]))
}

// checkOne compares a letter with its input.
func (l *letters) checkOne(d deadLetter, n int, data string) {
	l.t.Helper()
	bad := badInputs[n%len(badInputs)]
	producer, stream := "source/feed", "positions"
	if bad.query {
		producer, stream = d.Producer, "crossings"
	}
	sum := sha256.Sum256([]byte(data))
	truncated := len(data) > 1<<10
	input := d.InputBase64
	if d.Input != nil {
		input = []byte(*d.Input)
	}
	whole := bytes.Equal(input, []byte(data))
	switch {
	case d.Producer != producer || d.Stream != stream || d.Cursor == "":
		l.t.Errorf("%s: dead letter %d is of %q at %q, into %q", l.place, n, d.Producer, d.Cursor, d.Stream)
	case d.Code != bad.code || !strings.Contains(d.Reason, bad.reason) || d.Reason == "":
		l.t.Errorf("%s: dead letter %d has the code %q and the reason %q, want %q and %q", l.place, n, d.Code, d.Reason, bad.code, bad.reason)
	case d.Length != int64(len(data)) || d.SHA256 != hex.EncodeToString(sum[:]):
		l.t.Errorf("%s: dead letter %d has the length %d and the hash %s", l.place, n, d.Length, d.SHA256)
	case d.Truncated != truncated || whole == truncated || !bytes.HasPrefix([]byte(data), input) || len(input) == 0:
		l.t.Errorf("%s: dead letter %d has %d bytes of the input's %d", l.place, n, len(input), len(data))
	case bad.query && d.Key != "a":
		l.t.Errorf("%s: dead letter %d has the key %q", l.place, n, d.Key)
	}
}

package millracetest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Wikimedia simulates EventStreams: events of several topics with times of a millisecond, several of
// them in one; an id that is a vector of all topics; a resume that goes on at the millisecond after
// the one that the id names, or at since; canary events; a limit of two connections; clients without
// a User-Agent refused.
type Wikimedia struct {
	simulator
	topics  []string
	history []wikimediaEvent
}

type wikimediaEvent struct {
	topic  int
	at     int64 // Unix milliseconds
	offset int
	data   string
}

// NewWikimedia starts a simulator with those topics.
func NewWikimedia(t testing.TB, o SimulatorOptions, topics ...string) *Wikimedia {
	t.Helper()
	w := &Wikimedia{topics: topics}
	w.serve(t, o, w.handle)
	return w
}

// Send appends an event to a topic. Times must not go back within a topic.
func (w *Wikimedia) Send(topic string, at time.Time, id, wiki string, number int) {
	w.send(topic, at, id, "en.wikipedia.org", wiki, number)
}

// SendCanary appends a canary event.
func (w *Wikimedia) SendCanary(topic string, at time.Time, id string) {
	w.send(topic, at, id, "canary", "canary", -1)
}

func (w *Wikimedia) send(topic string, at time.Time, id, domain, wiki string, number int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	e := wikimediaEvent{topic: slices.Index(w.topics, topic), at: at.UnixMilli()}
	for _, before := range w.history {
		if before.topic == e.topic {
			e.offset++
		}
	}
	data, err := json.Marshal(map[string]any{
		"$schema": "/mediawiki/recentchange/1.0.0",
		"meta": map[string]any{
			"id": id, "dt": at.UTC().Format("2006-01-02T15:04:05.000Z"), "domain": domain, "topic": topic, "partition": 0, "offset": e.offset,
		},
		"wiki": wiki, "number": number, "type": "edit",
	})
	if err != nil {
		panic(err)
	}
	e.data = string(data)
	w.history = append(w.history, e)
	w.wake()
}

func (w *Wikimedia) handle(rw http.ResponseWriter, r *http.Request) {
	number, open := w.admit(r)
	defer w.leave()
	switch {
	case r.Header.Get("User-Agent") == "" || strings.HasPrefix(r.Header.Get("User-Agent"), "Go-http-client"):
		http.Error(rw, "a User-Agent is required", http.StatusForbidden)
		return
	case open > 2:
		rw.Header().Set("Retry-After", "1")
		rw.WriteHeader(http.StatusTooManyRequests)
		return
	}
	at, err := w.start(r)
	if err != nil {
		http.Error(rw, err.Error(), http.StatusBadRequest)
		return
	}
	first, i := true, 0
	vector := slices.Clone(at)
	w.stream(rw, r, number, ":\n\n", func() ([]byte, bool) {
		var text []byte
		if first {
			first, text = false, []byte(":ok\n\n")
		}
		for ; i < len(w.history) && len(text) < 16<<10; i++ {
			e := w.history[i]
			if at[e.topic] < 0 || e.at < at[e.topic] {
				continue
			}
			vector[e.topic] = e.at + 1 // so a resume begins behind all of its millisecond
			text = fmt.Appendf(text, "event: message\nid: %s\ndata: %s\n\n", w.id(vector), e.data)
		}
		return text, false
	})
}

// id writes a vector; a topic of which nothing was sent has an offset instead of a timestamp.
func (w *Wikimedia) id(vector []int64) string {
	var parts []string
	for i, topic := range w.topics {
		if vector[i] <= 0 {
			parts = append(parts, fmt.Sprintf(`{"topic":%q,"partition":0,"offset":-1}`, topic))
			continue
		}
		parts = append(parts, fmt.Sprintf(`{"topic":%q,"partition":0,"timestamp":%d}`, topic, vector[i]))
	}
	return "[" + strings.Join(parts, ",") + "]"
}

// start returns the time of each topic's first event in milliseconds.
func (w *Wikimedia) start(r *http.Request) ([]int64, error) {
	at := make([]int64, len(w.topics))
	if since := r.URL.Query().Get("since"); since != "" {
		t, err := time.Parse(time.RFC3339, since)
		if err != nil {
			n, err := strconv.ParseInt(since, 10, 64)
			if err != nil {
				return nil, err
			}
			t = time.UnixMilli(n)
		}
		for i := range at {
			at[i] = t.UnixMilli()
		}
	}
	id := r.Header.Get("Last-Event-ID")
	if id == "" {
		return at, nil
	}
	var parts []struct {
		Topic     string
		Timestamp int64
	}
	if err := json.Unmarshal([]byte(id), &parts); err != nil {
		return nil, err
	}
	for _, p := range parts {
		if i := slices.Index(w.topics, p.Topic); i >= 0 {
			at[i] = p.Timestamp
		}
	}
	return at, nil
}

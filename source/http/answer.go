package httpsource

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"
)

// answer is what a sender hears.
type answer struct {
	code      int
	accepted  int
	rejected  int
	duplicate bool
	problem   string // what is wrong, if it isn't 200
	mistakes  []mistake
	retry     time.Duration // Retry-After
	last      bool          // close the connection
}

// mistake is an input that is wrong.
type mistake struct {
	Line   *int   `json:"line,omitempty"`  // counted from 1, where inputs are lines
	Index  *int   `json:"index,omitempty"` // counted from 0, where they are elements
	Reason string `json:"reason"`
}

// maxMistakes bounds those that are told.
const maxMistakes = 100

// answerEnding is for requests that come while we end.
var answerEnding = answer{
	code: http.StatusServiceUnavailable, problem: "shutting down; nothing was taken, try again", retry: time.Second, last: true,
}

// The values of headers that every answer has; shared, so never changed.
var (
	typeJSON = []string{"application/json"}
	noStore  = []string{"no-store"}
)

// write sends the answer.
func (a answer) write(w http.ResponseWriter) {
	h := w.Header()
	h["Content-Type"] = typeJSON
	h["Cache-Control"] = noStore
	if a.retry > 0 {
		h.Set("Retry-After", strconv.Itoa(int((a.retry+time.Second-1)/time.Second)))
	}
	if a.last {
		h.Set("Connection", "close")
	}
	var memory [96]byte
	body := a.append(memory[:0])
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	w.WriteHeader(a.code)
	_, _ = w.Write(body)
}

// append appends the answer as one line of JSON.
func (a answer) append(dst []byte) []byte {
	dst = append(dst, `{"accepted":`...)
	dst = strconv.AppendInt(dst, int64(a.accepted), 10)
	dst = append(dst, `,"rejected":`...)
	dst = strconv.AppendInt(dst, int64(a.rejected), 10)
	if a.duplicate {
		dst = append(dst, `,"duplicate":true`...)
	}
	if a.problem != "" {
		text, _ := json.Marshal(a.problem) // a string cannot fail
		dst = append(append(dst, `,"error":`...), text...)
	}
	if len(a.mistakes) > 0 {
		text, _ := json.Marshal(a.mistakes) // nor can these
		dst = append(append(dst, `,"errors":`...), text...)
	}
	return append(dst, "}\n"...)
}

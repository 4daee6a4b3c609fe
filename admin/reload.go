package admin

import (
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/millrace/millrace"
)

// Changes are what a reload has done, by names of stages (source/buses), each list sorted.
type Changes struct {
	Added   []string `json:"added,omitempty"`
	Changed []string `json:"changed,omitempty"`
	Removed []string `json:"removed,omitempty"`
}

// Answer is the body of what /reload answers.
type Answer struct {
	Changes
	// Problem is why nothing has changed, one line for each problem; "" if all went well.
	Problem string `json:"problem,omitempty"`
}

// authorized lets a request through that presents a token.
func (s *Server) authorized(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !s.entitled(r) {
			w.Header().Set("WWW-Authenticate", `Bearer realm="millrace"`)
			text(w, http.StatusUnauthorized, "this needs the configured token, or the one that the running program keeps in its data_dir\n")
			return
		}
		next(w, r)
	}
}

// reload answers when all has been done, which takes as long as the stages that end.
func (s *Server) reload(w http.ResponseWriter, r *http.Request) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Time{}) // where it can't be set the answer may come too late
	var a Answer
	var err error
	status := http.StatusOK
	if a.Changes, err = s.options.Reload(r.URL.Query().Get("file")); err != nil {
		status, a.Problem = statusOf(err), problemOf(err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(a) // the client may have gone
}

func statusOf(err error) int {
	switch millrace.CodeOf(err) {
	case millrace.Invalid:
		return http.StatusUnprocessableEntity
	case millrace.Conflict:
		return http.StatusConflict
	case millrace.Unavailable:
		return http.StatusServiceUnavailable
	default:
		return http.StatusInternalServerError
	}
}

// problemOf is what the error says, without what it failed at where that goes without saying.
func problemOf(err error) string {
	if known, ok := errors.AsType[*millrace.Error](err); ok && known.Op == "reload" {
		return known.Err.Error()
	}
	return err.Error()
}

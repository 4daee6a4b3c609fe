package apigateway

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/gateway/websocket"
)

// resource is what a path of the management API names.
type resource struct {
	prefix string // before /@connections, decoded
	id     string
	all    bool // no id follows: the connections as a whole, which AWS does not have
}

const connectionsSegment = "@connections"

// resourceOf reads PREFIX/@connections and PREFIX/@connections/ID. The segments may be escaped in any
// way; what separates them may not.
func resourceOf(escaped string) (resource, bool) {
	segment := func(s string) string {
		s, err := url.PathUnescape(s)
		if err != nil {
			return ""
		}
		return s
	}
	prefix, last, ok := cutLast(escaped)
	if !ok {
		return resource{}, false
	}
	r := resource{all: true}
	if segment(last) != connectionsSegment {
		r.all, r.id = false, segment(last)
		if prefix, last, ok = cutLast(prefix); !ok || segment(last) != connectionsSegment {
			return resource{}, false
		}
	}
	r.prefix = segment(prefix)
	return r, prefix == "" || r.prefix != ""
}

// cutLast cuts a path before its last segment.
func cutLast(path string) (before, last string, ok bool) {
	i := strings.LastIndexByte(path, '/')
	if i < 0 {
		return "", "", false
	}
	return path[:i], path[i+1:], true
}

// rank says how well a path's prefix names this endpoint: by its whole path, by its stage, not at all
// (which means any endpoint); 0 is another one.
func (a *API) rank(r resource) int {
	switch r.prefix {
	case a.path:
		return 3
	case "/" + a.stage:
		return 2
	case "":
		return 1
	}
	return 0
}

// Managing returns the endpoint whose management API a request is for, nil if there is none: the path is
// PATH/@connections, /STAGE/@connections or /@connections, or one of these with an id. Where several could be meant (/@connections names none of them) it is the one that has the connection,
// then the one that knows the access key, then the first.
func Managing(apis []*API, r *http.Request) *API {
	at, ok := resourceOf(r.URL.EscapedPath())
	if !ok {
		return nil
	}
	var likely []*API
	best := 1
	for _, a := range apis {
		switch rank := a.rank(at); {
		case rank > best:
			best, likely = rank, []*API{a}
		case rank == best:
			likely = append(likely, a)
		}
	}
	if len(likely) < 2 {
		return first(likely, func(*API) bool { return true })
	}
	if a := first(likely, func(a *API) bool { _, err := a.connections.Info(at.id); return err == nil }); a != nil {
		return a
	}
	if a := first(likely, func(a *API) bool { _, err := a.verifier.claim(r); return err == nil }); a != nil {
		return a
	}
	return likely[0]
}

func first(apis []*API, is func(*API) bool) *API {
	for _, a := range apis {
		if is(a) {
			return a
		}
	}
	return nil
}

// problem is an answer that is an error. Its name goes into the header x-amzn-ErrorType.
type problem struct {
	status  int
	name    string
	message string
}

func (p *problem) Error() string { return p.message }

func forbidden(err error) error {
	return &problem{http.StatusForbidden, "ForbiddenException", err.Error()}
}

func badRequest(format string, args ...any) error {
	return &problem{http.StatusBadRequest, "BadRequestException", fmt.Sprintf(format, args...)}
}

var (
	errGone     = &problem{status: http.StatusGone, name: "GoneException"}
	errLimit    = &problem{http.StatusTooManyRequests, "LimitExceededException", "the client's buffer is full"}
	errTooLarge = &problem{http.StatusRequestEntityTooLarge, "PayloadTooLargeException", "Message too long"}
	errInternal = &problem{http.StatusInternalServerError, "InternalServerErrorException", "Internal server error"}
)

// ServeManagement answers a request for which Managing returned the API. Its URL must be as it arrived, because its
// signature covers the escaped path.
//
//	POST   /@connections/ID                        the body becomes a text frame: 200
//	GET    /@connections/ID                        200 {"connectedAt", "lastActiveAt", "identity"}
//	DELETE /@connections/ID[?code=4000&reason=...] closes it, with 1000 unless told otherwise: 204
//
// and, beyond what AWS has,
//
//	POST   /@connections?key=KEY                   to all that are subscribed to KEY: 200 {"sent"}
//	POST   /@connections?all=true                  to every connection: 200 {"sent", "failed"}
//	GET    /@connections                           200 {"connections": [{"connectionId", ...}, ...]}
func (a *API) ServeManagement(w http.ResponseWriter, r *http.Request) {
	at, _ := resourceOf(r.URL.EscapedPath())
	operation, serve := a.operation(r, at)
	w.Header().Set("X-Amzn-Requestid", newID(a.random))
	counted := &countedStatus{ResponseWriter: w, status: http.StatusOK}
	err := a.authorize(counted, r, at, serve)
	if err != nil {
		a.refuse(counted, operation, err)
	}
	a.metrics.managed(operation, counted.status)
}

// authorize checks who asks before it serves.
func (a *API) authorize(w http.ResponseWriter, r *http.Request, at resource, serve operation) error {
	if len(a.verifier.keys) == 0 {
		return forbidden(errors.New("this endpoint has no keys, so nobody may use its management API"))
	}
	c, err := a.verifier.claim(r)
	if err != nil {
		return forbidden(err)
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, a.limits.Message))
	if _, over := errors.AsType[*http.MaxBytesError](err); over {
		return errTooLarge
	}
	if err != nil {
		return badRequest("the body ends too early")
	}
	if err := c.verify(r, body); err != nil {
		return forbidden(err)
	}
	if !at.all && !validID(at.id) {
		return badRequest("Invalid connectionId: %.64s", at.id)
	}
	return serve(w, r, at, body)
}

func (a *API) refuse(w http.ResponseWriter, operation string, err error) {
	p, ours := errors.AsType[*problem](err)
	if !ours {
		switch millrace.CodeOf(err) {
		case millrace.NotFound:
			p = errGone
		case millrace.Unavailable:
			p = errLimit
		case millrace.TooLarge:
			p = errTooLarge
		case millrace.Invalid:
			p = &problem{http.StatusBadRequest, "BadRequestException", err.Error()}
		default:
			p = errInternal
			a.logger.Error("gateway: the management API failed", "operation", operation, "error", err)
		}
	}
	if p.status == http.StatusForbidden {
		a.logger.Debug("gateway: a request to the management API is refused", "operation", operation, "reason", p.message)
	}
	w.Header().Set("X-Amzn-Errortype", p.name)
	if p.message == "" {
		w.Header().Set("Content-Length", "0")
		w.WriteHeader(p.status)
		return
	}
	answerJSON(w, p.status, struct {
		Message string `json:"message"`
	}{p.message})
}

// operation serves one call of the management API, whose body was read.
type operation func(w http.ResponseWriter, r *http.Request, at resource, body []byte) error

// operation chooses what a request asks for; its name is a metric's label.
func (a *API) operation(r *http.Request, at resource) (string, operation) {
	switch {
	case r.Method == http.MethodPost && !at.all:
		return "post", a.post
	case r.Method == http.MethodGet && !at.all:
		return "get", a.get
	case r.Method == http.MethodDelete && !at.all:
		return "delete", a.delete
	case r.Method == http.MethodGet:
		return "list", a.list
	case r.Method == http.MethodPost && r.URL.Query().Has("key"):
		return "post_key", a.postKey
	case r.Method == http.MethodPost:
		return "post_all", a.postAll
	default:
		return "other", func(w http.ResponseWriter, _ *http.Request, _ resource, _ []byte) error {
			w.Header().Set("Allow", "POST, GET, DELETE")
			return &problem{http.StatusMethodNotAllowed, "BadRequestException", "there is no such method here"}
		}
	}
}

func (a *API) post(w http.ResponseWriter, r *http.Request, at resource, body []byte) error {
	if err := text(body); err != nil {
		return err
	}
	if err := a.connections.Send(r.Context(), at.id, body); err != nil {
		return err
	}
	w.Header().Set("Content-Length", "0")
	w.WriteHeader(http.StatusOK)
	return nil
}

// text refuses what a text frame cannot carry (RFC 6455, section 5.6).
func text(body []byte) error {
	if !utf8.Valid(body) {
		return badRequest("the body is not UTF-8, which a text frame must be; send it in base64")
	}
	return nil
}

func (a *API) postKey(w http.ResponseWriter, r *http.Request, _ resource, body []byte) error {
	if err := text(body); err != nil {
		return err
	}
	keys := r.URL.Query()["key"]
	if len(keys) != 1 || keys[0] == "" {
		return badRequest("key must be there once and not be empty")
	}
	sent, err := a.connections.SendKey(r.Context(), keys[0], body)
	if err != nil {
		return err
	}
	answerJSON(w, http.StatusOK, struct {
		Sent int `json:"sent"`
	}{sent})
	return nil
}

func (a *API) postAll(w http.ResponseWriter, r *http.Request, _ resource, body []byte) error {
	if r.URL.Query().Get("all") != "true" {
		return badRequest("name a connection (/@connections/ID), a key (/@connections?key=KEY) or all (/@connections?all=true)")
	}
	if err := text(body); err != nil {
		return err
	}
	var counts struct {
		Sent   int `json:"sent"`
		Failed int `json:"failed"`
	}
	counts.Sent, counts.Failed = a.connections.SendAll(r.Context(), body)
	answerJSON(w, http.StatusOK, counts)
	return nil
}

// described is a connection as GET shows it.
type described struct {
	ID           string         `json:"connectionId,omitempty"` // in lists only
	ConnectedAt  string         `json:"connectedAt"`
	Identity     identity       `json:"identity"`
	LastActiveAt string         `json:"lastActiveAt"`
	Authorizer   map[string]any `json:"authorizer,omitempty"` // in lists only
}

func describe(c Info) described {
	const iso = "2006-01-02T15:04:05.000Z"
	active := c.LastActiveAt
	if active.IsZero() {
		active = c.ConnectedAt
	}
	return described{
		ConnectedAt: c.ConnectedAt.UTC().Format(iso), LastActiveAt: active.UTC().Format(iso),
		Identity: identity{SourceIP: c.SourceIP, UserAgent: c.UserAgent},
	}
}

func (a *API) get(w http.ResponseWriter, _ *http.Request, at resource, _ []byte) error {
	c, err := a.connections.Info(at.id)
	if err != nil {
		return err
	}
	answerJSON(w, http.StatusOK, describe(c))
	return nil
}

// list writes the connections as it goes through them, so that it needs no memory for them.
func (a *API) list(w http.ResponseWriter, _ *http.Request, _ resource, _ []byte) error {
	w.Header().Set("Content-Type", "application/json")
	out := bufio.NewWriter(w)
	_, _ = out.WriteString(`{"connections":[`)
	separator := ""
	for c := range a.connections.All() {
		d := describe(c)
		d.ID, d.Authorizer = c.ID, c.Authorizer
		one, err := json.Marshal(d)
		if err != nil {
			continue // an authorizer that is no JSON; the gateway makes none
		}
		_, _ = out.WriteString(separator)
		if _, err := out.Write(one); err != nil {
			return nil //nolint:nilerror // the client is gone, so nobody is left to tell
		}
		separator = ","
	}
	_, _ = out.WriteString("]}")
	_ = out.Flush()
	return nil
}

func (a *API) delete(w http.ResponseWriter, r *http.Request, at resource, _ []byte) error {
	const normal, longest = 1000, 123 // RFC 6455, sections 7.4.1 and 5.5
	code, reason := normal, ""
	query := r.URL.Query()
	if query.Has("code") {
		n, err := strconv.Atoi(query.Get("code"))
		if err != nil || !websocket.IsClosingCode(n) {
			return badRequest("code must be a close code that may be sent: %s", websocket.ClosingCodes)
		}
		code = n
	}
	if reason = query.Get("reason"); len(reason) > longest || !utf8.ValidString(reason) {
		return badRequest("reason must be UTF-8 of at most %d bytes", longest)
	}
	if err := a.connections.Close(at.id, code, reason); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func answerJSON(w http.ResponseWriter, status int, v any) {
	text, _ := json.Marshal(v) // structs of strings and numbers always encode
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(status)
	_, _ = w.Write(text)
}

// countedStatus remembers the status for the metrics.
type countedStatus struct {
	http.ResponseWriter
	status int
}

func (w *countedStatus) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (w *countedStatus) Unwrap() http.ResponseWriter { return w.ResponseWriter }

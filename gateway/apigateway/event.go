package apigateway

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// event is what an integration receives. The fields stand in the order in which AWS writes them.
type event struct {
	Headers           map[string]string   `json:"headers,omitempty"`
	MultiValueHeaders map[string][]string `json:"multiValueHeaders,omitempty"`
	Query             map[string]string   `json:"queryStringParameters,omitempty"`
	MultiValueQuery   map[string][]string `json:"multiValueQueryStringParameters,omitempty"`
	Context           requestContext      `json:"requestContext"`
	Body              *string             `json:"body,omitempty"` // MESSAGE only, where it is there though empty
	IsBase64Encoded   bool                `json:"isBase64Encoded"`
}

type requestContext struct {
	RouteKey             string         `json:"routeKey"`
	Authorizer           map[string]any `json:"authorizer,omitempty"`
	DisconnectStatusCode *int           `json:"disconnectStatusCode,omitempty"` // DISCONNECT only
	MessageID            string         `json:"messageId,omitempty"`            // MESSAGE only
	EventType            string         `json:"eventType"`
	ExtendedRequestID    string         `json:"extendedRequestId"`
	RequestTime          string         `json:"requestTime"`
	MessageDirection     string         `json:"messageDirection"`
	DisconnectReason     *string        `json:"disconnectReason,omitempty"` // DISCONNECT only
	Stage                string         `json:"stage"`
	ConnectedAt          int64          `json:"connectedAt"`      // ms
	RequestTimeEpoch     int64          `json:"requestTimeEpoch"` // ms
	Identity             identity       `json:"identity"`
	RequestID            string         `json:"requestId"`
	DomainName           string         `json:"domainName"`
	ConnectionID         string         `json:"connectionId"`
	APIID                string         `json:"apiId"`
}

type identity struct {
	UserAgent string `json:"userAgent,omitempty"`
	SourceIP  string `json:"sourceIp"`
}

// The kinds of events.
const (
	eventConnect    = "CONNECT"
	eventMessage    = "MESSAGE"
	eventDisconnect = "DISCONNECT"
)

// clfTime is requestTime's format, that of the common log format.
const clfTime = "02/Jan/2006:15:04:05 -0700"

// context returns what all events have in common, with a request id of its own.
func (a *API) context(c Info, route, kind string) requestContext {
	now := a.now().UTC()
	request := newID(a.random)
	return requestContext{
		RouteKey: route, Authorizer: c.Authorizer, EventType: kind, ExtendedRequestID: request, RequestID: request,
		RequestTime: now.Format(clfTime), RequestTimeEpoch: now.UnixMilli(), MessageDirection: "IN",
		Stage: a.stage, ConnectedAt: c.ConnectedAt.UnixMilli(), DomainName: a.domainName(c), ConnectionID: c.ID, APIID: a.id,
		Identity: identity{UserAgent: c.UserAgent, SourceIP: c.SourceIP},
	}
}

func (a *API) domainName(c Info) string {
	if a.domain != "" {
		return a.domain
	}
	return c.Host
}

// connectEvent is the event of $connect.
func (a *API) connectEvent(r *http.Request, c Info) event {
	e := event{Context: a.context(c, routeConnect, eventConnect)}
	e.MultiValueHeaders = a.headers(r, c)
	e.Headers = lasts(e.MultiValueHeaders)
	// A part of the query string that cannot be decoded is left out, as the standard library does.
	if query, _ := url.ParseQuery(r.URL.RawQuery); len(query) > 0 {
		e.Query, e.MultiValueQuery = lasts(query), query
	}
	return e
}

// messageEvent is the event of a message.
func (a *API) messageEvent(c Info, route string, body string) event {
	e := event{Context: a.context(c, route, eventMessage), Body: &body}
	e.Context.MessageID = newID(a.random)
	return e
}

// disconnectEvent is the event of $disconnect. Its headers say nothing of the connection, in AWS either.
func (a *API) disconnectEvent(c Info, code int, reason string) event {
	if code == statusNotSet && reason == "" {
		reason = "Client-side close frame status not set"
	}
	e := event{Context: a.context(c, routeDisconnect, eventDisconnect)}
	e.Context.DisconnectStatusCode, e.Context.DisconnectReason = &code, &reason
	e.MultiValueHeaders = map[string][]string{
		"Host": {a.domainName(c)}, "x-api-key": {""}, "X-Forwarded-For": {""}, "x-restapi": {""},
	}
	e.Headers = lasts(e.MultiValueHeaders)
	return e
}

// statusNotSet is the close code of a close frame without one (RFC 6455, section 7.4.1).
const statusNotSet = 1005

// hidden are the headers that belong to the hop between client and gateway.
var hidden = []string{"Connection", "Upgrade", "Keep-Alive", "Proxy-Connection", "Te", "Transfer-Encoding", "Content-Length"}

// headers returns a request's headers as AWS names them, with those that AWS adds.
func (a *API) headers(r *http.Request, c Info) map[string][]string {
	headers := make(map[string][]string, len(r.Header)+5)
	for name, values := range r.Header {
		if slices.Contains(hidden, name) {
			continue
		}
		// The standard library writes Sec-Websocket-; functions look for it as clients write it.
		if rest, found := strings.CutPrefix(name, "Sec-Websocket-"); found {
			name = "Sec-WebSocket-" + rest
		}
		headers[name] = values
	}
	headers["Host"] = []string{r.Host}
	forwarded := strings.Join(r.Header.Values("X-Forwarded-For"), ", ")
	switch {
	case forwarded == "":
		forwarded = c.SourceIP
	case !slices.ContainsFunc(strings.Split(forwarded, ","), func(s string) bool { return strings.TrimSpace(s) == c.SourceIP }):
		forwarded += ", " + c.SourceIP
	}
	headers["X-Forwarded-For"] = []string{forwarded}
	scheme, port := "http", "80"
	if r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https" {
		scheme, port = "https", "443"
	}
	if _, p, err := net.SplitHostPort(r.Host); err == nil {
		port = p
	}
	headers["X-Forwarded-Proto"] = []string{scheme}
	if headers["X-Forwarded-Port"] == nil {
		headers["X-Forwarded-Port"] = []string{port}
	}
	if headers["X-Amzn-Trace-Id"] == nil {
		headers["X-Amzn-Trace-Id"] = []string{newTrace(a.random, a.now())}
	}
	return headers
}

// newTrace makes an X-Ray trace id: the time in seconds and 96 random bits.
func newTrace(random io.Reader, now time.Time) string {
	var b [12]byte
	_, _ = io.ReadFull(random, b[:]) // crypto/rand never fails
	return fmt.Sprintf("Root=1-%08x-%x", now.Unix(), b)
}

// lasts keeps the last of several values, as AWS does.
func lasts(multi map[string][]string) map[string]string {
	single := make(map[string]string, len(multi))
	for name, values := range multi {
		if len(values) > 0 {
			single[name] = values[len(values)-1]
		}
	}
	return single
}

// encode returns the JSON of an event.
func (e event) encode() ([]byte, error) { return json.Marshal(e) }

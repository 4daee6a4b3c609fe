package apigateway

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"unicode/utf8"

	"github.com/millrace/millrace"
)

// Close codes of messages that an endpoint does not take (RFC 6455, section 7.4.1).
const (
	CloseUnsupported = 1003 // a binary frame
	CloseTooBig      = 1009 // a message or a frame over its limit
)

// Message takes a message of a connection: it chooses the route and calls its integration. reply is
// the text to send back, nil if there is none: the integration's answer if route responses are on, or
// what went wrong. closing is the code to close the connection with, 0 if it stays open. An error says
// why the integration failed, for the log; the reply is valid then too.
//
// AWS calls the integrations of several messages at once, in no order; calling Message for one message
// of a connection after the other keeps it.
func (a *API) Message(ctx context.Context, c Info, body []byte, binary bool) (reply []byte, closing int, err error) {
	switch {
	case binary && !a.binary:
		return nil, CloseUnsupported, nil
	case int64(len(body)) > a.limits.Message:
		return nil, CloseTooBig, nil
	}
	key, i := a.route(body, binary)
	e := a.messageEvent(c, key, string(body))
	if binary {
		*e.Body, e.IsBase64Encoded = base64.StdEncoding.EncodeToString(body), true
	}
	if i == nil {
		a.metrics.unrouted.WithLabelValues(a.metrics.endpoint).Inc()
		return says("Forbidden", e), 0, nil
	}
	answer, err := i.call(ctx, e)
	if err == nil && a.responses && len(answer.body) > 0 {
		switch {
		case int64(len(answer.body)) > a.limits.Message:
			err = millrace.Errorf(millrace.TooLarge, "", "the answer has %d bytes; a message may have %d", len(answer.body), a.limits.Message)
		case !utf8.Valid(answer.body):
			err = millrace.Errorf(millrace.Invalid, "", "the answer is not UTF-8, which a text frame must be")
		default:
			reply = answer.body
		}
	}
	if err != nil {
		i.measures.called(outcomeOf(err), answer.took)
		return failure(err, e), 0, millrace.Errorf(millrace.CodeOf(err), "call "+key, "%w", err)
	}
	i.measures.called(outcomeOK, answer.took)
	return reply, 0, nil
}

// route chooses the integration of a message; nil if there is none.
func (a *API) route(body []byte, binary bool) (string, *integration) {
	if !binary {
		if key, ok := a.selection.route(body); ok && key != routeConnect && key != routeDisconnect {
			if i := a.routes[key]; i != nil {
				return key, i
			}
		}
	}
	return routeDefault, a.routes[routeDefault]
}

// says is what a client is told of a message that went wrong.
func says(message string, e event) []byte {
	text, _ := json.Marshal(struct { // strings always encode
		Message      string `json:"message"`
		ConnectionID string `json:"connectionId"`
		RequestID    string `json:"requestId"`
	}{message, e.Context.ConnectionID, e.Context.RequestID})
	return text
}

// failure is what a client is told of an integration that failed.
func failure(err error, e event) []byte {
	if outcomeOf(err) == outcomeTimeout {
		return says("Endpoint request timed out", e)
	}
	return says("Internal server error", e)
}

package apigateway

import (
	"context"
	"net/http"
	"slices"
	"strings"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/gateway/websocket"
)

// Decision is what $connect says of a request for a connection.
type Decision struct {
	Allowed bool
	// Status is 101 if the connection is allowed; else what the request is answered with: the
	// integration's own statusCode, 502 if it failed, 504 if it took too long.
	Status int
	// Subprotocol is the Sec-WebSocket-Protocol that the integration returned, if the client offered it.
	Subprotocol string
	// Header and Body are the rest of the answer to a request that is denied. Header has no field that
	// belongs to the hop (Connection, Content-Length) and none that breaks a line.
	Header http.Header
	Body   []byte
}

// Connect asks $connect whether a request may become the connection c. The upgrade waits for it. An
// error says why the integration failed, for the log; the decision is valid then too: a denial.
//
// From when it is called until it has denied the connection, $disconnect is owed: the journal takes c
// before, and if the upgrade fails afterwards, or the program ends meanwhile, $disconnect is told 1006.
func (a *API) Connect(ctx context.Context, r *http.Request, c Info) (Decision, error) {
	i := a.routes[routeConnect]
	if i == nil {
		return Decision{Allowed: true, Status: http.StatusSwitchingProtocols}, nil
	}
	e := a.connectEvent(r, c)
	answer, err := i.call(ctx, e)
	switch {
	case err != nil && answer.status == 0:
		i.measures.called(outcomeOf(err), answer.took)
		d := Decision{Status: http.StatusBadGateway, Header: http.Header{"Content-Type": {"application/json"}}}
		if outcomeOf(err) == outcomeTimeout {
			d.Status = http.StatusGatewayTimeout
		}
		d.Body = failure(err, e)
		return d, millrace.Errorf(millrace.Unavailable, "call $connect", "%w", err)
	case !success(answer.status):
		i.measures.called(outcomeDenied, answer.took)
		return Decision{Status: answer.status, Header: endToEnd(answer.header), Body: answer.body}, nil
	}
	i.measures.called(outcomeOK, answer.took)
	d := Decision{Allowed: true, Status: http.StatusSwitchingProtocols}
	// Any that the client did not offer would make it end the connection (RFC 6455, section 4.1).
	if chosen := answer.header.Get("Sec-WebSocket-Protocol"); websocket.Offers(r, chosen) {
		d.Subprotocol = chosen
	}
	return d, nil
}

// Disconnect tells $disconnect once that a connection is gone; a Deliverer tries until it has been
// told. code and reason are those of the close frame: 1005 if it had none, 1006 if there was no frame.
// It fails with Unavailable if it should be tried again, and with Denied if an HTTP integration says
// that it will never take it (4xx).
func (a *API) Disconnect(ctx context.Context, c Info, code int, reason string) error {
	i := a.routes[routeDisconnect]
	if i == nil {
		return nil
	}
	answer, err := i.call(ctx, a.disconnectEvent(c, code, reason))
	if err == nil || answer.ran { // what a function returns to $disconnect, nobody reads
		i.measures.called(outcomeOK, answer.took)
		return nil
	}
	i.measures.called(outcomeOf(err), answer.took)
	again := millrace.Unavailable
	if final(answer.status) {
		again = millrace.Denied
	}
	return millrace.Errorf(again, "call $disconnect", "%w", err)
}

// final says whether a status of an HTTP integration means that trying again is of no use.
func final(status int) bool {
	return status >= 400 && status < 500 && status != http.StatusRequestTimeout && status != http.StatusTooEarly &&
		status != http.StatusTooManyRequests
}

// endToEnd returns the fields of an integration's answer that a denial passes on.
func endToEnd(h http.Header) http.Header {
	kept := http.Header{}
	for name, values := range h {
		if slices.Contains(hidden, name) || strings.HasPrefix(name, "Sec-Websocket-") || name == "Date" || name == "Server" {
			continue
		}
		kept[name] = values
	}
	return kept
}

func success(status int) bool { return status >= 200 && status <= 299 }

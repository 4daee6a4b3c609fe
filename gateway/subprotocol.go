package gateway

import (
	"net/http"

	"github.com/gobwas/ws"

	"github.com/millrace/millrace/gateway/websocket"
)

// subprotocol is the one that carries ids, keys, types and gaps. Without it frames carry data alone.
const subprotocol = "millrace.v1"

// Close codes beyond those of RFC 6455; 1012 and 1013 are in IANA's registry.
const (
	statusServiceRestart ws.StatusCode = 1012
	statusTryAgainLater  ws.StatusCode = 1013
	statusGap            ws.StatusCode = 4000 // a plain connection, which cannot be told of a gap otherwise
)

// chooseSubprotocol returns the form that the client's offer leads to.
func chooseSubprotocol(r *http.Request) form {
	if websocket.Offers(r, subprotocol) {
		return v1
	}
	return plain
}

package gateway_test

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/millrace/millrace/gateway"
	"github.com/millrace/millrace/millracetest"
	"github.com/millrace/millrace/millracetest/websocket"
)

// The gateway passes the conformance suite, over bare sockets and over those that it cannot write
// directly.
func TestWebSocketConformance(t *testing.T) {
	t.Run("TCP", func(t *testing.T) {
		server := serve(t, newStream(1), nil)
		websocket.Conformance(t, websocket.Target{
			URL: "ws://" + server.address + "/vehicles", Protocol: "millrace.v1", MaxMessage: 32 << 10, Deflate: true,
		})
	})
	t.Run("TLS", func(t *testing.T) {
		certified := httptest.NewTLSServer(http.NotFoundHandler())
		t.Cleanup(certified.Close)
		address := serveOver(t, newStream(1), nil, nil, func(l net.Listener) net.Listener {
			return tls.NewListener(l, &tls.Config{Certificates: certified.TLS.Certificates})
		}).address
		client := certified.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
		// Sessions that are resumed: most of the time would go into handshakes of TLS.
		client.MaxVersion, client.ClientSessionCache = tls.VersionTLS12, tls.NewLRUClientSessionCache(1)
		websocket.Conformance(t, websocket.Target{
			URL: "wss://" + address + "/vehicles", TLS: client,
			Protocol: "millrace.v1", MaxMessage: 32 << 10, Deflate: true,
		})
	})
}

// Without compression nothing is negotiated.
func TestCompressionOff(t *testing.T) {
	server := serve(t, newStream(1), func(c *gateway.Config, _ *gateway.Options) { c.Compression = false })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	w, err := millracetest.DialWebSocket(ctx, "ws://"+server.address+"/vehicles", http.Header{"Sec-Websocket-Extensions": {"permessage-deflate"}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = w.Close() }()
	if got := w.Response.Header.Values("Sec-WebSocket-Extensions"); len(got) > 0 {
		t.Errorf("got %q", got)
	}
}

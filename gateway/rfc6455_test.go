package gateway_test

import (
	"bytes"
	"compress/flate"
	"context"
	"crypto/tls"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

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
		encrypted := tls.NewListener(listen(t), &tls.Config{Certificates: certified.TLS.Certificates})
		address := serveOn(t, encrypted, newStream(1), nil).address
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

// An event goes out compressed to whoever has agreed on that, and as it is to the others.
func TestCompressedEvents(t *testing.T) {
	s := newStream(1)
	w := newWriter(t, s)
	server := serve(t, s, nil)
	data := `{"pad":"` + strings.Repeat("0123456789", 300) + `"}`
	for _, protocol := range []string{"", v1} {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		header := http.Header{"Sec-Websocket-Extensions": {"permessage-deflate"}}
		if protocol != "" {
			header.Set("Sec-Websocket-Protocol", protocol)
		}
		packed, err := millracetest.DialWebSocket(ctx, "ws://"+server.address+"/vehicles", header)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = packed.Close() }()
		_ = packed.Conn.SetDeadline(time.Now().Add(patience))
		bare := server.dial(t, "/vehicles", protocol)
		if protocol == v1 {
			bare.live()
		}
		w.put("42", data)
		want := bare.next()
		if !strings.Contains(want, data) {
			t.Fatalf("got %.100s", want)
		}
		for {
			f, err := packed.ReadFrame()
			if err != nil {
				t.Fatal(err)
			}
			if f.Rsv == 0 {
				continue // hello, live
			}
			got, err := io.ReadAll(flate.NewReader(io.MultiReader(bytes.NewReader(f.Payload), strings.NewReader("\x00\x00\xff\xff\x01\x00\x00\xff\xff"))))
			if err != nil || string(got) != want || f.Rsv != 4 || len(f.Payload) > len(want)/4 {
				t.Errorf("%q: %d bytes became %d, reserved bits %d, %v", protocol, len(f.Payload), len(got), f.Rsv, err)
			}
			break
		}
	}
}

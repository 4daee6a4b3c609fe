package websocket

import (
	"crypto/sha1" //nolint:gosec // RFC 6455, section 1.3, names it; nothing secret depends on it
	"encoding/base64"
	"net/http"
	"strings"
)

// Wanted says whether the request asks to become a WebSocket.
func Wanted(r *http.Request) bool { return lists(r, "Upgrade", "websocket", strings.EqualFold) }

// Offers says whether the request offers a subprotocol (section 11.3.4); case matters.
func Offers(r *http.Request, protocol string) bool {
	return lists(r, "Sec-WebSocket-Protocol", protocol, func(a, b string) bool { return a == b })
}

// CheckHandshake says what is wrong with a WebSocket's opening handshake (RFC 6455, section 4.2.1):
// status is 0 if nothing is.
func CheckHandshake(r *http.Request) (status int, problem string) {
	key, err := base64.StdEncoding.DecodeString(r.Header.Get("Sec-WebSocket-Key"))
	switch {
	case r.Method != http.MethodGet || !r.ProtoAtLeast(1, 1):
		return http.StatusBadRequest, "a WebSocket begins with a GET of HTTP/1.1"
	case !lists(r, "Connection", "upgrade", strings.EqualFold):
		return http.StatusBadRequest, "the header \"Connection: Upgrade\" is missing"
	case r.Header.Get("Sec-WebSocket-Version") != "13" || len(r.Header.Values("Sec-WebSocket-Version")) != 1:
		return http.StatusUpgradeRequired, "the header \"Sec-WebSocket-Version: 13\" is missing; no other version is spoken here"
	case err != nil || len(key) != 16 || len(r.Header.Values("Sec-WebSocket-Key")) != 1:
		return http.StatusBadRequest, "the header Sec-WebSocket-Key is not 16 bytes in base64"
	}
	if _, ok := parseExtensions(r.Header.Values(extensionsHeader)); !ok { // section 9.1
		return http.StatusBadRequest, "the header Sec-WebSocket-Extensions is malformed"
	}
	return 0, ""
}

// Head returns the head of the response that opens the WebSocket (section 4.2.2), with the subprotocol and the
// extension that were negotiated, "" for none, and further header lines.
func Head(r *http.Request, protocol, extension, further string) []byte {
	sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) //nolint:gosec // see the import
	head := "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Accept: " + base64.StdEncoding.EncodeToString(sum[:]) + "\r\n"
	if protocol != "" {
		head += "Sec-WebSocket-Protocol: " + protocol + "\r\n"
	}
	if extension != "" {
		head += "Sec-WebSocket-Extensions: " + extension + "\r\n"
	}
	return []byte(head + further + "\r\n")
}

// lists says whether a header that is a list (RFC 9110, section 5.6.1) has a token.
func lists(r *http.Request, header, token string, same func(a, b string) bool) bool {
	for _, line := range r.Header.Values(header) {
		for part := range strings.SplitSeq(line, ",") {
			if same(strings.TrimSpace(part), token) {
				return true
			}
		}
	}
	return false
}

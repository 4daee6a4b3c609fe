package gateway

import (
	"crypto/sha1" //nolint:gosec // RFC 6455, section 1.3, names it; nothing secret depends on it
	"encoding/base64"
	"encoding/binary"
	"errors"
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/gobwas/ws"
)

// subprotocol is the one that carries ids, keys, types and gaps. Without it frames carry data alone.
const subprotocol = "millrace.v1"

// Close codes beyond those of RFC 6455; 1012 and 1013 are in IANA's registry.
const (
	statusServiceRestart ws.StatusCode = 1012
	statusTryAgainLater  ws.StatusCode = 1013
	statusGap            ws.StatusCode = 4000 // a plain connection, which cannot be told of a gap otherwise
)

// maxMessage bounds a message from a client, in bytes.
const maxMessage = 32 << 10

// wantsWebSocket says whether the request asks to become a WebSocket.
func wantsWebSocket(r *http.Request) bool { return hasToken(r.Header.Values("Upgrade"), "websocket") }

// checkHandshake says what is wrong with a WebSocket's opening handshake (RFC 6455, section 4.2.1):
// status is 0 if nothing is.
func checkHandshake(r *http.Request) (status int, problem string) {
	key, err := base64.StdEncoding.DecodeString(r.Header.Get("Sec-WebSocket-Key"))
	switch {
	case r.Method != http.MethodGet || !r.ProtoAtLeast(1, 1):
		return http.StatusBadRequest, "a WebSocket begins with a GET of HTTP/1.1"
	case !hasToken(r.Header.Values("Connection"), "upgrade"):
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

// chooseSubprotocol returns the form that the client's offer leads to.
func chooseSubprotocol(r *http.Request) form {
	for _, line := range r.Header.Values("Sec-WebSocket-Protocol") {
		for offer := range strings.SplitSeq(line, ",") {
			if strings.TrimSpace(offer) == subprotocol {
				return v1
			}
		}
	}
	return plain
}

// webSocketHead returns the head of the response that opens the WebSocket (section 4.2.2), with the
// extension that was negotiated, "" for none, and further header lines.
func webSocketHead(r *http.Request, f form, extension, further string) []byte {
	sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) //nolint:gosec // see the import
	head := "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Accept: " + base64.StdEncoding.EncodeToString(sum[:]) + "\r\n"
	if f != plain {
		head += "Sec-WebSocket-Protocol: " + subprotocol + "\r\n"
	}
	if extension != "" {
		head += "Sec-WebSocket-Extensions: " + extension + "\r\n"
	}
	return []byte(head + further + "\r\n")
}

func hasToken(lines []string, token string) bool {
	for _, line := range lines {
		for part := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(part), token) {
				return true
			}
		}
	}
	return false
}

// appendClose appends a close frame; a reason that is too long is shortened. Code 0 stands for none.
func appendClose(dst []byte, code ws.StatusCode, reason string) []byte {
	if code == 0 {
		return appendHeader(dst, ws.OpClose, 0)
	}
	for len(reason) > ws.MaxControlFramePayloadSize-2 || !utf8.ValidString(reason) {
		reason = reason[:len(reason)-1]
	}
	dst = appendHeader(dst, ws.OpClose, 2+len(reason))
	dst = binary.BigEndian.AppendUint16(dst, uint16(code))
	return append(dst, reason...)
}

// violation is why a client's bytes end its connection.
type violation struct {
	code   ws.StatusCode
	reason string
}

var (
	tooBig  = violation{ws.StatusMessageTooBig, "the message is too large"}
	notUTF8 = violation{ws.StatusInvalidFramePayloadData, "a text message is not UTF-8"}
)

// inbound reads what a client sends (RFC 6455, section 5), in whatever pieces it arrives. It keeps no
// more than one message of maxMessage bytes, or, compressed, of maxDeflated.
type inbound struct {
	deflate    bool  // permessage-deflate has been negotiated
	limit      int32 // of a message, in bytes; 0: maxMessage
	frameLimit int32 // of a frame; 0: that of a message

	head    [ws.MaxHeaderSize]byte // of the frame that is being read
	have    uint8                  // bytes of it
	need    uint8                  // all its bytes, as far as is known
	reading bool                   // the payload is being read
	frame   ws.Header
	left    int // bytes of the payload to come

	control []byte // a control frame's payload
	message []byte // a data message's payload, of all its fragments
	kind    ws.OpCode
	checked int  // bytes of message that are known to be UTF-8
	partial bool // a fragmented message is being read
	packed  bool // message is compressed
}

// receiver is told what a client sends. Payloads are valid during the call.
type receiver interface {
	message(kind ws.OpCode, payload []byte)
	ping(payload []byte)
	pong(payload []byte)
	// closeFrame is the last call; code is 0 if the client gave none.
	closeFrame(code ws.StatusCode)
}

// want returns how many bytes are known to come, 0 between frames.
func (in *inbound) want() int { return in.left }

// feed reads b, which it unmasks in place, and tells to. It returns a violation, or nil. ended says
// that a close frame has come, after which there is nothing to be read.
func (in *inbound) feed(b []byte, to receiver) (ended bool, v *violation) {
	for len(b) > 0 || in.reading && in.left == 0 {
		if !in.reading {
			n := in.feedHead(b)
			b = b[n:]
			if in.need == 0 || in.have < in.need {
				continue
			}
			if v := in.begin(); v != nil {
				return true, v
			}
			continue
		}
		part := b[:min(len(b), in.left)]
		b = b[len(part):]
		ws.Cipher(part, in.frame.Mask, int(in.frame.Length)-in.left)
		in.left -= len(part)
		if in.frame.OpCode.IsControl() {
			in.control = append(in.control, part...)
		} else {
			in.message = append(in.message, part...)
			if v := in.checkText(); v != nil {
				return true, v
			}
		}
		if in.left > 0 {
			continue
		}
		in.reading, in.have, in.need = false, 0, 0
		if ended, v := in.complete(to); ended || v != nil {
			return true, v
		}
	}
	return false, nil
}

// feedHead takes bytes of a frame's header off b; need says how many it has, once it is known.
func (in *inbound) feedHead(b []byte) int {
	if in.need == 0 {
		in.need = 2
	}
	n := copy(in.head[in.have:in.need], b)
	in.have += uint8(n)
	if in.have == 2 && in.need == 2 {
		switch in.head[1] & 0x7f {
		case 126:
			in.need += 2
		case 127:
			in.need += 8
		}
		if in.head[1]&0x80 != 0 {
			in.need += 4
		}
	}
	return n
}

// begin judges a complete header (sections 5.2 to 5.5).
func (in *inbound) begin() *violation {
	h := ws.Header{
		Fin: in.head[0]&0x80 != 0, Rsv: in.head[0] >> 4 & 7, OpCode: ws.OpCode(in.head[0] & 15),
		Masked: in.head[1]&0x80 != 0, Length: int64(in.head[1] & 0x7f),
	}
	least := int64(0)
	switch h.Length {
	case 126:
		h.Length, least = int64(binary.BigEndian.Uint16(in.head[2:])), 126
	case 127:
		h.Length, least = int64(binary.BigEndian.Uint64(in.head[2:])), 1<<16
	}
	if h.Masked {
		copy(h.Mask[:], in.head[in.need-4:in.need])
	}
	state := ws.StateServerSide
	if in.partial {
		state = state.Set(ws.StateFragmented)
	}
	if h.Length < least { // negative, too
		return &violation{ws.StatusProtocolError, "the length of a frame is not in its shortest form"}
	}
	packed := in.deflate && h.Rsv == rsv1>>4 && (h.OpCode == ws.OpText || h.OpCode == ws.OpBinary)
	if packed { // of any other frame it is an error (RFC 7692, section 6)
		h.Rsv = 0
	}
	if err := ws.CheckHeader(h, state); err != nil {
		return &violation{ws.StatusProtocolError, err.Error()}
	}
	if !h.OpCode.IsControl() {
		if h.OpCode != ws.OpContinuation {
			in.kind, in.packed = h.OpCode, packed
		}
		limit := int64(maxMessage)
		switch {
		case in.packed:
			limit = maxDeflated
		case in.limit > 0:
			limit = int64(in.limit)
		}
		if h.Length > limit-int64(len(in.message)) || in.frameLimit > 0 && h.Length > int64(in.frameLimit) {
			return &tooBig
		}
	}
	in.frame, in.left, in.reading = h, int(h.Length), true
	return nil
}

// checkText looks for bytes that are not UTF-8 as early as they can be known; a character may be cut
// anywhere between frames (section 8.1).
func (in *inbound) checkText() *violation {
	if in.kind != ws.OpText || in.packed {
		return nil
	}
	last := in.left == 0 && in.frame.Fin
	for in.checked < len(in.message) {
		rest := in.message[in.checked:]
		if !last && !utf8.FullRune(rest) {
			return nil
		}
		r, n := utf8.DecodeRune(rest)
		if r == utf8.RuneError && n == 1 {
			return &notUTF8
		}
		in.checked += n
	}
	return nil
}

// complete ends a frame.
func (in *inbound) complete(to receiver) (ended bool, v *violation) {
	if !in.frame.OpCode.IsControl() {
		in.partial = !in.frame.Fin
		if in.frame.Fin {
			v = in.handOn(to)
			in.message, in.checked = nil, 0
		}
		return v != nil, v
	}
	payload := in.control
	in.control = nil
	switch in.frame.OpCode {
	case ws.OpPing:
		to.ping(payload)
	case ws.OpPong:
		to.pong(payload)
	default:
		code, v := closeCode(payload)
		if v == nil {
			to.closeFrame(code)
		}
		return true, v
	}
	return false, nil
}

// handOn tells to of a complete message.
func (in *inbound) handOn(to receiver) *violation {
	if !in.packed {
		to.message(in.kind, in.message)
		return nil
	}
	f := inflaters.Get().(*inflater)
	defer inflaters.Put(f)
	message, err := f.inflate(append(in.message, deflateTail[:]...))
	switch {
	case errors.Is(err, errInflatedTo):
		return &tooBig
	case err != nil:
		return &violation{ws.StatusInvalidFramePayloadData, err.Error()}
	case in.kind == ws.OpText && !utf8.Valid(message):
		return &notUTF8
	}
	to.message(in.kind, message)
	return nil
}

// closeCode reads a close frame's payload (sections 5.5.1 and 7.4).
func closeCode(payload []byte) (ws.StatusCode, *violation) {
	if len(payload) == 0 {
		return 0, nil
	}
	if len(payload) == 1 {
		return 0, &violation{ws.StatusProtocolError, "a close frame has half a code"}
	}
	code := ws.StatusCode(binary.BigEndian.Uint16(payload))
	switch {
	case code >= 1000 && code <= 1003, code >= 1007 && code <= 1014, code >= 3000 && code <= 4999:
	default:
		return 0, &violation{ws.StatusProtocolError, "a close frame has a code that may not be sent"}
	}
	if !utf8.Valid(payload[2:]) {
		return 0, &violation{ws.StatusInvalidFramePayloadData, "the reason of a close frame is not UTF-8"}
	}
	return code, nil
}

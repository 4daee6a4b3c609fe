package gateway

import (
	"bytes"
	"encoding/json"

	"github.com/gobwas/ws"
)

// answer returns the frame that answers a client's message, nil if there is none. In millrace.v1 the
// text message {"ping":VALUE} is answered {"pong":VALUE}, VALUE being any JSON value, byte for byte;
// everything else has no meaning yet.
func (c *connection) answer(kind ws.OpCode, payload []byte) []byte {
	if kind != ws.OpText || c.form != v1 && c.form != v1Vector {
		return nil
	}
	value, ok := pingValue(payload)
	if !ok {
		return nil
	}
	pong := make([]byte, 0, len(`{"pong":}`)+len(value))
	pong = append(append(append(pong, `{"pong":`...), value...), '}')
	if c.in.deflate {
		if frame, ok := appendDeflated(nil, ws.OpText, pong); ok {
			return frame
		}
	}
	return append(appendHeader(make([]byte, 0, ws.MaxHeaderSize+len(pong)), ws.OpText, len(pong)), pong...)
}

// pingValue returns VALUE of {"ping":VALUE}, an object without other members.
func pingValue(message []byte) (value []byte, ok bool) {
	rest := message
	for _, token := range []string{"{", `"ping"`, ":"} {
		if rest, ok = bytes.CutPrefix(bytes.TrimLeft(rest, jsonSpace), []byte(token)); !ok {
			return nil, false
		}
	}
	if rest, ok = bytes.CutSuffix(bytes.TrimRight(rest, jsonSpace), []byte("}")); !ok {
		return nil, false
	}
	value = bytes.Trim(rest, jsonSpace)
	return value, json.Valid(value)
}

const jsonSpace = " \t\r\n"

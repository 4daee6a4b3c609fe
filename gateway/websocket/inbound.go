package websocket

import (
	"encoding/binary"
	"errors"
	"unicode/utf8"

	"github.com/gobwas/ws"
)

// MaxMessage bounds a message from a client, in bytes.
const MaxMessage = 32 << 10

// Violation is why a client's bytes end its connection.
type Violation struct {
	Code   ws.StatusCode
	Reason string
}

var (
	tooBig  = Violation{ws.StatusMessageTooBig, "the message is too large"}
	notUTF8 = Violation{ws.StatusInvalidFramePayloadData, "a text message is not UTF-8"}
)

// Inbound reads what a client sends (RFC 6455, section 5), in whatever pieces it arrives. It keeps no
// more than one message of MaxMessage bytes, or, compressed, of maxDeflated.
type Inbound struct {
	Deflate    bool  // permessage-deflate has been negotiated
	Limit      int32 // of a message, in bytes; 0: MaxMessage
	FrameLimit int32 // of a frame; 0: that of a message

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

// Receiver is told what a client sends. Payloads are valid during the call.
type Receiver interface {
	Message(kind ws.OpCode, payload []byte)
	Ping(payload []byte)
	Pong(payload []byte)
	// CloseFrame is the last call; code is 0 if the client gave none.
	CloseFrame(code ws.StatusCode)
}

// Want returns how many bytes are known to come, 0 between frames.
func (in *Inbound) Want() int { return in.left }

// Feed reads b, which it unmasks in place, and tells to. It returns a Violation, or nil. ended says
// that a close frame has come, after which there is nothing to be read.
func (in *Inbound) Feed(b []byte, to Receiver) (ended bool, v *Violation) {
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
func (in *Inbound) feedHead(b []byte) int {
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
func (in *Inbound) begin() *Violation {
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
		return &Violation{ws.StatusProtocolError, "the length of a frame is not in its shortest form"}
	}
	packed := in.Deflate && h.Rsv == rsv1>>4 && (h.OpCode == ws.OpText || h.OpCode == ws.OpBinary)
	if packed { // of any other frame it is an error (RFC 7692, section 6)
		h.Rsv = 0
	}
	if err := ws.CheckHeader(h, state); err != nil {
		return &Violation{ws.StatusProtocolError, err.Error()}
	}
	if !h.OpCode.IsControl() {
		if h.OpCode != ws.OpContinuation {
			in.kind, in.packed = h.OpCode, packed
		}
		limit := int64(MaxMessage)
		switch {
		case in.packed:
			limit = maxDeflated
		case in.Limit > 0:
			limit = int64(in.Limit)
		}
		if h.Length > limit-int64(len(in.message)) || in.FrameLimit > 0 && h.Length > int64(in.FrameLimit) {
			return &tooBig
		}
	}
	in.frame, in.left, in.reading = h, int(h.Length), true
	return nil
}

// checkText looks for bytes that are not UTF-8 as early as they can be known; a character may be cut
// anywhere between frames (section 8.1).
func (in *Inbound) checkText() *Violation {
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
func (in *Inbound) complete(to Receiver) (ended bool, v *Violation) {
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
		to.Ping(payload)
	case ws.OpPong:
		to.Pong(payload)
	default:
		code, v := closeCode(payload)
		if v == nil {
			to.CloseFrame(code)
		}
		return true, v
	}
	return false, nil
}

// handOn tells to of a complete message.
func (in *Inbound) handOn(to Receiver) *Violation {
	if !in.packed {
		to.Message(in.kind, in.message)
		return nil
	}
	f := inflaters.Get().(*inflater)
	defer inflaters.Put(f)
	message, err := f.inflate(append(in.message, deflateTail[:]...))
	switch {
	case errors.Is(err, errInflatedTo):
		return &tooBig
	case err != nil:
		return &Violation{ws.StatusInvalidFramePayloadData, err.Error()}
	case in.kind == ws.OpText && !utf8.Valid(message):
		return &notUTF8
	}
	to.Message(in.kind, message)
	return nil
}

// closeCode reads a close frame's payload (sections 5.5.1 and 7.4).
func closeCode(payload []byte) (ws.StatusCode, *Violation) {
	if len(payload) == 0 {
		return 0, nil
	}
	if len(payload) == 1 {
		return 0, &Violation{ws.StatusProtocolError, "a close frame has half a code"}
	}
	code := ws.StatusCode(binary.BigEndian.Uint16(payload))
	switch {
	case code >= 1000 && code <= 1003, code >= 1007 && code <= 1014, code >= 3000 && code <= 4999:
	default:
		return 0, &Violation{ws.StatusProtocolError, "a close frame has a code that may not be sent"}
	}
	if !utf8.Valid(payload[2:]) {
		return 0, &Violation{ws.StatusInvalidFramePayloadData, "the reason of a close frame is not UTF-8"}
	}
	return code, nil
}

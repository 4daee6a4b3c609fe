package gateway_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/millracetest"
)

// What a client may send and must not (RFC 6455, sections 5 and 7), each case in one piece and byte by
// byte.
func TestClientFrames(t *testing.T) {
	const (
		text, binary, next = millracetest.OpText, millracetest.OpBinary, millracetest.OpContinuation
		ping, shut         = millracetest.OpPing, millracetest.OpClose
		fine               = -1
	)
	type frame = millracetest.Frame
	utf8 := []byte("κόσμε 🎉") //nolint:gosmopolitan // UTF-8 of two, three and four bytes is what is tested
	code := func(n uint16, reason string) []byte { return append(be16(n), reason...) }
	cases := []struct {
		name   string
		frames []frame
		closes int // the code, or fine
	}{
		{"text", []frame{{Op: text, Payload: utf8}}, fine},
		{"binary", []frame{{Op: binary, Payload: []byte{0xff, 0}}}, fine},
		{"empty", []frame{{Op: text}, {Op: binary}}, fine},
		{"two byte length", []frame{{Op: binary, Payload: make([]byte, 126)}}, fine},
		{"longest", []frame{{Op: binary, Payload: make([]byte, 32<<10)}}, fine},
		{"too long", []frame{{Op: binary, Payload: make([]byte, 32<<10+1)}}, 1009},
		{"eight byte length", []frame{{Op: binary, Payload: make([]byte, 1<<16)}}, 1009},
		{"too long in fragments", []frame{{Op: binary, Rest: true, Payload: make([]byte, 20<<10)}, {Op: next, Payload: make([]byte, 20<<10)}}, 1009},
		{"fragments", []frame{{Op: text, Rest: true, Payload: []byte("a")}, {Op: next, Rest: true}, {Op: next, Payload: []byte("b")}}, fine},
		{"ping between fragments", []frame{{Op: text, Rest: true, Payload: []byte("a")}, {Op: ping, Payload: []byte("p")}, {Op: next}}, fine},
		{"longest ping", []frame{{Op: ping, Payload: make([]byte, 125)}}, fine},
		{"pong that nobody asked for", []frame{{Op: millracetest.OpPong, Payload: []byte("x")}}, fine},
		{"ping too long", []frame{{Op: ping, Payload: make([]byte, 126)}}, 1002},
		{"fragmented ping", []frame{{Op: ping, Rest: true}}, 1002},
		{"no mask", []frame{{Op: text, Bare: true, Payload: []byte("a")}}, 1002},
		{"no mask, empty", []frame{{Op: text, Bare: true}}, 1002},
		{"reserved bit 1", []frame{{Op: text, Rsv: 4}}, 1002},
		{"reserved bit 2", []frame{{Op: text, Rsv: 2}}, 1002},
		{"reserved bit 3", []frame{{Op: ping, Rsv: 1}}, 1002},
		{"reserved opcode 3", []frame{{Op: 3}}, 1002},
		{"reserved opcode 15", []frame{{Op: 15}}, 1002},
		{"continuation of nothing", []frame{{Op: next, Payload: []byte("a")}}, 1002},
		{"continuation after the end", []frame{{Op: text}, {Op: next}}, 1002},
		{"text in a fragmented message", []frame{{Op: text, Rest: true}, {Op: text}}, 1002},
		{"not UTF-8", []frame{{Op: text, Payload: []byte("a\xff")}}, 1007},
		{"surrogate", []frame{{Op: text, Payload: []byte("\xed\xa0\x80")}}, 1007},
		{"beyond Unicode", []frame{{Op: text, Payload: []byte("\xf4\x90\x80\x80")}}, 1007},
		{"overlong", []frame{{Op: text, Payload: []byte("\xc0\xaf")}}, 1007},
		{"cut character", []frame{{Op: text, Payload: utf8[:len(utf8)-1]}}, 1007},
		{"cut character, empty end", []frame{{Op: text, Rest: true, Payload: utf8[:3]}, {Op: next}}, 1007},
		{"not UTF-8 in the first fragment", []frame{{Op: text, Rest: true, Payload: []byte("\xc3(")}}, 1007},
		{"close", []frame{{Op: shut, Payload: code(1000, "bye")}}, 1000},
		{"close without a code", []frame{{Op: shut}}, 0},
		{"close with half a code", []frame{{Op: shut, Payload: []byte{3}}}, 1002},
		{"close with a reason that is not UTF-8", []frame{{Op: shut, Payload: code(1000, "\xff")}}, 1007},
		{"frames after close", []frame{{Op: shut, Payload: code(1001, "")}, {Op: text, Payload: []byte("\xff")}}, 1001},
	}
	for _, n := range []uint16{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999} {
		cases = append(cases, struct {
			name   string
			frames []frame
			closes int
		}{fmt.Sprint("close ", n), []frame{{Op: shut, Payload: code(n, "")}}, int(n)})
	}
	for _, n := range []uint16{0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535} {
		cases = append(cases, struct {
			name   string
			frames []frame
			closes int
		}{fmt.Sprint("close ", n), []frame{{Op: shut, Payload: code(n, "")}}, 1002})
	}
	for i := 1; i < len(utf8); i++ {
		cases = append(cases, struct {
			name   string
			frames []frame
			closes int
		}{fmt.Sprint("UTF-8 cut at ", i), []frame{{Op: text, Rest: true, Payload: utf8[:i]}, {Op: next, Payload: utf8[i:]}}, fine})
	}

	s := newStream(1)
	server := serve(t, s, nil)
	for _, test := range cases {
		for _, bytewise := range []bool{false, true} {
			var sent []byte
			pings := 0
			for _, f := range test.frames {
				sent = millracetest.AppendFrame(sent, f)
				if f.Op == ping && !f.Rest && f.Rsv == 0 && len(f.Payload) <= 125 {
					pings++
				}
			}
			if bytewise && len(sent) > 1000 {
				continue
			}
			// A ping at the end shows that the connection lives.
			sent = millracetest.AppendFrame(sent, frame{Op: ping, Payload: []byte("the end")})
			c := server.dial(t, "/vehicles", "")
			for part := sent; len(part) > 0; {
				n := len(part)
				if bytewise {
					n = 1
				}
				if _, err := c.Conn.Write(part[:n]); err != nil {
					break // the server was quicker to close
				}
				part = part[n:]
			}
			got := fine
			for {
				f, err := c.ReadFrame()
				if err != nil {
					t.Errorf("%s: read: %v", test.name, err)
					break
				}
				if f.Op == millracetest.OpPong && string(f.Payload) == "the end" {
					break
				}
				if f.Op == shut {
					if got = 0; len(f.Payload) >= 2 {
						got = int(f.Payload[0])<<8 | int(f.Payload[1])
					}
					break
				}
				if f.Op != millracetest.OpPong {
					t.Errorf("%s: got %+v", test.name, f)
				}
				pings--
			}
			if got != test.closes || got == fine && pings != 0 {
				t.Errorf("%s (byte by byte: %t): got %d, want %d; %d pings unanswered", test.name, bytewise, got, test.closes, pings)
			}
			if got != fine { // the server ends the connection after the close frames
				if f, err := c.ReadFrame(); err == nil {
					t.Errorf("%s: after the close frame comes %+v", test.name, f)
				}
			}
			_ = c.Close()
		}
	}
}

func be16(n uint16) []byte { return binary.BigEndian.AppendUint16(nil, n) }

func TestLengthNotInShortestForm(t *testing.T) {
	server := serve(t, newStream(1), nil)
	for _, head := range [][]byte{
		{0x82, 0xfe, 0, 5, 1, 2, 3, 4},
		{0x82, 0xff, 0, 0, 0, 0, 0, 0, 0, 5, 1, 2, 3, 4},
		{0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 5, 1, 2, 3, 4},
		{0x82, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4},
	} {
		c := server.dial(t, "/vehicles", "")
		if _, err := c.Conn.Write(head); err != nil {
			t.Fatal(err)
		}
		if closed := c.closed(); closed.Code != 1002 {
			t.Errorf("% x: got %v", head, closed)
		}
	}
}

func TestHandshake(t *testing.T) {
	server := serve(t, newStream(1), nil)
	for name, test := range map[string]struct {
		header http.Header
		status int
	}{
		"version 8":         {http.Header{"Sec-Websocket-Version": {"8"}}, 426},
		"no version":        {http.Header{"Sec-Websocket-Version": nil}, 426},
		"short key":         {http.Header{"Sec-Websocket-Key": {"AAAA"}}, 400},
		"no key":            {http.Header{"Sec-Websocket-Key": nil}, 400},
		"two keys":          {http.Header{"Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZQ=="}}, 400},
		"no connection":     {http.Header{"Connection": {"keep-alive"}}, 400},
		"several tokens":    {http.Header{"Connection": {"keep-alive, UPGRADE"}, "Upgrade": {"WebSocket"}}, 101},
		"upgrade to others": {http.Header{"Upgrade": {"h2c"}}, 426},
	} {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		c, err := millracetest.DialWebSocket(ctx, "ws://"+server.address+"/vehicles", test.header)
		cancel()
		var refused *millracetest.Refused
		switch {
		case err == nil:
			_ = c.Close()
			if test.status != 101 {
				t.Errorf("%s: accepted", name)
			}
		case !errorAs(err, &refused) || refused.Status != test.status:
			t.Errorf("%s: %v, want %d", name, err, test.status)
		case test.status == 426 && refused.Header.Get("Sec-Websocket-Version") != "13" && name != "upgrade to others":
			t.Errorf("%s: the version is not said", name)
		}
	}

	// The example of RFC 6455, section 1.3; the client's first frame comes with the handshake.
	conn, err := net.Dial("tcp", server.address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(patience))
	request := "GET /vehicles HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
	ping := millracetest.AppendFrame(nil, millracetest.Frame{Op: millracetest.OpPing, Payload: []byte("early")})
	if _, err := conn.Write(append([]byte(request), ping...)); err != nil {
		t.Fatal(err)
	}
	var got []byte
	for !bytes.Contains(got, []byte("early")) {
		b := make([]byte, 1024)
		n, err := conn.Read(b)
		if err != nil {
			t.Fatalf("%q: %v", got, err)
		}
		got = append(got, b[:n]...)
	}
	if !strings.Contains(string(got), "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n") ||
		!bytes.HasSuffix(got, append([]byte("\r\n\r\n"), append([]byte{0x8a, 5}, "early"...)...)) {
		t.Errorf("got %q", got)
	}
}

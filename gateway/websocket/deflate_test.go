package websocket

import (
	"bytes"
	stdflate "compress/flate"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/gobwas/ws"
)

// What is offered, and what is answered (RFC 7692, sections 5 and 7.1).
func TestNegotiateDeflate(t *testing.T) {
	const yes, no = deflateAnswer, ""
	const bits15 = deflateAnswer + "; server_max_window_bits=15"
	for _, test := range []struct {
		offer  string // lines are separated by "|"
		answer string
	}{
		{"", no},
		{"permessage-deflate", yes},
		{"  permessage-deflate\t", yes},
		{"permessage-deflate;client_max_window_bits", yes},
		{"permessage-deflate; client_max_window_bits=8", yes},
		{"permessage-deflate; client_max_window_bits=15", yes},
		{`permessage-deflate; client_max_window_bits="10"`, yes},
		{`permessage-deflate; client_max_window_bits="\1\0"`, yes},
		{"permessage-deflate ; client_max_window_bits = 9", yes},
		{"permessage-deflate; server_no_context_takeover", yes},
		{"permessage-deflate; client_no_context_takeover", yes},
		{"permessage-deflate; client_no_context_takeover; server_no_context_takeover; client_max_window_bits", yes},
		{"permessage-deflate; server_max_window_bits=15", bits15},
		{"permessage-deflate; server_max_window_bits=\"15\"; client_max_window_bits", bits15},
		{"permessage-deflate; server_max_window_bits=14", no},
		{"permessage-deflate; server_max_window_bits=8", no},
		{"permessage-deflate; server_max_window_bits", no},
		{"permessage-deflate; server_max_window_bits=16", no},
		{"permessage-deflate; server_max_window_bits=015", no},
		{"permessage-deflate; client_max_window_bits=7", no},
		{"permessage-deflate; client_max_window_bits=16", no},
		{"permessage-deflate; client_max_window_bits=08", no},
		{"permessage-deflate; client_max_window_bits=x", no},
		{"permessage-deflate; server_no_context_takeover=true", no},
		{"permessage-deflate; client_no_context_takeover=1", no},
		{"permessage-deflate; server_no_context_takeover; server_no_context_takeover", no},
		{"permessage-deflate; client_max_window_bits; client_max_window_bits=12", no},
		{"permessage-deflate; level=9", no},
		{"permessage-deflate; Server_No_Context_Takeover", no},
		{"Permessage-Deflate", no},
		{"x-webkit-deflate-frame", no},
		{"permessage-bzip2, permessage-deflate", yes},
		{"permessage-deflate; server_max_window_bits=10, permessage-deflate", yes},
		{"permessage-deflate; unknown, permessage-deflate; server_max_window_bits=15", bits15},
		{"permessage-deflate, permessage-deflate; server_max_window_bits=15", yes},
		{"permessage-deflate; server_max_window_bits=9|permessage-deflate", yes},
		{"permessage-bzip2|foo; bar=\"b\"|permessage-deflate; client_max_window_bits", yes},
		{",, permessage-deflate ,", yes},
		{"permessage-deflate;", no}, // from here on the header is malformed
		{"permessage-deflate; =1", no},
		{"permessage-deflate; client_max_window_bits=", no},
		{`permessage-deflate; client_max_window_bits="10`, no},
		{`permessage-deflate; client_max_window_bits=""`, no},
		{`permessage-deflate; client_max_window_bits="1 0"`, no},
		{`permessage-deflate; client_max_window_bits="10\`, no},
		{"permessage-deflate foo", no},
		{"permessage-deflate, /", no},
	} {
		h := http.Header{}
		for line := range strings.SplitSeq(test.offer, "|") {
			h.Add("Sec-WebSocket-Extensions", line)
		}
		if got := NegotiateDeflate(h); got != test.answer {
			t.Errorf("%s: got %q, want %q", test.offer, got, test.answer)
		}
	}
	if got := NegotiateDeflate(nil); got != no {
		t.Errorf("nothing offered: got %q", got)
	}
}

func FuzzNegotiateDeflate(f *testing.F) {
	for _, seed := range []string{
		"permessage-deflate; client_max_window_bits", `a; b="c\d", permessage-deflate; server_max_window_bits="15"`,
		",, permessage-deflate; x ;y", "permessage-deflate; server_max_window_bits=8", `"`, "a;b=\"\\", "é",
	} {
		f.Add(seed, "permessage-deflate")
	}
	f.Fuzz(func(t *testing.T, one, two string) {
		split, ok := parseExtensions([]string{one, two})
		joined, ok2 := parseExtensions([]string{one + "," + two})
		if ok && (!ok2 || fmt.Sprint(split) != fmt.Sprint(joined)) { // RFC 9110, section 5.3
			t.Fatalf("%q and %q: %v, joined %v", one, two, split, joined)
		}
		var again []string // what was read, written again and read again, is the same
		for _, e := range split {
			line := e.name
			for _, p := range e.parameters {
				if line += ";" + p.name; p.hasValue {
					line += `="` + p.value + `"`
				}
			}
			again = append(again, line)
		}
		if reread, ok := parseExtensions(again); !ok || fmt.Sprint(reread) != fmt.Sprint(split) {
			t.Fatalf("%q: %v became %v", again, split, reread)
		}
		answer := NegotiateDeflate(http.Header{extensionsHeader: {one, two}})
		offered := ok && strings.Contains(one+two, deflateName)
		if answer != "" && (!offered || !strings.HasPrefix(answer, deflateAnswer)) {
			t.Fatalf("%q and %q: answered %q", one, two, answer)
		}
	})
}

// vehicleEvent is an event of about size bytes as a feed of vehicles leads to: names and words, and numbers
// that are never the same. Beyond 1,400 bytes the names repeat.
func vehicleEvent(r *rand.Rand, size int) []byte {
	b := fmt.Appendf(nil, `{"id":"0_1jduaj348-%012x.%d","key":"y%d","type":"update","time":"2026-01-31T12:%02d:%02d.%dZ","data":{"bearing":%d`,
		r.IntN(1<<30), r.IntN(100), r.IntN(9999), r.IntN(60), r.IntN(60), r.IntN(1000), r.IntN(360))
	members := []string{
		`"latitude":42.%08[1]d,"longitude":-71.%08[2]d`, `"current_status":"IN_TRANSIT_TO"`, `"speed":%.1[3]f`,
		`"current_stop_sequence":%[4]d,"direction_id":1`, `"label":"%[1]d"`, `"updated_at":"2026-01-31T07:%02[4]d:%02[5]d-05:00"`,
		`"carriages":[{"label":"%[2]d","occupancy_percentage":%[4]d,"occupancy_status":"MANY_SEATS_AVAILABLE"}]`,
		`"revenue":"REVENUE"`, `"links":{"self":"/vehicles/y%[1]d"}`, `"route":{"data":{"id":"%[4]d","type":"route"}}`,
		`"stop":{"data":{"id":"%[2]d","type":"stop"}}`, `"trip":{"data":{"id":"%[1]d","type":"trip"}}`, `"note":"%[6]x"`,
		`"agency":{"name":"Massachusetts Bay Transportation Authority","timezone":"America/New_York"}`,
		`"geofence":{"entered":["depot-%[4]d","zone-%[5]d"],"inside":true,"since":"2026-01-31T11:%02[5]dZ"}`,
		`"odometer":%[1]d,"fuel":%.1[3]f,"temperature":%.1[3]f`, `"driver":"%[6]x","shift":"%[4]d-%[5]d"`,
		`"doors":["closed","closed","open"]`, `"next_stops":[%[1]d,%[2]d,%[4]d]`, `"wheelchair":true,"bikes":%[4]d`,
	}
	for i := 0; len(b) < size-20; i++ {
		b = append(b, ',')
		b = append(b, fmt.Sprintf(members[i%len(members)]+"%.0[7]s", r.IntN(1e8), r.IntN(1e8), r.Float64()*90, r.IntN(60), r.IntN(60),
			r.Uint64(), "")...)
	}
	return append(b, "}}"...)
}

// Every compressed frame stands alone, and a reader of another make gives back what was written.
func TestAppendDeflated(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	random := make([]byte, 70<<10)
	for i := range random {
		random[i] = byte(r.Uint32())
	}
	before := []byte("before")
	for _, size := range []int{0, 1, 100, 500, 511, 512, 700, 1400, 5 << 10, 32 << 10, 100 << 10, 1 << 20} {
		for i, payload := range [][]byte{
			bytes.Repeat([]byte("ab"), size/2), vehicleEvent(r, size), random[:min(size, len(random))],
		} {
			out, ok := AppendDeflated(before, ws.OpText, payload)
			if want := len(payload) >= leastDeflated && i < 2; ok != want {
				t.Errorf("%d bytes: compressed %t, want %t", len(payload), ok, want)
			}
			if !ok {
				if !bytes.Equal(out, before) {
					t.Errorf("%d bytes: not compressed, but something was appended", len(payload))
				}
				continue
			}
			frame := out[len(before):]
			if FrameSize(frame) != len(frame) { // the outlet splits by it
				t.Errorf("%d bytes: the frame has %d bytes, its size is %d", len(payload), len(frame), FrameSize(frame))
			}
			h, err := ws.ReadHeader(bytes.NewReader(frame))
			if err != nil || !h.Fin || h.OpCode != ws.OpText || h.Masked || h.Rsv != 4 || int(h.Length) >= len(payload) ||
				len(payload) < leastDeflated {
				t.Fatalf("%d bytes: %+v, %v", len(payload), h, err)
			}
			body := frame[ws.HeaderSize(h):]
			got, err := io.ReadAll(stdflate.NewReader(io.MultiReader(bytes.NewReader(body), bytes.NewReader(deflateTail[:]))))
			if err != nil || !bytes.Equal(got, payload) {
				t.Errorf("%d bytes became %d: %v", len(payload), len(got), err)
			}
		}
	}
}

// inflateMessage is what Inbound does with a compressed message.
func inflateMessage(message []byte) ([]byte, error) {
	f := inflaters.Get().(*inflater)
	defer inflaters.Put(f)
	out, err := f.inflate(append(bytes.Clone(message), deflateTail[:]...))
	return bytes.Clone(out), err
}

// The examples of RFC 7692, section 7.2.3, and what else a writer may do.
func TestInflate(t *testing.T) {
	bomb := func(size int) []byte {
		var b bytes.Buffer
		w, _ := stdflate.NewWriter(&b, 9)
		_, _ = w.Write(make([]byte, size))
		_ = w.Flush()
		return bytes.TrimSuffix(b.Bytes(), deflateTail[:4])
	}
	const final = "\xf3\x48\xcd\xc9\xc9\x07\x00"
	for name, test := range map[string]struct {
		message, want string
		err           error
	}{
		"one block":                       {"\xf2\x48\xcd\xc9\xc9\x07\x00", "Hello", nil},
		"stored":                          {"\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00", "Hello", nil},
		"final block":                     {final + "\x00", "Hello", nil},
		"final block without a zero byte": {final, "Hello", nil},
		"blocks after a final one":        {final + final + "\xf2\x48\xcd\xc9\xc9\x07\x00", "HelloHelloHello", nil},
		"two blocks":                      {"\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00", "Hello", nil},
		"empty":                           {"\x00", "", nil},
		"nothing at all":                  {"", "", nil},
		"empty blocks":                    {strings.Repeat("\x00\x00\x00\xff\xff", 1000) + "\x00", "", nil},
		"reserved kind of block":          {"\x06", "", errInflated},
		"cut short":                       {"\xf2\x48\xcd", "", errInflated},
		"stored, cut short":               {"\x00\x06\x00\xf9\xff\x48", "", errInflated},
		"stored, ends with the tail":      {"\x00\x05\x00\xfa\xff\x48", "H\x00\x00\xff\xff", nil},
		"lengths that disagree":           {"\x00\x05\x00\xfa\xfe\x48\x65\x6c\x6c\x6f\x00", "", errInflated},
		"from before the beginning":       {"\x02\x13\x00", "", errInflated},
		"with its tail":                   {"\xf2\x48\xcd\xc9\xc9\x07\x00\x00\x00\xff\xff", "Hello", errInflated},
		"the largest":                     {string(bomb(MaxMessage)), strings.Repeat("\x00", MaxMessage), nil},
		"one byte too many":               {string(bomb(MaxMessage + 1)), "", errInflatedTo},
		"a bomb":                          {string(bomb(30 << 20)), "", errInflatedTo},
		"a bomb that is damaged":          {string(bomb(30 << 20)[:20<<10]) + "\xff\xff", "", errInflatedTo},
		"bomb after a final block":        {final + string(bomb(MaxMessage)), "", errInflatedTo},
	} {
		got, err := inflateMessage([]byte(test.message))
		if !errors.Is(err, test.err) || err == nil && string(got) != test.want {
			t.Errorf("%s: got %.20q, %d bytes, %v", name, got, len(got), err)
		}
	}
}

// FuzzInflate reads anything with bounds, and what a writer of another make has written.
func FuzzInflate(f *testing.F) {
	f.Add([]byte("\xf2\x48\xcd\xc9\xc9\x07\x00"), 1)
	f.Add([]byte("\xf3\x48\xcd\xc9\xc9\x07\x00\x00"), 5)
	f.Add(bytes.Repeat([]byte{0}, 300), 0)
	f.Add([]byte("\x62\x60\xa0\x3d\x00"), 9)
	f.Fuzz(func(t *testing.T, b []byte, level int) {
		if len(b) > maxDeflated {
			return
		}
		if out, err := inflateMessage(b); err == nil && len(out) > MaxMessage {
			t.Fatalf("%d bytes", len(out))
		}
		var written bytes.Buffer
		w, err := stdflate.NewWriter(&written, min(max(level, -2), 9))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = w.Write(b) // a bytes.Buffer takes everything
		_ = w.Flush()
		got, err := inflateMessage(bytes.TrimSuffix(written.Bytes(), deflateTail[:4]))
		if len(b) > MaxMessage && errors.Is(err, errInflatedTo) {
			return
		}
		if err != nil || !bytes.Equal(got, b) || written.Len() > maxDeflated {
			t.Fatalf("%d bytes became %d: %v", len(b), len(got), err)
		}
	})
}

// Compressed messages count as what they are, and nothing is kept of one that has been handed on.
func TestInboundDeflate(t *testing.T) {
	hello := []byte("\xf2\x48\xcd\xc9\xc9\x07\x00")
	frame := func(first byte, payload []byte) []byte {
		return append([]byte{first, 0x80 | byte(len(payload)), 0, 0, 0, 0}, payload...)
	}
	in := Inbound{Deflate: true}
	var heard transcript
	sent := append(frame(0x41, hello[:3]), frame(0x80, hello[3:])...)
	sent = append(sent, frame(0x81, []byte("plain"))...)
	if _, v := in.Feed(sent, &heard); v != nil || heard.String() != "message 1 48656c6c6f\nmessage 1 706c61696e\n" || in.message != nil {
		t.Errorf("got %v, %s", v, &heard)
	}
	for _, negotiated := range []bool{true, false} {
		in := Inbound{Deflate: negotiated}
		_, v := in.Feed(frame(0xc1, hello), &heard)
		if (v == nil) != negotiated {
			t.Errorf("negotiated: %t, got %v", negotiated, v)
		}
	}
}

// Compressing allocates nothing once the pools are filled, and so does reading what is compressed.
func TestDeflateAllocations(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector allocates")
	}
	event := vehicleEvent(rand.New(rand.NewPCG(1, 2)), 1400)
	buffer, ok := AppendDeflated(nil, ws.OpText, event)
	if !ok {
		t.Fatal("not compressed")
	}
	if n := testing.AllocsPerRun(200, func() { buffer, _ = AppendDeflated(buffer[:0], ws.OpText, event) }); n > 0.5 {
		t.Errorf("compressing: %.1f allocations", n)
	}
	message := append(bytes.Clone(buffer[4:]), deflateTail[:]...)
	if n := testing.AllocsPerRun(200, func() {
		f := inflaters.Get().(*inflater)
		defer inflaters.Put(f)
		if _, err := f.inflate(message); err != nil {
			t.Error(err)
		}
	}); n > 0.5 {
		t.Errorf("inflating: %.1f allocations", n)
	}
}

// BenchmarkDeflate compresses an event as it is done once for all its subscribers; ratio is the
// compressed size to the other.
func BenchmarkDeflate(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, size := range []int{200, 320, 520, 800, 1400, 8 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			var events [64][]byte
			for i := range events {
				events[i] = vehicleEvent(r, size)
			}
			b.ReportAllocs()
			var buffer []byte
			before, after, i := 0, 0, 0
			for b.Loop() {
				e := events[i%len(events)]
				buffer, _ = AppendDeflated(buffer[:0], ws.OpText, e)
				before += len(e)
				if after += len(buffer); len(buffer) == 0 {
					after += len(e)
				}
				i++
			}
			b.ReportMetric(float64(after)/float64(before), "ratio")
			b.ReportMetric(float64(before)/float64(i), "bytes")
		})
	}
}

func BenchmarkInflate(b *testing.B) {
	frame, _ := AppendDeflated(nil, ws.OpText, vehicleEvent(rand.New(rand.NewPCG(1, 2)), 1400))
	message := append(frame[4:], deflateTail[:]...)
	b.ReportAllocs()
	for b.Loop() {
		f := inflaters.Get().(*inflater)
		if out, err := f.inflate(message); err != nil || !utf8.Valid(out) {
			b.Fatal(err)
		}
		inflaters.Put(f)
	}
}

package archive

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestLine(t *testing.T) {
	for _, test := range []struct{ data, want string }{
		{`{"a":1}`, `{"a":1}`},
		{` {"a" : [1, 2.50, -0e+7]}	`, ` {"a" : [1, 2.50, -0e+7]}	`},
		{`12345678901234567890.10`, `12345678901234567890.10`},
		{`"text"`, `"text"`},
		{`null`, `null`},
		{"{\n  \"a\": [\r\n1,\n2 ],\"b\":\"x y\"\n}\n", `{"a":[1,2],"b":"x y"}`},
		{`"\n"`, `"\n"`},
		{`"<&>` + "\u2028" + `é"`, `"<&>` + "\u2028" + `é"`},
		{``, `""`},
		{`plain text`, `"plain text"`},
		{`{"a":1`, `"{\"a\":1"`},
		{`{"a":1}{"b":2}`, `"{\"a\":1}{\"b\":2}"`},
		{"a\tb\nc\rd\\e\"f\x00\x1f\x7f", `"a\tb\nc\rd\\e\"f\u0000\u001f` + "\x7f" + `"`},
		{"ü漢\U0001f600", "\"ü漢\U0001f600\""},
		{"NaN", `"NaN"`},
		{"\x00\x01\x02\xff", `"data:application/octet-stream;base64,AAEC/w=="`},
		{"\"not UTF-8: \xff\"", `"data:application/octet-stream;base64,` + base64.StdEncoding.EncodeToString([]byte("\"not UTF-8: \xff\"")) + `"`},
	} {
		got := string(appendLine([]byte("before"), []byte(test.data), false))
		if want := "before" + test.want + "\n"; got != want {
			t.Errorf("%q becomes %q, want %q", test.data, got, want)
		}
	}
	if got := string(appendLine(nil, nil, true)); got != "null\n" {
		t.Errorf("the end of a key becomes %q, want null", got)
	}
	if got := string(appendLine(nil, []byte(`{"id":1}`), true)); got != "{\"id\":1}\n" {
		t.Errorf("the end of a key with data becomes %q", got)
	}
}

func TestNesting(t *testing.T) {
	for _, depth := range []int{1, 9_999, 10_000, 10_001, 1_000_000} {
		text := []byte(strings.Repeat("[", depth) + strings.Repeat("]", depth))
		s := jsonScan{b: text}
		if got, want := s.valid(), json.Valid(text); got != want {
			t.Errorf("%d arrays in each other: %v, encoding/json says %v", depth, got, want)
		}
	}
}

// FuzzLine compares with encoding/json, and reads back what was written.
func FuzzLine(f *testing.F) {
	for _, s := range []string{
		`{"a":{"b":[1,2,{"c":null}],"d":"e\u00e9\\"},"f":true,"g":false,"h":-1.5e-10}`, `[]`, `{}`, `""`, `"`, `{"a"}`, `[1,]`,
		`{"a":1,}`, `01`, `-`, `1.`, `.5`, `1e`, `1e+`, `truth`, `nul`, "\"\x1f\"", `"\u12g4"`, `"\x"`, `"\`, ` `, "\n1\n", "\v1",
		"\"12345678\"", "\"1234567\x80\"", "\"12345\\\"78\"", "[[[[", "{\"k\" :\n1}", "\ufeff1", "\"\\ud800\"", "\xff", "a\u0000b", "1 2", "null\x00",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s := jsonScan{b: data}
		valid := s.valid()
		if want := json.Valid(data); valid != want {
			t.Fatalf("%q: valid %v, encoding/json says %v", data, valid, want)
		}
		line := appendLine(nil, data, false)
		body, ok := bytes.CutSuffix(line, []byte("\n"))
		if !ok || bytes.ContainsAny(body, "\n\r") || !json.Valid(body) || !utf8.Valid(body) {
			t.Fatalf("%q becomes %q", data, line)
		}
		if valid && utf8.Valid(data) {
			var want, got bytes.Buffer
			if json.Compact(&want, data) != nil || json.Compact(&got, body) != nil || !bytes.Equal(want.Bytes(), got.Bytes()) {
				t.Fatalf("%q becomes %q", data, line)
			}
			return
		}
		var text string
		if err := json.Unmarshal(body, &text); err != nil {
			t.Fatalf("%q becomes %q: %v", data, line, err)
		}
		if !utf8.Valid(data) {
			encoded, ok := strings.CutPrefix(text, "data:application/octet-stream;base64,")
			decoded, err := base64.StdEncoding.DecodeString(encoded)
			if !ok || err != nil {
				t.Fatalf("%q becomes %q: %v", data, line, err)
			}
			text = string(decoded)
		}
		if text != string(data) {
			t.Fatalf("%q becomes %q", data, line)
		}
	})
}

// vehicle is an event's data of 850 bytes.
func vehicle(i int) []byte {
	return fmt.Appendf(nil, `{"id":"y%04d","type":"vehicle","attributes":{"bearing":%d,"carriages":[{"label":"3821","occupancy_status":"MANY_SEATS_AVAILABLE",`+
		`"occupancy_percentage":%d},{"label":"3706","occupancy_status":"FEW_SEATS_AVAILABLE","occupancy_percentage":%d}],"current_status":"IN_TRANSIT_TO",`+
		`"current_stop_sequence":%d,"direction_id":0,"label":"%04d","latitude":42.%06d,"longitude":-71.%06d,"occupancy_status":"MANY_SEATS_AVAILABLE",`+
		`"revenue":"REVENUE","speed":%d.%d,"updated_at":"2026-03-07T21:%02d:%02d-05:00"},"links":{"self":"/vehicles/y%04d"},"relationships":`+
		`{"route":{"data":{"id":"%d","type":"route"}},"stop":{"data":{"id":"%05d","type":"stop"}},"trip":{"data":{"id":"698%05d","type":"trip"}}},`+
		`"signature":"%x","trace":"%x%08d"}`,
		i%2000, i*7%360, i%100, i*3%100, i%40, i%2000, i*7919%1_000_000, i*104_729%1_000_000, i%30, i%10, i/60%60, i%60, i%2000,
		i%120, i*31%100_000, i*17%100_000, sha256.Sum256([]byte{byte(i), byte(i >> 8)}), sha256.Sum256([]byte{byte(i), byte(i >> 8), 1}), i)
}

func TestLineAllocations(t *testing.T) {
	if n := len(vehicle(12345)); n < 840 || n > 860 {
		t.Errorf("the benchmarks' events have %d bytes, not the 850 that they claim", n)
	}
	data, line := vehicle(1), make([]byte, 0, 4096)
	if n := testing.AllocsPerRun(100, func() { line = appendLine(line[:0], data, false) }); n != 0 {
		t.Errorf("%v allocations for a line of JSON, want none", n)
	}
	text := []byte(strings.Repeat("plain text\n", 50))
	if n := testing.AllocsPerRun(100, func() { line = appendLine(line[:0], text, false) }); n != 0 {
		t.Errorf("%v allocations for a line of text, want none", n)
	}
}

func BenchmarkLine(b *testing.B) {
	data := vehicle(12345)
	b.Run("line", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		b.ReportAllocs()
		var line []byte
		for b.Loop() {
			line = appendLine(line[:0], data, false)
		}
	})
	b.Run("encoding-json-valid", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			json.Valid(data)
		}
	})
}

package sse

import (
	"crypto/sha256"
	"io"
	"math"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// reference decodes a whole stream in the plainest way: bytes to text, text to lines, lines to fields.
func reference(input []byte) outcome {
	o := outcome{retry: -1}
	text := strings.TrimPrefix(decodeUTF8(input), "\ufeff")
	text = strings.ReplaceAll(text, "\r\n", "\n")
	text = strings.ReplaceAll(text, "\r", "\n")
	lines := strings.Split(text, "\n")
	lines = lines[:len(lines)-1] // not ended

	var data []string
	id, typ, own := "", "", false
	for _, line := range lines {
		if line == "" {
			if own {
				o.id = id
			}
			if data != nil {
				if typ == "" {
					typ = "message"
				}
				o.events = append(o.events, seen{o.id, own, typ, strings.Join(data, "\n")})
			}
			data, typ, own = nil, "", false
			continue
		}
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch name {
		case "":
			o.comments = append(o.comments, value)
		case "data":
			data = append(data, value)
		case "event":
			typ = value
		case "id":
			if !strings.Contains(value, "\x00") {
				id, own = value, true
			}
		case "retry":
			if value != "" && strings.Trim(value, "0123456789") == "" {
				ms, err := strconv.ParseUint(value, 10, 63)
				if err != nil {
					ms = math.MaxInt64
				}
				o.retry = time.Duration(min(int64(ms), maxRetry)) * time.Millisecond
			}
		}
	}
	return o
}

// decodeUTF8 is the "UTF-8 decoder" of the WHATWG Encoding standard, step by step.
func decodeUTF8(input []byte) string {
	var out strings.Builder
	var point rune
	seen, needed := 0, 0
	lower, upper := byte(0x80), byte(0xbf)
	for i := 0; i < len(input); i++ {
		b := input[i]
		if needed == 0 {
			switch {
			case b <= 0x7f:
				out.WriteByte(b)
			case b >= 0xc2 && b <= 0xdf:
				needed, point = 1, rune(b&0x1f)
			case b >= 0xe0 && b <= 0xef:
				if b == 0xe0 {
					lower = 0xa0
				}
				if b == 0xed {
					upper = 0x9f
				}
				needed, point = 2, rune(b&0xf)
			case b >= 0xf0 && b <= 0xf4:
				if b == 0xf0 {
					lower = 0x90
				}
				if b == 0xf4 {
					upper = 0x8f
				}
				needed, point = 3, rune(b&0x7)
			default:
				out.WriteRune(utf8.RuneError)
			}
			continue
		}
		if b < lower || b > upper {
			point, seen, needed = 0, 0, 0
			lower, upper = 0x80, 0xbf
			i-- // again
			out.WriteRune(utf8.RuneError)
			continue
		}
		lower, upper = 0x80, 0xbf
		point = point<<6 | rune(b&0x3f)
		if seen++; seen == needed {
			out.WriteRune(point)
			point, seen, needed = 0, 0, 0
		}
	}
	if needed != 0 {
		out.WriteRune(utf8.RuneError)
	}
	return out.String()
}

// cutReader cuts its bytes into pieces of given sizes, over and over; a size of 0 is a piece of 256.
type cutReader struct {
	input []byte
	sizes []byte
	next  int
}

func (r *cutReader) Read(p []byte) (int, error) {
	if len(r.input) == 0 {
		return 0, io.EOF
	}
	size := len(r.input)
	if len(r.sizes) > 0 {
		if size = int(r.sizes[r.next%len(r.sizes)]); size == 0 {
			size = 256
		}
		r.next++
	}
	n := copy(p, r.input[:min(size, len(r.input))])
	r.input = r.input[n:]
	return n, nil
}

func FuzzDecode(f *testing.F) {
	for _, c := range conformance {
		f.Add([]byte(c.text), []byte{1}, uint16(3))
	}
	f.Add([]byte("id: 1\nevent: vehicle\nretry: 10\ndata: {\"a\":1}\ndata: é\xe2\x82\n: thump\r\r\n"), []byte{3, 1, 200}, uint16(100))
	f.Fuzz(func(t *testing.T, input, sizes []byte, limit uint16) {
		if len(input) > fieldLimit {
			return // other rules hold for fields that are so long
		}
		want := reference(input)
		whole := decode(t, &cutReader{input: input})
		if !reflect.DeepEqual(whole, want) {
			t.Fatalf("%q\n got %#v\nwant %#v", input, whole, want)
		}
		if cut := decode(t, &cutReader{input: input, sizes: sizes}); !reflect.DeepEqual(cut, whole) {
			t.Fatalf("%q cut into %d\n got %#v\nwant %#v", input, sizes, cut, whole)
		}
		if !utf8.Valid(input) {
			return
		}
		// With a limit the same events come, the large ones as prefix, length and hash.
		d := NewDecoder(&cutReader{input: input, sizes: sizes}, int64(limit))
		var e Event
		i := 0
		for {
			err := d.Read()
			for d.Next(&e) {
				data := want.events[i].data
				large := len(data) > int(limit)
				switch {
				case e.TooLarge != large, e.Length != int64(len(data)), !strings.HasPrefix(data, string(e.Data)),
					!large && len(e.Data) != len(data), large && len(e.Data) > int(limit),
					large && e.SHA256 != sha256.Sum256([]byte(data)):
					t.Fatalf("%q cut into %d, limit %d: event %d is %+v", input, sizes, limit, i, e)
				}
				i++
			}
			if err != nil {
				break
			}
		}
		if i != len(want.events) {
			t.Fatalf("%q cut into %d, limit %d: %d events", input, sizes, limit, i)
		}
	})
}

package sse

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// seen is an event as tests write it down. id is the last event ID, own says that the event set it.
type seen struct {
	id   string
	own  bool
	typ  string
	data string
}

// outcome is all that a stream of bytes comes to.
type outcome struct {
	events   []seen
	comments []string
	id       string        // the last event ID at the end
	retry    time.Duration // -1: none
}

// decode reads r to its end.
func decode(t testing.TB, r io.Reader) outcome {
	t.Helper()
	var o outcome
	d := NewDecoder(r, 1<<20)
	d.Comment = func(text []byte) { o.comments = append(o.comments, string(text)) }
	var e Event
	for {
		err := d.Read()
		for d.Next(&e) {
			o.events = append(o.events, seen{string(e.ID), e.OwnID, string(e.Type), string(e.Data)})
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	o.id, o.retry = string(d.LastEventID()), -1
	if retry, asked := d.Retry(); asked {
		o.retry = retry
	}
	return o
}

// pieces reads a text in the pieces that it consists of.
type pieces []string

func (p *pieces) Read(b []byte) (int, error) {
	for len(*p) > 0 && (*p)[0] == "" {
		*p = (*p)[1:]
	}
	if len(*p) == 0 {
		return 0, io.EOF
	}
	n := copy(b, (*p)[0])
	(*p)[0] = (*p)[0][n:]
	return n, nil
}

// conformance are the rules of the standard ("9.2.6 Interpreting an event stream"), one by one. Where
// only data is given, the events have no id and the type "message".
var conformance = []struct {
	rule     string
	text     string
	data     []string // what comes, if it is data only
	events   []seen   // what comes otherwise
	comments []string
	id       string
	retry    int // in milliseconds; 0: none
}{
	{rule: "nothing", text: ""},
	{rule: "blank lines only", text: "\n\n\r\r\r\n\r\n"},
	{rule: "one event", text: "data: x\n\n", data: []string{"x"}},

	{rule: "one leading BOM is stripped", text: "\ufeffdata:1\n\n\ufeffdata:2\n\ndata:3\n\n", data: []string{"1", "3"}},
	{rule: "only one", text: "\ufeff\ufeffdata:1\n\ndata:2\n\ndata:3\n\n", data: []string{"2", "3"}},
	{rule: "a BOM in the data is content", text: "data:\ufeffx\n\n", data: []string{"\ufeffx"}},
	{rule: "a third of a BOM", text: "\xefdata:1\n\ndata:2\n\n", data: []string{"2"}},
	{rule: "two thirds of a BOM", text: "\xef\xbbdata:1\n\ndata:2\n\n", data: []string{"2"}},
	{rule: "two thirds of a BOM are a line", text: "\xef\xbb\ndata:2\n\n", data: []string{"2"}},
	{rule: "a BOM alone", text: "\ufeff"},

	{rule: "LF", text: "data:1\ndata:2\n\n", data: []string{"1\n2"}},
	{rule: "CR", text: "data:1\rdata:2\r\rdata:3\r\r", data: []string{"1\n2", "3"}},
	{rule: "CRLF", text: "data:1\r\ndata:2\r\n\r\ndata:3\r\n\r\n", data: []string{"1\n2", "3"}},
	{rule: "any mix", text: "data:1\rdata:2\r\ndata:3\n\r\ndata:4\n\rdata:5\r\n\n", data: []string{"1\n2\n3", "4", "5"}},
	{rule: "CR LF LF is two ends", text: "data:1\r\n\ndata:2\n\n", data: []string{"1", "2"}},
	{rule: "LF CR is two ends", text: "data:1\n\rdata:2\n\r", data: []string{"1", "2"}},
	{
		rule: "nothing else ends a line", text: "data:a\u2028b\u2029c\u0085d\ve\f\n\n",
		data: []string{"a\u2028b\u2029c\u0085d\ve\f"},
	},

	{rule: "comments", text: ":a\n: b\n:  c\n:\n::\n\n", comments: []string{"a", "b", " c", "", ":"}},
	{rule: "a comment inside an event", text: "data:1\n:x\ndata:2\n\n", data: []string{"1\n2"}, comments: []string{"x"}},
	{rule: "a comment that looks like data", text: ":data:1\n\ndata:2\n\n", data: []string{"2"}, comments: []string{"data:1"}},
	{rule: "an unfinished comment is none", text: ": abc"},

	{rule: "one space is removed", text: "data:  x\n\ndata: y\n\ndata:z\n\n", data: []string{" x", "y", "z"}},
	{rule: "a tab is kept", text: "data:\tx\n\n", data: []string{"\tx"}},
	{rule: "the first colon splits", text: "data:a:b\n\n", data: []string{"a:b"}},
	{rule: "spaces at the end are kept", text: "data: x \n\n", data: []string{"x "}},
	{rule: "names have case", text: "Data:1\nDATA:1\n\ndata:2\n\n", data: []string{"2"}},
	{rule: "names are not trimmed", text: " data:1\n\ndata :1\n\ndata:2\n\n", data: []string{"2"}},
	{rule: "unknown names", text: "dat:1\ndataa:1\nx\nlongerthananyname:1\n\ndata:2\n\n", data: []string{"2"}},

	{rule: "data without a colon", text: "data\n\n", data: []string{""}},
	{rule: "data without a value", text: "data:\n\n", data: []string{""}},
	{rule: "two empty data lines", text: "data\ndata\n\n", data: []string{"\n"}},
	{rule: "empty data lines among others", text: "data\ndata:a\ndata:\ndata: b\ndata\n\n", data: []string{"\na\n\nb\n"}},
	{rule: "only one LF is removed at the end", text: "data:a\ndata:\ndata:\n\n", data: []string{"a\n\n"}},
	{rule: "NUL is legal in data", text: "data:\x00\n\n", data: []string{"\x00"}},
	{rule: "an event without data is none", text: "event:x\n\ndata:1\n\n", data: []string{"1"}},
	{rule: "the end drops what is incomplete", text: "data:1\n\ndata:2\n", data: []string{"1"}},
	{rule: "also a half line", text: "data:1\n\ndata:2", data: []string{"1"}},
	{rule: "also a half name", text: "data:1\n\nda", data: []string{"1"}},

	{rule: "event", text: "event:a\ndata:1\n\n", events: []seen{{typ: "a", data: "1"}}},
	{rule: "the last one wins", text: "event:a\nevent: b\ndata:1\n\n", events: []seen{{typ: "b", data: "1"}}},
	{
		rule: "reset by each blank line", text: "event:a\ndata:1\n\ndata:2\n\nevent:b\n\ndata:3\n\n",
		events: []seen{{typ: "a", data: "1"}, {typ: "message", data: "2"}, {typ: "message", data: "3"}},
	},
	{rule: "an empty type", text: "event:a\nevent:\ndata:1\n\nevent\ndata:2\n\n", data: []string{"1", "2"}},

	{
		rule: "id stays", text: "id:1\ndata:a\n\ndata:b\n\n", id: "1",
		events: []seen{{"1", true, "message", "a"}, {"1", false, "message", "b"}},
	},
	{
		rule: "id without data, and reset", text: "id:9\n\ndata:x\n\nid:\n\ndata:y\n\n",
		events: []seen{{"9", false, "message", "x"}, {"", false, "message", "y"}},
	},
	{
		rule: "id without a colon resets", text: "id:1\ndata:a\n\nid\ndata:b\n\n",
		events: []seen{{"1", true, "message", "a"}, {"", true, "message", "b"}},
	},
	{
		rule: "id with NUL is ignored", text: "id:1\ndata:a\n\nid:2\x00\ndata:b\n\n", id: "1",
		events: []seen{{"1", true, "message", "a"}, {"1", false, "message", "b"}},
	},
	{
		rule: "id with NUL leaves an earlier one", text: "id:1\nid:\x00\ndata:a\n\n", id: "1",
		events: []seen{{"1", true, "message", "a"}},
	},
	{rule: "the last id wins", text: "id:1\nid:2\ndata:a\n\n", id: "2", events: []seen{{"2", true, "message", "a"}}},
	{rule: "id takes effect at the blank line", text: "id:1\n\nid:2\n", id: "1"},
	{rule: "id at the end does not", text: "retry:1000\ndata:test1\n\nid:test\ndata:test2", data: []string{"test1"}, retry: 1000},
	{rule: "an id may hold anything else", text: "id: a:b \x01\ndata\n\n", id: "a:b \x01", events: []seen{{"a:b \x01", true, "message", ""}}},

	{rule: "retry", text: "retry:1500\n", retry: 1500},
	{rule: "retry in an event", text: "retry: 20\ndata:1\n\n", retry: 20, data: []string{"1"}},
	{rule: "the last retry wins", text: "retry:1\nretry:0002\n", retry: 2},
	{rule: "what is no number resets nothing", text: "retry:7\nretry:\nretry\nretry:-1\nretry:1.5\nretry:1 \nretry:1e3\nretry:٣\nretry: \n", retry: 7},
	{rule: "a half retry is none", text: "retry:3\n\nretry:4", retry: 3},

	{
		rule: "NUL, spaces, case, names", text: "data:\x00\ndata:  2\rData:1\ndata\x00:2\ndata:1\r\x00data:4\nda-ta:3\rdata_5\ndata:3\rdata:\r\n data:32\ndata:4\n\n",
		data: []string{"\x00\n 2\n1\n3\n\n4"},
	},
	{rule: "CRLF and LF and a name alone", text: "data:test\r\ndata\ndata:test\r\n\r", data: []string{"test\n\ntest"}},

	{rule: "malformed UTF-8", text: "data:a\xffb\n\n", data: []string{"a\ufffdb"}},
	{rule: "one U+FFFD for each stray byte", text: "data:\xff\xfe\x80\n\n", data: []string{"\ufffd\ufffd\ufffd"}},
	{rule: "one for each maximal part", text: "data:\xe2\x82\n\ndata:\xf0\x9f\x92x\xe2\x82\xe2\x82\xac\n\n", data: []string{"\ufffd", "\ufffdx\ufffd€"}},
	{rule: "overlong, surrogate, too high", text: "data:\xc0\xaf\n\ndata:\xed\xa0\x80\n\ndata:\xf4\x90\x80\x80\n\n", data: []string{"\ufffd\ufffd", "\ufffd\ufffd\ufffd", "\ufffd\ufffd\ufffd\ufffd"}},
	{rule: "a line's end ends a character", text: "data:\xe2\x82\ndata:\xac\n\n", data: []string{"\ufffd\n\ufffd"}},
	{
		rule: "malformed UTF-8 everywhere", text: ":\xff\nid:\xff\nevent:\xff\ndata:\xff\n\n", id: "\ufffd", comments: []string{"\ufffd"},
		events: []seen{{"\ufffd", true, "\ufffd", "\ufffd"}},
	},
	{rule: "characters of several bytes", text: "data: שלום 日本 🚌\n\n", data: []string{"שלום 日本 🚌"}},
}

func TestConformance(t *testing.T) {
	for _, c := range conformance {
		t.Run(c.rule, func(t *testing.T) {
			want := outcome{events: c.events, comments: c.comments, id: c.id, retry: -1}
			for _, data := range c.data {
				want.events = append(want.events, seen{typ: "message", data: data})
			}
			if c.retry > 0 {
				want.retry = time.Duration(c.retry) * time.Millisecond
			}
			check := func(how string, r io.Reader) {
				t.Helper()
				if got := decode(t, r); !reflect.DeepEqual(got, want) {
					t.Errorf("%s: %q\n got %#v\nwant %#v", how, c.text, got, want)
				}
			}
			check("whole", strings.NewReader(c.text))
			check("one byte at a time", iotest.OneByteReader(strings.NewReader(c.text)))
			check("the end with the last bytes", iotest.DataErrReader(strings.NewReader(c.text)))
			var pairs pieces
			for i := 0; i < len(c.text); i += 2 {
				pairs = append(pairs, c.text[i:min(i+2, len(c.text))])
			}
			check("two bytes at a time", &pairs)
			for i := range c.text {
				check(fmt.Sprintf("split at %d", i), &pieces{c.text[:i], c.text[i:]})
				for j := i; j < len(c.text); j++ {
					check(fmt.Sprintf("split at %d and %d", i, j), &pieces{c.text[:i], c.text[i:j], c.text[j:]})
				}
			}
		})
	}
}

// TestCRDispatchesAtOnce: an event whose blank line is a CR comes with the read that brought the CR.
func TestCRDispatchesAtOnce(t *testing.T) {
	for _, text := range []string{"data:1\r\r", "data:1\n\r", "data:1\r\n\r"} {
		d := NewDecoder(&pieces{text, "\ndata:2\n\n"}, 1<<20)
		var e Event
		if err := d.Read(); err != nil || !d.Next(&e) || string(e.Data) != "1" {
			t.Errorf("%q: the event did not come at once", text)
		}
		if d.Next(&e) {
			t.Errorf("%q: a second event %q", text, e.Data)
		}
		if err := d.Read(); err != nil || !d.Next(&e) || string(e.Data) != "2" {
			t.Errorf("%q: got %q after it", text, e.Data)
		}
	}
}

// TestBatch: the data of all events of one read stay valid until the next.
func TestBatch(t *testing.T) {
	text := strings.Repeat("data: one\ndata: two\n\ndata: \xff\n\ndata: three\n\n", 20)
	for cut := range len(text) {
		d := NewDecoder(&pieces{text[:cut], text[cut:]}, 1<<20)
		var e Event
		var all []string
		for {
			err := d.Read()
			var views [][]byte
			for d.Next(&e) {
				views = append(views, e.Data)
			}
			for _, v := range views {
				all = append(all, string(v))
			}
			if err != nil {
				break
			}
		}
		if got, want := strings.Join(all, "|"), strings.TrimSuffix(strings.Repeat("one\ntwo|\ufffd|three|", 20), "|"); got != want {
			t.Fatalf("cut at %d: %q", cut, got)
		}
	}
}

func TestLimit(t *testing.T) {
	whole := strings.Repeat("0123456789", 10)
	text := "data: small\n\nid: 7\nevent: big\ndata: " + whole[:50] + "\ndata: " + whole[51:] + "\n\ndata: small\n\n"
	whole = whole[:50] + "\n" + whole[51:]
	for limit := int64(5); limit < 110; limit++ {
		for _, r := range []io.Reader{
			strings.NewReader(text), iotest.OneByteReader(strings.NewReader(text)), &pieces{text[:60], text[60:]},
		} {
			d := NewDecoder(r, limit)
			var e Event
			n := 0
			for {
				err := d.Read()
				for d.Next(&e) {
					if n++; n != 2 {
						if e.TooLarge || string(e.Data) != "small" || e.Length != 5 {
							t.Fatalf("limit %d: event %d is %+v", limit, n, e)
						}
						continue
					}
					large := limit < int64(len(whole))
					want := whole[:min(limit, int64(len(whole)))]
					if e.TooLarge != large || string(e.Data) != want || e.Length != 100 || string(e.ID) != "7" || string(e.Type) != "big" {
						t.Fatalf("limit %d: %+v", limit, e)
					}
					if large && e.SHA256 != sha256.Sum256([]byte(whole)) {
						t.Fatalf("limit %d: wrong hash", limit)
					}
				}
				if err != nil {
					break
				}
			}
			if n != 3 {
				t.Fatalf("limit %d: %d events", limit, n)
			}
		}
	}
}

func TestPrefixEndsWithWholeCharacter(t *testing.T) {
	for _, r := range []io.Reader{strings.NewReader("data: 日本語\n\n"), iotest.OneByteReader(strings.NewReader("data: 日本語\n\n"))} {
		d := NewDecoder(r, 5)
		var e Event
		for d.Read() == nil {
			for d.Next(&e) {
				if !e.TooLarge || string(e.Data) != "日" || e.SHA256 != sha256.Sum256([]byte("日本語")) {
					t.Errorf("got %q", e.Data)
				}
			}
		}
	}
}

// TestMemory: neither one endless event nor endless lines of any kind take more than the limit.
func TestMemory(t *testing.T) {
	const limit, length = 256 << 10, 8 << 20
	for _, c := range []struct{ name, head, filler string }{
		{"one line of data", "data: ", "0123456789abcdef"},
		{"many lines of data", "", "data: 0123456789abcdef\n"},
		{"empty lines of data", "", "data\n"},
		{"a comment", ": ", "0123456789abcdef"},
		{"an id", "id: ", "0123456789abcdef"},
		{"a type", "event: ", "0123456789abcdef"},
		{"a retry", "retry: ", "0123456789"},
		{"an unknown field", "x: ", "0123456789abcdef"},
		{"an unknown name", "", "0123456789abcdef"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			d := NewDecoder(io.MultiReader(strings.NewReader(c.head),
				&repeating{text: []byte(strings.Repeat(c.filler, 1000)), n: length},
				strings.NewReader("\n\ndata: after\n\n")), limit)
			d.Comment = func(text []byte) {
				if len(text) != fieldLimit {
					t.Errorf("a comment of %d bytes", len(text))
				}
			}
			var e Event
			last := ""
			for d.Read() == nil {
				for d.Next(&e) {
					last = string(e.Data)
				}
			}
			runtime.ReadMemStats(&after)
			if last != "after" || len(e.ID) > 0 || string(e.Type) != "message" {
				t.Errorf("after it came %q", e.Data)
			}
			// What append leaves behind while the carry grows is counted, too.
			if got := after.TotalAlloc - before.TotalAlloc; got > 10*limit {
				t.Errorf("%d bytes were allocated for a limit of %d", got, limit)
			}
		})
	}
}

func TestFieldLimits(t *testing.T) {
	long := strings.Repeat("x", fieldLimit)
	text := "id: " + long + "\nevent: " + long + "\ndata: 1\n\nid: " + long + "y\nevent: " + long + "y\ndata: 2\n\n"
	want := []seen{{long, true, long, "1"}, {long, false, "message", "2"}}
	for _, r := range []io.Reader{strings.NewReader(text), iotest.OneByteReader(strings.NewReader(text))} {
		if got := decode(t, r); !reflect.DeepEqual(got.events, want) {
			t.Errorf("got %d events, not as they were sent", len(got.events))
		}
	}
}

func TestRetryThatOverflows(t *testing.T) {
	got := decode(t, strings.NewReader("retry: 99999999999999999999999999\n"))
	if got.retry < 1000*time.Hour {
		t.Errorf("got %s", got.retry)
	}
}

// TestNoAllocations: the steady state allocates nothing, also where events span reads.
func TestNoAllocations(t *testing.T) {
	for _, c := range []struct {
		name, event string
		runs        int
	}{
		{"one line", "id: 123\nevent: vehicle\ndata: " + strings.Repeat("x", 850) + "\n\n", 1000},
		{"two lines", "id: 123\ndata: " + strings.Repeat("x", 400) + "\ndata: y\n\n", 1000},
		{"large", "data: " + strings.Repeat("x", 1500<<10) + "\n\n", 10},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := &repeating{text: []byte(c.event), n: 1 << 40}
			d := NewDecoder(r, 2<<20)
			var e Event
			next := func() {
				for !d.Next(&e) {
					if err := d.Read(); err != nil {
						t.Fatal(err)
					}
				}
			}
			for range 2 * c.runs {
				next()
			}
			if n := testing.AllocsPerRun(c.runs, next); n != 0 {
				t.Errorf("%v allocations per event", n)
			}
		})
	}
}

// trickle decodes one event of so many bytes, one at a time.
func trickle(t testing.TB, size int) {
	text := append(append([]byte("data: "), bytes.Repeat([]byte("x"), size)...), "\n\n"...)
	d := NewDecoder(iotest.OneByteReader(bytes.NewReader(text)), 64<<20)
	var e Event
	for d.Read() == nil {
		for d.Next(&e) {
			if len(e.Data) != size {
				t.Fatalf("%d bytes", len(e.Data))
			}
		}
	}
}

func TestReaderWithoutProgress(t *testing.T) {
	d := NewDecoder(iotest.ErrReader(nil), 1<<20)
	if err := d.Read(); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("got %v", err)
	}
}

//go:build linux

package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// asCommand makes the test's program the command itself, so that tests can start its processes.
const asCommand = "MILLRACE_BENCH_PUSH"

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// tiny is a runner whose rounds are short.
func tiny(tb testing.TB, only ...string) (*runner, *bytes.Buffer) {
	tb.Helper()
	self, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	var out bytes.Buffer
	r := &runner{
		rounds: 1, length: 300 * time.Millisecond, warm: 100 * time.Millisecond, linger: time.Millisecond, scale: 0.02,
		jitter: 200 * time.Millisecond, only: map[string]bool{}, out: &out, log: logged{tb},
	}
	r.launcher = launcher{dir: tb.TempDir(), self: self, environment: []string{asCommand + "=1"}, serverAt: place{core: -1}}
	r.clientAt.core = -1
	for _, name := range only {
		r.only[name] = true
	}
	return r, &out
}

type logged struct{ testing.TB }

func (l logged) Write(b []byte) (int, error) {
	l.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

// TestScenarios runs what needs nothing but this program, at a scale at which the figures mean nothing.
func TestScenarios(t *testing.T) {
	for _, name := range []string{"broadcast", "idle", "slow"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, out := tiny(t, "gateway", "bareloop")
			if err := r.runAll(scenarios[slices.IndexFunc(scenarios, func(s scenario) bool { return s.name == name }):][:1]); err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(out.String(), "| gateway") && !strings.Contains(out.String(), ", gateway") {
				t.Errorf("there is no gateway in\n%s", out)
			}
			if wrong := regexp.MustCompile(`\d+ events missing.*`).FindString(out.String()); wrong != "" {
				t.Error(wrong)
			}
		})
	}
}

// BenchmarkAll runs everything once, also what has to be built first, for it not to rot; the figures are
// those of the command.
func BenchmarkAll(b *testing.B) {
	for _, s := range scenarios {
		b.Run(s.name, func(b *testing.B) {
			r, out := tiny(b)
			r.log = io.Discard
			// Only what cannot be fetched is left out: what does not build has rotten.
			download := exec.Command("go", "mod", "download")
			download.Dir = "../baseline"
			if out, err := download.CombinedOutput(); err != nil {
				b.Skipf("the modules of bench/baseline cannot be fetched: %v\n%s", err, out)
			}
			if _, err := build(r.dir, "centrifuge", "bench/baseline", "./push/centrifuge"); err != nil {
				b.Fatal(err)
			}
			if err := r.runAll([]scenario{s}); err != nil {
				b.Fatal(err)
			}
			if !strings.Contains(out.String(), "| ---") {
				b.Errorf("there is no table in\n%s", out)
			}
		})
	}
}

func TestSplitFrame(t *testing.T) {
	frame := func(length int) []byte {
		return append(appendTextHeader(nil, length), bytes.Repeat([]byte{'x'}, length)...)
	}
	for _, length := range []int{0, 1, 125, 126, 65535, 65536} {
		b := append(frame(length), "next"...)
		whole := len(b) - len("next")
		op, payload, size := splitFrame(b)
		if op != opText || len(payload) != length || size != whole {
			t.Errorf("%d bytes: opcode %d, %d bytes, size %d; want size %d", length, op, len(payload), size, whole)
		}
		for cut := range min(whole, 200) {
			if _, _, size := splitFrame(b[:cut]); size != 0 {
				t.Errorf("%d bytes of a frame of %d are taken for a whole one", cut, whole)
			}
		}
	}
	if _, _, size := splitFrame([]byte{0x81, 127, 255, 255, 255, 255, 255, 255, 255, 255, 0}); size != 0 {
		t.Error("a frame of 2^64-1 bytes is whole")
	}
}

func FuzzSplitFrame(f *testing.F) {
	f.Add([]byte("\x81\x05hello"))
	f.Add([]byte("\x82\x7e\x00\x7e"))
	f.Add([]byte("\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00x"))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, payload, size := splitFrame(b)
		if size > len(b) || size > 0 && len(payload) > size-2 {
			t.Errorf("a payload of %d and a size of %d in %d bytes", len(payload), size, len(b))
		}
		for n, rest, ok := nextNumber(payload); ok; n, rest, ok = nextNumber(rest) {
			if len(rest) >= len(payload) {
				t.Fatalf("event %d was not taken off", n)
			}
		}
		_ = positionOf(payload)
	})
}

func TestNumbersAndPositions(t *testing.T) {
	for _, test := range []struct {
		payload string
		numbers []int64
		id      string
	}{
		{payload: `{"n":17,"k":"0","pad":"x"}`, numbers: []int64{17}},
		{payload: `{"id":"0_a-1.5","key":"42","type":"t","time":null,"data":{"n":0,"k":"42"}}`, numbers: []int64{0}, id: "0_a-1.5"},
		{payload: `{"id":"0_a-1.5","live":true}`, id: "0_a-1.5"},
		{payload: "{\"push\":{\"pub\":{\"data\":{\"n\":1}}}}\n{\"push\":{\"pub\":{\"data\":{\"n\":2}}}}", numbers: []int64{1, 2}},
		{payload: `{"id":1,"connect":{}}`},
		{payload: `{"id":"cut`},
	} {
		var numbers []int64
		for n, rest, ok := nextNumber([]byte(test.payload)); ok; n, rest, ok = nextNumber(rest) {
			numbers = append(numbers, n)
		}
		if !slices.Equal(numbers, test.numbers) {
			t.Errorf("%s: numbers %v, want %v", test.payload, numbers, test.numbers)
		}
		if id := string(positionOf([]byte(test.payload))); id != test.id {
			t.Errorf("%s: id %q, want %q", test.payload, id, test.id)
		}
	}
}

// TestTake gives a client what a server sends, in pieces of every size.
func TestTake(t *testing.T) {
	message := func(payload string) []byte { return append(appendTextHeader(nil, len(payload)), payload...) }
	var sent []byte
	for _, n := range []int{3, 4, 5, 7, 7, 8} { // 6 is missing, 7 comes twice
		sent = append(sent, message(fmt.Sprintf(`{"id":"0_a.%d","key":"k","data":{"n":%d,"pad":"%s"}}`, n, n, strings.Repeat("x", 100)))...)
	}
	sent = append(sent, message(`{"id":"0_a.9","gap":{"after":"0_a.1","first":"0_a.9","reason":"trimmed"}}`)...)
	for size := 1; size <= len(sent); size++ {
		c, err := newClient(clientOptions{address: "127.0.0.1:1", protocol: "millrace.v1", connections: 1, reconnect: true})
		if err != nil {
			t.Fatal(err)
		}
		c.counting, c.all[0].phase = true, asking
		head := fmt.Appendf(nil, "HTTP/1.1 101 Switching Protocols%sUpgrade: websocket\r\n\r\n", c.accept)
		head = append(head, message(`{"id":"0_a.2","live":true}`)...)
		for part := range slices.Chunk(append(head, sent...), size) {
			if err := c.take(0, bytes.Clone(part)); err != nil {
				t.Fatal(err)
			}
		}
		r := &c.report
		if r.Deliveries != 5 || r.Missing != 1 || r.Repeats != 1 || r.Gaps != 1 || c.live != 1 || string(c.all[0].id) != "0_a.9" {
			t.Errorf("in pieces of %d: %+v, %d live, id %q", size, r, c.live, c.all[0].id)
		}
		closeEpoll(t, c)
	}
}

func TestCaughtUp(t *testing.T) {
	c, err := newClient(clientOptions{address: "127.0.0.1:1", connections: 6, keys: 3})
	if err != nil {
		t.Fatal(err)
	}
	defer closeEpoll(t, c)
	for i := range c.all {
		c.all[i].phase = live
		c.all[i].last = int64(3 + i%3) // events 0 to 5 have come
	}
	for n, want := range map[int64]int{0: 6, 5: 6, 6: 6, 7: 4, 8: 2, 9: 0} {
		if caught := c.caughtUp(n); caught != want {
			t.Errorf("%d events: %d are said to have caught up, want %d", n, caught, want)
		}
	}
}

func TestStatistics(t *testing.T) {
	if m := median([]float64{5, 1, 4, 2, 3}); m != 3 {
		t.Errorf("the median is %g, want 3", m)
	}
	if m := median([]float64{4, 1, 3, 2}); m != 2 {
		t.Errorf("the median of four is %g, want the lower middle, 2", m)
	}
	if m := median([]float64{}); m != 0 {
		t.Errorf("the median of none is %g", m)
	}
	var all []time.Duration
	for i := range 1000 {
		all = append(all, time.Duration(1000-i))
	}
	if l := latencyOf(all); l != (Latency{Count: 1000, P50: 500, P99: 990, Most: 1000}) {
		t.Errorf("of 1 to 1000: %+v", l)
	}
	if l := latencyOf(nil); l != (Latency{}) {
		t.Errorf("of none: %+v", l)
	}
}

func TestDoubts(t *testing.T) {
	fine := outcome{Report: Report{Seconds: 10, CPU: 5, Deliveries: 1000, Reads: 1000}, cpu: 2, expected: 1000, burst: 1}
	if doubts := fine.doubts(); len(doubts) > 0 {
		t.Errorf("%q of what is fine", doubts)
	}
	for want, change := range map[string]func(*outcome){
		"SATURATED":          func(o *outcome) { o.CPU = 9.5 },
		"fell behind":        func(o *outcome) { o.expected = 1100 },
		"at a time":          func(o *outcome) { o.Reads = 500 },
		"2 events missing":   func(o *outcome) { o.Missing = 2 },
		"3 connections lost": func(o *outcome) { o.Losses = 3 },
	} {
		o := fine
		change(&o)
		if doubts := o.doubts(); len(doubts) != 1 || !strings.Contains(doubts[0], want) {
			t.Errorf("%q, want one with %q", doubts, want)
		}
	}
}

func TestTable(t *testing.T) {
	var out strings.Builder
	result := table{title: "Title"}
	result.add("round", "a")
	result.add("1", count(1234567))
	result.note("a note")
	result.print(&out)
	const want = "\nTitle\n\n| round | a         |\n| ----- | --------- |\n| 1     | 1,234,567 |\n\n- a note\n"
	if out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
	for n, want := range map[float64]string{0: "0", 999.6: "1,000", 12: "12", 123456: "123,456"} {
		if got := count(n); got != want {
			t.Errorf("%g is %s, want %s", n, got, want)
		}
	}
}

func closeEpoll(t *testing.T, c *client) {
	t.Helper()
	if err := os.NewFile(uintptr(c.epoll), "epoll").Close(); err != nil {
		t.Error(err)
	}
}

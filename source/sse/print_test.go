package sse

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/millracetest"
)

func TestPrint(t *testing.T) {
	const text = ":ok\nretry: 1\n\nid: 1\nevent: add\ndata: {\"a\":\"<é>\"}\n\n: thump\ndata: two\ndata: lines \u2028 \xff\n\nid\ndata\n\n"
	for name, c := range map[string]struct {
		config  Config
		options Options
		print   PrintOptions
		want    string
	}{
		"all": {
			options: Options{Once: true},
			want: `{"id":"1","type":"add","data":"{\"a\":\"<é>\"}"}
{"id":"1","type":"message","data":"two\nlines \u2028 ` + "\ufffd" + `"}
{"id":"","type":"message","data":""}
`,
		},
		"comments": {
			options: Options{Once: true}, print: PrintOptions{Comments: true},
			want: `{"comment":"ok"}
{"id":"1","type":"add","data":"{\"a\":\"<é>\"}"}
{"comment":"thump"}
{"id":"1","type":"message","data":"two\nlines \u2028 ` + "\ufffd" + `"}
{"id":"","type":"message","data":""}
`,
		},
		"count": {
			print: PrintOptions{Count: 1},
			want:  `{"id":"1","type":"add","data":"{\"a\":\"<é>\"}"}` + "\n",
		},
		"over two connections": {
			options: Options{Policy: Standard}, print: PrintOptions{Count: 4},
			want: `{"id":"1","type":"add","data":"{\"a\":\"<é>\"}"}
{"id":"1","type":"message","data":"two\nlines \u2028 ` + "\ufffd" + `"}
{"id":"","type":"message","data":""}
{"id":"1","type":"add","data":"{\"a\":\"<é>\"}"}
`,
		},
		"types": {
			config: Config{Types: []string{"add"}}, options: Options{Once: true},
			want: `{"id":"1","type":"add","data":"{\"a\":\"<é>\"}"}` + "\n",
		},
		"a POST is made once": {
			config: Config{Types: []string{"add"}}, options: Options{Method: "POST", Body: []byte("x")},
			want: `{"id":"1","type":"add","data":"{\"a\":\"<é>\"}"}` + "\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			feed := millracetest.NewFeed(t, millracetest.FeedOptions{EventsEach: 1})
			feed.Send(millracetest.FeedEvent{Raw: text})
			c.config.URL, c.config.EventLimit = feed.URL, 1<<20
			c.options.Random = eager
			var out bytes.Buffer
			if err := Print(t.Context(), c.config, c.options, c.print, &out); err != nil {
				t.Fatal(err)
			}
			if got := out.String(); got != c.want {
				t.Errorf("got\n%swant\n%s", got, c.want)
			}
		})
	}
}

func TestPrintResumes(t *testing.T) {
	for policy, want := range map[Policy]string{
		Ingest:   "0 1 2 3", // what is sent again is left out
		Standard: "0 1 1 2",
	} {
		feed := millracetest.NewFeed(t, millracetest.FeedOptions{EventsEach: 2, Resume: millracetest.ResumeAt, Preamble: "retry: 0\n"})
		feed.Send(numbered(0, 6)...)
		var out strings.Builder
		err := Print(t.Context(), config(feed.URL), Options{Policy: policy, Random: eager}, PrintOptions{Count: 4, LastEventID: "0"}, &out)
		if err != nil {
			t.Fatal(err)
		}
		var ids []string
		for line := range strings.Lines(out.String()) {
			ids = append(ids, strings.Split(line, `"`)[3])
		}
		if got := strings.Join(ids, " "); got != want {
			t.Errorf("policy %d: got %s, want %s", policy, got, want)
		}
		if got := feed.Requests()[0].LastEventID; got != "0" {
			t.Errorf("began with %q", got)
		}
	}
}

// TestPrintFlushes: each event is written when it comes, not when a buffer is full.
func TestPrintFlushes(t *testing.T) {
	feed := millracetest.NewFeed(t, millracetest.FeedOptions{})
	r, w := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- Print(ctx, config(feed.URL), Options{}, PrintOptions{}, w) }()
	line := make([]byte, 100)
	for range 3 {
		feed.Send(millracetest.FeedEvent{Data: "x"})
		if n, err := r.Read(line); err != nil || string(line[:n]) != `{"id":"","type":"message","data":"x"}`+"\n" {
			t.Errorf("%q, %v", line[:n], err)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestPrintErrors(t *testing.T) {
	feed := millracetest.NewFeed(t, millracetest.FeedOptions{})
	feed.Send(numbered(0, 1)...)
	feed.Answer(millracetest.AnswerStatus(404), millracetest.AnswerHTML())
	for _, want := range []string{"404 Not Found", "text/html"} {
		err := Print(t.Context(), config(feed.URL), Options{Once: true}, PrintOptions{}, io.Discard)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v", err)
		}
	}
	broken, w := io.Pipe()
	_ = broken.CloseWithError(errors.New("nobody reads"))
	if err := Print(t.Context(), config(feed.URL), Options{}, PrintOptions{}, w); err == nil || !strings.Contains(err.Error(), "nobody reads") {
		t.Errorf("got %v", err)
	}
	// An event over the limit is left out.
	c := config(feed.URL)
	c.EventLimit = 3
	feed.Send(millracetest.FeedEvent{ID: "9", Data: "ok"})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var out, log strings.Builder
	o := Options{Logger: slog.New(slog.NewTextHandler(&log, nil))}
	if err := Print(ctx, c, o, PrintOptions{Count: 1}, &out); err != nil || out.String() != `{"id":"9","type":"message","data":"ok"}`+"\n" {
		t.Errorf("%v, %s", err, out.String())
	}
	if !strings.Contains(log.String(), "over the limit") {
		t.Error(log.String())
	}
}

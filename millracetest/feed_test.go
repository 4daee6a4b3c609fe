package millracetest_test

import (
	"bufio"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/millracetest"
)

// get asks a feed and returns the answer; the end of the test closes it.
func get(t *testing.T, feed *millracetest.Feed, lastEventID string) *http.Response {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, feed.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Accept-Encoding", "gzip") // or the transport would decompress
	if lastEventID != "" {
		request.Header.Set("Last-Event-ID", lastEventID)
	}
	response, err := http.DefaultTransport.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = response.Body.Close() })
	return response
}

func events(ids ...string) []millracetest.FeedEvent {
	var list []millracetest.FeedEvent
	for i, id := range ids {
		list = append(list, millracetest.FeedEvent{ID: id, Data: fmt.Sprint("d", i)})
	}
	return list
}

// data returns the data lines of a body.
func data(body string) string {
	var list []string
	for line := range strings.Lines(body) {
		if d, ok := strings.CutPrefix(line, "data: d"); ok {
			list = append(list, strings.TrimSpace(d))
		}
	}
	return strings.Join(list, "")
}

func TestFeedResumes(t *testing.T) {
	for _, c := range []struct {
		resume millracetest.FeedResume
		repeat int
		id     string
		want   string
	}{
		{millracetest.ResumeAfterLast, 0, "", "012345"},
		{millracetest.ResumeAfterLast, 0, "b", "45"},
		{millracetest.ResumeAfterLast, 3, "b", "12345"},
		{millracetest.ResumeAfterLast, 0, "unknown", "012345"},
		{millracetest.ResumeAfterFirst, 0, "b", "2345"},
		{millracetest.ResumeAt, 0, "b", "12345"},
		{millracetest.ResumeNamed, 0, "a", "135"},
		{millracetest.ResumeNever, 0, "b", "012345"},
	} {
		feed := millracetest.NewFeed(t, millracetest.FeedOptions{Resume: c.resume, Repeat: c.repeat})
		feed.Send(events("a", "b", "", "b", "", "c")...)
		feed.End()
		body, err := io.ReadAll(get(t, feed, c.id).Body)
		if got := data(string(body)); err != nil || got != c.want {
			t.Errorf("resume %d at %q: got %s, %v, want %s", c.resume, c.id, got, err, c.want)
		}
		if status := get(t, feed, "c").StatusCode; status != http.StatusNoContent && c.resume != millracetest.ResumeNever {
			t.Errorf("resume %d: status %d at the end", c.resume, status)
		}
	}
}

// TestFeedFaultsRepeat: the same seed cuts the same connections at the same bytes.
func TestFeedFaultsRepeat(t *testing.T) {
	lengths := func(seed uint64) []string {
		feed := millracetest.NewFeed(t, millracetest.FeedOptions{Seed: seed, CutEvery: 30})
		feed.Send(events("1", "2", "3", "4", "5", "6", "7", "8", "9")...)
		var list []string
		for range 6 {
			body, err := io.ReadAll(get(t, feed, "").Body)
			list = append(list, fmt.Sprint(len(body), err))
		}
		return list
	}
	first, second, other := lengths(1), lengths(1), lengths(2)
	if !slices.Equal(first, second) || slices.Equal(first, other) {
		t.Errorf("got %v, %v, %v", first, second, other)
	}
	if all := fmt.Sprint(first, other); !strings.Contains(all, "unexpected EOF") || !strings.Contains(all, "<nil>") {
		t.Errorf("not both endings: %s", all)
	}
}

func TestFeedShapes(t *testing.T) {
	feed := millracetest.NewFeed(t, millracetest.FeedOptions{
		Newline: "\r\n", Preamble: ":hi\r\n", Coding: "gzip", OneByte: true, EventsEach: 1,
	})
	feed.Send(millracetest.FeedEvent{ID: "1", Type: "t", Data: "a\nb"}, millracetest.FeedEvent{Raw: "never sent"})
	z, err := gzip.NewReader(get(t, feed, "").Body)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(z)
	if want := ":hi\r\nid: 1\r\nevent: t\r\ndata: a\r\ndata: b\r\n\r\n"; err != nil || string(body) != want {
		t.Errorf("got %q, %v", body, err)
	}
}

func TestFeedIsLive(t *testing.T) {
	feed := millracetest.NewFeed(t, millracetest.FeedOptions{Live: true, Heartbeat: time.Millisecond})
	feed.Send(events("old")...)
	body := bufio.NewReader(get(t, feed, "").Body)
	if line, err := body.ReadString('\n'); line != ":\n" || err != nil {
		t.Errorf("no heartbeat but %q, %v", line, err)
	}
	feed.Send(events("new")...)
	for {
		line, err := body.ReadString('\n')
		if err != nil || line != ":\n" {
			if line != "id: new\n" {
				t.Errorf("got %q, %v", line, err)
			}
			break
		}
	}
}

func TestFeedAnswers(t *testing.T) {
	feed := millracetest.NewFeed(t, millracetest.FeedOptions{})
	feed.End()
	feed.Answer(millracetest.AnswerStatus(429, "Retry-After", "7"), millracetest.AnswerHTML(), millracetest.AnswerRedirect(307, "/x"))
	if r := get(t, feed, ""); r.StatusCode != 429 || r.Header.Get("Retry-After") != "7" {
		t.Errorf("got %v", r)
	}
	if r := get(t, feed, ""); r.StatusCode != 200 || !strings.HasPrefix(r.Header.Get("Content-Type"), "text/html") {
		t.Errorf("got %v", r)
	}
	if r := get(t, feed, "5"); r.StatusCode != 307 || r.Header.Get("Location") != "/x" {
		t.Errorf("got %v", r)
	}
	if r := get(t, feed, ""); r.StatusCode != http.StatusNoContent {
		t.Errorf("an empty feed that is over answered %v", r)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if err := feed.WaitRequests(ctx, 4); err != nil {
		t.Error(err)
	}
	if got := feed.Requests()[2].LastEventID; got != "5" {
		t.Errorf("got %q", got)
	}
	cancel()
	if err := feed.WaitRequests(ctx, 5); err == nil {
		t.Error("a fifth request came")
	}
}

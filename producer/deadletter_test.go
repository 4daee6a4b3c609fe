package producer_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/millracetest"
	"github.com/millrace/millrace/producer"
	"github.com/millrace/millrace/stream/memory"
)

func TestDeadLetters(t *testing.T) {
	clock := millracetest.NewClock()
	c := config(1)
	c.Now = clock.Now
	c.EventLimit = 100_000
	p, stop := open(t, c)
	long := strings.Repeat("äh", 50_000) // 150,000 bytes; a prefix of 64 KiB ends within an ä
	known := time.Unix(1700000000, 0).UTC()
	reject := func(r millrace.Rejection, at millrace.Cursor) {
		t.Helper()
		if err := p.Reject(t.Context(), r, at); err != nil {
			t.Fatal(err)
		}
	}
	reject(millrace.Rejection{
		ID: "7", Input: []byte(`{"broken": <&>`), Key: "bus 7", Time: known,
		Reason: millrace.Errorf(millrace.Invalid, "parse event", "unexpected end"),
	}, "cursor 1")
	reject(millrace.Rejection{ID: "8", Input: []byte{0xff, 0}, Reason: errors.New("not text")}, "cursor 2")
	reject(millrace.Rejection{Reason: nil}, "cursor 3")
	reject(millrace.Rejection{ID: "9", Input: []byte(long), Reason: millrace.Errorf(millrace.TooLarge, "read", "long")}, "cursor 4")
	reject(millrace.Rejection{ID: "10", Input: []byte("begin"), Length: 1 << 30, SHA256: "abc", Reason: millrace.Errorf(millrace.TooLarge, "read", "bomb")}, "cursor 5")
	late := event(11)
	late.Time = time.Date(2300, 1, 1, 0, 0, 0, 0, time.UTC)
	if err := p.Emit(t.Context(), []millrace.Event{late}, "cursor 6"); err != nil {
		t.Fatal(err)
	}
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	stop()

	text := func(s string) *string { return &s }
	raw := func(b ...byte) *[]byte { return &b }
	sum := func(s string) string {
		h := sha256.Sum256([]byte(s))
		return hex.EncodeToString(h[:])
	}
	kept := strings.Repeat("äh", 21845) // 65,535 bytes; the 65,536th is half an ä
	want := []struct {
		id     string
		time   time.Time
		letter producer.DeadLetter
	}{
		{"source/test/7", known, producer.DeadLetter{
			ID: "7", Key: "bus 7", Code: "invalid", Reason: "parse event: unexpected end",
			Length: 14, SHA256: sum(`{"broken": <&>`), Input: text(`{"broken": <&>`),
		}},
		{"source/test/8", clock.Now(), producer.DeadLetter{
			ID: "8", Code: "internal", Reason: "not text", Length: 2, SHA256: sum("\xff\x00"), InputBase64: raw(0xff, 0),
		}},
		{"", clock.Now(), producer.DeadLetter{Code: "invalid", SHA256: sum(""), Input: text("")}},
		{"source/test/9", clock.Now(), producer.DeadLetter{
			ID: "9", Code: "too_large", Reason: "read: long", Length: 150_000, SHA256: sum(long), Truncated: true, Input: text(kept),
		}},
		{"source/test/10", clock.Now(), producer.DeadLetter{
			ID: "10", Code: "too_large", Reason: "read: bomb", Length: 1 << 30, SHA256: "abc", Truncated: true, Input: text("begin"),
		}},
		{"source/test/id-11", clock.Now(), producer.DeadLetter{
			ID: "id-11", Key: "key-2", Code: "invalid", Reason: "add event to block: time 2300-01-01 is outside the years 1678 to 2261",
			Length: 2, SHA256: sum("11"), Input: text("11"),
		}},
	}
	letters := events(t, c.Dead)
	if len(letters) != len(want) {
		t.Fatalf("there are %d dead letters, want %d", len(letters), len(want))
	}
	for i, w := range want {
		w.letter.Stream, w.letter.Producer = "into", c.Name
		w.letter.Cursor = "cursor " + string(rune('1'+i))
		data, err := json.Marshal(w.letter)
		if err != nil {
			t.Fatal(err)
		}
		got := letters[i]
		if !equalJSON(t, got.Data, data) {
			t.Errorf("dead letter %d is\n%.600s, want\n%.600s", i, got.Data, data)
		}
		if got.ID != w.id || got.Key != c.Name || got.Type != "dead_letter" || !got.Time.Equal(w.time) {
			t.Errorf("dead letter %d has id %q, key %q, type %q, time %s", i, got.ID, got.Key, got.Type, got.Time)
		}
	}
	if !bytes.Contains(letters[0].Data, []byte(`"input":"{\"broken\": <&>"`)) {
		t.Errorf("the first dead letter is %s", letters[0].Data)
	}
}

func equalJSON(t *testing.T, a, b []byte) bool {
	t.Helper()
	var x, y producer.DeadLetter
	decoder := json.NewDecoder(bytes.NewReader(a))
	decoder.DisallowUnknownFields()
	if err := errors.Join(decoder.Decode(&x), json.Unmarshal(b, &y)); err != nil {
		t.Fatal(err)
	}
	first, _ := json.Marshal(x)
	second, _ := json.Marshal(y)
	return bytes.Equal(first, second)
}

// TestDeadLetterOutgrowsABlock: as JSON, an input under the event limit can be too large for a block.
func TestDeadLetterOutgrowsABlock(t *testing.T) {
	c := config(1)
	c.Dead = memory.New("dead", memory.Options{MaxBlock: 16 << 10})
	p, stop := open(t, c)
	input := noise(64 << 10)
	if err := p.Reject(t.Context(), millrace.Rejection{ID: "1", Input: input, Reason: errors.New("no")}, "1"); err != nil {
		t.Fatal(err)
	}
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	stop()
	letters := events(t, c.Dead)
	var letter producer.DeadLetter
	if len(letters) != 1 || json.Unmarshal(letters[0].Data, &letter) != nil {
		t.Fatalf("the dead letters are %v", letters)
	}
	sum := sha256.Sum256(input)
	if !letter.Truncated || letter.Length != int64(len(input)) || letter.SHA256 != hex.EncodeToString(sum[:]) ||
		letter.InputBase64 == nil || len(*letter.InputBase64) < 4<<10 || !bytes.HasPrefix(input, *letter.InputBase64) {
		t.Errorf("the dead letter is %.300s", letters[0].Data)
	}
}

package producer

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/stream/memory"
)

// FuzzDeadLetter: whatever the input is, the letter is JSON and gives it back, or a prefix. It works
// on the encoder alone: with the producer's goroutines coverage would differ from run to run.
func FuzzDeadLetter(f *testing.F) {
	for _, input := range []string{"", "{}", "\x00\xff", "<script>", "ä", strings.Repeat("ä", 600), "a" + strings.Repeat("\u2028", 400)} {
		f.Add([]byte(input), "id", "key")
	}
	p := &Producer{config: Config{Name: "source/test", Into: memory.New("into", memory.Options{})}}
	f.Fuzz(func(t *testing.T, input []byte, id, key string) {
		const limit = 1000
		made := p.letterOf(&millrace.Rejection{ID: id, Key: key, Input: input}, "1")
		data := made.encode(input[:min(len(input), limit)], len(input) > limit)

		var letter DeadLetter
		if err := json.Unmarshal(data, &letter); err != nil {
			t.Fatal(err)
		}
		var kept []byte
		switch {
		case (letter.Input == nil) == (letter.InputBase64 == nil):
			t.Fatal("it has not exactly one of input and input_base64")
		case letter.Input != nil:
			kept = []byte(*letter.Input)
		default:
			kept = *letter.InputBase64
		}
		if letter.Truncated != (len(input) > limit) || letter.Length != int64(len(input)) ||
			!bytes.HasPrefix(input, kept) || len(kept) < min(len(input), limit-3) {
			t.Errorf("an input of %d bytes became %d bytes, truncated %v, length %d", len(input), len(kept), letter.Truncated, letter.Length)
		}
	})
}

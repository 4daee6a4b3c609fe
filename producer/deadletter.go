package producer

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"unicode/utf8"

	"github.com/millrace/millrace"
)

// DeadLetter is the data of an event of the dead-letter stream, as JSON.
type DeadLetter struct {
	// Stream and Producer: where the input would have gone, and who rejected it.
	Stream   string `json:"stream"`
	Producer string `json:"producer"`
	// Cursor is where the producer stood in its input after this one.
	Cursor string `json:"cursor"`
	// ID and Key of the input, as far as they are known.
	ID  string `json:"id"`
	Key string `json:"key"`
	// Code and Reason say why it was rejected; the code is one of millrace.Code.
	Code   string `json:"code"`
	Reason string `json:"reason"`
	// Length in bytes and SHA256 in hexadecimal are of the whole input.
	Length int64  `json:"length"`
	SHA256 string `json:"sha256"`
	// Truncated says that only a prefix of the input is here: it was over the event limit, or does not
	// fit a block.
	Truncated bool `json:"truncated"`
	// Input is the input if that is valid UTF-8, InputBase64 otherwise; exactly one of them is there.
	Input       *string `json:"input,omitempty"`
	InputBase64 *[]byte `json:"input_base64,omitempty"`
}

const (
	typeDeadLetter = "dead_letter"
	// truncatedInput is how much is kept of an input that is over the event limit, in bytes.
	truncatedInput = 64 << 10
	// maxReason bounds what a dead letter quotes: reason, id, key.
	maxReason = 8 << 10
)

// gatherRejection puts an input into the dead-letter stream.
func (p *Producer) gatherRejection(r *millrace.Rejection, at millrace.Cursor) {
	e := millrace.Event{Key: p.config.Name, Type: typeDeadLetter, Time: r.Time}
	if r.ID != "" {
		e.ID = p.config.Name + "/" + r.ID
	}
	if y := e.Time.Year(); e.Time.IsZero() || y < 1678 || y > 2261 {
		e.Time = p.config.Now()
	}
	t := p.targets[p.dead]
	if t.drops.ids != nil && t.drops.match(e.ID) {
		p.metrics.recovered.Inc()
		return
	}

	letter := p.letterOf(r, at)
	input := r.Input
	if len(input) > p.config.EventLimit {
		input = input[:min(truncatedInput, p.config.EventLimit)]
	}
	// As JSON an input can grow sixfold. If the letter does not fit a block it is shortened until it
	// does; without any input it always fits, except where blocks are too small for its own fields.
	for {
		e.Data = letter.encode(input, int64(len(input)) < letter.Length)
		err := p.add(p.dead, &e)
		if err == nil {
			p.gathering.letters++
			return
		}
		if len(input) == 0 {
			p.fail(millrace.Errorf(millrace.Internal, "write dead letter", "even without its input: %w", err))
			return
		}
		input = input[:min(len(input)/2, truncatedInput)]
	}
}

func (p *Producer) letterOf(r *millrace.Rejection, at millrace.Cursor) DeadLetter {
	letter := DeadLetter{
		Stream:   p.config.Into.Name(),
		Producer: p.config.Name,
		Cursor:   string(at),
		ID:       prefix(r.ID, maxReason),
		Key:      prefix(r.Key, maxReason),
		Code:     string(millrace.CodeOf(r.Reason)),
		Length:   max(r.Length, int64(len(r.Input))),
		SHA256:   r.SHA256,
	}
	if r.Reason != nil {
		letter.Reason = prefix(r.Reason.Error(), maxReason)
	}
	if letter.Code == "" {
		letter.Code = string(millrace.Invalid)
	}
	if letter.SHA256 == "" && letter.Length == int64(len(r.Input)) {
		sum := sha256.Sum256(r.Input)
		letter.SHA256 = hex.EncodeToString(sum[:])
	}
	return letter
}

// encode returns the letter as JSON with this much of the input.
func (d *DeadLetter) encode(input []byte, truncated bool) []byte {
	if truncated { // not in the middle of a character
		for n := 1; n < utf8.UTFMax && n <= len(input); n++ {
			if c := input[len(input)-n]; utf8.RuneStart(c) {
				if c >= utf8.RuneSelf && !utf8.FullRune(input[len(input)-n:]) {
					input = input[:len(input)-n]
				}
				break
			}
		}
	}
	d.Truncated = truncated
	d.Input, d.InputBase64 = nil, nil
	if text := string(input); utf8.ValidString(text) {
		d.Input = &text
	} else {
		d.InputBase64 = &input
	}
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(d) // strings, numbers and bytes cannot fail
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

func prefix(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return s[:n]
}

package sse

import (
	"bytes"
	"io"
	"testing"
)

// Decoders that share a room grow as far as it goes, and give back what they took.
func TestRoom(t *testing.T) {
	shared := &room{limit: 2 * largeBuffer}
	text := bytes.Repeat([]byte("data: x\n\n"), 4<<20/9)
	var decoders []*Decoder
	for range 10 {
		d := NewDecoder(bytes.NewReader(text), 1<<20)
		d.room = shared
		var e Event
		for n, err := 0, error(nil); err == nil; {
			for err = d.Read(); d.Next(&e); n++ {
			}
			if err != nil && (err != io.EOF || n != 4<<20/9) { //nolint:errorlint // as the reader gave it
				t.Fatalf("%d events, %v", n, err)
			}
		}
		decoders = append(decoders, d)
	}
	grown := 0
	for i, d := range decoders {
		if grown += len(d.buf) - smallBuffer; i == 0 && len(d.buf) != largeBuffer {
			t.Errorf("the first has %d bytes", len(d.buf))
		}
	}
	if taken := shared.taken.Load(); taken != int64(grown) || taken > shared.limit {
		t.Errorf("%d bytes are taken, the buffers have grown by %d", taken, grown)
	}
	for _, d := range decoders {
		d.release()
	}
	if taken := shared.taken.Load(); taken != 0 {
		t.Errorf("%d bytes are taken in the end", taken)
	}
}

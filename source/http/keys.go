package httpsource

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"
	"sync"
	"time"
)

// attribute is the attribute that events of a request with a key carry. Its hyphen keeps it apart from
// the attributes of CloudEvents.
const attribute = "idempotency-key"

// maxKey bounds an idempotency key, in bytes.
const maxKey = 255

// digest tells bodies apart.
type digest [sha256.Size / 2]byte

// keys are those that are remembered: of requests in flight, and the newest of those that are durable.
type keys struct {
	o       Idempotency
	mu      sync.Mutex
	known   map[string]*key
	line    []*key // those that are durable, wholly or in part, by key.stored
	changed func(n int)
}

// key is one that is remembered.
type key struct {
	name               string
	accepted, rejected int // events and inputs
	body               digest
	stored             time.Time     // its first event
	ended              chan struct{} // of the request in flight: closed when it has ended; nil if there is none
	// Of a request that became durable in part: which of its events are there, and how many are not. nil if
	// all are.
	seen bitmap
	left int
}

// bitmap is a set of small numbers.
type bitmap []uint64

func (b bitmap) has(n int) bool { return n/64 < len(b) && b[n/64]&(1<<(n%64)) != 0 }

func newKeys(o Idempotency, changed func(n int)) *keys {
	return &keys{o: o, known: map[string]*key{}, changed: changed}
}

// outcome says what a request with a key is to do.
type outcome int

const (
	isNew     outcome = iota // it is the one: commit it, then settle
	isRepeat                 // it is durable already
	isOther                  // the key belongs to another body
	isPending                // another one is in flight, and has not ended in time
)

// begin says what a request is to do. If another one with the same key is in flight it waits for its end.
// anyBody takes a repeat for one whatever its body: a webhook's.
func (k *keys) begin(ctx context.Context, name string, body digest, anyBody bool, now time.Time, wait time.Duration) (outcome, *key) {
	var timer *time.Timer
	for {
		k.mu.Lock()
		k.expire(now)
		known := k.known[name]
		switch {
		case known == nil:
			known = &key{name: name, body: body, ended: make(chan struct{})}
			k.known[name] = known
			k.mu.Unlock()
			return isNew, known
		case known.body != body && !anyBody, known.body != body && known.seen != nil:
			k.mu.Unlock()
			return isOther, nil
		case known.ended == nil && known.seen == nil:
			k.mu.Unlock()
			return isRepeat, known
		case known.ended == nil:
			known.ended = make(chan struct{})
			k.mu.Unlock()
			return isNew, known
		}
		ended := known.ended
		k.mu.Unlock()
		if timer == nil {
			timer = time.NewTimer(wait)
			defer timer.Stop()
		}
		select {
		case <-ended:
		case <-timer.C:
			return isPending, nil
		case <-ctx.Done():
			return isPending, nil
		}
	}
}

// settle ends a request: it is durable, or nothing of it was taken.
func (k *keys) settle(known *key, durable bool, accepted, rejected int, now time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	close(known.ended)
	known.ended = nil
	partly := known.seen != nil
	switch {
	case durable:
		known.accepted, known.rejected, known.seen = accepted, rejected, nil
		if !partly { // else it stands in the line already, by the first of its events: they are to be read again
			known.stored = now
			k.line = append(k.line, known)
		}
		k.expire(now)
	case !partly:
		delete(k.known, known.name)
	}
}

// expire forgets what is too old or too many.
func (k *keys) expire(now time.Time) {
	n := 0
	for n < len(k.line) && (len(k.line)-n > k.o.Keys || now.Sub(k.line[n].stored) > k.o.Window) {
		old := k.line[n]
		if old.ended != nil {
			break // the rest of it is in flight
		}
		delete(k.known, old.name)
		k.line[n] = nil
		n++
	}
	k.line = k.line[n:]
	k.changed(len(k.line))
}

// oldest returns when the oldest key that is remembered was stored; zero if there is none.
func (k *keys) oldest(now time.Time) time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.expire(now)
	if len(k.line) == 0 {
		return time.Time{}
	}
	return k.line[0].stored
}

// found notes that a stored event belongs to a request, when the source reads its own past. It copies the
// strings that it keeps.
func (k *keys) found(id, mark string, stored time.Time) {
	at := strings.LastIndexByte(id, '#')
	accepted, rejected, body, ok := parseMark(mark)
	if at < 0 || !ok {
		return
	}
	n, err := strconv.Atoi(id[at+1:])
	if err != nil || n < 0 || n >= accepted {
		return
	}
	known := k.known[id[:at]]
	if known == nil {
		known = &key{name: strings.Clone(id[:at]), stored: stored}
		k.known[known.name] = known
		k.line = append(k.line, known)
	} else if known.seen == nil || known.body != body || known.accepted != accepted {
		return // complete; or a webhook that was sent again with another body while half of it was there
	}
	known.accepted, known.rejected, known.body = accepted, rejected, body
	if known.seen == nil {
		known.seen, known.left = make(bitmap, (accepted+63)/64), accepted
	}
	if known.seen.has(n) {
		return
	}
	known.seen[n/64] |= 1 << (n % 64)
	if known.left--; known.left == 0 {
		known.seen = nil
	}
}

// formatMark returns the attribute of events that belong to a request with a key.
func formatMark(accepted, rejected int, body digest) string {
	return strconv.Itoa(accepted) + "/" + strconv.Itoa(rejected) + "/" + hex.EncodeToString(body[:])
}

// parseMark reads what formatMark wrote.
func parseMark(s string) (accepted, rejected int, body digest, ok bool) {
	a, rest, _ := strings.Cut(s, "/")
	r, h, _ := strings.Cut(rest, "/")
	accepted, err := strconv.Atoi(a)
	if err != nil || accepted < 1 || accepted > 1_000_000 {
		return 0, 0, digest{}, false
	}
	if rejected, err = strconv.Atoi(r); err != nil || rejected < 0 || len(h) != hex.EncodedLen(len(body)) {
		return 0, 0, digest{}, false
	}
	if _, err := hex.Decode(body[:], []byte(h)); err != nil {
		return 0, 0, digest{}, false
	}
	return accepted, rejected, body, true
}

// parseKey reads an Idempotency-Key: a string in quotes (the draft's structured field) or plain.
func parseKey(s string) (string, bool) {
	if len(s) > 1 && s[0] == '"' && s[len(s)-1] == '"' {
		s = s[1 : len(s)-1]
	}
	return s, s != "" && len(s) <= maxKey && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}

package httpsource

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/jsonpath"
	"github.com/millrace/millrace/mapping"
)

// What a request counts for in the room, in bytes: itself, and an input with its events.
const (
	requestCost = 4 << 10
	eventCost   = 400
)

// keptMemory is how large a request's buffers may be to be used again.
const keptMemory = 64 << 10

// The states of a request that was queued: whoever changes it decides who lets go of it.
const (
	waiting   int32 = iota
	ended           // the sender hears of it
	abandoned       // the sender is gone, or has waited too long
)

// request is one POST. It belongs to its handler, and while it is queued to the run.
type request struct {
	run    *run
	mapper *mapping.Mapper
	parser parser

	received, plain []byte // the body as it was sent, and decompressed
	events          []millrace.Event
	mistakes        []mistake
	rejected        int
	tooLarge        int    // of those rejected
	name            string // its idempotency key; empty if it has none
	webhook         bool   // name is a webhook's own id
	body            digest // if it has a name
	key             *key
	number          int64
	held            int64 // bytes of the room

	state atomic.Int32
	done  chan error // what has become of it; one is sent unless it is abandoned
}

// refusal is an error that ends a request with an answer.
type refusal struct{ answer }

// Error implements error.
func (r *refusal) Error() string { return r.problem }

func refused(code int, format string, args ...any) error {
	return &refusal{answer{code: code, problem: fmt.Sprintf(format, args...)}}
}

// ServeHTTP implements http.Handler.
func (s *Source) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	s.instruments.inFlight.Inc()
	a := s.serve(r)
	s.instruments.inFlight.Dec()
	s.instruments.answered(a.code)
	s.instruments.seconds.Observe(time.Since(began).Seconds())
	switch a.code {
	case http.StatusUnauthorized:
		w.Header().Set("WWW-Authenticate", "Bearer")
	case http.StatusMethodNotAllowed:
		w.Header().Set("Allow", "POST")
	case http.StatusUnsupportedMediaType:
		w.Header().Set("Accept-Encoding", "gzip, zstd") // RFC 9110, section 12.5.3
	}
	a.write(w)
}

// serve takes a request as far as its headers say whether to read it.
func (s *Source) serve(r *http.Request) answer {
	if r.Method != http.MethodPost {
		return answer{code: http.StatusMethodNotAllowed, problem: "events are posted"}
	}
	signed, no := s.guard.admit(r)
	if no.code != 0 {
		return no
	}
	f, mediaType, err := formatOf(r.Header)
	if err != nil {
		return answer{code: http.StatusUnsupportedMediaType, problem: err.Error()}
	}
	encoding := strings.ToLower(strings.TrimSpace(r.Header.Get("Content-Encoding")))
	switch encoding {
	case "", "identity", "gzip", "zstd":
	case "x-gzip":
		encoding = "gzip"
	default:
		return answer{code: http.StatusUnsupportedMediaType, problem: "the Content-Encoding is not known; send gzip, zstd or none"}
	}
	if r.ContentLength > s.config.MaxBody {
		return s.tooLong()
	}
	name := r.Header.Get("Idempotency-Key")
	if name != "" {
		var ok bool
		if name, ok = parseKey(name); !ok {
			return answer{code: http.StatusBadRequest, problem: fmt.Sprintf("the Idempotency-Key has 1 to %d printable characters", maxKey)}
		}
	}
	takesRest := s.config.OnError == partial
	if r.URL.RawQuery != "" {
		switch r.URL.Query().Get("partial") {
		case "":
		case "true", "1":
			takesRest = true
		case "false", "0":
			takesRest = false
		default:
			return answer{code: http.StatusBadRequest, problem: "the parameter partial is true or false"}
		}
	}
	life, no := s.enter(r.Context())
	if no.code != 0 {
		return no
	}
	q, _ := s.requests.Get().(*request)
	q.run = life
	cost := requestCost + max(0, r.ContentLength)
	if !s.room.take(r.Context(), cost, 1, s.config.Wait) {
		life.leave()
		s.requests.Put(q)
		return s.noRoom()
	}
	q.held, q.name = cost, name
	a, gone := s.accept(r, q, content{f, mediaType, encoding, signed}, takesRest)
	if !gone {
		s.release(q)
	}
	return a
}

// content is what the headers say of a body.
type content struct {
	format    format
	mediaType string
	encoding  string
	signed    bool // the signature is to be checked
}

func (s *Source) tooLong() answer {
	return answer{
		code: http.StatusRequestEntityTooLarge, last: true,
		problem: fmt.Sprintf("the body has more than %d bytes (max_body); send less at once", s.config.MaxBody),
	}
}

func (s *Source) noRoom() answer {
	return answer{
		code: http.StatusTooManyRequests, retry: max(time.Second, s.config.Wait),
		problem: "too much is on its way already; nothing was taken, try again later",
	}
}

// accept reads a request, commits it and says what to answer; gone says that the request belongs to the run
// now.
func (s *Source) accept(r *http.Request, q *request, c content, takesRest bool) (a answer, gone bool) {
	if err := s.read(r, q, c); err != nil {
		var no *refusal
		errors.As(err, &no)
		return no.answer, false
	}
	a = answer{code: http.StatusOK, accepted: len(q.events), rejected: q.rejected}
	if q.rejected > 0 {
		s.instruments.rejected.Add(float64(q.rejected))
		a.code, a.mistakes = http.StatusBadRequest, q.mistakes
		if q.tooLarge == q.rejected {
			a.code = http.StatusRequestEntityTooLarge
		}
		a.problem = "some inputs are wrong; the others were taken"
		if !takesRest || a.accepted == 0 {
			a.problem, a.accepted = "inputs are wrong; nothing was taken", 0
		}
	}
	if a.accepted == 0 {
		return a, false
	}
	q.number = q.run.requests.Add(1)
	if q.name == "" {
		prefix := strconv.AppendInt(make([]byte, 0, 48), q.run.life, 36)
		prefix = strconv.AppendInt(append(prefix, '.'), q.number, 10)
		number(q.events, append(prefix, '#'), false)
		return s.wait(r.Context(), q, a)
	}
	what, known := q.run.keys.begin(r.Context(), q.name, q.body, q.webhook, s.o.Now(), s.config.Wait)
	switch what {
	case isNew:
		q.key = known
		number(q.events, append([]byte(q.name), '#'), true)
		q.mark()
		return s.wait(r.Context(), q, a)
	case isRepeat:
		s.instruments.duplicates.Inc()
		a.accepted, a.rejected, a.duplicate = known.accepted, known.rejected, true
		if q.webhook {
			a.code, a.problem, a.mistakes = http.StatusOK, "", nil
		}
		return a, false
	case isOther:
		return answer{
			code:    http.StatusUnprocessableEntity,
			problem: "this Idempotency-Key was used for another body; nothing was taken: use a new key for a new request",
		}, false
	default:
		return answer{
			code: http.StatusConflict, retry: time.Second,
			problem: "another request with this Idempotency-Key has not ended yet; try again",
		}, false
	}
}

// mark marks the events as those of a request with a key, for the next life of the source.
func (q *request) mark() {
	text := formatMark(len(q.events), q.rejected, q.body)
	shared := map[string]string{attribute: text}
	for i := range q.events {
		e := &q.events[i]
		if e.Attributes == nil {
			e.Attributes = shared
			continue
		}
		own := maps.Clone(e.Attributes) // the elements of a split array share theirs
		own[attribute] = text
		e.Attributes = own
	}
}

// wait queues a request until it is durable.
func (s *Source) wait(ctx context.Context, q *request, a answer) (answer, bool) {
	q.state.Store(waiting)
	if !q.run.commit(q) {
		if q.key != nil {
			q.run.keys.settle(q.key, false, 0, 0, s.o.Now())
		}
		return answerEnding, false
	}
	timer := time.NewTimer(s.config.Timeout)
	defer timer.Stop()
	unknown := answer{
		code: http.StatusServiceUnavailable, retry: time.Second,
		problem: "the events are not known to be durable; try again, with the same Idempotency-Key if there was one",
	}
	var err error
	select {
	case err = <-q.done:
	case <-timer.C:
		if q.state.CompareAndSwap(waiting, abandoned) {
			return unknown, true
		}
		err = <-q.done
	case <-ctx.Done(): // the sender is gone, and reads no answer
		if q.state.CompareAndSwap(waiting, abandoned) {
			return unknown, true
		}
		err = <-q.done
	}
	switch {
	case errors.Is(err, errNotTaken):
		return answerEnding, false
	case err != nil:
		return unknown, false
	}
	return a, false
}

// release lets go of a request.
func (s *Source) release(q *request) {
	s.room.give(q.held, 1)
	q.run.leave()
	if cap(q.received) > keptMemory {
		q.received = nil
	}
	if cap(q.plain) > keptMemory {
		q.plain = nil
	}
	clear(q.events)
	clear(q.parser.inputs)
	if cap(q.events) > 256 {
		q.events = nil
	}
	if cap(q.parser.inputs) > 256 {
		q.parser.inputs = nil
	}
	q.mapper.Release()
	*q = request{
		mapper: q.mapper, received: q.received[:0], plain: q.plain[:0], events: q.events[:0],
		parser: parser{inputs: q.parser.inputs[:0]}, done: q.done,
	}
	s.requests.Put(q)
}

// hold takes more of the room.
func (s *Source) hold(ctx context.Context, q *request, bytes int64) error {
	if !s.room.take(ctx, bytes, 0, s.config.Wait) {
		return &refusal{s.noRoom()}
	}
	q.held += bytes
	return nil
}

// read reads the body and makes events of it: those in q.events are good, q.mistakes say what is wrong with
// the others. It fails with a *refusal.
func (s *Source) read(r *http.Request, q *request, c content) error {
	hold := func(bytes int64) error { return s.hold(r.Context(), q, bytes) }
	if err := s.receive(r, q, hold); err != nil {
		return err
	}
	s.instruments.bytes.Add(float64(len(q.received)))
	now := s.o.Now()
	if c.signed {
		if err := s.guard.signature.check(r.Header, q.received, now); err != nil {
			return refused(http.StatusForbidden, "%v", err)
		}
	}
	text, err := s.decompress(q, c.encoding, hold)
	if err != nil {
		return err
	}
	q.parser.most, q.parser.now, q.parser.kind = s.config.MaxEvents, now, "message"
	if c.signed {
		id, kind := s.guard.signature.id(r.Header, text)
		if kind != "" {
			q.parser.kind = kind
		}
		if q.name == "" && id != "" && len(id) <= maxKey {
			q.name, q.webhook = id, true
		}
	}
	if q.name != "" {
		q.body = digestOf(c.format, r.Header, text)
	}
	switch err := q.parser.parse(c.format, c.mediaType, r.Header, text); {
	case errors.Is(err, errTooMany):
		return s.tooMany()
	case err != nil:
		return refused(http.StatusBadRequest, "the body is malformed: %v", err)
	}
	if n := len(q.parser.inputs); n > 1 {
		if err := hold(int64(n-1) * eventCost); err != nil {
			return err
		}
	}
	q.events = slices.Grow(q.events, len(q.parser.inputs))
	for i := range q.parser.inputs {
		if err := s.mapInput(q, c.format, &q.parser.inputs[i]); err != nil {
			return err
		}
	}
	if n := len(q.events) - len(q.parser.inputs); n > 0 { // some were split
		return hold(int64(n) * eventCost)
	}
	return nil
}

// decompress returns the body as it was before it was compressed.
func (s *Source) decompress(q *request, encoding string, hold func(int64) error) ([]byte, error) {
	if encoding != "gzip" && encoding != "zstd" {
		return q.received, nil
	}
	var err error
	q.plain, err = decompress(q.plain[:0], q.received, encoding, s.config.MaxBody, hold)
	var no *refusal
	switch {
	case err == nil || errors.As(err, &no):
		return q.plain, err
	case errors.Is(err, errTooLarge):
		return nil, &refusal{s.tooLong()}
	default:
		return nil, refused(http.StatusBadRequest, "the body is no %s: %v", encoding, err)
	}
}

func (s *Source) tooMany() error {
	return refused(http.StatusRequestEntityTooLarge, "the body has more than %d events (max_events); send fewer at once", s.config.MaxEvents)
}

// receive reads the body.
func (s *Source) receive(r *http.Request, q *request, hold func(int64) error) error {
	if length := r.ContentLength; length >= 0 { // it is held already
		q.received = slices.Grow(q.received[:0], int(length))[:length]
		if _, err := io.ReadFull(r.Body, q.received); err != nil {
			return refused(http.StatusBadRequest, "the body ends early: %v", err)
		}
		return nil
	}
	var err error
	q.received, err = readBounded(q.received[:0], r.Body, s.config.MaxBody, hold)
	var no *refusal
	switch {
	case err == nil || errors.As(err, &no):
		return err
	case errors.Is(err, errTooLarge):
		return &refusal{s.tooLong()}
	default:
		return refused(http.StatusBadRequest, "the body ends early: %v", err)
	}
}

// mapInput makes events of an input, or a mistake. It fails if there are too many events altogether.
func (s *Source) mapInput(q *request, f format, in *input) error {
	err := in.err
	if err == nil && in.json && s.checkJSON {
		err = jsonpath.Valid(in.event.Data)
	}
	before := len(q.events)
	if err == nil {
		q.events, err = q.mapper.Map(q.events, &in.event)
	}
	for i := before; err == nil && i < len(q.events); i++ {
		if in.event.ID == "" {
			q.events[i].ID = "" // the place in the array; number gives it one that is unique
		}
		err = s.checkSize(&q.events[i])
	}
	if err == nil {
		if len(q.events) > s.config.MaxEvents {
			return s.tooMany()
		}
		return nil
	}
	q.events = q.events[:before]
	q.rejected++
	if millrace.CodeOf(err) == millrace.TooLarge {
		q.tooLarge++
	}
	if len(q.mistakes) < maxMistakes {
		m, at := mistake{Reason: err.Error()}, in.place // a copy: the inputs are used again
		if f == lines {
			m.Line = &at
		} else {
			m.Index = &at
		}
		q.mistakes = append(q.mistakes, m)
	}
	return nil
}

// checkSize refuses what the producer could not store.
func (s *Source) checkSize(e *millrace.Event) error {
	if len(e.Data) > s.eventLimit {
		return millrace.Errorf(millrace.TooLarge, "", "the event has %d bytes, more than %d (event_limit)", len(e.Data), s.eventLimit)
	}
	about := len(e.ID) + len(e.Key) + len(e.Type)
	for name, value := range e.Attributes {
		about += len(name) + len(value) + 10 // as the producer counts
	}
	if about > maxAbout {
		return millrace.Errorf(millrace.TooLarge, "", "the event's id, key, type and attributes have %d bytes, more than %d", about, maxAbout)
	}
	return nil
}

// digestOf tells bodies apart, with what stands in headers instead in binary mode.
func digestOf(f format, h http.Header, body []byte) (d digest) {
	sum := sha256.New()
	if f == binaryEvent {
		for _, name := range slices.Sorted(maps.Keys(h)) {
			if strings.HasPrefix(name, "Ce-") {
				fmt.Fprintf(sum, "%q: %q\n", name, h[name])
			}
		}
	}
	sum.Write(body)
	copy(d[:], sum.Sum(nil))
	return d
}

// number gives events ids that count them; those that have one keep it, unless all are to be counted.
func number(events []millrace.Event, prefix []byte, all bool) {
	if len(events) == 1 {
		if e := &events[0]; all || e.ID == "" {
			e.ID = string(append(prefix, '0'))
		}
		return
	}
	text := make([]byte, 0, len(events)*(len(prefix)+5))
	ends := make([]int, len(events))
	for i := range events {
		if all || events[i].ID == "" {
			text = strconv.AppendInt(append(text, prefix...), int64(i), 10)
		}
		ends[i] = len(text)
	}
	ids, start := string(text), 0 // one allocation for the ids of all
	for i, end := range ends {
		if end > start {
			events[i].ID = ids[start:end]
		}
		start = end
	}
}

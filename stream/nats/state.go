package nats

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/millrace/millrace"
)

// State keeps values in one JetStream stream. A value is a message with the subject
//
//	mr.k.v.NAME
//
// of which JetStream keeps the newest; its sequence is the version, and the compare-and-set is its
// expected last sequence. The message is a JSON line, the stateHead, and behind it the value. A value
// that is too large for one message is in messages of their own, written before it:
//
//	mr.k.c.NAME.SAVE.NUMBER
//
// where SAVE is a random id of one Save. They are removed by the next Save of the name, and by opening
// the state if a crash left them behind.
type State struct {
	store
	chunk int // bytes of a value that fit into one message
}

const (
	stateStore  = "millrace-state"
	stateValue  = "mr.k.v."
	stateChunks = "mr.k.c."
	// maxChunk keeps the messages small enough for a server to handle with ease.
	maxChunk = 4 << 20
	// staleAfter is the age at which chunks that no value refers to were left by a crash. No Save takes
	// as long.
	staleAfter = time.Hour
)

type stateHead struct {
	Save   string `json:"save,omitempty"` // of the chunks
	Chunks int    `json:"chunks,omitempty"`
	Size   int64  `json:"size"`
	CRC    uint32 `json:"crc"` // CRC-32C of the value
}

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	stateNames = regexp.MustCompile(`^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$`)
)

// State opens the state, and creates it if it is not there. It fails with Unavailable.
func (e *Engine) State(ctx context.Context) (millrace.State, error) {
	const op = "open state"
	s := &State{store: store{e, stateStore}, chunk: min(maxChunk, int(e.write.MaxPayload())-4<<10)}
	_, err := s.info(ctx)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		config := e.storeConfig(stateStore, []string{stateValue + ">", stateChunks + ">"}, nil)
		config.MaxMsgsPerSubject = 1
		config.Discard = jetstream.DiscardOld
		config.AllowDirect = e.replicas() == 1
		if _, err = e.js.CreateStream(ctx, config); errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			err = nil // another process was faster
		}
	}
	if err == nil {
		err = s.removeStale(ctx)
	}
	if err != nil {
		return nil, unavailable(op, err)
	}
	return s, nil
}

// Load implements millrace.State. It reads the value into memory, so that a Save which removes its
// chunks meanwhile does no harm.
func (s *State) Load(ctx context.Context, name string) (io.ReadCloser, uint64, error) {
	op := "load state " + strconv.Quote(name)
	if err := checkStateName(op, name); err != nil {
		return nil, 0, err
	}
	var failure error
	for range 10 { // each time, a newer version was saved in between
		m, err := s.get(ctx, getRequest{Last: stateValue + escape(name, true)})
		if errors.Is(err, errNoMessage) {
			return nil, 0, millrace.Errorf(millrace.NotFound, op, "it was never saved")
		}
		if err != nil {
			return nil, 0, unavailable(op, err)
		}
		value, err := s.value(ctx, name, m)
		if err == nil {
			return io.NopCloser(bytes.NewReader(value)), m.seq, nil
		}
		if failure = err; !errors.Is(err, errNoMessage) {
			return nil, 0, unavailable(op, err)
		}
	}
	return nil, 0, millrace.Errorf(millrace.Unavailable, op, "a part of it is missing: %w", failure)
}

// value puts a value together.
func (s *State) value(ctx context.Context, name string, m message) ([]byte, error) {
	line, value, _ := bytes.Cut(m.data, []byte("\n"))
	var head stateHead
	if err := json.Unmarshal(line, &head); err != nil {
		return nil, fmt.Errorf("version %d is damaged: %w", m.seq, err)
	}
	for i := range head.Chunks {
		part, err := s.get(ctx, getRequest{Last: chunkSubject(name, head.Save, i)})
		if err != nil {
			return nil, err
		}
		value = append(value, part.data...)
	}
	if int64(len(value)) != head.Size || crc32.Checksum(value, castagnoli) != head.CRC {
		return nil, fmt.Errorf("version %d is damaged: its checksum is wrong", m.seq)
	}
	return value, nil
}

// Save implements millrace.State.
func (s *State) Save(ctx context.Context, name string, version uint64, write func(io.Writer) error) (uint64, error) {
	op := "save state " + strconv.Quote(name)
	if err := checkStateName(op, name); err != nil {
		return 0, err
	}
	w := stateWriter{ctx: ctx, s: s, name: name, save: rand.Text()}
	if err := write(&w); err != nil {
		if w.err != nil {
			return 0, unavailable(op, w.err)
		}
		return 0, err
	}
	if w.chunks > 0 && len(w.rest) > 0 {
		w.flush()
	}
	if w.err != nil {
		return 0, unavailable(op, w.err)
	}
	head := stateHead{Size: w.size, CRC: w.crc, Chunks: w.chunks}
	if w.chunks > 0 {
		head.Save = w.save
	}
	data, err := json.Marshal(head)
	if err != nil {
		return 0, millrace.Errorf(millrace.Internal, op, "%w", err)
	}
	data = append(append(data, '\n'), w.rest...)
	if err := s.room(len(data)); err != nil {
		return 0, unavailable(op, err)
	}
	seq, err := s.send(ctx, newMessage(stateValue+escape(name, true), version, data, time.Time{}))
	if errors.Is(err, errFenced) {
		return 0, millrace.Errorf(millrace.Conflict, op, "the newest version is not %d", version)
	}
	if err != nil {
		return 0, millrace.Errorf(millrace.Unavailable, op, "the outcome is unknown: %w", err)
	}
	// What is left of earlier versions: the chunks that were written before ours. Should this fail, the
	// next Save or opening does it.
	before := seq
	if w.chunks > 0 {
		before = w.first
	}
	_ = s.purge(ctx, stateChunks+escape(name, true)+".>", before)
	return seq, nil
}

// room makes sure that the disk has space.
func (s *State) room(n int) error {
	if s.e.server == nil {
		return nil
	}
	return s.e.server.disk.full(n)
}

// stateWriter stores a value in chunks as it is written, if it does not fit into one message.
type stateWriter struct {
	ctx    context.Context
	s      *State
	name   string
	save   string
	rest   []byte // not stored yet, at most a chunk
	chunks int    // stored
	first  uint64 // the sequence of the first one
	size   int64
	crc    uint32
	err    error
}

// Write implements io.Writer.
func (w *stateWriter) Write(p []byte) (n int, err error) {
	for len(p) > 0 && w.err == nil {
		if len(w.rest) == w.s.chunk {
			w.flush()
			continue
		}
		part := p[:min(len(p), w.s.chunk-len(w.rest))]
		w.rest = append(w.rest, part...)
		w.size += int64(len(part))
		w.crc = crc32.Update(w.crc, castagnoli, part)
		p, n = p[len(part):], n+len(part)
	}
	return n, w.err
}

func (w *stateWriter) flush() {
	if w.err = w.s.room(len(w.rest)); w.err != nil {
		return
	}
	seq, err := w.s.send(w.ctx, newMessage(chunkSubject(w.name, w.save, w.chunks), 0, w.rest, time.Time{}))
	if err != nil {
		w.err = err
		return
	}
	if w.chunks == 0 {
		w.first = seq
	}
	w.chunks++
	w.rest = w.rest[:0]
}

func chunkSubject(name, save string, i int) string {
	return stateChunks + escape(name, true) + "." + save + "." + strconv.Itoa(i)
}

// removeStale removes chunks that a Save left behind which never came to its end.
func (s *State) removeStale(ctx context.Context) error {
	var info storeInfo
	request := struct {
		Subjects string `json:"subjects_filter"`
	}{stateChunks + ">"}
	if err := s.api(ctx, "$JS.API.STREAM.INFO."+s.name, request, &info); err != nil {
		return err
	}
	looked := map[string]bool{}
	for subject := range info.State.Subjects {
		save := subject[:strings.LastIndexByte(subject, '.')] // mr.k.c.NAME.SAVE
		if looked[save] {
			continue
		}
		looked[save] = true
		m, err := s.get(ctx, getRequest{Last: subject})
		if errors.Is(err, errNoMessage) {
			continue
		}
		if err != nil {
			return err
		}
		// In an external server another process may just be saving.
		if s.e.server == nil && time.Since(m.stored) < staleAfter {
			continue
		}
		i := strings.LastIndexByte(save, '.')
		name, id := strings.TrimPrefix(save[:i], stateChunks), save[i+1:]
		var head stateHead
		newest, err := s.get(ctx, getRequest{Last: stateValue + name})
		switch {
		case errors.Is(err, errNoMessage):
		case err != nil:
			return err
		default:
			line, _, _ := bytes.Cut(newest.data, []byte("\n"))
			if err := json.Unmarshal(line, &head); err != nil {
				continue // damaged: what belongs to it is not known
			}
		}
		if head.Save != id {
			if err := s.purge(ctx, save+".>", 0); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkStateName(op, name string) error {
	if !stateNames.MatchString(name) {
		return millrace.Errorf(millrace.Invalid, op, "the name must be segments of letters, digits, \".\", \"_\" and \"-\", separated by slashes")
	}
	return nil
}

package nats

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/millrace/millrace"
)

// Names in JetStream. A partition's stream takes the subjects
//
//	mr.s.STREAM.PARTITION.b.PRODUCER   blocks
//	mr.s.STREAM.PARTITION.t            trim records
//
// and sends the headers of what it stored to mrn.s.STREAM.PARTITION.>, which wakes the readers in
// other processes.
const (
	subjectPrefix = "mr.s."
	noticePrefix  = "mrn.s."
)

// storeName is the JetStream stream of a partition.
func storeName(stream, partition string) string {
	return "millrace-stream-" + escape(stream, false) + "-" + partition
}

// escape makes a name one token of a subject, or a part of a JetStream stream's name, which is also a
// folder's. Distinct names stay distinct, also where case makes no difference.
func escape(name string, token bool) string {
	var b strings.Builder
	for i := range len(name) {
		c := name[i]
		switch {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-',
			token && c > ' ' && c < 0x7f && c != '.' && c != '*' && c != '>' && c != '=':
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "=%02x", c)
		}
	}
	return b.String()
}

// store is a JetStream stream: what we ask of it, in the server's own terms.
type store struct {
	e    *Engine
	name string
}

// requestTimeout bounds one request. A server that is busy opening its files takes its time.
const requestTimeout = 5 * time.Second

var errNoMessage = errors.New("no such message")

// storeConfig is what all our JetStream streams have in common: they expire nothing.
func (e *Engine) storeConfig(name string, subjects []string, metadata map[string]string) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:        name,
		Subjects:    subjects,
		Retention:   jetstream.LimitsPolicy,
		Storage:     jetstream.FileStorage,
		Discard:     jetstream.DiscardNew, // there is no limit; were there one, nothing old should go
		Replicas:    e.replicas(),
		AllowDirect: true,
		DenyDelete:  true,
		Duplicates:  100 * time.Millisecond, // no message has an id; the shortest window there is
		Metadata:    metadata,
	}
}

// storeInfo is the part of JetStream's STREAM.INFO that matters here.
type storeInfo struct {
	Config struct {
		Metadata  map[string]string `json:"metadata"`
		Batches   bool              `json:"allow_atomic"`
		RePublish *struct{}         `json:"republish"`
	} `json:"config"`
	State struct {
		Messages uint64            `json:"messages"`
		Bytes    int64             `json:"bytes"`
		First    uint64            `json:"first_seq"`
		Last     uint64            `json:"last_seq"`
		Oldest   time.Time         `json:"first_ts"`
		Newest   time.Time         `json:"last_ts"`
		Subjects map[string]uint64 `json:"subjects"`
	} `json:"state"`
}

func (s store) info(ctx context.Context) (storeInfo, error) {
	var info storeInfo
	return info, s.api(ctx, "$JS.API.STREAM.INFO."+s.name, nil, &info)
}

// purge removes the messages before a sequence, of one subject or of all.
func (s store) purge(ctx context.Context, subject string, before uint64) error {
	return s.api(ctx, "$JS.API.STREAM.PURGE."+s.name, struct {
		Subject string `json:"filter,omitempty"`
		Before  uint64 `json:"seq,omitempty"`
	}{subject, before}, nil)
}

// api makes a request whose answer is JSON.
func (s store) api(ctx context.Context, subject string, request, answer any) error {
	var body []byte
	if request != nil {
		var err error
		if body, err = json.Marshal(request); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	reply, err := s.e.write.RequestWithContext(ctx, subject, body)
	if err != nil {
		return err
	}
	var refused struct {
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(reply.Data, &refused); err != nil {
		return err
	}
	if refused.Error != nil {
		return refused.Error
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(reply.Data, answer)
}

// message is one that a store keeps.
type message struct {
	subject string
	seq     uint64
	stored  time.Time
	data    []byte
}

// storedHeader overrides the time of a message, in Unix nanoseconds, after the clock went back.
const storedHeader = "Millrace-Stored"

// getRequest asks for a message by sequence, for the last of a subject, or for the next one of a
// subject from a sequence on; with Batch, for several.
type getRequest struct {
	Seq      uint64 `json:"seq,omitempty"`
	Last     string `json:"last_by_subj,omitempty"`
	Next     string `json:"next_by_subj,omitempty"`
	Batch    int    `json:"batch,omitempty"`
	MaxBytes int    `json:"max_bytes,omitempty"`
}

// get returns one message; errNoMessage if there is none. In a cluster it asks the leader, since other
// replicas may lag.
func (s store) get(ctx context.Context, r getRequest) (message, error) {
	if s.e.replicas() > 1 {
		return s.getFromLeader(ctx, r)
	}
	body, err := json.Marshal(r)
	if err != nil {
		return message{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	reply, err := s.e.write.RequestWithContext(ctx, "$JS.API.DIRECT.GET."+s.name, body)
	if err != nil {
		return message{}, err
	}
	switch status := reply.Header.Get("Status"); status {
	case "":
		return parseMessage(reply)
	case "404":
		return message{}, errNoMessage
	default:
		return message{}, fmt.Errorf("JetStream says %s %s", status, reply.Header.Get("Description"))
	}
}

func (s store) getFromLeader(ctx context.Context, r getRequest) (message, error) {
	var answer struct {
		Message struct {
			Subject string    `json:"subject"`
			Seq     uint64    `json:"seq"`
			Headers []byte    `json:"hdrs"`
			Data    []byte    `json:"data"`
			Time    time.Time `json:"time"`
		} `json:"message"`
	}
	err := s.api(ctx, "$JS.API.STREAM.MSG.GET."+s.name, r, &answer)
	var refused *jetstream.APIError
	if errors.As(err, &refused) && refused.ErrorCode == jetstream.JSErrCodeMessageNotFound {
		return message{}, errNoMessage
	}
	if err != nil {
		return message{}, err
	}
	m := message{subject: answer.Message.Subject, seq: answer.Message.Seq, data: answer.Message.Data, stored: answer.Message.Time}
	if len(answer.Message.Headers) > 0 {
		h, err := nats.DecodeHeadersMsg(answer.Message.Headers)
		if err != nil {
			return message{}, err
		}
		m.override(h.Get(storedHeader))
	}
	return m, nil
}

// parseMessage reads what a direct get answers.
func parseMessage(reply *nats.Msg) (message, error) {
	m := message{subject: reply.Header.Get(jetstream.SubjectHeader), data: reply.Data}
	var err error
	if m.seq, err = strconv.ParseUint(reply.Header.Get(jetstream.SequenceHeader), 10, 64); err != nil {
		return m, fmt.Errorf("the sequence of a message: %w", err)
	}
	if m.stored, err = time.Parse(time.RFC3339Nano, reply.Header.Get(jetstream.TimeStampHeaer)); err != nil {
		return m, fmt.Errorf("the time of message %d: %w", m.seq, err)
	}
	m.override(reply.Header.Get(storedHeader))
	return m, nil
}

func (m *message) override(stored string) {
	if n, err := strconv.ParseInt(stored, 10, 64); err == nil {
		m.stored = time.Unix(0, n).UTC()
	}
}

// errFenced is a publish whose expected last sequence of the subject was not the last.
var errFenced = errors.New("another message is the last of the subject")

// errStuck is JetStream unable to write. It is started anew once the disk has space.
var errStuck = errors.New("JetStream cannot write to its disk; it is started anew when it can")

// publishTimeout bounds the wait for an acknowledgement; the outcome is unknown after it.
const publishTimeout = 10 * time.Second

// newMessage returns a message that is stored if the last of its subject is still last (0: there is none).
// stored overrides its time unless it is zero.
func newMessage(subject string, last uint64, data []byte, stored time.Time) *nats.Msg {
	m := &nats.Msg{Subject: subject, Data: data, Header: nats.Header{
		jetstream.ExpectedLastSubjSeqHeader: {strconv.FormatUint(last, 10)},
	}}
	if !stored.IsZero() {
		m.Header[storedHeader] = []string{strconv.FormatInt(stored.UnixNano(), 10)}
	}
	return m
}

// send stores a message and returns its sequence once it is durable.
func (s store) send(ctx context.Context, m *nats.Msg) (uint64, error) {
	waiting, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	if server := s.e.server; server != nil {
		defer context.AfterFunc(server.stuck.Load(), cancel)()
	}
	reply, err := s.e.write.RequestMsgWithContext(waiting, m)
	if err != nil {
		if server := s.e.server; server != nil && waiting.Err() != nil && ctx.Err() == nil {
			if errors.Is(waiting.Err(), context.DeadlineExceeded) {
				server.gotStuck()
			}
			return 0, errStuck
		}
		return 0, err
	}
	var ack struct {
		Seq   uint64              `json:"seq"`
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(reply.Data, &ack); err != nil {
		return 0, fmt.Errorf("the acknowledgement %q: %w", reply.Data, err)
	}
	switch {
	case ack.Error == nil && ack.Seq > 0:
		return ack.Seq, nil
	case ack.Error == nil:
		return 0, fmt.Errorf("the acknowledgement %q has no sequence", reply.Data)
	case ack.Error.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence, ack.Error.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant:
		return 0, errFenced
	default:
		return 0, ack.Error
	}
}

// unavailable wraps whatever went wrong between us and JetStream.
func unavailable(op string, err error) error {
	return millrace.Errorf(millrace.Unavailable, op, "%w", err)
}

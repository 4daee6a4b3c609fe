package archive

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/millrace/millrace"
)

// record is the state of a partition.
type record struct {
	Layout   int               `json:"layout"`   // of the record
	Writer   string            `json:"writer"`   // which task saved it
	Position millrace.Position `json:"position"` // everything up to here is archived
	Cut      *cut              `json:"cut,omitempty"`
}

const recordLayout = 1

// cut is an object whose events follow the record's position. It may or may not be there already.
type cut struct {
	First       millrace.Position `json:"first"` // of its first event
	To          millrace.Position `json:"to"`    // of its last
	Key         string            `json:"key"`
	Instant     time.Time         `json:"instant"` // when its oldest event was stored
	Failure     bool              `json:"failure,omitempty"`
	Format      string            `json:"format"`
	Compression string            `json:"compression"`
	Layout      int               `json:"object_layout"`
	Events      int64             `json:"events"`
	Bytes       int64             `json:"bytes"`  // before compression
	SHA256      string            `json:"sha256"` // before compression, hexadecimal
}

// failure is the line of an error object.
type failure struct {
	Stream    string            `json:"stream"`
	Partition string            `json:"partition"`
	After     millrace.Position `json:"after"` // what is missing lies after this position
	To        millrace.Position `json:"to"`    // up to and including this one
	Type      string            `json:"type"`
	Reason    string            `json:"reason"`
	Stored    *time.Time        `json:"stored,omitempty"`
	Raw       []byte            `json:"raw,omitempty"` // the block, in base64
}

func (t *task) stateName() string { return "archive/" + t.a.name + "/" + t.partition }

// open loads the record, and holds in the stream what comes after it. A new archive begins with the
// oldest block that is there, and saves that at once: what is trimmed from then on is a gap.
func (t *task) open(ctx context.Context) error {
	stored, version, err := t.load(ctx)
	switch {
	case millrace.CodeOf(err) == millrace.NotFound:
		first, _, err := t.a.o.From.Bounds(ctx, t.partition)
		if err != nil {
			return err
		}
		t.version = 0
		if err := t.save(ctx, record{Position: first}); err != nil {
			return err
		}
	case err != nil:
		return err
	default:
		t.version, t.record = version, record{}
		if err := json.Unmarshal(stored, &t.record); err != nil {
			return millrace.Errorf(millrace.Internal, "load state "+strconv.Quote(t.stateName()), "it is no record of an archive: %w", err)
		}
		if t.record.Layout != recordLayout {
			return millrace.Errorf(millrace.Internal, "load state "+strconv.Quote(t.stateName()),
				"its layout is %d, and this version of millrace knows %d: run the version that wrote it", t.record.Layout, recordLayout)
		}
	}
	t.hold()
	return nil
}

func (t *task) hold() {
	if r, ok := t.a.o.From.(millrace.Retainer); ok {
		r.Hold(t.partition, "archive/"+t.a.name, t.record.Position)
	}
}

func (t *task) load(ctx context.Context) ([]byte, uint64, error) {
	r, version, err := t.a.o.State.Load(ctx, t.stateName())
	if err != nil {
		return nil, version, err
	}
	stored, err := io.ReadAll(r)
	return stored, version, errors.Join(err, r.Close())
}

// save replaces the record.
func (t *task) save(ctx context.Context, r record) error {
	r.Layout, r.Writer = recordLayout, t.writer
	text, err := json.Marshal(r)
	if err != nil {
		return millrace.Errorf(millrace.Internal, "save state", "%w", err)
	}
	return t.retry(ctx, "save the archive's state", func() error {
		version, err := t.a.o.State.Save(ctx, t.stateName(), t.version, func(w io.Writer) error {
			_, err := w.Write(text)
			return err
		})
		// An earlier try may have been saved although it failed.
		if code := millrace.CodeOf(err); code == millrace.Conflict || code == millrace.Unavailable {
			if stored, found, lerr := t.load(ctx); lerr == nil && bytes.Equal(stored, text) {
				version, err = found, nil
			}
		}
		switch {
		case err == nil:
			t.version, t.record = version, r
		case millrace.CodeOf(err) == millrace.Conflict:
			err = fmt.Errorf("another process archives as %q: %w", t.a.name, err)
		}
		return err
	})
}

// flush cuts what is gathered and delivers it.
func (t *task) flush(ctx context.Context) error {
	t.disarm()
	if t.at == t.record.Position {
		return nil
	}
	if t.encoder.events == 0 { // only blocks without events
		if err := t.save(ctx, record{Position: t.at}); err != nil {
			return err
		}
		t.hold()
		return nil
	}
	size, events := t.encoder.size(), t.encoder.events
	object, sum := t.encoder.finish()
	c := &cut{
		First: t.first, To: t.at, Instant: t.oldest.UTC(),
		Key: t.a.objects.format(t.oldest, "", randomString) + objectName(t.a.o.From.Name(), t.partition, t.first, t.at,
			extension(t.a.c.Format, t.a.c.Compression)),
		Format: t.a.c.Format, Compression: t.a.c.Compression, Layout: objectLayout,
		Events: events, Bytes: size, SHA256: sum,
	}
	if err := t.deliver(ctx, c, object); err != nil {
		return err
	}
	t.encoder.reset()
	t.a.o.Metrics.lag.set(t.a.name, t.partition, time.Time{})
	return nil
}

// deliverFailure delivers an error object, and everything before it is delivered already.
func (t *task) deliverFailure(ctx context.Context, f failure, instant time.Time) error {
	f.Stream, f.Partition = t.a.o.From.Name(), t.partition
	line, err := json.Marshal(f)
	if err != nil {
		return millrace.Errorf(millrace.Internal, "encode error object", "%w", err)
	}
	e := newEncoder(formatNDJSON, t.a.c.Compression)
	e.add(line, false)
	size := e.size()
	object, sum := e.finish()
	return t.deliver(ctx, &cut{
		First: f.After, To: f.To, Instant: instant.UTC(), Failure: true,
		Key: t.a.failures.format(instant, f.Type, randomString) + objectName(f.Stream, f.Partition, f.After, f.To,
			extension(formatNDJSON, t.a.c.Compression)),
		Format: formatNDJSON, Compression: t.a.c.Compression, Layout: objectLayout,
		Bytes: size, SHA256: sum,
	}, object)
}

// deliver takes a cut from its record to the new position.
func (t *task) deliver(ctx context.Context, c *cut, object []byte) error {
	if err := t.save(ctx, record{Position: t.record.Position, Cut: c}); err != nil {
		return err
	}
	t.a.o.Step("archive.cut-recorded")
	return t.complete(ctx, c, object)
}

// complete puts the object of a recorded cut and moves the position.
func (t *task) complete(ctx context.Context, c *cut, object []byte) error {
	if err := t.put(ctx, c, object); err != nil {
		return err
	}
	t.a.o.Step("archive.object-put")
	m := t.a.o.Metrics
	m.objects.WithLabelValues(t.a.name).Inc()
	m.events.WithLabelValues(t.a.name).Add(float64(c.Events))
	m.bytes.WithLabelValues(t.a.name, "in").Add(float64(c.Bytes))
	m.bytes.WithLabelValues(t.a.name, "out").Add(float64(len(object)))
	return t.moveOn(ctx, c)
}

func (t *task) moveOn(ctx context.Context, c *cut) error {
	if err := t.save(ctx, record{Position: c.To}); err != nil {
		return err
	}
	t.hold()
	t.a.o.Step("archive.position-saved")
	t.log.LogAttrs(ctx, slog.LevelDebug, "object archived",
		slog.String("key", c.Key), slog.Int64("events", c.Events), slog.Int64("bytes", c.Bytes))
	return nil
}

func (t *task) put(ctx context.Context, c *cut, object []byte) error {
	contentType := "application/octet-stream"
	switch {
	case c.Compression == compressionGzip:
		// Not an encoding of something else: readers expect what a name with .gz says.
		contentType = "application/gzip"
	case c.Format == formatNDJSON:
		contentType = "application/x-ndjson"
	}
	options := millrace.PutOptions{ContentType: contentType, Metadata: map[string]string{
		"layout": strconv.Itoa(c.Layout),
		"events": strconv.FormatInt(c.Events, 10),
		"bytes":  strconv.FormatInt(c.Bytes, 10),
		"sha256": c.SHA256,
	}}
	return t.retry(ctx, "put an object", func() error {
		err := t.a.o.To.Put(ctx, c.Key, func() (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(object)), nil
		}, options)
		if !errors.Is(err, millrace.ErrExists) {
			return err
		}
		there, err := t.present(ctx, c)
		if err == nil && !there {
			err = millrace.Errorf(millrace.Unavailable, fmt.Sprintf("put object %q", c.Key), "it existed, and was deleted meanwhile")
		}
		return err
	})
}

// present says whether a cut's object is there, and fails with Conflict if another is under its key.
func (t *task) present(ctx context.Context, c *cut) (bool, error) {
	o, err := t.a.o.To.Stat(ctx, c.Key)
	if millrace.CodeOf(err) == millrace.NotFound {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	sum := o.Metadata["sha256"]
	if sum == "" {
		if sum, err = t.checksum(ctx, c); err != nil {
			return false, err
		}
	}
	if sum != c.SHA256 {
		return false, millrace.Errorf(millrace.Conflict, fmt.Sprintf("put object %q", c.Key),
			"it exists with other content (SHA-256 before compression %s, want %s) and is left as it is: another archive writes "+
				"under this prefix, or this archive's state was lost; give the archive a prefix of its own", sum, c.SHA256)
	}
	return true, nil
}

// checksum reads an object whose store keeps no metadata.
func (t *task) checksum(ctx context.Context, c *cut) (string, error) {
	object, err := t.a.o.To.Get(ctx, c.Key, 0, -1)
	if err != nil {
		return "", err
	}
	defer object.Close()
	var r io.Reader = object
	if c.Compression == compressionGzip {
		if r, err = gzip.NewReader(object); err != nil {
			return "none, it is no gzip", nil //nolint:nilerr // it is another object, whatever it may be
		}
	}
	sum := sha256.New()
	n, err := io.Copy(sum, io.LimitReader(r, c.Bytes+1))
	switch {
	case errors.Is(err, gzip.ErrHeader), errors.Is(err, gzip.ErrChecksum), errors.Is(err, io.ErrUnexpectedEOF):
		return "none, it is no whole gzip", nil
	case err != nil:
		return "", millrace.Errorf(millrace.Unavailable, fmt.Sprintf("get object %q", c.Key), "%w", err)
	case n > c.Bytes:
		return "none, it is longer", nil
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// outage waits between tries, longer and longer, and logs where it begins and ends.
type outage struct {
	t     *task
	what  string
	since time.Time
	tries int
}

const (
	firstWait = 100 * time.Millisecond
	maxWait   = 10 * time.Second
)

// wait returns when it is time to try again; false means that trying again makes no sense.
func (o *outage) wait(ctx context.Context, err error) bool {
	m := o.t.a.o.Metrics
	if ctx.Err() != nil {
		return false
	}
	m.errors.WithLabelValues(o.t.a.name).Inc()
	if millrace.CodeOf(err) != millrace.Unavailable {
		return false
	}
	if o.tries++; o.tries == 1 {
		o.since = time.Now()
		o.t.log.LogAttrs(ctx, slog.LevelWarn, "the archive waits, it can't "+o.what, slog.Any("error", err))
	}
	wait := maxWait
	if o.tries < 8 {
		wait = min(maxWait, firstWait<<(o.tries-1))
	}
	wait = wait/2 + rand.N(wait/2) //nolint:gosec // spreads the tries, nothing more
	select {
	case <-time.After(wait):
		m.retries.WithLabelValues(o.t.a.name).Inc()
		return true
	case <-ctx.Done():
		return false
	}
}

func (o *outage) over() {
	if o.tries > 0 {
		o.t.log.LogAttrs(context.Background(), slog.LevelInfo, "the archive goes on, it can "+o.what+" again",
			slog.Int("tries", o.tries), slog.Duration("after", time.Since(o.since)))
	}
	o.tries = 0
}

// retry calls f until it does not fail with Unavailable, or ctx ends.
func (t *task) retry(ctx context.Context, what string, f func() error) error {
	out := outage{t: t, what: what}
	for {
		err := f()
		if err == nil {
			out.over()
			return nil
		}
		if !out.wait(ctx, err) {
			if ctx.Err() != nil {
				return millrace.Errorf(millrace.Unavailable, what, "%w: %w", context.Cause(ctx), err)
			}
			return err
		}
	}
}

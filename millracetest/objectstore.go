package millracetest

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace"
)

// ObjectStore is the conformance suite of millrace.ObjectStore. open returns a store on fresh ground,
// and a function that closes it and opens the same ground again (nil where nothing outlives a store).
func ObjectStore(t *testing.T, open func(t *testing.T) (store millrace.ObjectStore, reopen func() millrace.ObjectStore)) {
	for _, test := range []struct {
		name string
		run  func(t *testing.T, s millrace.ObjectStore)
	}{
		{"Put", objectPut},
		{"Ranges", objectRanges},
		{"Missing", objectMissing},
		{"Exists", objectExists},
		{"ConcurrentPuts", objectConcurrentPuts},
		{"BodyFails", objectBodyFails},
		{"SeenWhole", objectSeenWhole},
		{"BodyAgain", objectBodyAgain},
		{"Keys", objectKeys},
		{"KeyUnderKey", objectKeyUnderKey},
		{"List", objectList},
		{"ListStops", objectListStops},
		{"Delete", objectDelete},
		{"Large", objectLarge},
		{"ContextEnds", objectContextEnds},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, _ := open(t)
			test.run(t, s)
		})
	}
	t.Run("Reopen", func(t *testing.T) {
		s, reopen := open(t)
		if reopen == nil {
			t.Skip("nothing outlives this store")
		}
		putObject(t, s, "a/b", "body")
		s = reopen()
		wantObject(t, s, "a/b", "body")
		if err := s.Put(t.Context(), "a/b", objectBody("other"), millrace.PutOptions{}); !errors.Is(err, millrace.ErrExists) {
			t.Errorf("Put of what was put before: %v, want ErrExists", err)
		}
		wantObjectKeys(t, s, "", "", "a/b")
	})
}

func objectPut(t *testing.T, s millrace.ObjectStore) {
	before := time.Now().Add(-time.Minute)
	bodies := map[string]string{
		"a": "short", "empty": "", "deep/er/and/deeper/still.txt": "below", "deep/er/b": "beside",
		"with space, =+~'()&ü漢.x": "odd", "..a/...b": "dots", "UPPER": "1",
	}
	for key, body := range bodies {
		putObject(t, s, key, body)
	}
	for key, body := range bodies {
		wantObject(t, s, key, body)
		o, err := s.Stat(t.Context(), key)
		if err != nil || o.Key != key || o.Size != int64(len(body)) {
			t.Errorf("Stat(%q) = %+v, %v", key, o, err)
		}
		if o.Modified.Before(before) || o.Modified.After(time.Now().Add(time.Minute)) {
			t.Errorf("Stat(%q): modified %s", key, o.Modified)
		}
	}
	options := millrace.PutOptions{
		ContentType: "text/plain", ContentEncoding: "identity", Metadata: map[string]string{"some-name": "value 1"},
	}
	if err := s.Put(t.Context(), "meta", objectBody("x"), options); err != nil {
		t.Fatal(err)
	}
	if o, err := s.Stat(t.Context(), "meta"); err != nil || o.Metadata != nil && o.Metadata["some-name"] != "value 1" {
		t.Errorf("Stat = %+v, %v: metadata are kept, or there are none", o, err)
	}
}

func objectRanges(t *testing.T, s millrace.ObjectStore) {
	putObject(t, s, "k", "0123456789")
	putObject(t, s, "empty", "")
	for _, r := range []struct {
		offset, n int64
		want      string
	}{
		{0, -1, "0123456789"},
		{0, 10, "0123456789"},
		{0, 4, "0123"},
		{3, 4, "3456"},
		{3, -1, "3456789"},
		{9, 1, "9"},
		{8, 100, "89"},
		{4, 0, ""},
		{10, -1, ""},
		{10, 5, ""},
		{99, -1, ""},
		{99, 1, ""},
	} {
		if got := getObject(t, s, "k", r.offset, r.n); got != r.want {
			t.Errorf("Get(%d, %d) = %q, want %q", r.offset, r.n, got, r.want)
		}
	}
	if got := getObject(t, s, "empty", 0, 5); got != "" {
		t.Errorf("Get of an empty object = %q", got)
	}
	_, err := s.Get(t.Context(), "k", -1, 1)
	wantObjectCode(t, err, millrace.Invalid, "Get from a negative offset")
}

func objectMissing(t *testing.T, s millrace.ObjectStore) {
	putObject(t, s, "dir/file", "x")
	for _, key := range []string{"missing", "dir", "dir/missing", "no/such/directory", "di"} {
		_, err := s.Stat(t.Context(), key)
		wantObjectCode(t, err, millrace.NotFound, "Stat "+key)
		_, err = s.Get(t.Context(), key, 0, -1)
		wantObjectCode(t, err, millrace.NotFound, "Get "+key)
		wantObjectCode(t, s.Delete(t.Context(), key), millrace.NotFound, "Delete "+key)
	}
	wantObject(t, s, "dir/file", "x")
}

func objectExists(t *testing.T, s millrace.ObjectStore) {
	putObject(t, s, "a/k", "first")
	before, err := s.Stat(t.Context(), "a/k")
	if err != nil {
		t.Fatal(err)
	}
	for _, body := range []string{"second", "first", ""} {
		err := s.Put(t.Context(), "a/k", objectBody(body), millrace.PutOptions{})
		if !errors.Is(err, millrace.ErrExists) {
			t.Errorf("Put again: %v, want ErrExists", err)
		}
		wantObjectCode(t, err, millrace.Conflict, "Put again")
	}
	wantObject(t, s, "a/k", "first")
	after, err := s.Stat(t.Context(), "a/k")
	if err != nil || after.Size != before.Size || !after.Modified.Equal(before.Modified) {
		t.Errorf("Stat = %+v, %v, was %+v", after, err, before)
	}
	wantObjectKeys(t, s, "", "", "a/k")
}

// objectConcurrentPuts lets many put one key at once: one wins, and its body is what is there.
func objectConcurrentPuts(t *testing.T, s millrace.ObjectStore) {
	const rounds, writers = 10, 8
	for round := range rounds {
		key := fmt.Sprintf("d%d/k", round)
		var wins atomic.Int32
		var winner atomic.Value
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() {
				body := strings.Repeat(fmt.Sprintf("writer %d;", w), 1000+w)
				switch err := s.Put(t.Context(), key, objectBody(body), millrace.PutOptions{}); {
				case err == nil:
					wins.Add(1)
					winner.Store(body)
				case !errors.Is(err, millrace.ErrExists):
					t.Errorf("Put: %v", err)
				}
			})
		}
		wg.Wait()
		if wins.Load() != 1 {
			t.Fatalf("%d of %d writers created the object, want 1", wins.Load(), writers)
		}
		wantObject(t, s, key, winner.Load().(string))
	}
}

func objectBodyFails(t *testing.T, s millrace.ObjectStore) {
	broken := millrace.Errorf(millrace.Denied, "read body", "broken")
	bodies := map[string]func() (io.ReadCloser, error){
		"at once": func() (io.ReadCloser, error) { return nil, broken },
		"at the first byte": func() (io.ReadCloser, error) {
			return io.NopCloser(&failingReader{err: broken}), nil
		},
		"half-way": func() (io.ReadCloser, error) {
			return io.NopCloser(&failingReader{left: 100_000, err: broken}), nil
		},
	}
	for when, body := range bodies {
		err := s.Put(t.Context(), "a/k", body, millrace.PutOptions{})
		if !errors.Is(err, broken) || millrace.CodeOf(err) != millrace.Denied {
			t.Errorf("Put with a body that fails %s: %v, want the body's error", when, err)
		}
		_, err = s.Stat(t.Context(), "a/k")
		wantObjectCode(t, err, millrace.NotFound, "Stat after a body failed "+when)
		wantObjectKeys(t, s, "", "")
	}
	putObject(t, s, "a/k", "whole")
	wantObject(t, s, "a/k", "whole")
	wantObjectKeys(t, s, "", "", "a/k")
}

type failingReader struct {
	left int
	err  error
}

func (r *failingReader) Read(p []byte) (int, error) {
	if r.left == 0 {
		return 0, r.err
	}
	n := min(len(p), r.left)
	clear(p[:n])
	r.left -= n
	return n, nil
}

// objectSeenWhole looks at the store between the bytes of a body.
func objectSeenWhole(t *testing.T, s millrace.ObjectStore) {
	looks := 0
	look := func() {
		looks++
		if _, err := s.Stat(t.Context(), "a/k"); millrace.CodeOf(err) != millrace.NotFound {
			t.Errorf("Stat while the body is read: %v, want not_found", err)
		}
		if _, err := s.Get(t.Context(), "a/k", 0, -1); millrace.CodeOf(err) != millrace.NotFound {
			t.Errorf("Get while the body is read: %v, want not_found", err)
		}
		wantObjectKeys(t, s, "", "", "b")
	}
	putObject(t, s, "b", "")
	body := strings.Repeat("0123456789", 30_000)
	err := s.Put(t.Context(), "a/k", func() (io.ReadCloser, error) {
		return io.NopCloser(&watchedReader{r: strings.NewReader(body), look: look}), nil
	}, millrace.PutOptions{})
	if err != nil || looks < 2 {
		t.Fatalf("Put: %v, after %d looks", err, looks)
	}
	wantObject(t, s, "a/k", body)
	wantObjectKeys(t, s, "", "", "a/k", "b")
}

type watchedReader struct {
	r    io.Reader
	look func()
}

func (r *watchedReader) Read(p []byte) (int, error) {
	r.look()
	return r.r.Read(p[:min(len(p), 100_000)])
}

// objectBodyAgain puts the same body function under two keys: it is called at least once for each,
// and each reader is closed.
func objectBodyAgain(t *testing.T, s millrace.ObjectStore) {
	var opened, closed int
	body := func() (io.ReadCloser, error) {
		opened++
		return &closeCounter{Reader: strings.NewReader("again"), closed: &closed}, nil
	}
	for _, key := range []string{"a", "b"} {
		if err := s.Put(t.Context(), key, body, millrace.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		wantObject(t, s, key, "again")
	}
	if opened < 2 || opened != closed {
		t.Errorf("%d bodies were opened and %d closed", opened, closed)
	}
}

type closeCounter struct {
	io.Reader
	closed *int
}

func (c *closeCounter) Close() error { *c.closed++; return nil }

func objectKeys(t *testing.T, s millrace.ObjectStore) {
	bad := []string{
		"", "/", "/a", "a/", "a//b", ".", "..", "./a", "a/.", "a/..", "a/../b", "../a", "a/./b", "/etc/passwd",
		"a\x00b", "a\xffb", strings.Repeat("long/", 300) + "x",
	}
	for _, key := range bad {
		what := fmt.Sprintf("%.30q", key)
		wantObjectCode(t, s.Put(t.Context(), key, objectBody("x"), millrace.PutOptions{}), millrace.Invalid, "Put "+what)
		_, err := s.Stat(t.Context(), key)
		wantObjectCode(t, err, millrace.Invalid, "Stat "+what)
		_, err = s.Get(t.Context(), key, 0, -1)
		wantObjectCode(t, err, millrace.Invalid, "Get "+what)
		wantObjectCode(t, s.Delete(t.Context(), key), millrace.Invalid, "Delete "+what)
	}
	wantObjectKeys(t, s, "", "")
	for _, prefix := range []string{"/", "../", "a//", "a/../", "./"} {
		wantObjectKeys(t, s, prefix, "")
	}
}

// objectKeyUnderKey puts "a/b" beside "a". A store of directories can't, and says Invalid; it must not
// say that the key exists.
func objectKeyUnderKey(t *testing.T, s millrace.ObjectStore) {
	putObject(t, s, "a", "1")
	putObject(t, s, "x/y", "2")
	for _, key := range []string{"a/b", "x"} {
		if err := s.Put(t.Context(), key, objectBody("3"), millrace.PutOptions{}); err != nil {
			wantObjectCode(t, err, millrace.Invalid, "Put "+key)
			continue
		}
		wantObject(t, s, key, "3")
	}
	wantObject(t, s, "a", "1")
	wantObject(t, s, "x/y", "2")
}

func objectList(t *testing.T, s millrace.ObjectStore) {
	wantObjectKeys(t, s, "", "")
	wantObjectKeys(t, s, "a/", "")
	// Sorted as bytes: "-" and "." come before "/", "0" and letters after it, upper case before lower.
	keys := []string{
		"Z", "a-b", "a.b", "a/b-", "a/b/c", "a/b0", "a0", "b/2026/01/31/23/x", "b/2026/02/01/00/x", "é",
	}
	for i := range keys {
		putObject(t, s, keys[i*3%len(keys)], fmt.Sprint(i)) // 3 and their number have no common divisor
	}
	wantObjectKeys(t, s, "", "", keys...)
	for _, prefix := range []string{"a", "a/", "a/b", "a/b/", "a/b/c", "a/b/cd", "b/2026/0", "b/2026/01/31", "Z", "ZZ", "é", "\xc3"} {
		for _, after := range []string{
			"", "a", "a-", "a/", "a/b", "a/b-", "a/b/", "a/b/c", "a0", "b/2026/01/31/23/x", "b/2026/01/31/24", "b", "c", "\xff",
		} {
			var want []string
			for _, key := range keys {
				if strings.HasPrefix(key, prefix) && key > after {
					want = append(want, key)
				}
			}
			wantObjectKeys(t, s, prefix, after, want...)
		}
	}
	for o, err := range s.List(t.Context(), "b/2026/02", "") {
		if err != nil || o.Size != 1 || o.Modified.IsZero() {
			t.Errorf("List yields %+v, %v", o, err)
		}
	}
}

func objectListStops(t *testing.T, s millrace.ObjectStore) {
	for i := range 20 {
		putObject(t, s, fmt.Sprintf("d%d/k%d", i/5, i%5), "")
	}
	n := 0
	for _, err := range s.List(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		if n++; n == 7 {
			break
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var last error
	for _, err := range s.List(ctx, "", "") {
		last = err
	}
	wantObjectCode(t, last, millrace.Unavailable, "List after the context ended")
}

func objectDelete(t *testing.T, s millrace.ObjectStore) {
	putObject(t, s, "a/k", "1")
	putObject(t, s, "a/l", "2")
	if err := s.Delete(t.Context(), "a/k"); err != nil {
		t.Fatal(err)
	}
	wantObjectCode(t, s.Delete(t.Context(), "a/k"), millrace.NotFound, "Delete again")
	wantObjectKeys(t, s, "", "", "a/l")
	putObject(t, s, "a/k", "3")
	wantObject(t, s, "a/k", "3")
	if err := s.Delete(t.Context(), "a/k"); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(t.Context(), "a/l"); err != nil {
		t.Fatal(err)
	}
	wantObjectKeys(t, s, "", "")
}

func objectLarge(t *testing.T, s millrace.ObjectStore) {
	body := make([]byte, 20<<20)
	for i := range body {
		body[i] = byte(i ^ i>>8 ^ i>>16)
	}
	err := s.Put(t.Context(), "large", func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(body)), nil
	}, millrace.PutOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got := getObject(t, s, "large", 0, -1); got != string(body) {
		t.Error("a large object differs")
	}
	if got := getObject(t, s, "large", 10<<20, 1000); got != string(body[10<<20:10<<20+1000]) {
		t.Error("a range of a large object differs")
	}
}

func objectContextEnds(t *testing.T, s millrace.ObjectStore) {
	ctx, cancel := context.WithCancel(t.Context())
	body := func() (io.ReadCloser, error) {
		return io.NopCloser(&watchedReader{r: bytes.NewReader(make([]byte, 1<<20)), look: cancel}), nil
	}
	wantObjectCode(t, s.Put(ctx, "k", body, millrace.PutOptions{}), millrace.Unavailable, "Put whose context ends half-way")
	wantObjectCode(t, s.Put(ctx, "k", objectBody("x"), millrace.PutOptions{}), millrace.Unavailable, "Put after its context ended")
	wantObjectKeys(t, s, "", "")
}

func objectBody(body string) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(body)), nil }
}

func putObject(t *testing.T, s millrace.ObjectStore, key, body string) {
	t.Helper()
	if err := s.Put(t.Context(), key, objectBody(body), millrace.PutOptions{}); err != nil {
		t.Fatalf("Put(%q): %v", key, err)
	}
}

func getObject(t testing.TB, s millrace.ObjectStore, key string, offset, n int64) string {
	t.Helper()
	r, err := s.Get(t.Context(), key, offset, n)
	if err != nil {
		t.Fatalf("Get(%q): %v", key, err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("Get(%q): %v", key, err)
	}
	return string(b)
}

func wantObject(t *testing.T, s millrace.ObjectStore, key, body string) {
	t.Helper()
	if got := getObject(t, s, key, 0, -1); got != body {
		t.Errorf("object %q is %.60q, want %.60q", key, got, body)
	}
}

func wantObjectKeys(t *testing.T, s millrace.ObjectStore, prefix, after string, want ...string) {
	t.Helper()
	var got []string
	for o, err := range s.List(t.Context(), prefix, after) {
		if err != nil {
			t.Fatalf("List(%q, %q): %v", prefix, after, err)
		}
		got = append(got, o.Key)
	}
	if !slices.Equal(got, want) {
		t.Errorf("List(%q, %q) = %q, want %q", prefix, after, got, want)
	}
}

// ArchivedObject is an object of an archive, read back.
type ArchivedObject struct {
	Key   string
	Lines []string // for the format ndjson: one for each event; a single one for raw
}

// ReadArchive reads back what an archive wrote under a prefix, sorted by key. It decompresses keys
// that end with .gz, and fails the test if an object can't be read, is empty, or if its last line is cut off.
func ReadArchive(t testing.TB, s millrace.ObjectStore, prefix string) []ArchivedObject {
	t.Helper()
	var objects []ArchivedObject
	for o, err := range s.List(t.Context(), prefix, "") {
		if err != nil {
			t.Fatalf("read archive: %v", err)
		}
		body := getObject(t, s, o.Key, 0, -1)
		name := o.Key
		if plain, ok := strings.CutSuffix(name, ".gz"); ok {
			name = plain
			z, err := gzip.NewReader(strings.NewReader(body))
			if err != nil {
				t.Fatalf("read archive: object %q: %v", o.Key, err)
			}
			b, err := io.ReadAll(z)
			if err != nil {
				t.Fatalf("read archive: object %q: %v", o.Key, err)
			}
			body = string(b)
		}
		lines := []string{body}
		if strings.HasSuffix(name, ".ndjson") {
			if !strings.HasSuffix(body, "\n") {
				t.Fatalf("read archive: object %q does not end with a line", o.Key)
			}
			lines = strings.Split(strings.TrimSuffix(body, "\n"), "\n")
		}
		objects = append(objects, ArchivedObject{Key: o.Key, Lines: lines})
	}
	return objects
}

func wantObjectCode(t *testing.T, err error, code millrace.Code, what string) {
	t.Helper()
	if millrace.CodeOf(err) != code {
		t.Errorf("%s: %v (%s), want %s", what, err, millrace.CodeOf(err), code)
	}
}

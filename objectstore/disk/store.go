// Package disk keeps objects as files under a directory.
//
// # On disk
//
// An object's key is its file's path below the directory; slashes separate directories. Nothing but
// the body is kept: no content type, no metadata, so that the files are what any other program
// expects to find. Directories that Delete has emptied stay.
//
// A body is first written to a file under .millrace-tmp, which no key can name and List does not
// show, and made durable there. It is then linked to its final name, which the file system refuses if
// that name is taken. So no half-written file ever bears an object's name, and none is overwritten.
// What a crash leaves in .millrace-tmp is removed by the next Open.
package disk

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/millrace/millrace"
)

// Store is a millrace.ObjectStore over a directory. Several Stores, also of several processes, may
// share a directory.
type Store struct {
	root *os.Root
	temp *flock                      // shared while the Store is open: its temporary files are in use
	link func(from, to string) error // root.Link, unless a test wants to see what happens without

	mu      sync.Mutex
	durable map[string]bool // directories whose entries in their parents are known to be durable
}

const (
	tempDir  = ".millrace-tmp"
	tempLock = tempDir + "/lock"   // held shared by open Stores, exclusively by the one that cleans up
	moveLock = tempDir + "/rename" // held while an object is renamed into place, where links are missing

	// maxKey is S3's limit, so that what one store takes the other takes too.
	maxKey = 1024
	// maxDurable bounds Store.durable; beyond it the Store forgets and syncs anew.
	maxDurable = 10_000
)

var _ millrace.ObjectStore = (*Store)(nil)

// Open opens the store in a directory and creates the directory where it is missing. It fails with
// Unavailable, Denied, or Invalid if dir is not a directory.
func Open(dir string) (*Store, error) {
	op := fmt.Sprintf("open archive directory %q", dir)
	if err := makeDir(dir); err != nil {
		return nil, failed(op, err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, failed(op, err)
	}
	s := &Store{root: root, link: root.Link, durable: map[string]bool{".": true}}
	if err := s.cleanUp(); err != nil {
		_ = root.Close()
		return nil, failed(op, err)
	}
	return s, nil
}

// cleanUp removes the temporary files of Stores that are gone. While another Store is open it leaves
// them: they may be in use, and that Store has cleaned up itself.
func (s *Store) cleanUp() error {
	if err := s.root.Mkdir(tempDir, 0o750); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	lock, err := openFlock(s.root, tempLock)
	if err != nil {
		return err
	}
	alone, err := lock.tryExclusive()
	if err == nil && alone {
		err = s.removeTemporary()
	}
	if err == nil {
		err = lock.shared()
	}
	if err != nil {
		return errors.Join(err, lock.Close())
	}
	s.temp = lock
	return nil
}

func (s *Store) removeTemporary() error {
	entries, err := fs.ReadDir(s.root.FS(), tempDir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if name := path.Join(tempDir, entry.Name()); name != tempLock && name != moveLock {
			if err := s.root.RemoveAll(name); err != nil {
				return err
			}
		}
	}
	return nil
}

// Close releases the directory. Readers that Get returned stay usable.
func (s *Store) Close() error {
	return errors.Join(s.temp.Close(), s.root.Close())
}

// Put implements millrace.ObjectStore. It keeps none of the options.
func (s *Store) Put(ctx context.Context, key string, body func() (io.ReadCloser, error), _ millrace.PutOptions) error {
	op := fmt.Sprintf("put object %q", key)
	if err := checkKey(op, key); err != nil {
		return err
	}
	if _, err := s.root.Lstat(key); err == nil { // save the work of writing what would be refused
		return s.taken(op, key)
	}
	temporary := path.Join(tempDir, rand.Text())
	if err := s.write(ctx, op, temporary, body); err != nil {
		_ = s.root.Remove(temporary)
		return err
	}
	err := s.makeParents(path.Dir(key))
	if err == nil {
		err = s.place(temporary, key)
	}
	if errors.Is(err, fs.ErrNotExist) { // someone removed a directory that we had made
		s.forget()
		if err = s.makeParents(path.Dir(key)); err == nil {
			err = s.place(temporary, key)
		}
	}
	// A temporary name that can't be removed costs no space, and the next Open tries again.
	_ = s.root.Remove(temporary)
	switch {
	case errors.Is(err, fs.ErrExist):
		return s.taken(op, key)
	case err != nil:
		return failed(op, err)
	}
	if err := s.syncDir(path.Dir(key)); err != nil {
		return failed(op, err)
	}
	return nil
}

// taken returns why a key's name is taken. An object that is there may be one whose directory entry
// its writer did not live to make durable, so that is done here.
func (s *Store) taken(op, key string) error {
	info, err := s.root.Lstat(key)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return millrace.Errorf(millrace.Unavailable, op, "the object was deleted meanwhile")
	case err != nil:
		return failed(op, err)
	case info.IsDir():
		return millrace.Errorf(millrace.Invalid, op, "other objects lie under %q, so it can't be an object itself", key+"/")
	}
	if err := s.makeParents(path.Dir(key)); err != nil {
		return failed(op, err)
	}
	if err := s.syncDir(path.Dir(key)); err != nil {
		return failed(op, err)
	}
	return fmt.Errorf("object %q: %w", key, millrace.ErrExists)
}

// write makes a durable file of a body.
func (s *Store) write(ctx context.Context, op, name string, body func() (io.ReadCloser, error)) (err error) {
	if ctx.Err() != nil {
		return millrace.Errorf(millrace.Unavailable, op, "%w", context.Cause(ctx))
	}
	r, err := body()
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	defer r.Close()
	f, err := s.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o640)
	if errors.Is(err, fs.ErrNotExist) { // someone tidied the directory up
		if err = s.root.Mkdir(tempDir, 0o750); err == nil || errors.Is(err, fs.ErrExist) {
			f, err = s.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o640)
		}
	}
	if err != nil {
		return failed(op, err)
	}
	source := &bodyReader{ctx: ctx, r: r}
	_, err = io.Copy(f, source)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	switch {
	case source.err != nil && ctx.Err() != nil:
		return millrace.Errorf(millrace.Unavailable, op, "%w", source.err)
	case source.err != nil:
		return fmt.Errorf("%s: %w", op, source.err) // with the code that it has
	case err != nil:
		return failed(op, err)
	}
	return nil
}

// bodyReader keeps a body's error apart from the file's, and ends with the context.
type bodyReader struct {
	ctx context.Context //nolint:containedctx // lives as long as one call of write
	r   io.Reader
	err error
}

func (b *bodyReader) Read(p []byte) (int, error) {
	if b.ctx.Err() != nil {
		b.err = context.Cause(b.ctx)
		return 0, b.err
	}
	n, err := b.r.Read(p)
	if err != nil && err != io.EOF { //nolint:errorlint // io.Reader promises io.EOF itself
		b.err = err
	}
	return n, err
}

// place gives a temporary file its final name, unless that is taken (fs.ErrExist).
func (s *Store) place(temporary, key string) error {
	err := s.link(temporary, key)
	if !noLinks(err) {
		return err
	}
	// No links here (FAT, some network file systems): look and rename, under a lock that all who do
	// so take.
	lock, err := openFlock(s.root, moveLock)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := lock.exclusive(); err != nil {
		return err
	}
	switch _, err := s.root.Lstat(key); {
	case err == nil:
		return fs.ErrExist
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	return s.root.Rename(temporary, key)
}

// makeParents makes a directory and those above it, with durable entries. Whether a directory that
// is there was made durable by whoever made it can't be seen, so each is synced once per Store.
func (s *Store) makeParents(dir string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.durable[dir] {
		return nil
	}
	if err := s.root.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	if len(s.durable) > maxDurable {
		s.durable = map[string]bool{".": true}
	}
	for d := dir; !s.durable[d]; d = path.Dir(d) {
		if err := s.syncDir(path.Dir(d)); err != nil {
			return err
		}
	}
	for d := dir; !s.durable[d]; d = path.Dir(d) {
		s.durable[d] = true
	}
	return nil
}

func (s *Store) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.durable = map[string]bool{".": true}
}

func (s *Store) syncDir(dir string) error {
	if runtime.GOOS == "windows" { // which knows no such thing
		return nil
	}
	d, err := s.root.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Stat implements millrace.ObjectStore.
func (s *Store) Stat(_ context.Context, key string) (millrace.Object, error) {
	op := fmt.Sprintf("stat object %q", key)
	if err := checkKey(op, key); err != nil {
		return millrace.Object{}, err
	}
	info, err := s.root.Lstat(key)
	if err != nil {
		return millrace.Object{}, failed(op, err)
	}
	if !info.Mode().IsRegular() {
		return millrace.Object{}, millrace.Errorf(millrace.NotFound, op, "it is no file")
	}
	return object(key, info), nil
}

func object(key string, info fs.FileInfo) millrace.Object {
	return millrace.Object{Key: key, Size: info.Size(), Modified: info.ModTime()}
}

// Get implements millrace.ObjectStore. Reading from beyond the end yields nothing.
func (s *Store) Get(_ context.Context, key string, offset, n int64) (io.ReadCloser, error) {
	op := fmt.Sprintf("get object %q", key)
	if err := checkKey(op, key); err != nil {
		return nil, err
	}
	if offset < 0 {
		return nil, millrace.Errorf(millrace.Invalid, op, "the offset %d is negative", offset)
	}
	if info, err := s.root.Lstat(key); err != nil {
		return nil, failed(op, err)
	} else if !info.Mode().IsRegular() {
		return nil, millrace.Errorf(millrace.NotFound, op, "it is no file")
	}
	f, err := s.root.Open(key)
	if err != nil {
		return nil, failed(op, err)
	}
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		return nil, errors.Join(failed(op, err), f.Close())
	}
	if n < 0 {
		return f, nil
	}
	return struct {
		io.Reader
		io.Closer
	}{io.LimitReader(f, n), f}, nil
}

// List implements millrace.ObjectStore. It holds one directory's entries for each level in memory.
func (s *Store) List(ctx context.Context, prefix, after string) iter.Seq2[millrace.Object, error] {
	return func(yield func(millrace.Object, error) bool) {
		dir := prefix[:strings.LastIndexByte(prefix, '/')+1]
		if dir != "" && checkKey("", dir+"x") != nil {
			return // nothing can lie there
		}
		l := lister{s: s, ctx: ctx, prefix: prefix, after: after, yield: yield}
		l.list(dir)
	}
}

type lister struct {
	s             *Store
	ctx           context.Context //nolint:containedctx // lives as long as one call of List
	prefix, after string
	yield         func(millrace.Object, error) bool
}

// list yields what lies below a directory, whose path is empty or ends with a slash, and says whether
// to go on.
func (l *lister) list(dir string) bool {
	if l.ctx.Err() != nil {
		return l.fail(dir, context.Cause(l.ctx))
	}
	entries, err := fs.ReadDir(l.s.root.FS(), path.Clean(dir+"."))
	switch {
	case errors.Is(err, fs.ErrNotExist), notDirectory(err):
		return true
	case err != nil:
		return l.fail(dir, err)
	}
	// As bytes, all that lies below "a" sorts as "a/", so "a-b" comes before it and "a0" after.
	name := func(e fs.DirEntry) string {
		if e.IsDir() {
			return dir + e.Name() + "/"
		}
		return dir + e.Name()
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return cmp.Compare(name(a), name(b)) })
	for _, entry := range entries {
		key := name(entry)
		switch {
		case entry.IsDir():
			if key == tempDir+"/" ||
				!strings.HasPrefix(key, l.prefix) && !strings.HasPrefix(l.prefix, key) ||
				key < l.after && !strings.HasPrefix(l.after, key) {
				continue
			}
			if !l.list(key) {
				return false
			}
		case entry.Type().IsRegular() && strings.HasPrefix(key, l.prefix) && key > l.after:
			info, err := entry.Info()
			if errors.Is(err, fs.ErrNotExist) {
				continue // deleted meanwhile
			}
			if err != nil {
				return l.fail(key, err)
			}
			if !l.yield(object(key, info), nil) {
				return false
			}
		}
	}
	return true
}

func (l *lister) fail(name string, err error) bool {
	l.yield(millrace.Object{}, failed(fmt.Sprintf("list objects in %q", name), err))
	return false
}

// Delete implements millrace.ObjectStore.
func (s *Store) Delete(_ context.Context, key string) error {
	op := fmt.Sprintf("delete object %q", key)
	if err := checkKey(op, key); err != nil {
		return err
	}
	if info, err := s.root.Lstat(key); err != nil {
		return failed(op, err)
	} else if info.IsDir() {
		return millrace.Errorf(millrace.NotFound, op, "it is a directory")
	}
	if err := s.root.Remove(key); err != nil {
		return failed(op, err)
	}
	if err := s.syncDir(path.Dir(key)); err != nil {
		return failed(op, err)
	}
	return nil
}

// checkKey fails with Invalid if a key is not one that every file system can keep under its own name.
func checkKey(op, key string) error {
	invalid := func(why string) error {
		return millrace.Errorf(millrace.Invalid, op, "the key %s", why)
	}
	switch {
	case key == "":
		return invalid("is empty")
	case len(key) > maxKey:
		return invalid(fmt.Sprintf("has %d bytes, the limit is %d", len(key), maxKey))
	case !utf8.ValidString(key) || strings.IndexByte(key, 0) >= 0:
		return invalid("must be UTF-8 without NUL")
	case runtime.GOOS == "windows" && strings.IndexByte(key, '\\') >= 0:
		return invalid("holds a backslash, which separates directories here")
	}
	for segment := range strings.SplitSeq(key, "/") {
		if segment == "" || segment == "." || segment == ".." {
			return invalid(fmt.Sprintf("has the segment %q", segment))
		}
		if len(segment) > 255 {
			return invalid(fmt.Sprintf("has a segment of %d bytes, a file name's limit is 255", len(segment)))
		}
	}
	if !filepath.IsLocal(filepath.FromSlash(key)) {
		return invalid("is no path of this system")
	}
	if first, _, _ := strings.Cut(key, "/"); strings.EqualFold(first, tempDir) {
		return invalid(fmt.Sprintf("begins with %s, where unfinished objects lie", tempDir))
	}
	return nil
}

// makeDir makes a directory and those above it, with durable entries.
func makeDir(dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if info, err := os.Stat(dir); err == nil && info.IsDir() {
		return nil
	}
	var made []string
	for d := dir; ; d = filepath.Dir(d) {
		if _, err := os.Lstat(d); err == nil || d == filepath.Dir(d) {
			break
		}
		made = append(made, d)
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	if runtime.GOOS == "windows" {
		return nil
	}
	for _, d := range made {
		parent, err := os.Open(filepath.Dir(d))
		if err != nil {
			return err
		}
		if err := errors.Join(parent.Sync(), parent.Close()); err != nil {
			return err
		}
	}
	return nil
}

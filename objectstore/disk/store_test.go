package disk_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/millracetest"
	"github.com/millrace/millrace/objectstore/disk"
)

func open(t testing.TB, dir string) *disk.Store {
	t.Helper()
	s, err := disk.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func body(s string) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(s)), nil }
}

func TestConformance(t *testing.T) {
	for name, without := range map[string]func(*disk.Store){
		"links":    func(*disk.Store) {},
		"no links": disk.WithoutLinks,
	} {
		t.Run(name, func(t *testing.T) {
			millracetest.ObjectStore(t, func(t *testing.T) (millrace.ObjectStore, func() millrace.ObjectStore) {
				dir := filepath.Join(t.TempDir(), "made", "here")
				s := open(t, dir)
				without(s)
				return s, func() millrace.ObjectStore {
					if err := s.Close(); err != nil {
						t.Error(err)
					}
					s := open(t, dir)
					without(s)
					return s
				}
			})
		})
	}
}

// TestOpenCleansUp leaves behind what a crash would.
func TestOpenCleansUp(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	if err := s.Put(t.Context(), "a/b", body("x"), millrace.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := temporary(t, dir); len(got) != 0 {
		t.Fatalf("Put left %q", got)
	}
	left := filepath.Join(dir, ".millrace-tmp", "LEFT")
	if err := os.WriteFile(left, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}

	// While a Store is open its temporary files may be in use, and a second one leaves them alone.
	second := open(t, dir)
	if got := temporary(t, dir); len(got) != 1 {
		t.Fatalf("a second Store removed what the first may be writing: %q is left", got)
	}
	if err := errors.Join(s.Close(), second.Close()); err != nil {
		t.Fatal(err)
	}

	third := open(t, dir)
	if got := temporary(t, dir); len(got) != 0 {
		t.Errorf("Open left %q", got)
	}
	if _, err := third.Stat(t.Context(), "a/b"); err != nil {
		t.Error(err)
	}
}

func temporary(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(dir, ".millrace-tmp"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if e.Name() != "lock" && e.Name() != "rename" {
			names = append(names, e.Name())
		}
	}
	return names
}

func TestTemporaryDirectoryIsNoKey(t *testing.T) {
	s := open(t, t.TempDir())
	for _, key := range []string{".millrace-tmp", ".millrace-tmp/lock", ".Millrace-TMP/x"} {
		if err := s.Put(t.Context(), key, body("x"), millrace.PutOptions{}); millrace.CodeOf(err) != millrace.Invalid {
			t.Errorf("Put(%q): %v, want invalid", key, err)
		}
	}
	for o, err := range s.List(t.Context(), ".mill", "") {
		t.Errorf("List yields %q, %v", o.Key, err)
	}
}

func TestSurvivesTidying(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	for range 2 {
		if err := s.Put(t.Context(), "a/b/c", body("x"), millrace.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"a", ".millrace-tmp"} {
			if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestStaysInside follows a link that leads out of the directory.
func TestStaysInside(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("making symbolic links needs a privilege on Windows")
	}
	outside, dir := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(dir, "out")); err != nil {
		t.Fatal(err)
	}
	s := open(t, dir)
	if _, err := s.Get(t.Context(), "out/secret", 0, -1); err == nil {
		t.Error("Get left the directory")
	}
	if err := s.Put(t.Context(), "out/new", body("x"), millrace.PutOptions{}); err == nil {
		t.Error("Put left the directory")
	}
	if _, err := os.Stat(filepath.Join(outside, "new")); !errors.Is(err, fs.ErrNotExist) {
		t.Error("Put left the directory:", err)
	}
	for o, err := range s.List(t.Context(), "", "") {
		t.Errorf("List yields %q, %v", o.Key, err)
	}
}

func TestOpenFails(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{file, filepath.Join(file, "below")} {
		if _, err := disk.Open(dir); millrace.CodeOf(err) != millrace.Invalid {
			t.Errorf("Open(%q): %v (%s), want invalid", dir, err, millrace.CodeOf(err))
		} else if !strings.Contains(err.Error(), dir) {
			t.Errorf("%q does not name the directory", err)
		}
	}
}

// TestDiskFull fills a small file system.
func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	if runtime.GOOS != "linux" {
		t.Skip("mounts a tmpfs")
	}
	if out, err := exec.CommandContext(t.Context(), "mount", "-t", "tmpfs", "-o", "size=1m", "none", dir).CombinedOutput(); err != nil {
		t.Skipf("needs a small tmpfs, and mounting it failed (needs root): %v %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.CommandContext(context.Background(), "umount", "-l", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v %s", err, out)
		}
	})
	s := open(t, dir)
	big := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(make([]byte, 4<<20))), nil }
	err := s.Put(t.Context(), "a/big", big, millrace.PutOptions{})
	if millrace.CodeOf(err) != millrace.Unavailable || !strings.Contains(err.Error(), "disk is full: free some space") {
		t.Errorf("Put on a full disk: %v", err)
	}
	if _, err := s.Stat(t.Context(), "a/big"); millrace.CodeOf(err) != millrace.NotFound {
		t.Errorf("Stat of what did not fit: %v", err)
	}
	if got := temporary(t, dir); len(got) != 0 {
		t.Errorf("Put left %q", got)
	}
	if err := s.Put(t.Context(), "a/small", body("x"), millrace.PutOptions{}); err != nil {
		t.Errorf("Put of what fits: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func BenchmarkPut(b *testing.B) {
	s := open(b, b.TempDir())
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // 1 MiB
	b.SetBytes(int64(len(data)))
	for i := 0; b.Loop(); i++ {
		key := "d/" + strings.Repeat("k", i%200) + string(rune('a'+i/200))
		err := s.Put(b.Context(), key, func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }, millrace.PutOptions{})
		if err != nil && !errors.Is(err, millrace.ErrExists) {
			b.Fatal(err)
		}
	}
}

//go:build linux

package nats_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/stream/nats"
)

// smallDisk mounts a tmpfs of some bytes.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root may mount a small file system")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("no small file system: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// checkEvery is how often the engine looks at the free space.
const checkEvery = 110 * time.Millisecond

// fill takes all the space and returns the file that does.
func fill(t *testing.T, dir string) string {
	t.Helper()
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		t.Fatal(err)
	}
	ballast, err := os.Create(filepath.Join(dir, "ballast"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ballast.Close() }()
	if err := unix.Fallocate(int(ballast.Fd()), 0, 0, int64(s.Bavail)*s.Bsize); err != nil {
		t.Fatal(err)
	}
	return ballast.Name()
}

// TestDiskFull fills the disk up to the reserve: appends are refused without harm, and go on when
// there is space.
func TestDiskFull(t *testing.T) {
	dir := smallDisk(t, "40m")
	options := nats.Options{DataDir: dir, Logger: logger(t)}
	options.Config.Embedded = &nats.Embedded{Reserve: 8 << 20}
	e := openEngine(t, options)
	s, err := e.Stream(t.Context(), "positions", nats.StreamConfig{Partitions: 1})
	if err != nil {
		t.Fatal(err)
	}
	flush, at := uint64(0), millrace.Position{}
	appendOne := func() error {
		next, err := s.Append(t.Context(), "0", at, encode(t, "source/a", flush+1, noise(100_000)))
		if err == nil {
			flush, at = flush+1, next
		}
		return err
	}
	for err == nil {
		err = appendOne()
	}
	if millrace.CodeOf(err) != millrace.Unavailable || !strings.Contains(err.Error(), "disk full") {
		t.Fatalf("Append = %v; want disk full, Unavailable", err)
	}
	if flush < 100 || flush > 340 {
		t.Errorf("refused after %d blocks of 100 kB; 32 MB were free", flush)
	}
	state, err := e.State(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := state.Save(t.Context(), "x", 0, func(w io.Writer) error {
		_, err := w.Write(noise(200_000))
		return err
	}); millrace.CodeOf(err) != millrace.Unavailable {
		t.Errorf("Save = %v", err)
	}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT, "size=60m"); err != nil {
		t.Fatal(err)
	}
	time.Sleep(checkEvery)
	if err := appendOne(); err != nil {
		t.Errorf("Append when there is space again: %v", err)
	}
	wantFlushes(t, s, flush)
}

// TestDiskReallyFull takes away even the reserve, so that JetStream fails to write. It stays stuck when
// there is space again; the engine starts it anew.
func TestDiskReallyFull(t *testing.T) {
	dir := smallDisk(t, "40m")
	options := nats.Options{DataDir: dir, Logger: logger(t)}
	options.Config.Embedded = &nats.Embedded{Reserve: 1} // as good as none
	e := openEngine(t, options)
	s, err := e.Stream(t.Context(), "positions", nats.StreamConfig{Partitions: 1})
	if err != nil {
		t.Fatal(err)
	}
	data := noise(300_000)
	flush, at := uint64(0), millrace.Position{}
	for range 10 {
		flush++
		if at, err = s.Append(t.Context(), "0", at, encode(t, "source/a", flush, data)); err != nil {
			t.Fatal(err)
		}
	}
	live := make(chan uint64, 100)
	ended := make(chan struct{})
	go func() { // a reader survives it
		defer close(ended)
		for b, err := range s.Read(t.Context(), "0", millrace.Position{}) {
			if err != nil {
				if !errors.Is(err, t.Context().Err()) {
					t.Error(err)
				}
				return
			}
			live <- b.Header.Flush
			if b.Header.Cursor == "last" {
				return
			}
		}
	}()
	// The engine knows the free space of the last 100 ms, and would refuse the append by itself if the
	// disk were full for longer.
	var ballast string
	for attempt := 0; ; attempt++ {
		flush++
		if at, err = s.Append(t.Context(), "0", at, encode(t, "source/a", flush, noise(1000))); err != nil {
			t.Fatal(err)
		}
		ballast = fill(t, dir)
		_, err = s.Append(t.Context(), "0", at, encode(t, "source/a", flush+1, data))
		if millrace.CodeOf(err) != millrace.Unavailable {
			t.Fatalf("Append = %v", err)
		}
		if !strings.Contains(err.Error(), "disk full") {
			break // its outcome was unknown: the server says nothing
		}
		if attempt == 50 {
			t.Skip("this machine is too slow to fill the disk within 100 ms")
		}
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
		time.Sleep(checkEvery)
	}
	t.Log(err)
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	freed := time.Now()
	for {
		flush++
		_, err := s.Append(t.Context(), "0", at, encode(t, "source/a", flush, data))
		if err == nil {
			break
		}
		flush--
		if code := millrace.CodeOf(err); code != millrace.Unavailable {
			t.Fatalf("Append = %v", err)
		}
		if time.Since(freed) > 20*time.Second {
			t.Fatalf("not healed after %s: %v", time.Since(freed), err)
		}
		time.Sleep(20 * time.Millisecond) // as a producer does between its attempts
	}
	t.Logf("appends work again after %s", time.Since(freed))
	wantFlushes(t, s, flush)
	for want := uint64(1); want <= flush; want++ {
		if got := <-live; got != want {
			t.Errorf("the reader got flush %d, want %d", got, want)
		}
	}
	_ = s.Close()
	<-ended
}

func wantFlushes(t *testing.T, s *nats.Stream, n uint64) {
	t.Helper()
	want := uint64(0)
	for b, err := range s.Read(t.Context(), "0", millrace.Position{}) {
		if err != nil {
			t.Fatal(err)
		}
		if want++; b.Header.Flush != want {
			t.Fatalf("flush %d comes as number %d", b.Header.Flush, want)
		}
		if want == n {
			return
		}
	}
}

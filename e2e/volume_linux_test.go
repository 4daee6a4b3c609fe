package e2e

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// mountTmpfs mounts a file system in memory of so many bytes until the test ends; it skips the test where that
// is not permitted.
func mountTmpfs(t *testing.T, size string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "volume")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("no file system of a known size can be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	return dir
}

// freeBytes of the file system that holds a path.
func freeBytes(t *testing.T, path string) int64 {
	t.Helper()
	var s syscall.Statfs_t
	if err := syscall.Statfs(path, &s); err != nil {
		t.Fatal(err)
	}
	return int64(s.Bavail) * s.Bsize
}

// volume is an ext4 file system on a loop device, whose power can be cut.
type volume struct {
	t           *testing.T
	device, dir string
	mounted     bool
}

// newVolume mounts a fresh volume until the test ends; it skips the test where that is not permitted.
func newVolume(t *testing.T, size int64) *volume {
	t.Helper()
	parent := t.TempDir()
	image := filepath.Join(parent, "disk.img")
	v := &volume{t: t, dir: filepath.Join(parent, "volume")}
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, size), os.Mkdir(v.dir, 0o700)); err != nil {
		t.Fatal(err)
	}
	tool := func(name string, args ...string) string {
		output, err := exec.Command(name, args...).CombinedOutput()
		if err != nil {
			t.Skipf("no volume whose power can be cut: %s: %v %s", name, err, output)
		}
		return strings.TrimSpace(string(output))
	}
	tool("mkfs.ext4", "-q", "-F", image)
	v.device = tool("losetup", "--find", "--show", image)
	t.Cleanup(func() {
		v.unmount()
		if output, err := exec.Command("losetup", "--detach", v.device).CombinedOutput(); err != nil {
			t.Errorf("detach %s: %v %s", v.device, err, output)
		}
	})
	if err := syscall.Mount(v.device, v.dir, "ext4", 0, ""); err != nil {
		t.Skipf("ext4 can't be mounted here: %v", err)
	}
	v.mounted = true
	return v
}

func (v *volume) mount() {
	v.t.Helper()
	if err := syscall.Mount(v.device, v.dir, "ext4", 0, ""); err != nil {
		v.t.Fatalf("mount the volume again: %v", err)
	}
	v.mounted = true
}

func (v *volume) unmount() {
	v.t.Helper()
	if !v.mounted {
		return
	}
	if err := syscall.Unmount(v.dir, 0); err != nil {
		v.t.Errorf("unmount %s: %v", v.dir, err)
		_ = syscall.Unmount(v.dir, syscall.MNT_DETACH)
	}
	v.mounted = false
}

// cutPower makes the file system forget whatever it has not written to the device, its journal's memory
// included, and refuse everything from now on.
func (v *volume) cutPower() {
	v.t.Helper()
	d, err := os.Open(v.dir)
	if err != nil {
		v.t.Fatal(err)
	}
	defer d.Close()
	const (
		shutdown   = 0x8004587d // EXT4_IOC_SHUTDOWN
		noLogFlush = 2
	)
	if err := unix.IoctlSetPointerInt(int(d.Fd()), shutdown, noLogFlush); err != nil {
		v.t.Skipf("this kernel can't cut the power of ext4: %v", err)
	}
}

// sync makes what the test itself has written durable.
func (v *volume) sync() { syscall.Sync() }

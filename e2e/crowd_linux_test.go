package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/millrace/millrace/millracetest"
	"github.com/millrace/millrace/stream/nats"
)

// A power cut while hundreds of producers append, so that their blocks share their syncs: every block that was
// acknowledged is there afterwards, and each producer's blocks are without a gap.
func TestPowerCutInACrowd(t *testing.T) {
	const producers = 200
	v := newVolume(t, 512<<20)
	appender := filepath.Join(t.TempDir(), "appender") // see stream/nats: its tests kill the same one
	if output, err := exec.Command("go", "test", "-c", "-o", appender, "../stream/nats").CombinedOutput(); errors.Is(err, exec.ErrNotFound) {
		t.Skipf("the program that appends can't be built here: %v", err)
	} else if err != nil {
		t.Fatalf("build the program that appends: %v\n%s", err, output)
	}
	acknowledged := make([]uint64, producers)
	total := 0
	for range 3 {
		command := exec.Command(appender)
		command.Env = append(os.Environ(), "MILLRACE_TEST_CHILD=crowd", "MILLRACE_TEST_DIR="+v.dir)
		command.SysProcAttr = dieWithParent()
		out, err := command.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := command.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		if !lines.Scan() || lines.Text() != "ready" {
			t.Fatalf("it did not start: %q", lines.Text())
		}
		for range 1000 + rand.IntN(500) {
			if !lines.Scan() {
				t.Fatal("it has ended")
			}
			var i int
			var flush uint64
			if _, err := fmt.Sscanf(lines.Text(), "%d %d", &i, &flush); err != nil {
				t.Fatal(lines.Text(), err)
			}
			acknowledged[i] = flush
			total++
		}
		v.cutPower()
		_ = command.Process.Kill()
		_, _ = io.Copy(io.Discard, out)
		_ = command.Wait() // it was killed
		v.unmount()
		v.mount()
	}
	e, err := nats.Open(t.Context(), nats.Options{DataDir: v.dir})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	s, err := e.Stream(t.Context(), "crowd", nats.StreamConfig{Partitions: 1})
	if err != nil {
		t.Fatal(err)
	}
	millracetest.CheckCrowd(t, s, acknowledged)
	t.Logf("%d blocks were acknowledged", total)
}

package proc

import (
	"os"
	"runtime"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	const stat = "4711 (a (b) c) S 1 4711 4711 0 -1 4194560 900 0 0 0 1234 66 0 0 20 0 9 0 100 1000 100 18446744073709551615"
	if spent, err := parseStat([]byte(stat)); err != nil || spent != 13*time.Second {
		t.Errorf("%s, %v; want 13 s", spent, err)
	}
	if _, err := parseStat([]byte("4711 (x) S 1")); err == nil {
		t.Error("what is cut was parsed")
	}
	const status = "Name:\tx\nVmHWM:\t   20 kB\nVmRSS:\t   12 kB\n"
	for line, want := range map[string]int64{"VmRSS": 12 << 10, "VmHWM": 20 << 10} {
		if bytes, err := parseStatus([]byte(status), line); err != nil || bytes != want {
			t.Errorf("%s: %d bytes, %v; want %d", line, bytes, err, want)
		}
	}
	if _, err := parseStatus([]byte(status), "VmSwap"); err == nil {
		t.Error("a line that is not there was found")
	}
}

func TestSelf(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux has this /proc")
	}
	if _, err := CPUTime(os.Getpid()); err != nil {
		t.Error(err)
	}
	if bytes, err := Memory(os.Getpid(), "VmRSS"); err != nil || bytes < 1<<20 {
		t.Errorf("%d bytes, %v", bytes, err)
	}
}

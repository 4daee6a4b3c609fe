package bench

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/bench/proc"
)

// BenchmarkStart measures the program itself with one source whose feed is quiet: how long until it is
// ready, and its resident memory when it has been idle for a while.
func BenchmarkStart(b *testing.B) {
	program := build(b)
	f := newFeed(b, 0)
	var ready time.Duration
	var resident int64
	for b.Loop() {
		p := start(b, program, b.TempDir(), f)
		ready += p.took
		time.Sleep(3 * time.Second) // idle is what is measured
		resident = max(resident, p.memory(b, "VmRSS"))
		p.kill(b)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(ready.Seconds()*1e3/float64(b.N), "ready-ms")
	b.ReportMetric(float64(resident)/(1<<20), "resident-MiB")
}

// BenchmarkRestart measures how long a start takes after kill -9 with data in the streams.
func BenchmarkRestart(b *testing.B) {
	const rounds = 2 // of the feed, for the data to be worth a scan
	program := build(b)
	f := newFeed(b, ingestEvents)
	var took time.Duration
	var stored int64
	for b.Loop() {
		dir := b.TempDir()
		for round := range rounds {
			p := start(b, program, dir, f)
			p.waitFor(b, ingestEvents)
			p.kill(b)
			// The feed numbers from 0 each time; another source name takes it all again.
			if err := os.WriteFile(filepath.Join(dir, "name"), fmt.Append(nil, "feed", round+1), 0o600); err != nil {
				b.Fatal(err)
			}
		}
		stored += size(b, filepath.Join(dir, "data"))
		p := start(b, program, dir, newFeed(b, 0))
		took += p.took
		p.kill(b)
	}
	gib := float64(stored) / (1 << 30)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(gib/float64(b.N), "GiB")
	b.ReportMetric(took.Seconds()/float64(b.N), "ready-s")
	b.ReportMetric(took.Seconds()/gib, "s/GiB")
}

// build compiles the program as a user would.
func build(b *testing.B) string {
	b.Helper()
	goTool, err := exec.LookPath("go")
	if err != nil {
		b.Skip("there is no go tool to build the program with")
	}
	program := filepath.Join(b.TempDir(), "millrace")
	if out, err := exec.CommandContext(b.Context(), goTool, "build", "-o", program, "../cmd/millrace").CombinedOutput(); err != nil {
		b.Fatalf("go build: %v\n%s", err, out)
	}
	return program
}

// patience bounds every wait for the program. Nothing depends on it unless something is broken.
const patience = time.Minute

// running is the program at work.
type running struct {
	command *exec.Cmd
	took    time.Duration // from start to ready, seen from outside
	admin   string
}

// start runs the program over a feed and returns when it is ready.
func start(b *testing.B, program, dir string, f *feed) *running {
	b.Helper()
	name := "feed"
	if text, err := os.ReadFile(filepath.Join(dir, "name")); err == nil {
		name = string(text)
	}
	config := fmt.Sprintf(`data_dir: ./data
streams:
  positions: {retention: {age: 0, bytes: 0}}
sources:
  %s: {sse: {url: %q}, into: positions, key: vehicle.id, time: time}
admin: {listen: 127.0.0.1:0}
`, name, f.url())
	file := filepath.Join(dir, "millrace.yaml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		b.Fatal(err)
	}
	return startProgram(b, []string{program}, file)
}

// startProgram runs the program, by a command that its arguments are added to, with a configuration, and returns when
// it is ready.
func startProgram(b *testing.B, command []string, file string, environment ...string) *running {
	b.Helper()
	command = append(command, "run", "--log-format", "json", file)
	p := &running{command: exec.CommandContext(b.Context(), command[0], command[1:]...)} //nolint:gosec // ours
	p.command.Env = append(os.Environ(), environment...)
	logs, err := p.command.StderrPipe()
	if err != nil {
		b.Fatal(err)
	}
	began := time.Now()
	if err := p.command.Start(); err != nil {
		b.Fatal(err)
	}
	late := time.AfterFunc(patience, func() { _ = p.command.Process.Kill() })
	defer late.Stop()
	lines := bufio.NewScanner(logs)
	for lines.Scan() {
		var line struct{ Msg, Admin string }
		if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "ready" {
			p.took, p.admin = time.Since(began), line.Admin
			go func() { // until the program ends
				for lines.Scan() {
					if text := lines.Text(); !strings.Contains(text, `"level":"INFO"`) {
						fmt.Fprintln(os.Stderr, text)
					}
				}
			}()
			return p
		}
	}
	b.Fatalf("it ended before it was ready: %v", p.command.Wait())
	return nil
}

// kill ends the program as a power cut of the process would.
func (p *running) kill(b *testing.B) {
	b.Helper()
	if err := p.command.Process.Kill(); err != nil {
		b.Fatal(err)
	}
	_ = p.command.Wait() // says that it was killed
}

// memory is a line of what Linux says of the program's memory, in bytes.
func (p *running) memory(b *testing.B, line string) int64 {
	b.Helper()
	bytes, err := proc.Memory(p.command.Process.Pid, line)
	if err != nil {
		b.Skipf("memory is read from /proc: %v", err)
	}
	return bytes
}

// waitFor returns when the program has stored so many events.
func (p *running) waitFor(b *testing.B, events int) {
	b.Helper()
	var took time.Duration // to ask: with many sources it is a lot of work, which is not what is measured
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(max(50*time.Millisecond, 20*took)) {
		began := time.Now()
		request, err := http.NewRequestWithContext(b.Context(), http.MethodGet, "http://"+p.admin+"/metrics", nil)
		if err != nil {
			b.Fatal(err)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			b.Fatal(err)
		}
		text, err := io.ReadAll(response.Body)
		took = time.Since(began)
		response.Body.Close()
		if err != nil {
			b.Fatal(err)
		}
		stored := 0
		for line := range strings.Lines(string(text)) {
			if rest, ok := strings.CutPrefix(line, "millrace_producer_events_total{"); ok {
				_, value, _ := strings.Cut(strings.TrimSpace(rest), "} ")
				if n, err := strconv.ParseFloat(value, 64); err == nil {
					stored += int(n)
				}
			}
		}
		if stored >= events {
			return
		}
	}
	b.Fatalf("%d events were not stored within %s", events, patience)
}

// size is that of a folder's files in bytes.
func size(b *testing.B, dir string) (total int64) {
	b.Helper()
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			total += info.Size()
		}
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	return total
}

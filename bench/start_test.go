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
)

// BenchmarkStart measures the program itself with one source whose feed is quiet: how long until it is
// ready, and its resident memory when it has been idle for a while.
func BenchmarkStart(b *testing.B) {
	program := build(b)
	f := newFeed(b, 0)
	var ready time.Duration
	var resident int
	for b.Loop() {
		p := start(b, program, b.TempDir(), f)
		ready += p.took
		time.Sleep(3 * time.Second) // idle is what is measured
		resident = max(resident, p.resident(b))
		p.kill(b)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(ready.Seconds()*1e3/float64(b.N), "ready-ms")
	b.ReportMetric(float64(resident)/1024, "resident-MiB")
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
	p := &running{command: exec.CommandContext(b.Context(), program, "run", "--log-format", "json", file)}
	logs, err := p.command.StderrPipe()
	if err != nil {
		b.Fatal(err)
	}
	began := time.Now()
	if err := p.command.Start(); err != nil {
		b.Fatal(err)
	}
	lines := bufio.NewScanner(logs)
	for lines.Scan() {
		var line struct{ Msg, Admin string }
		if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "ready" {
			p.took, p.admin = time.Since(began), line.Admin
			go io.Copy(io.Discard, logs) //nolint:errcheck // until the program ends
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

// resident is the program's resident memory in KiB.
func (p *running) resident(b *testing.B) int {
	b.Helper()
	return p.status(b, "VmRSS")
}

// waitFor returns when the program has stored so many events.
func (p *running) waitFor(b *testing.B, events int) {
	b.Helper()
	var took time.Duration // to ask: with many sources it is a lot of work, which is not what is measured
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(max(50*time.Millisecond, 20*took)) {
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
	b.Fatal("the events were not stored within a minute")
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

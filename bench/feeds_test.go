package bench

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/bench/proc"
	"github.com/millrace/millrace/block"
	"github.com/millrace/millrace/stream/nats"
)

// The many feeds: so many, each with so many events a second, one write for each event.
const manyFeeds = 1000

var (
	feedRate    = fromEnvironment("MILLRACE_FEEDS_RATE", 100)
	feedProcs   = fromEnvironment("MILLRACE_FEEDS_PROCS", 1)
	feedSeconds = fromEnvironment("MILLRACE_FEEDS_SECONDS", 10)
)

func fromEnvironment(name string, standard int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil && n > 0 {
		return n
	}
	return standard
}

// BenchmarkManyFeeds runs the program on one core with a thousand feeds, and counts what it needs and how far
// what it stores is behind what the feeds send. The feeds come from a process of their own. A round takes
// MILLRACE_FEEDS_SECONDS, 10 by default, and each feed sends MILLRACE_FEEDS_RATE events a second, 100 by
// default; with MILLRACE_FEEDS_PROFILE=DIR profiles of its middle are kept.
func BenchmarkManyFeeds(b *testing.B) {
	for _, streams := range []int{1, 10} {
		b.Run(fmt.Sprintf("streams=%d", streams), func(b *testing.B) {
			program := build(b)
			var total feedsResult
			for b.Loop() {
				total = runFeeds(b, program, streams, time.Duration(feedSeconds)*time.Second)
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(total.rate, "events/s")
			b.ReportMetric(total.peak, "peak-MiB")
			b.ReportMetric(total.processor, "%cpu")
			b.ReportMetric(total.lag(50), "p50-ms")
			b.ReportMetric(total.lag(99), "p99-ms")
			b.ReportMetric(total.lag(100), "max-ms")
			b.ReportMetric(float64(total.lost), "lost")
			b.ReportMetric(float64(total.repeated), "repeated")
			b.ReportMetric(total.perBlock, "events/block")
		})
	}
}

// feedsResult is what one round has shown.
type feedsResult struct {
	rate           float64 // events a second that the feeds sent
	peak           float64 // resident MiB at most
	processor      float64 // percent of one core
	lags           []time.Duration
	lost, repeated int
	disordered     int
	perBlock       float64
}

// lag returns a percentile in milliseconds.
func (r *feedsResult) lag(percent int) float64 {
	return float64(r.lags[min(len(r.lags)*percent/100, len(r.lags)-1)].Microseconds()) / 1e3
}

func runFeeds(b *testing.B, program string, streams int, lasts time.Duration) (r feedsResult) {
	b.Helper()
	feeds := startFeeds(b)
	dir := b.TempDir()
	config := strings.Builder{}
	config.WriteString("data_dir: ./data\nadmin: {listen: 127.0.0.1:0}\nstreams:\n")
	for i := range streams {
		fmt.Fprintf(&config, "  s%d: {retention: {age: 0, bytes: 0}}\n", i)
	}
	config.WriteString("sources:\n")
	for i := range manyFeeds {
		fmt.Fprintf(&config, "  feed%d: {sse: {url: \"http://%s/%d\"}, into: s%d, key: feed, time: at}\n", i, feeds.address, i, i%streams)
	}
	file := filepath.Join(dir, "millrace.yaml")
	if err := os.WriteFile(file, []byte(config.String()), 0o600); err != nil {
		b.Fatal(err)
	}
	command := []string{program}
	if group := os.Getenv("MILLRACE_FEEDS_GROUP"); group != "" { // the directory of a control group with its limits
		command = []string{"sh", "-c", `echo $$ > "$0/cgroup.procs" && exec "$@"`, group, program}
	}
	p := startProgram(b, command, file, fmt.Sprint("GOMAXPROCS=", feedProcs), "GOMEMLIMIT="+os.Getenv("MILLRACE_FEEDS_MEMORY"))
	feeds.expect(b, "connected")
	before, began := p.processor(b), time.Now()
	if profiles := os.Getenv("MILLRACE_FEEDS_PROFILE"); profiles != "" {
		time.AfterFunc(lasts/3, func() {
			p.profile(b, "profile?seconds="+fmt.Sprint(max(1, int(lasts.Seconds()/3))), filepath.Join(profiles, fmt.Sprintf("cpu-%d.out", streams)))
			p.profile(b, "heap", filepath.Join(profiles, fmt.Sprintf("heap-%d.out", streams)))
			p.profile(b, "heap?debug=1", filepath.Join(profiles, fmt.Sprintf("heap-%d.txt", streams)))
			p.profile(b, "goroutine?debug=1", filepath.Join(profiles, fmt.Sprintf("goroutines-%d.txt", streams)))
		})
	}
	time.Sleep(lasts)
	sent := feeds.stop(b)
	took := time.Since(began)
	r.processor = 100 * (p.processor(b) - before).Seconds() / took.Seconds()
	r.rate = float64(sent) / took.Seconds()
	p.waitFor(b, sent)
	r.peak = float64(p.memory(b, "VmHWM")) / (1 << 20)
	if err := p.command.Process.Signal(syscall.SIGTERM); err != nil {
		b.Fatal(err)
	}
	if err := p.command.Wait(); err != nil {
		b.Fatalf("the program ended with %v", err)
	}
	r.read(b, filepath.Join(dir, "data"), streams, sent)
	if r.lost > 0 || r.repeated > 0 || r.disordered > 0 {
		b.Errorf("of %d events %d were lost, %d came twice and %d out of order", sent, r.lost, r.repeated, r.disordered)
	}
	return r
}

// read counts what is in the streams.
func (r *feedsResult) read(b *testing.B, dir string, streams, sent int) {
	b.Helper()
	engine, err := nats.Open(b.Context(), nats.Options{DataDir: dir})
	if err != nil {
		b.Fatal(err)
	}
	defer engine.Close()
	seen := make(seenEvents)
	events, blocks := 0, 0
	for i := range streams {
		s, err := engine.Stream(b.Context(), fmt.Sprint("s", i), nats.StreamConfig{Partitions: 1})
		if err != nil {
			b.Fatal(err)
		}
		_, end, err := s.Bounds(b.Context(), "0")
		if err != nil {
			b.Fatal(err)
		}
		if end == (millrace.Position{}) {
			continue // nothing has come into it, and nothing would
		}
		for stored, err := range s.Read(b.Context(), "0", millrace.Position{}) {
			if err != nil {
				b.Fatal(err)
			}
			all, err := block.Events(stored.Raw)
			if err != nil {
				b.Fatal(err)
			}
			if len(all) > 0 {
				blocks++
			}
			for _, e := range all {
				n, err := strconv.Atoi(e.ID)
				if err != nil {
					b.Fatal(err)
				}
				repeated, disordered := seen.enter(e.Key, n)
				if repeated {
					r.repeated++
				}
				if disordered {
					r.disordered++
				}
				events++
				r.lags = append(r.lags, stored.Stored.Sub(e.Time))
			}
			if stored.At == end {
				break
			}
		}
	}
	if events == 0 {
		b.Fatal("nothing was stored")
	}
	r.lost = sent - (events - r.repeated) // wherever it is missing, also at the end of a feed
	r.perBlock = float64(events) / float64(max(1, blocks))
	slices.Sort(r.lags)
}

// seenEvents are the numbers of the events that have been read, by feed.
type seenEvents map[string][]bool

// enter says of an event whether it has come before, or else after one that it should have come before.
func (s seenEvents) enter(feed string, n int) (repeated, disordered bool) {
	seen := s[feed]
	if n < len(seen) {
		repeated = seen[n]
		seen[n] = true
		return repeated, !repeated
	}
	s[feed] = append(append(seen, make([]bool, n-len(seen))...), true)
	return false, false
}

func TestSeenEvents(t *testing.T) {
	for _, tt := range []struct {
		came                       []int
		lost, repeated, disordered int // of the events 0 to 4
	}{
		{came: []int{0, 1, 2, 3, 4}},
		{came: []int{0, 1, 3, 4}, lost: 1},
		{came: []int{0, 1, 2, 3}, lost: 1},                 // at the end
		{came: []int{0, 1, 1, 2, 3}, lost: 1, repeated: 1}, // as many as were sent
		{came: []int{0, 2, 1, 3, 4}, disordered: 1},        // neither lost nor repeated
		{came: []int{3, 4, 3, 4, 3}, lost: 3, repeated: 3}, // from the middle
		{came: []int{2, 2, 1, 1, 4}, lost: 2, repeated: 2, disordered: 1},
		{lost: 5},
	} {
		seen, repeated, disordered := make(seenEvents), 0, 0
		for _, n := range tt.came {
			again, late := seen.enter("f", n)
			if again {
				repeated++
			}
			if late {
				disordered++
			}
		}
		if lost := 5 - (len(tt.came) - repeated); lost != tt.lost || repeated != tt.repeated || disordered != tt.disordered {
			t.Errorf("%v: %d lost, %d repeated, %d out of order", tt.came, lost, repeated, disordered)
		}
	}
}

// TestMain makes the test binary the feeds' process if it is called as that.
func TestMain(m *testing.M) {
	if os.Getenv("MILLRACE_BENCH_SERVES_FEEDS") != "" {
		if err := serveFeeds(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// feedsProcess is the process of the feeds, seen from outside.
type feedsProcess struct {
	address string
	in      io.Writer
	out     *bufio.Scanner
}

func startFeeds(b *testing.B) *feedsProcess {
	b.Helper()
	command := exec.Command(os.Args[0]) //nolint:gosec,noctx // ourselves; it ends with its input
	command.Env = append(os.Environ(), "MILLRACE_BENCH_SERVES_FEEDS=1")
	command.Stderr = os.Stderr
	in, err := command.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := command.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := command.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		in.Close()
		if err := command.Wait(); err != nil {
			b.Error(err)
		}
	})
	f := &feedsProcess{in: in, out: bufio.NewScanner(out)}
	f.address = f.expect(b, "address")
	return f
}

// expect returns the rest of the next line, which begins with a word.
func (f *feedsProcess) expect(b *testing.B, word string) string {
	b.Helper()
	if !f.out.Scan() {
		b.Fatalf("the feeds' process ended; %q was expected", word)
	}
	rest, ok := strings.CutPrefix(f.out.Text(), word)
	if !ok {
		b.Fatalf("the feeds' process says %q; %q was expected", f.out.Text(), word)
	}
	return strings.TrimSpace(rest)
}

// stop ends the sending and returns how many events were sent.
func (f *feedsProcess) stop(b *testing.B) int {
	b.Helper()
	fmt.Fprintln(f.in, "stop")
	n, err := strconv.Atoi(f.expect(b, "sent"))
	if err != nil {
		b.Fatal(err)
	}
	return n
}

// serveFeeds is the feeds' process: once all feeds are connected it sends, each event in a write of its own
// and at its own time, until it reads a line; it ends with its input.
func serveFeeds(in io.Reader, out io.Writer) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // for as long as the process lives
	if err != nil {
		return err
	}
	fmt.Fprintln(out, "address", listener.Addr())
	conns := make([]net.Conn, manyFeeds)
	for range conns {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		request, err := http.ReadRequest(bufio.NewReader(conn))
		if err != nil {
			return err
		}
		n, err := strconv.Atoi(strings.TrimPrefix(request.URL.Path, "/"))
		if err != nil {
			return err
		}
		if _, err := io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"); err != nil {
			return err
		}
		conns[n] = conn
	}
	fmt.Fprintln(out, "connected")
	stop := make(chan struct{})
	var sending sync.WaitGroup
	const shares = 4
	sent, failed := make([]int, shares), make([]error, shares)
	for share := range shares {
		sending.Go(func() { sent[share], failed[share] = sendFeeds(conns, share, shares, stop) })
	}
	lines := bufio.NewScanner(in)
	lines.Scan()
	close(stop)
	sending.Wait()
	if err := errors.Join(failed...); err != nil {
		return fmt.Errorf("a feed's connection has ended: %w", err)
	}
	total := 0
	for _, n := range sent {
		total += n
	}
	fmt.Fprintln(out, "sent", total)
	lines.Scan()
	return nil
}

// sendFeeds sends every share-th feed's events, spread over their period.
func sendFeeds(conns []net.Conn, share, shares int, stop <-chan struct{}) (sent int, err error) {
	period := time.Second / time.Duration(feedRate)
	var mine []int
	for i := share; i < len(conns); i += shares {
		mine = append(mine, i)
	}
	began := time.Now()
	var event []byte
	for n := 0; ; n++ {
		for j, i := range mine {
			due := began.Add(time.Duration(n)*period + time.Duration(j)*period/time.Duration(len(mine)))
			if j%16 == 0 { // or more time would go into sleeping than into sending
				time.Sleep(time.Until(due))
				select {
				case <-stop:
					return sent, nil
				default:
				}
			}
			event = appendFeedEvent(event[:0], i, n, time.Now())
			if _, err := conns[i].Write(event); err != nil {
				return sent, err
			}
			sent++
		}
	}
}

// appendFeedEvent writes an event of 250 bytes of data.
func appendFeedEvent(dst []byte, feed, n int, at time.Time) []byte {
	dst = append(dst, "id: "...)
	dst = strconv.AppendInt(dst, int64(n), 10)
	dst = append(dst, "\ndata: "...)
	start := len(dst)
	dst = append(dst, `{"feed":"f`...)
	dst = strconv.AppendInt(dst, int64(feed), 10)
	dst = append(dst, `","at":"`...)
	dst = at.UTC().AppendFormat(dst, time.RFC3339Nano)
	dst = append(dst, `","position":{"latitude":42.`...)
	random := uint32(feed)*2654435761 + uint32(n)*40503 + 12345
	dst = strconv.AppendUint(dst, uint64(random%1e8), 10)
	dst = append(dst, `,"longitude":-71.`...)
	dst = strconv.AppendUint(dst, uint64(random*1664525%1e8), 10)
	dst = append(dst, `,"bearing":`...)
	dst = strconv.AppendUint(dst, uint64(random%360), 10)
	dst = append(dst, `},"status":"`...)
	dst = append(dst, statuses[random%3]...)
	dst = append(dst, `","occupancy":"`...)
	dst = append(dst, occupancies[random%4]...)
	dst = append(dst, `","next":"`...)
	for len(dst)-start < 248 {
		dst = append(dst, places[int(random)%len(places)]...)
		random = random*1664525 + 1013904223
	}
	return append(dst[:start+248], "\"}\n\n"...)
}

// processor is the time that the program has spent on processors.
func (p *running) processor(b *testing.B) time.Duration {
	b.Helper()
	spent, err := proc.CPUTime(p.command.Process.Pid)
	if err != nil {
		b.Skipf("the processor's time is read from /proc: %v", err)
	}
	return spent
}

func (p *running) profile(b *testing.B, what, file string) {
	response, err := http.Get("http://" + p.admin + "/debug/pprof/" + what)
	if err != nil {
		b.Error(err)
		return
	}
	defer response.Body.Close()
	f, err := os.Create(file)
	if err == nil {
		_, err = io.Copy(f, response.Body)
		f.Close()
	}
	if err != nil {
		b.Error(err)
	}
}

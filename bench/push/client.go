//go:build linux

package main

import (
	"bufio"
	"crypto/sha1" //nolint:gosec // RFC 6455, section 1.3, names it; nothing secret depends on it
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/millrace/millrace/bench/push/paced"
)

// client is the load: many WebSockets, read by one thread from one epoll, so that it costs little. It
// looks into every event, and knows which one has to come next on each connection.
type client struct {
	options clientOptions
	host    [4]byte
	port    int
	accept  []byte // the answer to our handshakes' key
	epoll   int

	mu       sync.Mutex // taken once a round; with TLS each connection has a goroutine
	all      []connection
	waiting  []int // connections to be opened, in no order, each when its time has come
	opening  int   // connections whose handshake is under way
	live     int
	opened   bool // all were live once
	failure  error
	report   Report
	counting bool
	begun    time.Time
	cpu      float64 // when the interval began
	samples  []sample
	timeline *paced.Timeline
	lost     time.Time // the first loss
	buf      []byte
}

type clientOptions struct {
	address     string
	path        string
	protocol    string
	connections int
	keys        int
	sources     int
	stalled     int
	tls         bool
	reconnect   bool
	jitter      time.Duration
	linger      time.Duration
	timeline    string
}

// connection is one WebSocket.
type connection struct {
	fd      int
	phase   phase
	stalled bool
	key     string
	step    int64  // between the numbers of its events
	last    int64  // number of the newest event, -1 before the first
	id      []byte // of millrace.v1: where to resume
	rest    []byte // the beginning of what has not arrived in full
	at      time.Time
	tls     net.Conn
}

type phase uint8

const (
	idle       phase = iota // waits to be opened
	connecting              // the system is connecting
	asking                  // the handshake was sent
	joining                 // a WebSocket, but not subscribed yet
	live
)

// sample is when an event arrived, in Unix nanoseconds.
type sample struct{ n, at int64 }

const (
	handshakes = 128     // under way at a time
	sampleRoom = 8 << 20 // samples; later ones are left out
	readSize   = 64 << 10
	nonce      = "dGhlIHNhbXBsZSBub25jZQ=="
)

func runClient(args []string) error {
	f := flag.NewFlagSet("client", flag.ExitOnError)
	var o clientOptions
	f.StringVar(&o.address, "address", "", "the server's")
	f.StringVar(&o.path, "path", "/events", "path to connect to")
	f.StringVar(&o.protocol, "protocol", "plain", "plain, millrace.v1, centrifuge-json or centrifuge-protobuf")
	f.IntVar(&o.connections, "connections", 1000, "how many")
	f.IntVar(&o.keys, "keys", 0, "connections ask for the keys 0 to keys-1, in turn; 0: for everything")
	f.IntVar(&o.sources, "sources", 1, "addresses 127.0.0.1, 127.0.0.2 and so on to connect from")
	f.IntVar(&o.stalled, "stalled", 0, "every so many-th connection does not read; 0: all do")
	f.BoolVar(&o.tls, "tls", false, "speak TLS")
	f.BoolVar(&o.reconnect, "reconnect", false, "connect again, and resume")
	f.DurationVar(&o.jitter, "jitter", 3*time.Second, "connect again after a random time up to this")
	f.DurationVar(&o.linger, "linger", 0, "sleep so long when there is nothing to read; 0: be woken")
	f.StringVar(&o.timeline, "timeline", "", "`file` with the times at which events were made and durable")
	if err := f.Parse(args); err != nil {
		return err
	}
	c, err := newClient(o)
	if err != nil {
		return err
	}
	return c.run(bufio.NewScanner(os.Stdin))
}

func newClient(o clientOptions) (*client, error) {
	paced.RaiseLimits()
	address, err := net.ResolveTCPAddr("tcp4", o.address)
	if err != nil {
		return nil, err
	}
	sum := sha1.Sum([]byte(nonce + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) //nolint:gosec // see the import
	c := &client{
		options: o, host: [4]byte(address.IP.To4()), port: address.Port,
		accept: []byte("\r\nSec-WebSocket-Accept: " + base64.StdEncoding.EncodeToString(sum[:]) + "\r\n"),
		all:    make([]connection, o.connections), buf: make([]byte, readSize),
	}
	c.report.Codes = map[int]int{}
	for i := range c.all {
		k := &c.all[i]
		*k = connection{fd: -1, last: -1, step: 1, stalled: o.stalled > 0 && i%o.stalled == o.stalled-1}
		if o.keys > 0 {
			k.key, k.step = keyOf(i%o.keys), int64(o.keys)
		}
		c.waiting = append(c.waiting, i)
	}
	if c.timeline, err = paced.OpenTimeline(o.timeline); err != nil {
		return nil, err
	}
	if c.timeline != nil {
		c.samples = make([]sample, 0, sampleRoom)
	}
	c.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	return c, err
}

// run reads until commands ends:
//
//	(nothing)   open: all connections are
//	begin       begun: an interval begins
//	end         a Report in JSON
//	await N S   caught: every connection that is not stalled has got its last event below number N; or
//	            late LIVE CAUGHT: not so after S seconds, so many are live and have got it
func (c *client) run(commands *bufio.Scanner) error {
	runtime.LockOSThread()
	lines := make(chan string)
	go func() {
		defer close(lines)
		for commands.Scan() {
			lines <- commands.Text()
		}
	}()
	var awaited await
	events := make([]unix.EpollEvent, 1024)
	for {
		n, err := c.wait(events)
		if err != nil {
			return err
		}
		c.mu.Lock()
		for _, e := range events[:n] {
			c.handle(int(e.Fd), e.Events)
		}
		c.open()
		if !c.opened && c.live == len(c.all) {
			c.opened = true
			fmt.Println("open")
		}
		if awaited.on {
			if caught := c.caughtUp(awaited.events); caught == len(c.all) {
				awaited.on = false
				fmt.Println("caught")
			} else if time.Now().After(awaited.until) {
				awaited.on = false
				fmt.Println("late", c.live, caught)
			}
		}
		select {
		case line, more := <-lines:
			if !more {
				return nil
			}
			if err := c.obey(line, &awaited); err != nil {
				return err
			}
		default:
		}
		err = c.failure
		c.mu.Unlock()
		if err != nil {
			return err
		}
	}
}

// wait returns how many events there are. Where the client lingers it never waits in the epoll, so that
// no write of the server has to wake it.
func (c *client) wait(events []unix.EpollEvent) (int, error) {
	timeout := 10 // so that commands are heard
	if c.options.linger > 0 {
		timeout = 0
	}
	n, err := unix.EpollWait(c.epoll, events, timeout)
	if errors.Is(err, unix.EINTR) {
		n, err = 0, nil
	}
	if n <= 0 && err == nil && c.options.linger > 0 {
		time.Sleep(c.options.linger)
	}
	return max(n, 0), err
}

// await is what the runner waits for.
type await struct {
	on     bool
	events int64
	until  time.Time
}

func (c *client) obey(line string, awaited *await) error {
	var seconds float64
	switch n, _ := fmt.Sscanf(line, "await %d %g", &awaited.events, &seconds); {
	case n == 2:
		awaited.on, awaited.until = true, time.Now().Add(time.Duration(seconds*float64(time.Second)))
	case line == "begin":
		c.report.Deliveries, c.report.Bytes, c.report.Reads, c.samples = 0, 0, 0, c.samples[:0]
		c.counting, c.begun, c.cpu = true, time.Now(), cpuOfSelf()
		fmt.Println("begun")
	case line == "end":
		c.counting = false
		c.report.Seconds, c.report.CPU, c.report.Open = time.Since(c.begun).Seconds(), cpuOfSelf()-c.cpu, c.live
		c.measure()
		text, err := json.Marshal(c.report)
		if err != nil {
			return err
		}
		fmt.Println(string(text))
	default:
		return fmt.Errorf("%q is no command", line)
	}
	return nil
}

func cpuOfSelf() float64 {
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		return 0
	}
	return float64(usage.Utime.Nano()+usage.Stime.Nano()) / 1e9
}

// measure compares when events arrived with when they were made and durable. One that arrived before the
// server had noted that it was durable took no time.
func (c *client) measure() {
	var sinceMade, sinceDurable []time.Duration
	for _, s := range c.samples {
		made, durable := c.timeline.Of(s.n)
		if made > 0 {
			sinceMade = append(sinceMade, time.Duration(s.at-made))
		}
		if durable > 0 {
			sinceDurable = append(sinceDurable, time.Duration(max(0, s.at-durable)))
		}
	}
	c.report.SinceMade, c.report.SinceDurable = latencyOf(sinceMade), latencyOf(sinceDurable)
}

// caughtUp returns how many connections are live and have got their last event below number n; of stalled
// ones the former is enough.
func (c *client) caughtUp(n int64) (caught int) {
	for i := range c.all {
		k := &c.all[i]
		last := n - 1
		if c.options.keys > 0 {
			last -= ((last-int64(i%c.options.keys))%k.step + k.step) % k.step
		}
		if k.phase == live && (k.stalled || k.last >= last) {
			caught++
		}
	}
	return caught
}

//go:build linux

package main

import (
	"bufio"
	"bytes"
	"crypto/sha1" //nolint:gosec // RFC 6455, section 1.3, names it; nothing secret depends on it
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strconv"
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

// open begins handshakes, as many as may be under way, of connections whose time has come.
func (c *client) open() {
	if len(c.waiting) == 0 || c.opening >= handshakes {
		return
	}
	now := time.Now()
	for i := len(c.waiting) - 1; i >= 0 && c.opening < handshakes; i-- {
		at := c.waiting[i]
		if c.all[at].at.After(now) {
			continue
		}
		last := len(c.waiting) - 1
		c.waiting[i] = c.waiting[last]
		c.waiting = c.waiting[:last]
		c.opening++
		c.all[at].phase = connecting
		if c.options.tls {
			go c.runTLS(at)
			continue
		}
		if err := c.connect(at); err != nil {
			c.lose(at, err)
		}
	}
}

// connect begins to connect a socket.
func (c *client) connect(at int) error {
	k := &c.all[at]
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	k.fd = fd
	if k.stalled { // as over Ethernet: the server's socket would take megabytes of loopback's large segments
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_MAXSEG, 1448)
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 32<<10)
	}
	if c.options.sources > 1 {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1) // saves ports
		from := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, byte(1 + at%c.options.sources)}}
		if err := unix.Bind(fd, from); err != nil {
			return fmt.Errorf("bind: %w", err)
		}
	}
	err = unix.Connect(fd, &unix.SockaddrInet4{Addr: c.host, Port: c.port})
	if err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return fmt.Errorf("connect: %w", err)
	}
	e := unix.EpollEvent{Events: unix.EPOLLOUT | unix.EPOLLIN | unix.EPOLLRDHUP, Fd: int32(at)}
	if err := unix.EpollCtl(c.epoll, unix.EPOLL_CTL_ADD, fd, &e); err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	return nil
}

// handle handles what the epoll says of a connection.
func (c *client) handle(at int, events uint32) {
	k := &c.all[at]
	if k.fd < 0 {
		return
	}
	if k.phase == connecting {
		if err := c.ask(at); err != nil {
			c.lose(at, err)
		}
		return
	}
	if k.stalled && k.phase == live {
		if events&(unix.EPOLLHUP|unix.EPOLLERR) != 0 {
			c.lose(at, errors.New("it was stalled and was cut"))
		}
		return
	}
	for {
		n, _, code := unix.RawSyscall(unix.SYS_READ, uintptr(k.fd), bufferOf(c.buf), uintptr(len(c.buf)))
		switch {
		case code == unix.EAGAIN:
			return
		case code == unix.EINTR:
			continue
		case code != 0:
			c.lose(at, code)
			return
		case n == 0:
			c.lose(at, errors.New("the server closed it"))
			return
		}
		if err := c.take(at, c.buf[:n]); err != nil {
			c.lose(at, err)
			return
		}
		// Edges only: a short read has emptied the socket, unless its end has come.
		if int(n) < len(c.buf) && events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) == 0 {
			return
		}
	}
}

// ask sends the handshake when the socket is connected.
func (c *client) ask(at int) error {
	k := &c.all[at]
	if code, err := unix.GetsockoptInt(k.fd, unix.SOL_SOCKET, unix.SO_ERROR); err != nil || code != 0 {
		return fmt.Errorf("connect: %w", unix.Errno(code))
	}
	if _, err := unix.Write(k.fd, c.request(k)); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	k.phase = asking
	e := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLET, Fd: int32(at)}
	return unix.EpollCtl(c.epoll, unix.EPOLL_CTL_MOD, k.fd, &e)
}

// request is the handshake (RFC 6455, section 4.1).
func (c *client) request(k *connection) []byte {
	query := byte('?')
	r := append(make([]byte, 0, 256), "GET "...)
	r = append(r, c.options.path...)
	parameter := func(name, value string) {
		r = append(append(append(append(r, query), name...), '='), value...)
		query = '&'
	}
	if k.key != "" {
		parameter("key", k.key)
	}
	if len(k.id) > 0 && c.options.reconnect {
		parameter("since", string(k.id))
	}
	switch c.options.protocol {
	case "centrifuge-json":
		parameter("cf_ws_frame_ping_pong", "true")
	case "centrifuge-protobuf":
		parameter("cf_ws_frame_ping_pong", "true")
		parameter("cf_protocol", "protobuf")
	}
	r = fmt.Appendf(r, " HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n", c.options.address, nonce)
	if c.options.protocol == "millrace.v1" {
		r = append(r, "Sec-WebSocket-Protocol: millrace.v1\r\n"...)
	}
	return append(r, "\r\n"...)
}

// take takes bytes that have arrived.
func (c *client) take(at int, b []byte) error {
	k := &c.all[at]
	if c.counting {
		c.report.Reads++
		c.report.Bytes += int64(len(b))
	}
	if len(k.rest) > 0 {
		k.rest = append(k.rest, b...)
		b = k.rest
	}
	var now int64
	if c.timeline != nil {
		now = time.Now().UnixNano()
	}
	whole := b
	if k.phase == asking {
		head := bytes.Index(b, []byte("\r\n\r\n"))
		if head < 0 {
			k.rest = append(k.rest[:0], b...)
			return nil
		}
		if !bytes.HasPrefix(b, []byte("HTTP/1.1 101 ")) || !bytes.Contains(b[:head+2], c.accept) {
			return fmt.Errorf("the handshake was answered %q", b[:min(len(b), 200)])
		}
		if err := c.join(k); err != nil {
			return err
		}
		b = b[head+4:]
	}
	for {
		op, payload, size := splitFrame(b)
		if size == 0 {
			break
		}
		b = b[size:]
		if err := c.frame(k, op, payload, now); err != nil {
			return err
		}
	}
	switch {
	case len(b) == 0:
		k.rest = k.rest[:0]
	case len(b) < len(whole) || len(k.rest) == 0:
		k.rest = append(k.rest[:0], b...) // it may move within rest
	}
	return nil
}

// Commands with which a client of centrifuge begins; the channel is the server's choice.
var (
	connectJSON     = []byte(`{"id":1,"connect":{}}`)
	connectProtobuf = []byte{4, 0x08, 1, 0x22, 0} // its length; id 1; an empty connect
)

// join is called when the handshake was answered.
func (c *client) join(k *connection) error {
	k.phase = joining
	switch c.options.protocol {
	case "plain":
		c.joined(k)
	case "centrifuge-json":
		return c.send(k, appendMasked(nil, opText, connectJSON))
	case "centrifuge-protobuf":
		return c.send(k, appendMasked(nil, opBin, connectProtobuf))
	}
	return nil
}

// joined is called when the connection is live.
func (c *client) joined(k *connection) {
	k.phase = live
	c.opening--
	c.live++
	if c.live == len(c.all) && !c.lost.IsZero() {
		c.report.Back = time.Since(c.lost).Seconds()
	}
}

// send sends a frame that is short enough for a socket to take it whole.
func (c *client) send(k *connection, frame []byte) error {
	if k.tls != nil {
		_, err := k.tls.Write(frame)
		return err
	}
	_, err := unix.Write(k.fd, frame)
	return err
}

// frame takes one frame.
func (c *client) frame(k *connection, op byte, payload []byte, now int64) error {
	switch op {
	case opText, opBin:
	case opPing:
		return c.send(k, appendMasked(nil, opPong, payload))
	case opClose:
		code := 1005
		if len(payload) >= 2 {
			code = int(binary.BigEndian.Uint16(payload))
		}
		c.report.Codes[code]++
		_ = c.send(k, appendMasked(nil, opClose, payload[:min(2, len(payload))])) // the server may be gone
		return fmt.Errorf("the server closed it with code %d: %q", code, payload[min(2, len(payload)):])
	default:
		return fmt.Errorf("a frame has the opcode %d", op)
	}
	events := 0
	for n, rest, ok := nextNumber(payload); ok; n, rest, ok = nextNumber(rest) {
		c.event(k, n, now)
		events++
	}
	if c.options.protocol == "millrace.v1" {
		if id := positionOf(payload); id != nil && c.options.reconnect {
			k.id = append(k.id[:0], id...)
		}
		if events == 0 && bytes.Contains(payload, []byte(`"gap":`)) {
			c.report.Gaps++
		}
		if k.phase == joining && events == 0 && bytes.Contains(payload, []byte(`"live":true`)) {
			c.joined(k)
		}
	} else if k.phase == joining {
		c.joined(k) // the answer to connect
	}
	return nil
}

// event takes event n.
func (c *client) event(k *connection, n, now int64) {
	switch {
	case k.last >= 0 && n <= k.last:
		c.report.Repeats++
		return
	case k.last >= 0:
		c.report.Missing += (n-k.last)/k.step - 1
	}
	k.last = n
	if c.counting {
		c.report.Deliveries++
		if c.timeline != nil && len(c.samples) < cap(c.samples) {
			c.samples = append(c.samples, sample{n, now})
		}
	}
}

// lose ends a connection, which is opened again if the client does that. Otherwise it is an error, unless
// it was stalled.
func (c *client) lose(at int, reason error) {
	k := &c.all[at]
	if k.phase == live {
		c.live--
		c.report.Losses++
		if c.lost.IsZero() {
			c.lost = time.Now()
		}
	} else {
		c.opening--
	}
	if k.fd >= 0 {
		_ = unix.Close(k.fd) // it is given up
	}
	stalled := k.stalled && k.phase == live
	k.fd, k.phase, k.rest = -1, idle, k.rest[:0]
	if !c.options.reconnect && !stalled {
		if c.failure == nil {
			c.failure = fmt.Errorf("connection %s: %w", strconv.Itoa(at), reason)
		}
		return
	}
	k.at = time.Now().Add(time.Duration(rand.Int64N(int64(max(c.options.jitter, 1)))))
	c.waiting = append(c.waiting, at)
}

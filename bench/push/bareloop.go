//go:build linux

package main

import (
	"bufio"
	"crypto/sha1" //nolint:gosec // RFC 6455, section 1.3, names it; nothing secret depends on it
	"encoding/base64"
	"encoding/binary"
	"flag"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
	"syscall"

	"github.com/millrace/millrace/bench/push/paced"
)

// bareLoop is what a push server cannot do without: it opens WebSockets, and a loop over a dense slice
// writes a prepared frame to each, one write for each event. It looks at nothing that clients send. A
// socket that takes no more stops the loop, or with -raw loses the event.
type bareLoop struct {
	raw bool // system calls on the descriptors, instead of net.Conn.Write

	mu    sync.Mutex
	all   []socket
	byKey map[string][]socket
}

type socket struct {
	conn net.Conn
	fd   int
}

func serveBareLoop(args []string) error {
	f := flag.NewFlagSet("bareloop", flag.ExitOnError)
	o := paced.Flags(f)
	raw := f.Bool("raw", false, "system calls on the descriptors, instead of net.Conn.Write")
	if err := f.Parse(args); err != nil {
		return err
	}
	return paced.Main(o, func(l net.Listener, _ *paced.Timeline) (paced.Push, error) {
		s := &bareLoop{raw: *raw, byKey: map[string][]socket{}}
		go s.accept(l)
		return s.push, nil
	})
}

func (s *bareLoop) accept(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go s.open(conn)
	}
}

// open answers a handshake (RFC 6455, section 4.2.2).
func (s *bareLoop) open(conn net.Conn) {
	r, err := http.ReadRequest(bufio.NewReaderSize(conn, 1024))
	if err != nil {
		conn.Close()
		return
	}
	sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) //nolint:gosec // see the import
	_, err = fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Accept: %s\r\n\r\n", base64.StdEncoding.EncodeToString(sum[:]))
	if err != nil {
		conn.Close()
		return
	}
	k := socket{conn: conn, fd: descriptor(conn)}
	s.mu.Lock()
	defer s.mu.Unlock()
	if key := r.URL.Query().Get("key"); key != "" {
		s.byKey[key] = append(s.byKey[key], k)
	} else {
		s.all = append(s.all, k)
	}
}

// descriptor returns a connection's descriptor, -1 if it has none that may be written.
func descriptor(conn net.Conn) int {
	fd := -1
	if tcp, ok := conn.(*net.TCPConn); ok {
		if raw, err := tcp.SyscallConn(); err == nil {
			_ = raw.Control(func(n uintptr) { fd = int(n) }) // or it stays -1
		}
	}
	return fd
}

func (s *bareLoop) push(batch []paced.Event) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var frame []byte
	for _, e := range batch {
		frame = appendTextHeader(frame[:0], len(e.Data))
		frame = append(frame, e.Data...)
		s.all = s.write(s.all, frame)
		if len(s.byKey) > 0 {
			if wanted := s.byKey[e.Key]; len(wanted) > 0 {
				s.byKey[e.Key] = s.write(wanted, frame)
			}
		}
	}
	return nil
}

// write writes a frame to all, and returns those that are still there.
func (s *bareLoop) write(all []socket, frame []byte) []socket {
	for i := 0; i < len(all); i++ {
		var err error
		if s.raw && all[i].fd >= 0 {
			if _, err = syscall.Write(all[i].fd, frame); err == syscall.EAGAIN { //nolint:errorlint // a bare system call's
				err = nil
			}
		} else {
			_, err = all[i].conn.Write(frame)
		}
		if err != nil {
			all[i].conn.Close()
			all[i] = all[len(all)-1]
			all = all[:len(all)-1]
			i--
		}
	}
	return all
}

// appendTextHeader appends the header of an unmasked text frame (section 5.2).
func appendTextHeader(dst []byte, length int) []byte {
	switch {
	case length < 126:
		return append(dst, 0x81, byte(length))
	case length < 1<<16:
		return binary.BigEndian.AppendUint16(append(dst, 0x81, 126), uint16(length))
	default:
		return binary.BigEndian.AppendUint64(append(dst, 0x81, 127), uint64(length))
	}
}

// keyOf names the key of the i-th client; they are decimals, as paced.Event's.
func keyOf(i int) string { return strconv.Itoa(i) }

package listener_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strconv"
	"strings"
	"testing"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/gateway"
	"github.com/millrace/millrace/listener"
	"github.com/millrace/millrace/stream/memory"
)

// What an idle WebSocket costs the gateway's process, in bytes of resident memory, at most. The rest of a
// connection without TLS is some 5 KiB; the kernel's part is not in it.
const idleBudget = 20 << 10

// TestIdleMemory keeps idle WebSockets open, from a process of its own, over each kind of listener:
//
//	MILLRACE_IDLE=10000 go test -run TestIdleMemory -v ./listener
func TestIdleMemory(t *testing.T) {
	n, _ := strconv.Atoi(os.Getenv("MILLRACE_IDLE"))
	if n == 0 {
		n = 400
	}
	if testing.Short() || raceDetector {
		t.Skip("memory is measured without -race and -short")
	}
	authority := listener.NewTestAuthority(t)
	files := authority.Files(t, t.TempDir(), "push.example.org")
	trust := []string{"127.0.0.0/8"}
	for _, tt := range []struct {
		name   string
		config listener.Config
	}{
		{"plain", listener.Config{}},
		{"PROXY protocol", listener.Config{ProxyProtocol: true, TrustedProxies: trust}},
		{"TLS", listener.Config{TLS: files}},
		{"TLS and PROXY protocol", listener.Config{TLS: files, ProxyProtocol: true, TrustedProxies: trust}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			heap, stack, resident := idle(t, tt.config, n)
			t.Logf("%d connections: %d bytes each resident (heap %d, stacks %d)", n, resident, heap, stack)
			if heap+stack > idleBudget {
				t.Errorf("%d bytes each are more than %d", heap+stack, idleBudget)
			}
		})
	}
}

// idle returns bytes per connection.
func idle(t *testing.T, c listener.Config, n int) (heap, stack, resident int64) {
	bare, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := bare.Addr().String()
	l, err := listener.Wrap(bare, c, listener.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var config gateway.Config
	config.SetDefaults()
	config.Listener = c
	config.Drain = 0
	config.Endpoints = map[string]gateway.Endpoint{"/events": {From: "events"}}
	g, err := gateway.New(config, gateway.Options{Streams: map[string]millrace.Stream{"events": memory.New("events", memory.Options{})}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx, l) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()

	crowd := exec.Command(os.Args[0])
	crowd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d %t %t", listener.CrowdVariable, address, n, c.TLS != nil, c.ProxyProtocol))
	crowd.Stderr = os.Stderr
	stdin, err := crowd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := crowd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	heap0, stack0, resident0 := memoryInUse(t)
	if err := crowd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		stdin.Close()
		_, _ = io.Copy(io.Discard, stdout)
		if err := crowd.Wait(); err != nil {
			t.Error(err)
		}
	}()
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil || line != "connected\n" {
		t.Fatalf("the crowd says %q: %v", line, err)
	}
	heap1, stack1, resident1 := memoryInUse(t)
	if dir := os.Getenv("MILLRACE_PROFILE"); dir != "" {
		f, err := os.Create(filepath.Join(dir, strings.ReplaceAll(t.Name(), "/", "_")+".pprof"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := pprof.WriteHeapProfile(f); err != nil {
			t.Error(err)
		}
	}
	each := int64(n)
	return (heap1 - heap0) / each, (stack1 - stack0) / each, (resident1 - resident0) / each
}

func memoryInUse(t *testing.T) (heap, stack, resident int64) {
	t.Helper()
	for range 3 { // stacks shrink by half at a time
		runtime.GC()
	}
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	if statm, err := os.ReadFile("/proc/self/statm"); err == nil { // Linux; elsewhere 0
		_, _ = fmt.Fscan(bytes.NewReader(statm), new(int64), &resident)
		resident *= int64(os.Getpagesize())
	}
	return int64(m.HeapAlloc), int64(m.StackInuse), resident
}

// BenchmarkHandshake is what a new connection costs, of which the client's half is half.
func BenchmarkHandshake(b *testing.B) {
	authority := listener.NewTestAuthority(b)
	bare, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	l, err := listener.Wrap(bare, listener.Config{TLS: authority.Files(b, b.TempDir(), "push.example.org")}, listener.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_ = conn.(*tls.Conn).Handshake()
			conn.Close()
		}
	}()
	for _, resume := range []bool{false, true} {
		b.Run(fmt.Sprintf("resumed=%t", resume), func(b *testing.B) {
			c := &tls.Config{InsecureSkipVerify: true} //nolint:gosec // it is the server that is measured
			if resume {
				c.ServerName, c.ClientSessionCache = "push.example.org", tls.NewLRUClientSessionCache(1)
			}
			b.ReportAllocs()
			for b.Loop() {
				conn, err := tls.Dial("tcp", l.Addr().String(), c)
				if err != nil {
					b.Fatal(err)
				}
				_, _ = conn.Read(make([]byte, 1)) // the ticket, and the end
				conn.Close()
			}
		})
	}
}

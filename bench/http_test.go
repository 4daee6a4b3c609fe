package bench

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/mapping"
	"github.com/millrace/millrace/producer"
	httpsource "github.com/millrace/millrace/source/http"
)

// Clients that each post single events, one after the other, on a connection of their own.
const (
	postClients = 256
	postsEach   = 150
)

// BenchmarkPosts measures requests that each bring one event and are answered when it is durable, key and
// time taken from the data; and in the same round a handler that reads the body and only answers. Clients
// and server share the machine.
func BenchmarkPosts(b *testing.B) {
	engine := openEngine(b)
	dead := openStream(b, engine, "dead")
	into := &counted{Stream: openStream(b, engine, "posts"), left: -1, done: make(chan struct{})} // counts blocks
	p, err := producer.Open(b.Context(), producer.Config{Name: "source/posts", Into: into, Dead: dead})
	if err != nil {
		b.Fatal(err)
	}
	var c httpsource.Config
	c.SetDefaults()
	source := httpsource.New(c, httpsource.Options{
		Name: "posts", Stream: "posts", Mapping: mapping.Config{Key: "vehicle.id", Time: "time"}, MaxBlock: into.MaxBlock(),
	})
	server, err := httpsource.NewServer(httpsource.ServerOptions{}, source)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = p.Run(ctx) })
	running.Go(func() { _ = source.Run(ctx, p.Resume(), p) })
	defer func() {
		cancel()
		running.Wait()
	}()
	ours := listenTCP(b)
	running.Go(func() { _ = server.Run(ctx, ours) })
	bare := listenTCP(b)
	only := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"accepted":1,"rejected":0}`+"\n")
	}), ReadHeaderTimeout: time.Minute}
	running.Go(func() { _ = only.Serve(bare) })
	defer only.Close()

	var took, tookBare time.Duration
	for b.Loop() {
		took += postAll(b, ours.Addr().String())
		tookBare += postAll(b, bare.Addr().String())
	}
	posts := float64(b.N * postClients * postsEach)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(posts/took.Seconds(), "posts/s")
	b.ReportMetric(posts/tookBare.Seconds(), "bare-posts/s")
	b.ReportMetric(100*tookBare.Seconds()/took.Seconds(), "%-of-bare")
	b.ReportMetric(posts/float64(into.blocks), "events/block")
}

func listenTCP(b *testing.B) net.Listener {
	b.Helper()
	var config net.ListenConfig
	l, err := config.Listen(b.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	return l
}

// postAll lets all clients post, and returns how long that takes once all are connected. The clients are as
// cheap as they can be: what they send was rendered before, and of the answers they read the first line and
// the length.
func postAll(b *testing.B, address string) time.Duration {
	b.Helper()
	type client struct {
		conn  net.Conn
		in    *bufio.Reader
		posts [][]byte
	}
	clients := make([]client, postClients)
	at := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	for i := range clients {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			b.Fatal(err)
		}
		defer conn.Close()
		clients[i] = client{conn: conn, in: bufio.NewReaderSize(conn, 1024)}
		for n := range postsEach {
			event := appendEvent(nil, i*postsEach+n, at.Add(time.Duration(n)*time.Second))
			post := fmt.Appendf(nil, "POST /ingest/posts HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", address, len(event))
			clients[i].posts = append(clients[i].posts, append(post, event...))
		}
	}
	var failed atomic.Pointer[error]
	var all sync.WaitGroup
	began := time.Now()
	for i := range clients {
		all.Go(func() {
			c := clients[i]
			for _, post := range c.posts {
				_, err := c.conn.Write(post)
				if err == nil {
					err = readAnswer(c.in)
				}
				if err != nil {
					failed.Store(&err)
					return
				}
			}
		})
	}
	all.Wait()
	took := time.Since(began)
	if err := failed.Load(); err != nil {
		b.Fatal(*err)
	}
	return took
}

// readAnswer reads an answer, which must be 200.
func readAnswer(in *bufio.Reader) error {
	length := 0
	for first := true; ; first = false {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return err
		}
		if first && string(line) != "HTTP/1.1 200 OK\r\n" {
			return fmt.Errorf("answered %q", line)
		}
		if len(line) == 2 {
			break
		}
		const name = "Content-Length: "
		if len(line) > len(name) && string(line[:len(name)]) == name {
			for _, digit := range line[len(name) : len(line)-2] {
				length = length*10 + int(digit-'0')
			}
		}
	}
	_, err := in.Discard(length)
	return err
}

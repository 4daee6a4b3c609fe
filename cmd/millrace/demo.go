package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/demo"
)

// demoSeed makes the city: always the same one, so that a demo that starts again finds its vehicles where
// they would have driven meanwhile.
const demoSeed = 1

// demoVerb serves a simulated city as a feed on loopback and runs the ordinary pipeline over it, in a process of its
// own that the page can kill.
func demoVerb(ctx context.Context, v verb, args []string, t terminal) int {
	flags := flag.NewFlagSet(v.name, flag.ContinueOnError)
	listen := flags.String("listen", "127.0.0.1:8080", "serve the live page on this `ADDRESS`; port 0 chooses a free one")
	data := flags.String("data", "millrace-demo", "keep everything in this `DIR`, created if it is not there; the next demo goes on from it")
	vehicles := flags.Int("vehicles", 150, "so many vehicles (`N`)")
	rate := flags.Int("rate", 0, "so many reports a second (`N`), of all vehicles together; one of each vehicle by default")
	var logs logFlags
	logs.register(flags, slog.LevelWarn)
	if _, code, ok := v.parse(flags, args, 0, t); !ok {
		return code
	}
	if *rate == 0 {
		*rate = *vehicles
	}
	switch {
	case *vehicles < 1 || *vehicles > 100_000:
		fmt.Fprintf(t.err, "millrace demo: --vehicles %d is out of range; write 1 to 100000\n", *vehicles)
		return usage
	case *rate < 1 || *rate > 1_000_000:
		fmt.Fprintf(t.err, "millrace demo: --rate %d is out of range; write 1 to 1000000\n", *rate)
		return usage
	}
	err := runDemo(ctx, *listen, *data, *vehicles, *rate, logs, t)
	if err != nil && !errors.Is(err, errSaid) {
		printFailure(t.err, err)
	}
	if err != nil {
		return failed
	}
	return done
}

// runDemo serves the feed and keeps the pipeline going, which is a process of its own, so that it can be killed.
func runDemo(ctx context.Context, listen, dir string, vehicles, rate int, logs logFlags, t terminal) error {
	log := logs.logger(t.err)
	city := demo.NewCity(demoSeed, vehicles)
	feed, err := serveFeed(&demo.Feed{City: city, Rate: rate})
	if err != nil {
		return err
	}
	defer func() {
		if err := feed.Close(); err != nil {
			log.Warn("close the city's feed", "error", err)
		}
	}()
	// A pipeline that comes back has to be found where it was.
	if listen, err = fixedPort("gateway", listen); err != nil {
		return err
	}
	admin, err := fixedPort("admin", "127.0.0.1:0")
	if err != nil {
		return err
	}
	text := demo.Config("http://"+feed.address+"/", listen, admin)
	file := filepath.Join(dir, "millrace.yaml")
	if err := writeFiles(dir, map[string][]byte{"millrace.yaml": text, "depots.geojson": city.Depots()}); err != nil {
		return err
	}
	fmt.Fprintf(t.out, "%s:\n\n%s\n", file, indent(text))
	pipeline := supervisor{
		log: log, out: t.out, err: t.err,
		arguments: func(l lives) []string {
			return append([]string{
				demoPipeline, "--vehicles", strconv.Itoa(vehicles), "--lives", strconv.Itoa(l.all), "--kills", strconv.Itoa(l.killed),
			}, append(logs.arguments(), dir)...)
		},
		died: func(how string) { fmt.Fprintf(t.out, "The pipeline's process %s; it starts again.\n", how) },
	}
	return pipeline.run(ctx)
}

// fixedPort chooses a port for an address that leaves it open.
func fixedPort(section, address string) (string, error) {
	if _, port, err := net.SplitHostPort(address); err != nil || port != "0" {
		return address, nil // if it is wrong, the configuration says so
	}
	l, err := listen(section, address)
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

func indent(text []byte) string {
	return "    " + strings.ReplaceAll(strings.TrimSuffix(string(text), "\n"), "\n", "\n    ") + "\n"
}

func writeFiles(dir string, files map[string][]byte) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, text := range sorted(files) {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// feedServer is the city's feed on loopback.
type feedServer struct {
	http.Server
	address string
	ended   chan error
}

func serveFeed(feed http.Handler) (*feedServer, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("serve the city's feed: %w", err)
	}
	s := &feedServer{address: listener.Addr().String(), ended: make(chan error, 1)}
	s.Handler = feed
	s.ReadHeaderTimeout = 5 * time.Second
	go func() { s.ended <- s.Serve(listener) }()
	return s, nil
}

// Close cuts the feed and waits until the server has ended.
func (s *feedServer) Close() error {
	err := s.Server.Close()
	if ended := <-s.ended; !errors.Is(ended, http.ErrServerClosed) {
		err = errors.Join(err, ended)
	}
	return err
}

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/millrace/millrace/config"
	"github.com/millrace/millrace/console"
	"github.com/millrace/millrace/demo"
)

// demoSeed makes the city: always the same one, so that a demo that starts again finds its vehicles where
// they would have driven meanwhile.
const demoSeed = 1

// demoVerb serves a simulated city as a feed on loopback and runs the ordinary pipeline over it.
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
	log := logs.logger(t.err)
	if err := runDemo(ctx, *listen, *data, *vehicles, *rate, log, t.out); err != nil {
		printFailure(t.err, err)
		return failed
	}
	return done
}

func runDemo(ctx context.Context, listen, dir string, vehicles, rate int, log *slog.Logger, out io.Writer) error {
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
	text := demo.Config("http://"+feed.address+"/", listen)
	file := filepath.Join(dir, "millrace.yaml")
	if err := writeFiles(dir, map[string][]byte{"millrace.yaml": text, "depots.geojson": city.Depots()}); err != nil {
		return err
	}
	c, err := config.Parse(file, text, os.LookupEnv)
	if err != nil {
		return err
	}
	if problems := checkFiles(c); len(problems) > 0 {
		return problems
	}
	fmt.Fprintf(out, "%s:\n\n%s\n", file, indent(text))
	started := time.Now()
	return runPipeline(ctx, c, pipelineOptions{
		log: log,
		page: func(c *config.Config, metrics prometheus.Gatherer) http.Handler {
			return page(c, city.Streets(), metrics)
		},
		ready: func(gateway, admin string) {
			fmt.Fprintf(out, "A city of %d vehicles is live at http://%s/\nHealth and metrics: http://%s/    Ctrl-C ends it.\n", vehicles, gateway, admin)
		},
		ended: func(metrics prometheus.Gatherer) {
			fmt.Fprintf(out, "\nIn %s: %s.\nEverything is in %s; the next demo goes on from there.\n",
				time.Since(started).Round(100*time.Millisecond), summary(metrics), dir)
		},
	})
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

// summary says what the pipeline has counted.
func summary(metrics prometheus.Gatherer) string {
	sums := map[string]float64{}
	families, _ := metrics.Gather() // what could be gathered is shown
	for _, family := range families {
		for _, m := range family.GetMetric() {
			sums[family.GetName()] += m.GetCounter().GetValue()
		}
	}
	var parts []string
	for _, c := range console.DefaultCounters() {
		name, metric := c.Name, c.Metric
		if metric == "millrace_gateway_connections" { // none are left
			metric = "millrace_gateway_connects_total"
		}
		parts = append(parts, strconv.FormatFloat(sums[metric], 'f', -1, 64)+" "+name)
	}
	return strings.Join(parts, ", ")
}

package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
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

// demoPipeline is the verb by which the demo starts its pipeline. Nobody else has a use for it.
const demoPipeline = "demo-pipeline"

// demoPipelineVerb runs the pipeline of the demo in a directory. It goes by what its parent says on stdin, and dies
// with it.
func demoPipelineVerb(ctx context.Context, v verb, args []string, t terminal) int {
	flags := flag.NewFlagSet(v.name, flag.ContinueOnError)
	vehicles := flags.Int("vehicles", 150, "so many vehicles (`N`)")
	var before lives
	flags.IntVar(&before.all, "lives", 0, "it has ended `N` times")
	flags.IntVar(&before.killed, "kills", 0, "`N` times of these because it was killed")
	var logs logFlags
	logs.register(flags, slog.LevelWarn)
	dirs, code, ok := v.parse(flags, args, 1, t)
	if !ok {
		return code
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go obey(os.Stdin, cancel, func() { os.Exit(failed) })
	if err := runDemoPipeline(ctx, dirs[0], *vehicles, before, logs.logger(t.err), t.out); err != nil {
		printFailure(t.err, err)
		return failed
	}
	return done
}

func runDemoPipeline(ctx context.Context, dir string, vehicles int, before lives, log *slog.Logger, out io.Writer) error {
	c, err := load(filepath.Join(dir, "millrace.yaml"))
	if err != nil {
		return err
	}
	started := time.Now()
	return runPipeline(ctx, c, pipelineOptions{
		log: log,
		page: func(c *config.Config, metrics prometheus.Gatherer) http.Handler {
			m := liveMap(c)
			m.Streets = demo.NewCity(demoSeed, vehicles).Streets()
			m.Demo = &console.Demo{Kill: "/demo/kill", Kills: "/demo/kills", Number: "number"}
			return withKill(m.Handler(metrics), before.killed)
		},
		ready: func(gateway, admin string) {
			if before.all == 0 {
				fmt.Fprintf(out, "A city of %d vehicles is live at http://%s/\nHealth and metrics: http://%s/    Ctrl-C ends it.\n", vehicles, gateway, admin)
			}
		},
		ended: func(metrics prometheus.Gatherer) {
			since := ""
			if before.all > 0 {
				since = " since it started again"
			}
			fmt.Fprintf(out, "\nIn %s%s: %s.\nEverything is in %s; the next demo goes on from there.\n",
				time.Since(started).Round(100*time.Millisecond), since, summary(metrics), dir)
		},
	})
}

// withKill adds to the page what kills this very process, as kill -9 does. Only the page itself may ask for it, under an
// address that names nothing else: the page of a name that somebody has rebound to this machine is of this origin, too.
func withKill(page http.Handler, kills int) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", page)
	mux.HandleFunc("GET /demo/kills", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		fmt.Fprintf(w, `{"kills":%d}`, kills)
	})
	mux.HandleFunc("POST /demo/kill", func(w http.ResponseWriter, r *http.Request) {
		if !addressed(r.Host) {
			http.Error(w, fmt.Sprintf("%.200q may be anybody's name; open the page under an IP address or localhost to kill this", r.Host),
				http.StatusMisdirectedRequest)
			return
		}
		if origin := r.Header.Get("Origin"); origin != "http://"+r.Host {
			http.Error(w, fmt.Sprintf("pages of the origin %.200q may not kill this", origin), http.StatusForbidden)
			return
		}
		w.WriteHeader(http.StatusAccepted)
		_ = http.NewResponseController(w).Flush() // whoever asked may be gone
		if self, err := os.FindProcess(os.Getpid()); err == nil {
			_ = self.Kill() // SIGKILL; TerminateProcess on Windows
		}
	})
	return mux
}

// addressed says whether a Host header is an IP address or localhost, which can't be rebound.
func addressed(host string) bool {
	name := strings.Trim(host, "[]")
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	_, err := netip.ParseAddr(name)
	return err == nil || strings.EqualFold(name, "localhost")
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

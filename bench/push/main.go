//go:build linux

package main

import (
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "push:", err)
		os.Exit(1)
	}
}

// run is the program: a scenario, or one of the processes that scenarios start.
func run(args []string) error {
	if len(args) == 0 {
		usage(os.Stderr)
		return fmt.Errorf("name a scenario")
	}
	switch args[0] {
	case "client":
		return runClient(args[1:])
	case "gateway":
		return serveGateway(args[1:])
	case "bareloop":
		return serveBareLoop(args[1:])
	}
	runtime.LockOSThread() // children die with the thread that started them
	chosen := scenarios
	if args[0] != "all" {
		i := slices.IndexFunc(scenarios, func(s scenario) bool { return s.name == args[0] })
		if i < 0 {
			usage(os.Stderr)
			return fmt.Errorf("%q is no scenario", args[0])
		}
		chosen = scenarios[i : i+1]
	}
	r := &runner{}
	f := flag.NewFlagSet("push "+args[0], flag.ExitOnError)
	f.IntVar(&r.rounds, "rounds", 5, "how often everything is measured; medians are taken over the rounds")
	f.DurationVar(&r.length, "time", 10*time.Second, "how long a trial measures")
	f.DurationVar(&r.warm, "warm", 3*time.Second, "how long events come before a trial measures")
	f.Float64Var(&r.scale, "scale", 1, "factor of the numbers of connections")
	f.DurationVar(&r.linger, "linger", time.Millisecond,
		"how long the client sleeps when there is nothing to read, where latency is not measured; 0: writes of the server wake it")
	f.DurationVar(&r.jitter, "jitter", 3*time.Second, "clients come back after a random time up to this")
	f.IntVar(&r.serverAt.core, "server-core", 0, "core of the server, where there is taskset; -1: any")
	f.IntVar(&r.clientAt.core, "client-core", 1, "core of the client")
	f.IntVar(&r.procs, "procs", 1, "GOMAXPROCS of the servers; with more than 1 they run on any core")
	realtime := f.Bool("realtime", false, "servers and client go before all that the machine does otherwise, where there is chrt (root)")
	f.StringVar(&r.profile, "profile", "", "`file` for the CPU profile of the gateway in the last trial")
	only := f.String("only", "", "servers to measure, by column or kind, separated by commas; all if absent")
	store := f.String("o", "", "`file` to which the tables are appended, besides stdout")
	if err := f.Parse(args[1:]); err != nil {
		return err
	}
	r.serverAt.realtime, r.clientAt.realtime = *realtime, *realtime
	if r.procs > 1 {
		r.serverAt.core = -1
	}
	if *only != "" {
		r.only = map[string]bool{}
		for name := range strings.SplitSeq(*only, ",") {
			if !slices.ContainsFunc(contenders, func(c contender) bool { return c.name == name || c.server == name }) {
				return fmt.Errorf("-only: there is no server %q", name)
			}
			r.only[name] = true
		}
	}
	var err error
	if r.self, err = os.Executable(); err != nil {
		return err
	}
	if r.dir, err = os.MkdirTemp("", "push"); err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(r.dir) }() // else it is left in the temporary folder
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, unix.SIGTERM)
	go func() { // the children die with this process
		<-interrupted
		_ = os.RemoveAll(r.dir)
		os.Exit(1)
	}()
	r.out, r.log = os.Stdout, os.Stderr
	if *store != "" {
		file, err := os.OpenFile(*store, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644) //nolint:gosec // figures are no secret
		if err != nil {
			return err
		}
		defer file.Close()
		r.out = io.MultiWriter(os.Stdout, file)
	}
	return r.runAll(chosen)
}

// runAll runs scenarios and says where.
func (r *runner) runAll(all []scenario) error {
	load, _ := os.ReadFile("/proc/loadavg") // for the reader only
	average, _, _ := strings.Cut(string(load), " ")
	fmt.Fprintf(r.out, "%s, %d cores, %s; %d rounds of %s; load average before: %s\n",
		time.Now().UTC().Format(time.DateTime), runtime.NumCPU(), runtime.Version(), r.rounds, r.length, average)
	for _, s := range all {
		if err := s.run(r); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

func usage(w io.Writer) {
	fmt.Fprintln(w, "usage: push SCENARIO [FLAGS]; push SCENARIO -h lists the flags")
	for _, s := range scenarios {
		fmt.Fprintf(w, "  %-10s %s\n", s.name, s.what)
	}
	fmt.Fprintln(w, "  all        all of them")
	names := map[string]bool{}
	for _, c := range contenders {
		names[c.name] = true
	}
	fmt.Fprintln(w, "servers:", strings.Join(slices.Sorted(maps.Keys(names)), ", "))
}

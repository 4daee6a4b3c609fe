// Command millrace turns live feeds into live results.
//
//	millrace demo             a simulated city, the whole pipeline, a live page
//	millrace run FILE         run a configuration
//	millrace check FILE       validate it
//	millrace reload FILE      make the program that runs it read it again
//	millrace sse URL          print a feed's events as NDJSON
//	millrace version
//
// Logs go to stderr, data to stdout. It ends with 0 when it is done, 1 when it failed, 2 when it was not
// called correctly. SIGINT and SIGTERM end a run in order, a second one at once.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// Exit codes.
const (
	done   = 0
	failed = 1
	usage  = 2
)

func main() { os.Exit(program()) }

// program is main for tests, too: testscript runs it as a command.
func program() int {
	ctx, stop := untilSignal(context.Background(), os.Stderr)
	defer stop()
	return run(ctx, os.Args[1:], terminal{out: os.Stdout, err: os.Stderr})
}

// sameSignal is how soon after the first signal another one still counts as the same: timeout(1) and
// some shells signal a process and then its group.
const sameSignal = 100 * time.Millisecond

// untilSignal returns a context that the first SIGINT or SIGTERM ends. The second one ends the process.
func untilSignal(parent context.Context, stderr io.Writer) (context.Context, func()) {
	ctx, cancel := context.WithCancel(parent)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		var first time.Time
		for range signals {
			switch {
			case first.IsZero():
				first = time.Now()
				cancel()
			case time.Since(first) > sameSignal:
				fmt.Fprintln(stderr, "millrace: stopped at once, on a second signal")
				os.Exit(failed)
			}
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(signals)
		cancel()
	}
}

// terminal is where a verb writes: data to out, everything else to err.
type terminal struct{ out, err io.Writer }

// verb is one thing that the program can do.
type verb struct {
	name, arguments, about string
	run                    func(ctx context.Context, v verb, args []string, t terminal) int
}

func verbs() []verb {
	return []verb{
		{"demo", "", "a simulated city, the whole pipeline, a live page: no network, no set-up", demoVerb},
		{"run", "FILE", "run a configuration", runVerb},
		{"check", "FILE", "validate it: exit 0, or 1 with every error and its line", checkVerb},
		{"reload", "FILE", "make the program that runs it read it again; without an admin listener send it SIGHUP", reloadVerb},
		{"sse", "URL", "print a feed's events as NDJSON (id, type, data)", sseVerb},
		{"version", "", "print the version", versionVerb},
		{demoPipeline, "DIR", "", demoPipelineVerb},
	}
}

func run(ctx context.Context, args []string, t terminal) int {
	if len(args) == 0 {
		printUsage(t.err)
		return usage
	}
	switch args[0] {
	case "help", "-h", "-help", "--help":
		if len(args) > 1 {
			return run(ctx, []string{args[1], "-h"}, t)
		}
		printUsage(t.out)
		return done
	case "-version", "--version":
		args[0] = "version"
	}
	for _, v := range verbs() {
		if v.name == args[0] {
			return v.run(ctx, v, args[1:], t)
		}
	}
	fmt.Fprintf(t.err, "millrace: there is no verb %q; millrace help lists them\n", args[0])
	return usage
}

func printUsage(w io.Writer) {
	fmt.Fprint(w, "Millrace turns live feeds into live results.\n\n")
	for _, v := range verbs() {
		if v.about == "" {
			continue // for the program itself
		}
		fmt.Fprintf(w, "    millrace %-14s %s\n", v.name+" "+v.arguments, v.about)
	}
	fmt.Fprint(w, "\nmillrace help VERB says more.\n")
}

// parse reads a verb's flags and returns its arguments, of which there must be n. Flags may stand before,
// between and behind the arguments; after -- all are arguments. If code is not 0 or there was a call for
// help, ok is false and the verb returns the code.
func (v verb) parse(flags *flag.FlagSet, args []string, n int, t terminal) (arguments []string, code int, ok bool) {
	flags.SetOutput(io.Discard) // errors are printed here, in one line
	flags.Usage = func() {}
	wrong := func(format string, a ...any) ([]string, int, bool) {
		fmt.Fprintf(t.err, "millrace %s: %s\n", v.name, fmt.Sprintf(format, a...))
		fmt.Fprintf(t.err, "usage: %s; millrace help %s says more\n", v.synopsis(flags), v.name)
		return nil, usage, false
	}
	for {
		if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
			fmt.Fprintf(t.out, "usage: %s\n\n%s.\n", v.synopsis(flags), v.about)
			if hasFlags(flags) {
				fmt.Fprint(t.out, "\n")
				flags.SetOutput(t.out)
				flags.PrintDefaults()
			}
			return nil, done, false
		} else if err != nil {
			return wrong("%v", err)
		}
		rest := flags.Args()
		if len(rest) == 0 {
			break
		}
		if consumed := len(args) - len(rest); consumed > 0 && args[consumed-1] == "--" {
			arguments = append(arguments, rest...)
			break
		}
		arguments = append(arguments, rest[0])
		args = rest[1:]
	}
	switch {
	case len(arguments) < n:
		return wrong("%s is missing", v.arguments)
	case len(arguments) > n:
		return wrong("%q is one argument too many", arguments[n])
	}
	return arguments, done, true
}

func (v verb) synopsis(flags *flag.FlagSet) string {
	s := "millrace " + v.name
	if hasFlags(flags) {
		s += " [FLAGS]"
	}
	if v.arguments != "" {
		s += " " + v.arguments
	}
	return s
}

func hasFlags(flags *flag.FlagSet) (has bool) {
	flags.VisitAll(func(*flag.Flag) { has = true })
	return has
}

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"iter"
	"os"

	"github.com/millrace/millrace/config"
	"github.com/millrace/millrace/listener"
	"github.com/millrace/millrace/query/fence"
)

func checkVerb(_ context.Context, v verb, args []string, t terminal) int {
	flags := flag.NewFlagSet(v.name, flag.ContinueOnError)
	show := flags.Bool("print", false, "print the effective configuration, every default included and without secrets")
	files, code, ok := v.parse(flags, args, 1, t)
	if !ok {
		return code
	}
	c, err := load(files[0])
	if err != nil {
		printFailure(t.err, err)
		return failed
	}
	if *show {
		fmt.Fprint(t.out, c)
	} else {
		fmt.Fprintf(t.out, "%s: ok\n", files[0])
	}
	return done
}

// load reads a configuration and the files that it names. It fails with config.Problems where these are
// wrong.
func load(file string) (*config.Config, error) {
	c, err := config.Load(file, os.LookupEnv)
	if err != nil {
		return nil, err
	}
	if problems := checkFiles(c); len(problems) > 0 {
		return nil, problems
	}
	return c, nil
}

// checkFiles reports files that can't be used.
func checkFiles(c *config.Config) (problems config.Problems) {
	for name, q := range sorted(c.Queries) {
		if q.Query.Fence == nil {
			continue
		}
		if _, err := fence.Load(q.Query.Fence.Fences); err != nil {
			problems = append(problems, c.Problem("queries."+name+".fence.fences", "%v", err))
		}
	}
	for section, t := range listenersTLS(c) {
		t.Check(func(path, format string, args ...any) {
			problems = append(problems, c.Problem(section+".tls."+path, format, args...))
		})
	}
	return problems
}

// listenersTLS yields the TLS sections that there are, with the paths that they stand below.
func listenersTLS(c *config.Config) iter.Seq2[string, *listener.TLS] {
	return func(yield func(string, *listener.TLS) bool) {
		if c.Gateway != nil && c.Gateway.Listener.TLS != nil && !yield("gateway", c.Gateway.Listener.TLS) {
			return
		}
		if c.Admin != nil && c.Admin.TLS != nil && !yield("admin", c.Admin.TLS) {
			return
		}
		for name, s := range sorted(c.Sources) {
			if s.HTTP != nil && s.HTTP.Listener.TLS != nil && !yield("sources."+name+".http", s.HTTP.Listener.TLS) {
				return
			}
		}
	}
}

// printFailure prints why a verb failed: a configuration's problems as they are, each in a line.
func printFailure(w io.Writer, err error) {
	if problems, ok := errors.AsType[config.Problems](err); ok {
		fmt.Fprintln(w, problems)
		return
	}
	fmt.Fprintf(w, "millrace: %v\n", err)
}

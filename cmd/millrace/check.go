package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/millrace/millrace/config"
	"github.com/millrace/millrace/gateway/auth"
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
func checkFiles(c *config.Config) config.Problems {
	var problems config.Problems
	below := func(section string) func(path, format string, args ...any) {
		return func(path, format string, args ...any) {
			problems = append(problems, c.Problem(section+"."+path, format, args...))
		}
	}
	for name, q := range sorted(c.Queries) {
		if q.Query.Fence == nil {
			continue
		}
		if _, err := fence.Load(q.Query.Fence.Fences); err != nil {
			below("queries."+name)("fence.fences", "%v", err)
		}
	}
	checkTLS := func(section string, t *listener.TLS) {
		if t != nil {
			t.Check(below(section + ".tls"))
		}
	}
	checkAuth := func(section string, a *auth.Config) {
		if a != nil {
			a.Check(below(section + ".auth"))
		}
	}
	for name, s := range sorted(c.Sources) {
		if s.SSE != nil {
			s.SSE.TLS.Check(below("sources." + name + ".sse.tls"))
		}
		if s.HTTP != nil {
			checkTLS("sources."+name+".http", s.HTTP.Listener.TLS)
		}
	}
	if c.Gateway != nil {
		checkTLS("gateway", c.Gateway.Listener.TLS)
		checkAuth("gateway", c.Gateway.Auth)
		for route, e := range sorted(c.Gateway.Endpoints) {
			checkAuth("gateway.endpoints."+route, e.Auth)
		}
	}
	if c.Admin != nil {
		checkTLS("admin", c.Admin.TLS)
	}
	return problems.Sorted()
}

// printFailure prints why a verb failed: a configuration's problems as they are, each in a line.
func printFailure(w io.Writer, err error) {
	if problems, ok := errors.AsType[config.Problems](err); ok {
		fmt.Fprintln(w, problems)
		return
	}
	fmt.Fprintf(w, "millrace: %v\n", err)
}

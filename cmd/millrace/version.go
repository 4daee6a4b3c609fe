package main

import (
	"context"
	"flag"
	"fmt"
	"runtime"
	"runtime/debug"
)

func versionVerb(_ context.Context, v verb, args []string, t terminal) int {
	if _, code, ok := v.parse(flag.NewFlagSet(v.name, flag.ContinueOnError), args, 0, t); !ok {
		return code
	}
	fmt.Fprintf(t.out, "millrace %s %s %s/%s\n", buildVersion(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return done
}

// buildVersion is the module's version and, of a build from a checkout, the revision.
func buildVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "(unknown)"
	}
	version := info.Main.Version
	if version == "" {
		version = "(devel)"
	}
	var revision, modified string
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			revision = " " + s.Value[:min(12, len(s.Value))]
		case s.Key == "vcs.modified" && s.Value == "true":
			modified = " modified"
		}
	}
	return version + revision + modified
}

package main

import (
	"context"
	"flag"
	"iter"
	"log/slog"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/millrace/millrace/config"
)

// runVerb runs a configuration until it is interrupted.
func runVerb(ctx context.Context, v verb, args []string, t terminal) int {
	flags := flag.NewFlagSet(v.name, flag.ContinueOnError)
	var logs logFlags
	logs.register(flags, slog.LevelInfo)
	files, code, ok := v.parse(flags, args, 1, t)
	if !ok {
		return code
	}
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP) // from here on it does not end the program
	defer signal.Stop(hangup)
	c, err := load(files[0])
	if err != nil {
		printFailure(t.err, err)
		return failed
	}
	log := logs.logger(t.err)
	starting := []any{"configuration", files[0], "version", buildVersion()}
	memory := keepToMemory("/")
	if memory > 0 {
		starting = append(starting, "memory", memory)
	}
	log.Info("starting", starting...)
	file, err := filepath.Abs(files[0])
	if err != nil {
		printFailure(t.err, err)
		return failed
	}
	err = runPipeline(ctx, c, pipelineOptions{
		log: log, file: file, load: func() (*config.Config, error) { return load(files[0]) }, hangup: hangup,
		memory: memory,
	})
	if err != nil {
		log.Error("millrace has failed", "error", err)
		return failed
	}
	return done
}

// sorted yields a map's entries by key.
func sorted[V any](m map[string]V) iter.Seq2[string, V] {
	return func(yield func(string, V) bool) {
		for _, name := range slices.Sorted(maps.Keys(m)) {
			if !yield(name, m[name]) {
				return
			}
		}
	}
}

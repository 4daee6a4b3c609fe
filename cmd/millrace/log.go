package main

import (
	"flag"
	"io"
	"log/slog"
	"os"
)

// logFlags say how a verb logs.
type logFlags struct {
	level  slog.Level
	format string
}

func (l *logFlags) register(flags *flag.FlagSet, level slog.Level) {
	l.level = level
	flags.TextVar(&l.level, "log-level", level, "log what is at least this `LEVEL`: debug, info, warn, error")
	flags.Var((*logFormat)(&l.format), "log-format", "log as `FORMAT`: text or json; text on a terminal and json elsewhere by default")
}

// logger returns a logger to w.
func (l *logFlags) logger(w io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: l.level, ReplaceAttr: readable}
	if l.format == "text" || l.format == "" && isTerminal(w) {
		return slog.New(slog.NewTextHandler(w, options))
	}
	return slog.New(slog.NewJSONHandler(w, options))
}

// arguments are the flags that make another process of this program log as this one does.
func (l *logFlags) arguments() []string {
	args := []string{"--log-level", l.level.String()}
	if l.format != "" {
		args = append(args, "--log-format", l.format)
	}
	return args
}

// readable writes durations as 1.5s in JSON, too.
func readable(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		a.Value = slog.StringValue(a.Value.Duration().String())
	}
	return a
}

// logFormat is a flag that takes text or json.
type logFormat string

func (f *logFormat) String() string { return string(*f) }

func (f *logFormat) Set(s string) error {
	if s != "text" && s != "json" {
		return errFormat{}
	}
	*f = logFormat(s)
	return nil
}

type errFormat struct{}

func (errFormat) Error() string { return "write text or json" }

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && info.Mode()&os.ModeDevice != 0 && f.Name() != os.DevNull
}

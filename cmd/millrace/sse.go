package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"strings"

	"github.com/millrace/millrace/source/sse"
)

// sseVerb prints a feed's events until it is interrupted, the feed is over or --count is reached.
func sseVerb(ctx context.Context, v verb, args []string, t terminal) int {
	var c sse.Config
	c.SetDefaults()
	c.Headers = map[string]string{}
	o := sse.Options{Name: "sse", UserAgent: userAgent()}
	var p sse.PrintOptions
	var logs logFlags
	var body string

	flags := flag.NewFlagSet(v.name, flag.ContinueOnError)
	flags.Func("policy", "standard (connect again as browsers do) or ingest (retry whatever may get better; the default): a `NAME`", func(s string) error {
		switch s {
		case "standard":
			o.Policy = sse.Standard
		case "ingest":
			o.Policy = sse.Ingest
		default:
			return fmt.Errorf("write standard or ingest")
		}
		return nil
	})
	flags.Func("header", "send a header, `'NAME: VALUE'`; may be given several times", func(s string) error {
		name, value, ok := strings.Cut(s, ":")
		if name = strings.TrimSpace(name); !ok || name == "" {
			return fmt.Errorf("write NAME: VALUE")
		}
		if http.CanonicalHeaderKey(name) == "Last-Event-Id" {
			return fmt.Errorf("use --last-event-id")
		}
		c.Headers[name] = strings.TrimSpace(value)
		return nil
	})
	flags.StringVar(&p.LastEventID, "last-event-id", "", "begin after the event with this `ID`")
	flags.StringVar(&o.Method, "method", "", "request with this `METHOD`; GET by default, and POST with --data")
	flags.StringVar(&body, "data", "", "send this `BODY` with the request")
	flags.DurationVar(&c.ReadTimeout, "read-timeout", c.ReadTimeout, "no byte for this `DURATION` means a stalled connection; 0 = never")
	flags.DurationVar(&o.Retry, "retry", 0, "wait this `DURATION` before connecting again, until the feed asks for another; 1s by default, 3s with the standard policy")
	flags.IntVar(&p.Count, "count", 0, "end after `N` events; 0 = never")
	flags.BoolVar(&p.Comments, "comments", false, `print comments, too, as {"comment":TEXT}`)
	flags.BoolVar(&o.Once, "no-reconnect", false, "end when the first connection ends")
	logs.register(flags, slog.LevelWarn)
	urls, code, ok := v.parse(flags, args, 1, t)
	if !ok {
		return code
	}
	c.URL = urls[0]
	if body != "" {
		o.Body = []byte(body)
		if o.Method == "" {
			o.Method = http.MethodPost
		}
	}
	o.Method = strings.ToUpper(o.Method)
	var wrong []string
	c.Validate(func(path, format string, a ...any) { wrong = append(wrong, path+": "+fmt.Sprintf(format, a...)) })
	if p.Count < 0 {
		wrong = append(wrong, "count: must not be negative")
	}
	if o.Retry < 0 {
		wrong = append(wrong, "retry: must not be negative")
	}
	if len(wrong) > 0 {
		fmt.Fprintf(t.err, "millrace sse: %s\n", strings.Join(wrong, "; "))
		return usage
	}
	o.Logger = logs.logger(t.err)
	if err := sse.Print(ctx, c, o, p, t.out); err != nil && ctx.Err() == nil {
		fmt.Fprintf(t.err, "millrace sse: %v\n", err)
		return failed
	}
	return done
}

// userAgent is what feeds see.
func userAgent() string {
	version, _, _ := strings.Cut(buildVersion(), " ")
	return "millrace/" + strings.Trim(version, "()")
}

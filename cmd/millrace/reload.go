package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/millrace/millrace/admin"
)

// dialTimeout bounds the wait for the running program's listener; the reload itself takes as long as it takes.
const dialTimeout = 5 * time.Second

// reloadVerb makes the program that runs a configuration read it again.
func reloadVerb(ctx context.Context, v verb, args []string, t terminal) int {
	flags := flag.NewFlagSet(v.name, flag.ContinueOnError)
	files, code, ok := v.parse(flags, args, 1, t)
	if !ok {
		return code
	}
	changes, err := askToReload(ctx, files[0])
	if err != nil {
		printFailure(t.err, err)
		return failed
	}
	printChanges(t.out, changes)
	return done
}

// askToReload checks the configuration and has the program that runs it read it again.
func askToReload(ctx context.Context, file string) (admin.Changes, error) {
	c, err := load(file)
	if err != nil {
		return admin.Changes{}, err
	}
	absolute, err := filepath.Abs(file)
	if err != nil {
		return admin.Changes{}, err
	}
	running, err := readControl(c.DataDir)
	switch {
	case errors.Is(err, fs.ErrNotExist) && c.Admin == nil:
		return admin.Changes{}, errors.New("a running program can be reached through its admin listener only, and the configuration has none; " +
			"send it the signal SIGHUP instead (kill -HUP PID)")
	case errors.Is(err, fs.ErrNotExist):
		return admin.Changes{}, fmt.Errorf("no program with an admin listener runs in data_dir %q; "+
			"one that runs without can be sent the signal SIGHUP (kill -HUP PID)", c.DataDir)
	case err != nil:
		return admin.Changes{}, fmt.Errorf("read how to reach the running program: %w", err)
	}
	encryption, err := running.TLS.client()
	if err != nil {
		return admin.Changes{}, err
	}
	scheme := "http"
	if encryption != nil {
		scheme = "https"
	}
	target := scheme + "://" + running.Admin + "/reload?file=" + url.QueryEscape(absolute)
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, target, nil)
	if err != nil {
		return admin.Changes{}, err
	}
	request.Header.Set("Authorization", "Bearer "+running.Token)
	dialer := net.Dialer{Timeout: dialTimeout}
	transport := http.Transport{
		DialContext: dialer.DialContext, TLSClientConfig: encryption, TLSHandshakeTimeout: dialTimeout, DisableKeepAlives: true,
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return admin.Changes{}, fmt.Errorf("the program that ran in data_dir %q does not answer: %w", c.DataDir, err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 16<<20))
	if err != nil {
		return admin.Changes{}, fmt.Errorf("read the running program's answer: %w", err)
	}
	var a admin.Answer
	if err := json.Unmarshal(body, &a); err != nil {
		return admin.Changes{}, fmt.Errorf("at %s something else answers than the program that ran in data_dir %q: %s %.200q",
			running.Admin, c.DataDir, response.Status, strings.TrimSpace(string(body)))
	}
	if response.StatusCode != http.StatusOK {
		return admin.Changes{}, refusal(a.Problem)
	}
	return a.Changes, nil
}

// refusal is what the running program says is wrong.
type refusal string

func (r refusal) Error() string { return "not reloaded, everything goes on as before:\n" + string(r) }

func printChanges(w io.Writer, c admin.Changes) {
	none := true
	for _, list := range []struct {
		what  string
		names []string
	}{{"added", c.Added}, {"changed", c.Changed}, {"removed", c.Removed}} {
		for _, name := range list.names {
			fmt.Fprintf(w, "%-8s %s\n", list.what, name)
			none = false
		}
	}
	if none {
		fmt.Fprintln(w, "nothing has changed")
	}
}

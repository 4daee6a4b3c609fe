package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/admin"
)

// millrace reload speaks with the listener that runs, whatever the file says by now of how to speak with it.
func TestReloadReachesWhatRuns(t *testing.T) {
	const bare = "streams: {in: {}}\n"
	with := func(tls string) string { return bare + `admin: {listen: "127.0.0.1:0"` + tls + "}\n" }
	l := goLive(t, with(""))
	selfSigned(t, l.dir, "a")
	selfSigned(t, l.dir, "b")
	changed, removed := admin.Changes{Changed: []string{"admin"}}, admin.Changes{Removed: []string{"admin"}}
	for _, step := range []struct {
		name, text string
		before     func()
		want       admin.Changes
		problem    string
	}{
		{name: "plain", text: with("")},
		{name: "encrypted from now on", text: with(", tls: {cert: a.pem, key: a.key}"), want: changed},
		{name: "encrypted", text: with(", tls: {cert: a.pem, key: a.key}")},
		{name: "a new certificate in the same file", text: with(", tls: {cert: a.pem, key: a.key}"), before: func() { selfSigned(t, l.dir, "a") }},
		{name: "with a token", text: with(`, tls: {cert: a.pem, key: a.key}, token: "0123456789abcdef"`), want: changed},
		{name: "with another one", text: with(`, tls: {cert: a.pem, key: a.key}, token: "fedcba9876543210"`), want: changed},
		{name: "another certificate", text: with(", tls: {cert: b.pem, key: b.key}"), want: changed},
		{
			name: "yet another, and the file of the last one is gone", text: with(", tls: {cert: a.pem, key: a.key, client_ca: a.pem}"),
			before: func() { os.Remove(filepath.Join(l.dir, "b.pem")) }, want: changed,
		},
		{name: "clients show one, too", text: with(", tls: {cert: a.pem, key: a.key}"), want: changed},
		{name: "a mistake", text: with("") + "nonsense: 1\n", problem: "nonsense: unknown key"},
		{name: "plain again", text: with(""), want: changed},
		{name: "encrypted again", text: with(", tls: {cert: a.pem, key: a.key}"), want: changed},
		{name: "none", text: bare, want: removed},
		{name: "nobody to ask", text: bare, problem: "send it the signal SIGHUP"},
	} {
		if step.before != nil {
			step.before()
		}
		l.write("config.yaml", step.text)
		got, err := askToReload(t.Context(), l.file)
		if step.problem != "" {
			if err == nil || !strings.Contains(err.Error(), step.problem) {
				t.Errorf("%s: got %+v, %v; want %q", step.name, got, err, step.problem)
			}
			continue
		}
		if err != nil || !equalChanges(got, step.want) {
			t.Fatalf("%s: got %+v, %v; want %+v", step.name, got, err, step.want)
		}
		if s := l.atWork()["admin"]; s != nil {
			<-s.begun // it has read its files
		}
	}
	if _, err := readControl(l.config.DataDir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("how to reach it is still there: %v", err)
	}
}

// A reload is of a file that is named: who asks for another, or for none, is told so.
func TestReloadOfAnotherFile(t *testing.T) {
	l := goLive(t, "streams: {in: {}}\n")
	for file, want := range map[string]millrace.Code{l.file: "", "": millrace.Conflict, filepath.Base(l.file): millrace.Conflict} {
		if _, err := l.askReload(file); millrace.CodeOf(err) != want {
			t.Errorf("%q: %v", file, err)
		}
	}
}

// Whoever else listens at the address learns no token.
func TestReloadKnowsTheCertificate(t *testing.T) {
	l := goLive(t, "streams: {in: {}}\nadmin: {listen: \"127.0.0.1:0\"}\n")
	selfSigned(t, l.dir, "a")
	if _, err := l.try("streams: {in: {}}\nadmin: {listen: \"127.0.0.1:0\", tls: {cert: a.pem, key: a.key}}\n"); err != nil {
		t.Fatal(err)
	}
	c, err := readControl(l.config.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	selfSigned(t, l.dir, "b")
	other, err := readCertificate(filepath.Join(l.dir, "b.pem"))
	if err != nil {
		t.Fatal(err)
	}
	c.TLS.Certificate, c.TLS.Cert = other, filepath.Join(l.dir, "b.pem")
	if err := c.write(l.config.DataDir); err != nil {
		t.Fatal(err)
	}
	if _, err := askToReload(t.Context(), l.file); err == nil || !strings.Contains(err.Error(), "the certificate is not the one of the program's admin.tls") {
		t.Errorf("got %v", err)
	}
}

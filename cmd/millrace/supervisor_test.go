package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
)

// Nobody but a page of this very address may kill; a name that is neither an IP address nor localhost may be
// anybody's. (What kills is in e2e.)
func TestKillRefuses(t *testing.T) {
	page := withKill(http.NotFoundHandler(), 3)
	for _, tt := range []struct {
		host, origin string
		want         int
	}{
		{"127.0.0.1:8080", "", http.StatusForbidden},
		{"127.0.0.1:8080", "null", http.StatusForbidden},
		{"127.0.0.1:8080", "http://localhost:8080", http.StatusForbidden},
		{"[::1]:8080", "https://[::1]:8080", http.StatusForbidden},
		{"LOCALHOST", "http://example.org", http.StatusForbidden},
		{"example.org:8080", "http://example.org:8080", http.StatusMisdirectedRequest},
		{"example.org", "http://example.org", http.StatusMisdirectedRequest},
		{"127.0.0.1.example.org:8080", "http://127.0.0.1.example.org:8080", http.StatusMisdirectedRequest},
		{"localhost.example.org", "http://localhost.example.org", http.StatusMisdirectedRequest},
		{"", "http://", http.StatusMisdirectedRequest},
	} {
		r := httptest.NewRequest(http.MethodPost, "/demo/kill", nil)
		r.Host = tt.host
		r.Header.Set("Origin", tt.origin)
		w := httptest.NewRecorder()
		page.ServeHTTP(w, r)
		if w.Code != tt.want {
			t.Errorf("host %q, origin %q: %d %s, want %d", tt.host, tt.origin, w.Code, w.Body, tt.want)
		}
	}
	for _, host := range []string{"127.0.0.1", "127.0.0.1:8080", "[::1]", "[::1]:8080", "localhost:1", "LocalHost"} {
		if !addressed(host) {
			t.Errorf("%q is refused", host)
		}
	}
}

// survive is a program that a supervisor keeps going through ends of all kinds, and in its fifth life drains.
func survive() {
	if len(os.Args) > 1 {
		endOf(os.Args[1])
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := supervisor{
		log: slog.New(slog.DiscardHandler), out: os.Stdout, err: os.Stderr,
		arguments: func(l lives) []string {
			if l.all == 4 {
				cancel()
			}
			fmt.Printf("life %d, killed %d\n", l.all, l.killed)
			return []string{fmt.Sprint(l.all)}
		},
		died: func(how string) { fmt.Println("it", how) },
	}
	if err := s.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// endOf ends one life.
func endOf(life string) {
	switch life {
	case "0", "2":
		self, err := os.FindProcess(os.Getpid())
		if err == nil {
			err = self.Kill()
		}
		if err != nil {
			panic(err)
		}
		select {}
	case "3":
		os.Exit(3)
	case "4":
		obey(os.Stdin, func() {
			fmt.Println("drained")
			os.Exit(0)
		}, func() {})
	}
}

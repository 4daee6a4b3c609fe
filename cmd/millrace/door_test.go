package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Clients of a door are served by one server after another, and none is refused or left waiting in between.
func TestDoorStaysOpen(t *testing.T) {
	d, err := openDoor("test", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	clients, stop := context.WithCancel(t.Context())
	defer stop()
	var asking sync.WaitGroup
	served := make(chan string, 4)
	for range 4 {
		asking.Go(func() {
			client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 20 * time.Second}
			for clients.Err() == nil {
				response, err := client.Get("http://" + d.bound)
				if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
					continue // an http.Server that ends cuts what it has accepted and not read yet
				}
				if err != nil {
					t.Error(err)
					return
				}
				body, err := io.ReadAll(response.Body)
				response.Body.Close()
				if err != nil {
					t.Error(err)
				}
				select {
				case served <- string(body):
				default:
				}
			}
		})
	}
	for n := range 20 {
		l, err := d.serve(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		waiting, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		if _, err := d.serve(waiting); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a second server at once: %v", err)
		}
		cancel()
		me := fmt.Sprint(n)
		server := http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, me)
		})}
		ended := make(chan error, 1)
		go func() { ended <- server.Serve(l) }()
		for came := ""; came != me; came = <-served { //nolint:revive // until this server's answer
		}
		if n == 19 {
			stop()
			asking.Wait()
		}
		if err := server.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("a listener that is closed accepts: %v", err)
		}
	}

	// Shut, it refuses; and is bound again, at the same address, for the next server.
	d.shut()
	if conn, err := net.Dial("tcp", d.bound); err == nil {
		conn.Close()
		t.Error("a door that is shut takes connections")
	}
	l, err := d.serve(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", d.bound)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	d.shut()
	for conn, err := l.Accept(); err == nil; conn, err = l.Accept() { // what had come in before
		conn.Close()
	}
	l.Close()
}

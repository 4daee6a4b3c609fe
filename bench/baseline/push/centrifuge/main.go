//go:build linux

// Command centrifuge is a push server made with the library github.com/centrifugal/centrifuge, to be
// compared with by bench/push: its WebSocket, its broker in memory, no history, server-side subscriptions
// (a client connects with ?key=K and gets the channel K; without, it gets "all").
package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/centrifugal/centrifuge"

	"github.com/millrace/millrace/bench/push/paced"
)

// everything is the channel of clients without a key.
const everything = "all"

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	o := paced.Flags(flag.CommandLine)
	pool := flag.Bool("pool", true, "UseWriteBufferPool, which saves memory")
	flag.Parse()
	return paced.Main(o, func(l net.Listener, _ *paced.Timeline) (paced.Push, error) { return serve(l, *pool) })
}

type channelOfRequest struct{}

func serve(l net.Listener, pool bool) (paced.Push, error) {
	node, err := centrifuge.New(centrifuge.Config{})
	if err != nil {
		return nil, err
	}
	keyed := make(chan struct{}, 1)
	node.OnConnecting(func(ctx context.Context, _ centrifuge.ConnectEvent) (centrifuge.ConnectReply, error) {
		channel, _ := ctx.Value(channelOfRequest{}).(string)
		if channel != everything {
			select {
			case keyed <- struct{}{}:
			default:
			}
		}
		return centrifuge.ConnectReply{
			Credentials:   &centrifuge.Credentials{},
			Subscriptions: map[string]centrifuge.SubscribeOptions{channel: {}},
		}, nil
	})
	if err := node.Run(); err != nil {
		return nil, err
	}
	handler := centrifuge.NewWebsocketHandler(node, centrifuge.WebsocketConfig{UseWriteBufferPool: pool})
	server := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		channel := r.URL.Query().Get("key")
		if channel == "" {
			channel = everything
		}
		handler.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), channelOfRequest{}, channel)))
	})}
	go func() {
		fmt.Fprintln(os.Stderr, server.Serve(l))
		os.Exit(1)
	}()
	return func(batch []paced.Event) error {
		for _, e := range batch {
			channel := everything
			if len(keyed) > 0 {
				channel = e.Key
			}
			// The library keeps the data in its queues: it has to be a copy.
			if _, err := node.Publish(channel, append([]byte(nil), e.Data...)); err != nil {
				return err
			}
		}
		return nil
	}, nil
}

package gateway_test

import (
	"context"
	"fmt"
	"net"
	"testing"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/gateway"
	"github.com/millrace/millrace/millracetest"
	"github.com/millrace/millrace/stream/memory"
)

// A gateway with one endpoint, and a client that wants one key of it.
func Example() {
	crossings := memory.New("crossings", memory.Options{})
	w := newWriter(&testing.T{}, crossings)
	w.put("42", `{"fence":"7","transition":"enter"}`)

	var c gateway.Config
	c.SetDefaults()
	c.Endpoints = map[string]gateway.Endpoint{"/vehicles": {From: "crossings", Key: "query:VehicleID"}}
	g, err := gateway.New(c, gateway.Options{Streams: map[string]millrace.Stream{"crossings": crossings}})
	if err != nil {
		fmt.Println(err)
		return
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ended := make(chan error)
	go func() { ended <- g.Run(ctx, l) }()

	url := "ws://" + l.Addr().String() + "/vehicles?VehicleID=42&since=0"
	client, err := millracetest.DialWebSocket(ctx, url, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	_, data, _ := client.Read()
	fmt.Println(string(data))

	client.Close()
	cancel()
	fmt.Println(<-ended)
	// Output:
	// {"fence":"7","transition":"enter"}
	// <nil>
}

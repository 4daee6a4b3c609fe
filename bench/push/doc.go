// Command push measures the gateway against other push servers, under a load client in a process of its
// own, pair by pair within one run:
//
//	go run ./bench/push broadcast
//	go run ./bench/push all -o bench/results/push.txt
//
// Servers run one at a time with GOMAXPROCS=1 on core 0, the client on core 1. Events are 200 bytes of JSON
// that carry consecutive numbers, so that the client knows of each connection which event has to come next:
// what is delivered is counted only if it is right. The servers:
//
//   - gateway: the real gateway over a stream in memory; events are made in its process.
//   - program: millrace run with its stream on disk; the runner posts the events.
//   - bare loop: opens WebSockets, and writes a prepared frame to each in a loop; nothing else.
//   - centrifuge: a server with that library, built from bench/baseline.
package main

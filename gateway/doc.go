// Package gateway pushes the events of streams to WebSocket and SSE clients, and lets a client that
// comes back go on from where it was. docs/protocol.md is what a client's author reads.
//
// A request to an endpoint becomes a connection, whose bytes go out through an outlet: straight to the socket
// as long as that takes them, through a bounded queue when it does not. A connection has subscriptions: the one
// that its request asks for, and those that it asks for by messages.
//
// For each stream there is one feed with one reader per partition; it writes each event once per dialect (how
// subscriptions want it: framing, name, compression) and hands the same bytes to every subscription that wants
// it. Those that name keys are found by key; those that watch areas by place; the others form audiences, one
// for each distinct filter and prefix. A subscription that resumes goes through what it has missed, at the pace of
// its socket, until it has come to where the feed is, and joins there; what many have missed is read once.
//
//	gateway.go     endpoint.go    config.go     what there is to connect to; serve, drain
//	request.go     connect.go     access.go     from an HTTP request to a connection, or to a clear refusal
//	origin.go      wish.go        since.go      who may ask, for what, from where on
//	subprotocol.go websocket/                   which protocol; RFC 6455 and 7692
//	connection.go  message.go                   one client, and what it says
//	outlet.go      drop.go                      its way out, and what is dropped on it
//	subscription.go feed.go       fanout.go     one stream, and who wants what of it
//	rendering.go   encode.go      sse.go        events, written once for all
//	hand.go                                     handing them out, on several processors
//	area.go        sight.go       latest.go     what is where, and in whose view; the newest of each key
//	resume.go      replay.go      catchup.go    the way from a position to the live edge
//	history.go     stretch.go                   what those on that way share
//	ping.go                                     quiet, silent and stalled connections
//	presence.go    control.go                   who is connected
//	emulate.go                                  API Gateway's endpoints, on our connections
//	auth/          limit/         apigateway/   tokens, shares, API Gateway without its sockets
package gateway

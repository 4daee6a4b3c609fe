// Package gateway pushes the events of streams to WebSocket and SSE clients, and lets a client that
// comes back go on from where it was. docs/protocol.md is what a client's author reads.
//
// A request to an endpoint becomes a connection (connection.go), whose bytes go out through an outlet
// (outlet.go): straight to the socket as long as that takes them, through a bounded queue when it
// does not. For each stream there is one feed (fanout.go) with one reader per partition; it writes
// each event once per form (encode.go) and hands the same bytes to every connection that wants them.
// A connection that resumes reads the stream by itself (replay.go), at the pace of its socket, until it
// has come to where the feed is, and joins there.
//
//	gateway.go     Gateway, Run      serve, drain
//	request.go                       from an HTTP request to a connection, or to a clear refusal
//	origin.go      websocket.go      sse.go
//	extensions.go  deflate.go        permessage-deflate, RFC 7692
//	since.go                         position ids, and what ?since= may say
//	connection.go  outlet.go         one client
//	message.go                       what a client says, and is answered
//	fanout.go      subscription.go   one stream
//	batch.go       encode.go         events, written once for all
//	replay.go                        the way from a position to the live edge
//	ping.go                          quiet, silent and stalled connections
package gateway

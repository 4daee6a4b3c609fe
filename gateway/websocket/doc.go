// Package websocket is the server's side of RFC 6455 and RFC 7692 as far as a push server needs it: the opening
// handshake, frames that are appended to buffers, and a parser that is fed whatever has arrived. It does no
// input or output and keeps nothing of a connection that is idle; the sockets are the gateway's.
//
//	handshake.go                    from a request to the head of the response
//	extensions.go   deflate.go      permessage-deflate, without a context between messages
//	frame.go                        frames from the server
//	inbound.go                      frames from a client
package websocket

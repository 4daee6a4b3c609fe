// Package listener is what every place that Millrace listens at shares: TLS from files or by ACME, the PROXY
// protocol, and who a client behind proxies is.
//
//	l, err := net.Listen("tcp", address)
//	l, err = listener.Wrap(l, config, listener.Options{Logger: log, DataDir: dir})
//	...
//	config.RemoteAddr(request) // the client's address, not that of a proxy
//
// Nothing that a client does, or does not do, holds up Accept: a PROXY header is read when a connection is
// first read from or asked for its RemoteAddr, and the TLS handshake takes place with the first read or write.
// An http.Server does both in the connection's own goroutine. It also bounds the handshake, by the least of
// its ReadHeaderTimeout, ReadTimeout and WriteTimeout; whoever uses a listener without one sets deadlines.
package listener
